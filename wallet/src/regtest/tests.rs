//! The chain's rules, and what a client of it sees.

use bitcoin::absolute::LockTime;
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::hashes::Hash as _;
use bitcoin::{MerkleBlock, OutPoint, ScriptBuf, Sequence, TxIn, TxOut, Witness, transaction};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::esplora::{Body, Failure};
use super::*;

/// A regtest address nobody has the key of.
const ADDRESS: &str = "bcrt1qs758ursh4q9z627kt3pp5yysm78ddny6txaqgw";

fn get(chain: &Chain, path: &str) -> Result<Body, Failure> {
    esplora::get(&chain.lock(), path)
}

fn json(chain: &Chain, path: &str) -> Value {
    match get(chain, path) {
        Ok(Body::Json(value)) => value,
        other => panic!("{path}: {other:?}"),
    }
}

fn text(chain: &Chain, path: &str) -> String {
    match get(chain, path) {
        Ok(Body::Text(text)) => text,
        other => panic!("{path}: {other:?}"),
    }
}

/// Spends one output, whatever its script, to nobody.
fn spend(from: OutPoint, sat: u64, sequence: Sequence, lock_time: u32) -> Transaction {
    Transaction {
        version: transaction::Version::TWO,
        lock_time: LockTime::from_consensus(lock_time),
        input: vec![TxIn {
            previous_output: from,
            script_sig: ScriptBuf::new(),
            sequence,
            witness: Witness::new(),
        }],
        output: vec![TxOut { value: Amount::from_sat(sat), script_pubkey: ScriptBuf::from(vec![0x51]) }],
    }
}

/// A chain on which the address has 100,000 sat, confirmed by one block; and where they are.
fn funded() -> (Chain, OutPoint) {
    let chain = Chain::new();
    let txid = chain.fund(ADDRESS, Sat(100_000)).unwrap();
    chain.mine(1);
    (chain, OutPoint { txid, vout: 0 })
}

#[test]
fn blocks_are_linked_and_prove_work_and_commit_to_what_is_in_them() {
    let (chain, _) = funded();
    let state = chain.state();
    let mut above = state.ledger.tip().clone();
    assert_eq!(above.txdata.len(), 2, "the coinbase and the faucet's");
    assert!(above.header.time >= state.ledger.median_time());
    for height in (0..state.ledger.height()).rev() {
        let block = state.ledger.block_at(height).unwrap().clone();
        assert_eq!(above.header.prev_blockhash, block.block_hash());
        assert!(above.check_merkle_root() && above.check_witness_commitment());
        above.header.validate_pow(above.header.target()).unwrap();
        above = block;
    }
}

#[test]
fn a_merkle_proof_proves_its_transaction() {
    let chain = Chain::new();
    let txids: Vec<_> = (0..7).map(|n| chain.fund(ADDRESS, Sat(10_000 + n)).unwrap()).collect();
    assert_eq!(get(&chain, &format!("/tx/{}/merkleblock-proof", txids[0])), Err(Failure::NotFound));
    chain.mine(2);
    for txid in txids {
        let proof = text(&chain, &format!("/tx/{txid}/merkleblock-proof"));
        let proof: MerkleBlock = deserialize_hex(&proof).unwrap();
        let (mut matches, mut indexes) = (Vec::new(), Vec::new());
        let root = proof.txn.extract_matches(&mut matches, &mut indexes).unwrap();
        assert_eq!((root, matches), (proof.header.merkle_root, vec![txid]));
        let status = json(&chain, &format!("/block/{}/status", proof.header.block_hash()));
        assert_eq!((&status["in_best_chain"], &status["height"]), (&true.into(), &11.into()));
    }
}

#[test]
fn what_bitcoin_refuses_is_refused() {
    let (chain, coin) = funded();
    let free = Sequence::ENABLE_RBF_NO_LOCKTIME;
    let refused = |tx| chain.broadcast(tx).unwrap_err();
    let missing = OutPoint { txid: Txid::all_zeros(), vout: 0 };
    assert_eq!(refused(spend(missing, 1, free, 0)), Refusal::MissingOrSpent);
    assert_eq!(refused(spend(OutPoint { vout: 9, ..coin }, 1, free, 0)), Refusal::MissingOrSpent);
    assert_eq!(refused(spend(coin, 100_001, free, 0)), Refusal::InBelowOut);
    assert_eq!(refused(spend(coin, 1, free, chain.height() + 1)), Refusal::NonFinal);
    let relative = spend(coin, 1, Sequence::from_height(3), 0);
    assert_eq!(refused(relative.clone()), Refusal::NonFinal);
    let mut twice = spend(coin, 1, free, 0);
    twice.input.push(twice.input[0].clone());
    assert_eq!(refused(twice), Refusal::Shape);
    chain.mine(2);
    let txid = chain.broadcast(relative.clone()).unwrap();
    assert_eq!(chain.broadcast(relative.clone()), Ok(txid), "again is no mistake");
    chain.mine(1);
    assert_eq!(refused(relative), Refusal::Confirmed);
    assert_eq!(refused(spend(coin, 1, free, 0)), Refusal::MissingOrSpent);
    assert!(matches!(chain.fund(ADDRESS, Sat(u64::MAX)), Err(FundError::Refused(_))));
    assert!(matches!(
        chain.fund("bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq", Sat(1)),
        Err(FundError::Address(_))
    ));
}

#[test]
fn a_double_spend_replaces_what_pays_less_and_all_that_builds_on_it() {
    let (chain, coin) = funded();
    let free = Sequence::ENABLE_RBF_NO_LOCKTIME;
    let parent = chain.broadcast(spend(coin, 99_000, free, 0)).unwrap();
    let child = chain.broadcast(spend(OutPoint { txid: parent, vout: 0 }, 98_500, free, 0)).unwrap();
    // The two pay 1,500 together.
    assert_eq!(chain.broadcast(spend(coin, 98_500, free, 1)), Err(Refusal::Conflict));
    let rival = chain.broadcast(spend(coin, 98_499, free, 1)).unwrap();
    assert_eq!((chain.transaction(&parent), chain.transaction(&child), chain.waiting()), (None, None, 1));
    assert_eq!(json(&chain, &format!("/tx/{}/outspend/0", coin.txid))["txid"], rival.to_string());
    chain.evict(&rival);
    assert_eq!(json(&chain, &format!("/tx/{}/outspend/0", coin.txid))["spent"], false);
}

#[test]
fn a_reorganisation_puts_transactions_back_and_forgets_no_header() {
    let (chain, coin) = funded();
    chain.mine(2);
    let old = text(&chain, "/blocks/tip/hash");
    let header = text(&chain, &format!("/block/{old}/header"));
    chain.reorg(3);
    assert_eq!((chain.height(), chain.waiting()), (14, 1));
    assert_eq!(chain.transaction(&coin.txid).unwrap().1, None);
    assert_eq!(json(&chain, &format!("/block/{old}/status"))["in_best_chain"], false);
    assert_eq!(text(&chain, &format!("/block/{old}/header")), header);
    assert_ne!(text(&chain, "/block-height/13"), old);
    chain.mine(1);
    assert_eq!(chain.transaction(&coin.txid).unwrap().1, Some(15));
    // Deeper than the chain is long, the genesis block is left.
    chain.reorg(1_000);
    assert_eq!(chain.height(), 1_001);
    assert_eq!(chain.transaction(&coin.txid), None, "the faucet's coins were mined on the other branch");
}

#[test]
fn a_scripts_history_comes_in_pages_the_newest_first() {
    let chain = Chain::new();
    let script = ADDRESS.parse::<Address<_>>().unwrap().assume_checked().script_pubkey();
    let path = format!("/scripthash/{:x}/txs", ledger::script_hash(&script));
    let mut txids = Vec::new();
    for _ in 0..30 {
        txids.push(chain.fund(ADDRESS, Sat(5_000)).unwrap().to_string());
        chain.mine(1);
    }
    txids.push(chain.fund(ADDRESS, Sat(5_000)).unwrap().to_string());
    txids.reverse();
    let ids = |page: &Value| -> Vec<String> {
        page.as_array().unwrap().iter().map(|tx| tx["txid"].as_str().unwrap().to_owned()).collect()
    };
    let first = json(&chain, &path);
    assert_eq!(ids(&first), txids[..26], "the one that waits, and 25");
    assert_eq!(first[0]["status"]["confirmed"], false);
    assert_eq!(first[0]["fee"], 1_000);
    let next = json(&chain, &format!("{path}/chain/{}", txids[25]));
    assert_eq!(ids(&next), txids[26..]);
    assert_eq!(json(&chain, "/blocks").as_array().unwrap().len(), 10);
}

#[test]
fn what_is_not_there_is_not_found_and_nonsense_is_refused() {
    let (chain, coin) = funded();
    let hash = "00".repeat(32);
    let missing = [
        "/",
        "/nothing",
        "/block-height/99",
        &format!("/tx/{hash}"),
        &format!("/block/{hash}/header"),
        &format!("/tx/{}/outspend/9", coin.txid),
    ];
    for path in missing {
        assert_eq!(get(&chain, path), Err(Failure::NotFound), "{path}");
    }
    assert_eq!(json(&chain, &format!("/block/{hash}/status"))["in_best_chain"], false);
    for path in ["/tx/zz", "/block-height/-1", "/block/1/header", "/scripthash/x/txs"] {
        assert!(matches!(get(&chain, path), Err(Failure::Bad(_))), "{path}");
    }
    assert!(matches!(esplora::broadcast(&mut chain.lock(), "not hex"), Err(Failure::Bad(_))));
}

/// Sends one request on an open connection and reads the answer, head and body.
async fn ask(stream: &mut TcpStream, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&got).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if body.len() >= length.parse().unwrap() {
                return (head.to_owned(), body.to_owned());
            }
        }
        assert_ne!(stream.read_buf(&mut got).await.unwrap(), 0, "closed after {text:?}");
    }
}

#[tokio::test]
async fn it_is_served_over_http_and_stops_when_told() {
    let (chain, coin) = funded();
    let server = chain.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let mut client = TcpStream::connect(server.address()).await.unwrap();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let (head, body) = ask(&mut client, &get("/blocks/tip/height")).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body, "11");
    let (head, _) = ask(&mut client, &get("/block-height/77")).await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    let post =
        |body: &str| format!("POST /tx HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let tx = spend(coin, 90_000, Sequence::MAX, 0);
    let (_, body) = ask(&mut client, &post(&serialize_hex(&tx))).await;
    assert_eq!(body, tx.compute_txid().to_string());
    let (head, body) = ask(&mut client, &post(&serialize_hex(&spend(coin, 95_000, Sequence::MAX, 0)))).await;
    assert!(head.starts_with("HTTP/1.1 400") && body.contains("insufficient fee"), "{head} {body}");
    let address = server.address();
    tokio::time::timeout(std::time::Duration::from_secs(5), server.shutdown()).await.expect("it stops");
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0, "and it closes what it had open");
}
