//! What an Electrum client sees of a chain.

use bitcoin::consensus::encode::deserialize_hex;
use bitcoin::{Address, TxMerkleNode, block};
use tokio::time::timeout;

use super::super::{Server, ledger};
use super::*;
use crate::backend::Sat;
use crate::backend::conformance::SOON;

const ADDRESS: &str = "bcrt1qs758ursh4q9z627kt3pp5yysm78ddny6txaqgw";

fn ask(chain: &Chain, method: &str, params: Value) -> Value {
    let request = json!({ "id": 7, "method": method, "params": params });
    let answer = answer(&mut chain.lock(), request.to_string().as_bytes(), &mut false);
    assert_eq!(answer["id"], 7);
    answer
}

fn result(chain: &Chain, method: &str, params: Value) -> Value {
    let answer = ask(chain, method, params);
    assert_eq!(answer.get("error"), None, "{method}");
    answer["result"].clone()
}

#[test]
fn a_proof_leads_from_every_transaction_to_the_root() {
    for others in 0..8 {
        let chain = Chain::new();
        for n in 0..others {
            chain.fund(ADDRESS, Sat(10_000 + n)).unwrap();
        }
        chain.mine(1);
        let header = result(&chain, "blockchain.block.header", json!([11]));
        let header: block::Header = deserialize_hex(header.as_str().unwrap()).unwrap();
        for place in 0..=others {
            let txid = result(&chain, "blockchain.transaction.id_from_pos", json!([11, place]));
            let proof = result(&chain, "blockchain.transaction.get_merkle", json!([txid, 11]));
            assert_eq!((&proof["pos"], &proof["block_height"]), (&json!(place), &json!(11)));
            let mut hash: sha256d::Hash = txid.as_str().unwrap().parse().unwrap();
            for (level, beside) in proof["merkle"].as_array().unwrap().iter().enumerate() {
                let beside = beside.as_str().unwrap().parse().unwrap();
                let right = (place >> level) & 1 == 1;
                hash = if right { joined(&beside, &hash) } else { joined(&hash, &beside) };
            }
            assert_eq!(TxMerkleNode::from_raw_hash(hash), header.merkle_root, "{place} of {others}");
        }
    }
}

#[test]
fn a_history_has_the_chains_order_and_then_what_waits() {
    let chain = Chain::new();
    let script = ADDRESS.parse::<Address<_>>().unwrap().assume_checked().script_pubkey();
    let mut hash = ledger::script_hash(&script).to_byte_array();
    hash.reverse();
    let hash = json!([sha256::Hash::from_byte_array(hash).to_string()]);
    let fund = || chain.fund(ADDRESS, Sat(20_000)).unwrap().to_string();
    let first = fund();
    chain.mine(2);
    let (parent, other) = (fund(), fund());
    let history = result(&chain, "blockchain.scripthash.get_history", hash.clone());
    assert_eq!(history[0], json!({ "height": 11, "tx_hash": first }));
    assert_eq!(history[1], json!({ "height": 0, "tx_hash": parent, "fee": 1_000 }));
    assert_eq!(history[2]["tx_hash"], other);
    chain.reorg(2);
    let history = result(&chain, "blockchain.scripthash.get_history", hash);
    assert!(history.as_array().unwrap().iter().all(|entry| entry["height"].as_i64() < Some(1)));
}

#[test]
fn headers_come_together_and_fees_are_in_bitcoins() {
    let chain = Chain::new();
    let headers = result(&chain, "blockchain.block.headers", json!([8, 5_000]));
    assert_eq!((&headers["count"], &headers["max"]), (&json!(3), &json!(2_016)));
    let last = result(&chain, "blockchain.block.header", json!([10]));
    assert!(headers["hex"].as_str().unwrap().ends_with(last.as_str().unwrap()));
    assert_eq!(
        result(&chain, "blockchain.headers.subscribe", json!([])),
        json!({ "height": 10, "hex": last })
    );
    for (method, params) in [("blockchain.estimatefee", json!([6])), ("blockchain.relayfee", json!([]))] {
        assert_eq!(result(&chain, method, params), json!(0.00001));
    }
    assert_eq!(result(&chain, "server.version", json!(["us", "1.4"])), json!([SOFTWARE, "1.4"]));
    assert_eq!(result(&chain, "server.features", json!([]))["protocol_max"], "1.4");
}

#[test]
fn what_is_wrong_is_named() {
    let chain = Chain::new();
    let none = "00".repeat(32);
    let wrong = [
        ("blockchain.scripthash.listunspent", json!([none]), -32_601, "scripthash.listunspent"),
        ("blockchain.block.header", json!([-1]), -32_602, "parameter 0"),
        ("blockchain.block.header", json!([1, 9]), -32_602, "parameter 1"),
        ("blockchain.block.header", json!([99]), 2, "block"),
        ("blockchain.transaction.get", json!(["zz"]), -32_602, "transaction's id"),
        ("blockchain.transaction.get", json!([none, true]), -32_602, "parameter 1"),
        ("blockchain.transaction.get", json!([none]), 2, "transaction"),
        ("blockchain.transaction.get_merkle", json!([none, 3]), 2, "in that block"),
        ("blockchain.transaction.broadcast", json!(["00"]), 1, "not a transaction"),
        ("blockchain.scripthash.get_history", json!({}), -32_600, "params"),
    ];
    for (method, params, code, says) in wrong {
        let error = ask(&chain, method, params)["error"].clone();
        assert_eq!(error["code"], code, "{method}");
        assert!(error["message"].as_str().unwrap().contains(says), "{method}: {error}");
    }
    let code = |line: &str| answer(&mut chain.lock(), line.as_bytes(), &mut false)["error"]["code"].clone();
    assert_eq!(code("{"), -32_700);
    let too_many = Value::Array(vec![json!({}); BATCH_MAX + 1]).to_string();
    for line in ["[]", "1", "{}", r#"{"id":1}"#, r#"{"method":"server.ping"}"#, &too_many] {
        assert_eq!(code(line), -32_600, "{line}");
    }
}

/// A client: its connection, and the lines it gets.
struct Client(BufReader<TcpStream>);

impl Client {
    async fn new(server: &Server) -> Self {
        Self(BufReader::new(TcpStream::connect(server.address()).await.unwrap()))
    }

    async fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).await.unwrap();
    }

    /// The next line, or nothing at the end.
    async fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        timeout(SOON, self.0.read_line(&mut line)).await.expect("a line").unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }
}

#[tokio::test]
async fn lines_and_arrays_are_answered_in_order_and_blocks_told_to_who_asked() {
    let chain = Chain::new();
    let server = chain.serve_electrum("127.0.0.1:0".parse().unwrap()).await.unwrap();
    assert_eq!(server.url(), format!("tcp://{}", server.address()));
    let (mut client, mut other) = (Client::new(&server).await, Client::new(&server).await);
    let ping = |id: u64| json!({ "id": id, "method": "server.ping", "params": [] });
    chain.mine(1);
    client.send(&format!("{}\n{}\n", ping(1), ping(2))).await;
    for id in 1..3 {
        assert_eq!(client.next().await.unwrap(), json!({ "jsonrpc": "2.0", "id": id, "result": null }));
    }
    let subscribe = json!({ "id": 3, "method": NEW_BLOCKS, "params": [] });
    client
        .send(&format!("{}\n", json!([ping(4), subscribe, { "id": 5, "method": "blockchain.none" }])))
        .await;
    let answers = client.next().await.unwrap();
    assert_eq!((&answers[0]["id"], &answers[1]["result"]["height"]), (&json!(4), &json!(11)));
    assert_eq!((&answers[2]["id"], &answers[2]["error"]["code"]), (&json!(5), &json!(-32_601)));
    // Told in the middle of a line, which is whole afterwards all the same.
    let line = format!("{}\n", ping(6));
    let (half, rest) = line.split_at(9);
    client.send(half).await;
    chain.reorg(2);
    let told = client.next().await.unwrap();
    assert_eq!((&told["method"], &told["params"]), (&json!(NEW_BLOCKS), &json!([tip(&chain.lock())])));
    client.send(rest).await;
    assert_eq!(client.next().await.unwrap()["id"], 6);
    other.send(&line).await;
    assert_eq!(other.next().await.unwrap()["id"], 6, "and not of the blocks, which it did not ask for");
    timeout(SOON, server.shutdown()).await.expect("it stops");
    assert_eq!((client.next().await, other.next().await), (None, None));
}

#[tokio::test]
async fn a_line_without_end_is_not_read_for_ever() {
    let chain = Chain::new();
    let server = chain.serve_electrum("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let mut client = Client::new(&server).await;
    client.send(&" ".repeat(LINE_BYTES_MAX)).await;
    assert_eq!(client.next().await.unwrap()["error"]["code"], -32_600);
    assert_eq!(client.next().await, None);
    server.shutdown().await;
}
