//! A real bitcoind on a regtest chain of its own: a process in a folder, spoken to by RPC. It has no wallet: blocks pay
//! to a script that anybody can spend from, and the faucet here spends from it. Dropping it kills it.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ldk_node::bitcoin::absolute::LockTime;
use ldk_node::bitcoin::consensus::encode::serialize_hex;
use ldk_node::bitcoin::opcodes::all::OP_PUSHNUM_1;
use ldk_node::bitcoin::{
    Address, Amount, Network, OutPoint, Script, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness,
    transaction,
};
use oa_nips::nostr::Keys;
use oa_wallet::backend::Sat;
use oa_wallet::backend::ldk::{ChainSource, Password};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use super::chain::owners;
use crate::world::{DEADLINE, eventually, free_port};

/// Who its RPC knows.
const USER: &str = "oa";
/// What is mined onto a block before its coins can be spent.
const MATURITY: u32 = 100;
/// What a faucet transaction pays: some 6 sat for each of its bytes.
const FAUCET_FEE: Amount = Amount::from_sat(1_000);
/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// A running bitcoind.
#[derive(Debug)]
pub(super) struct Bitcoind {
    process: Child,
    rpc: Rpc,
    /// What the faucet has: one coin, the change of its last transaction.
    coin: Mutex<Coin>,
}

/// How it is asked.
#[derive(Debug)]
struct Rpc {
    port: u16,
    password: Password,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Coin {
    outpoint: OutPoint,
    value: Amount,
}

impl Bitcoind {
    /// Starts one that keeps its things in `dir`, with a chain long enough to spend its first block's coins.
    pub(super) async fn start(program: &Path, dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let rpc =
            Rpc { port: free_port()?, password: Password(Keys::generate().secret_key().to_secret_hex()) };
        owners(&dir.join("bitcoin.conf"), &rpc.config())?;
        let stderr = dir.join("stderr.log");
        let mut command = Command::new(program);
        command.arg(format!("-datadir={}", dir.display())).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&stderr)?);
        let process = command.spawn().with_context(|| program.display().to_string())?;
        let none = Coin { outpoint: OutPoint::null(), value: Amount::ZERO };
        let mut bitcoind = Self { process, rpc, coin: Mutex::new(none) };
        let said = || format!("bitcoind said {:?}", std::fs::read_to_string(&stderr).unwrap_or_default());
        bitcoind.ready().await.with_context(said)?;
        let blocks = bitcoind.mine(1).await?;
        let first = bitcoind.rpc.call("getblock", json!([blocks.first(), 2])).await?;
        *bitcoind.coin.get_mut() = mined(&first).with_context(|| format!("no coin in {first}"))?;
        bitcoind.mine(MATURITY).await?;
        Ok(bitcoind)
    }

    /// Waits until it answers, or has ended instead.
    async fn ready(&mut self) -> Result<()> {
        let answers = eventually(DEADLINE, || self.rpc.call("getblockcount", json!([])));
        tokio::select! {
            biased;
            ended = self.process.wait() => bail!("it ended before it was ready: {}", ended?),
            answers = answers => answers.map(drop),
        }
    }

    /// Where a wallet finds it.
    pub(super) fn source(&self) -> ChainSource {
        ChainSource::Bitcoind {
            host: "127.0.0.1".to_owned(),
            port: self.rpc.port,
            user: USER.to_owned(),
            password: self.rpc.password.clone(),
        }
    }

    /// Mines blocks; answers their hashes.
    pub(super) async fn mine(&self, blocks: u32) -> Result<Vec<Value>> {
        let address = Address::from_script(&home(), Network::Regtest)?.to_string();
        let mined = self.rpc.call("generatetoaddress", json!([blocks, address])).await?;
        mined.as_array().cloned().context("hashes of blocks")
    }

    /// Sends coins to an address.
    pub(super) async fn fund(&self, address: &str, amount: Sat) -> Result<()> {
        let address = address.parse::<Address<_>>()?.require_network(Network::Regtest)?;
        let mut coin = self.coin.lock().await;
        let (tx, change) = faucet(*coin, &address.script_pubkey(), Amount::from_sat(amount.0))?;
        self.rpc.call("sendrawtransaction", json!([serialize_hex(&tx)])).await?;
        *coin = change;
        Ok(())
    }

    /// The number of the newest block.
    pub(super) async fn height(&self) -> Result<u64> {
        self.rpc.call("getblockcount", json!([])).await?.as_u64().context("a height")
    }

    /// How many transactions wait for a block.
    pub(super) async fn waiting(&self) -> Result<usize> {
        let waiting = self.rpc.call("getrawmempool", json!([])).await?;
        Ok(waiting.as_array().context("transactions")?.len())
    }

    /// Ends it well.
    pub(super) async fn stop(mut self) -> Result<()> {
        self.rpc.call("stop", json!([])).await?;
        let status =
            tokio::time::timeout(DEADLINE, self.process.wait()).await.context("it does not end")??;
        ensure!(status.success(), "bitcoind: {status}");
        Ok(())
    }
}

impl Rpc {
    /// `bitcoin.conf`. The password stands here and in no argument.
    fn config(&self) -> String {
        let Self { port, password } = self;
        format!(
            "regtest=1\n[regtest]\nserver=1\nlisten=0\nprinttoconsole=0\nrpcbind=127.0.0.1\n\
             rpcallowip=127.0.0.1\nrpcport={port}\nrpcuser={USER}\nrpcpassword={}\n",
            password.0
        )
    }

    async fn call(&self, method: &str, params: Value) -> Result<Value> {
        let asked = tokio::time::timeout(ANSWER, self.ask(method, params));
        asked.await.context("no answer")?.with_context(|| method.to_owned())
    }

    /// One question a connection.
    async fn ask(&self, method: &str, params: Value) -> Result<Value> {
        let body = json!({ "jsonrpc": "1.0", "id": 0, "method": method, "params": params }).to_string();
        let who = BASE64_STANDARD.encode(format!("{USER}:{}", self.password.0));
        let request = format!(
            "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Basic {who}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await?;
        socket.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        result(&answer)
    }
}

/// The result in an HTTP answer.
fn result(answer: &str) -> Result<Value> {
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let answer: Value =
        serde_json::from_str(body).with_context(|| head.lines().next().unwrap_or_default().to_owned())?;
    match answer.get("error") {
        None | Some(Value::Null) => answer.get("result").cloned().context("no result"),
        Some(error) => bail!("{error}"),
    }
}

/// The coin that a block, as `getblock` shows it whole, gave the faucet.
fn mined(block: &Value) -> Option<Coin> {
    let txid: Txid = block.pointer("/tx/0/txid")?.as_str()?.parse().ok()?;
    let value = Amount::from_btc(block.pointer("/tx/0/vout/0/value")?.as_f64()?).ok()?;
    Some(Coin { outpoint: OutPoint { txid, vout: 0 }, value })
}

/// Anybody can spend it; its own script is all that a witness needs.
fn anyone() -> ScriptBuf {
    ScriptBuf::from(vec![OP_PUSHNUM_1.to_u8()])
}

/// Where the faucet keeps its coins.
fn home() -> ScriptBuf {
    anyone().to_p2wsh()
}

/// Pays to a script, and the rest back to the faucet.
fn faucet(coin: Coin, script: &Script, amount: Amount) -> Result<(Transaction, Coin)> {
    let left = coin.value.checked_sub(amount).and_then(|left| left.checked_sub(FAUCET_FEE));
    let left = left.filter(|left| *left >= FAUCET_FEE).context("the faucet is dry")?;
    let input = TxIn {
        previous_output: coin.outpoint,
        script_sig: ScriptBuf::new(),
        sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
        witness: Witness::from_slice(&[anyone().as_bytes()]),
    };
    let output = vec![
        TxOut { value: left, script_pubkey: home() },
        TxOut { value: amount, script_pubkey: script.to_owned() },
    ];
    let tx = Transaction {
        version: transaction::Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![input],
        output,
    };
    let change = Coin { outpoint: OutPoint { txid: tx.compute_txid(), vout: 0 }, value: left };
    Ok((tx, change))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_result_or_says_what_is_wrong() {
        let answer =
            |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{body}\n");
        let known = result(&answer(r#"{"result":101,"error":null,"id":0}"#)).unwrap();
        assert_eq!(known, json!(101));
        let refused = result(&answer(r#"{"result":null,"error":{"code":-28,"message":"Loading"},"id":0}"#));
        assert!(refused.unwrap_err().to_string().contains("Loading"));
        let stranger = result("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").unwrap_err();
        assert!(stranger.to_string().contains("401"), "{stranger:?}");
        assert!(result("").is_err());
    }

    #[test]
    fn the_faucet_spends_its_change_until_it_is_dry() {
        let block =
            json!({ "tx": [{ "txid": "11".repeat(32), "vout": [{ "value": 50.0 }, { "value": 0.0 }] }] });
        let first = mined(&block).unwrap();
        assert_eq!(first.value, Amount::from_int_btc(50));
        let (tx, change) = faucet(first, &home(), Amount::from_int_btc(30)).unwrap();
        assert_eq!(tx.input[0].previous_output, first.outpoint);
        assert_eq!(tx.output[0].value, change.value);
        assert_eq!(first.value - change.value, Amount::from_int_btc(30) + FAUCET_FEE);
        let (next, _) = faucet(change, &home(), Amount::from_sat(1)).unwrap();
        assert_eq!(next.input[0].previous_output, OutPoint { txid: tx.compute_txid(), vout: 0 });
        assert!(faucet(change, &home(), Amount::from_int_btc(20)).is_err());
    }
}
