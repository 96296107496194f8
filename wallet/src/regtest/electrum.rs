//! What Electrum answers: protocol 1.4, newline-delimited JSON-RPC, as far as the Lightning stack calls it.
//!
//! [`answer`] is pure. [`connection`] owns one client: it answers its lines in their order, and tells it of new blocks
//! once it asked to be told. It ends with its client, with the server, or at a line that is longer than any should be.

use std::io;

use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::hashes::{Hash as _, HashEngine as _, sha256, sha256d};
use bitcoin::{Block, Network, Transaction, Txid, constants};
use serde_json::{Value, json};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::Chain;
use super::esplora::FEE_RATE;
use super::ledger::{Ledger, Refusal};

/// Longest line that is read, in bytes: a transaction as large as a block, in hex, and what is around it.
const LINE_BYTES_MAX: usize = 8 * 1024 * 1024 + 1024;

/// Most requests in one array.
const BATCH_MAX: usize = 100;

/// Most headers in one answer; the protocol's own bound.
const HEADERS_MAX: u32 = 2_016;

/// The only version spoken.
const PROTOCOL: &str = "1.4";

/// What the server calls itself.
const SOFTWARE: &str = "oa regtest";

/// The method that asks to be told of new blocks, and tells of them.
const NEW_BLOCKS: &str = "blockchain.headers.subscribe";

/// Why a request has no result. The codes are JSON-RPC's, and ElectrumX's 1 (refused) and 2 (not there).
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("not a request: {0}")]
    Request(&'static str),
    #[error("no such method: {0}")]
    Method(String),
    /// The parameter's place, from 0, and what it should be.
    #[error("parameter {0} has to be {1}")]
    Parameter(usize, &'static str),
    #[error("not a transaction: {0}")]
    Transaction(String),
    #[error("the transaction was rejected by network rules: {0}")]
    Refused(#[from] Refusal),
    #[error("there is no such {0}")]
    NotThere(&'static str),
}

impl Fault {
    fn code(&self) -> i32 {
        match self {
            Self::Json(_) => -32_700,
            Self::Request(_) => -32_600,
            Self::Method(_) => -32_601,
            Self::Parameter(..) => -32_602,
            Self::Transaction(_) | Self::Refused(_) => 1,
            Self::NotThere(_) => 2,
        }
    }
}

/// Answers a client until it goes away.
pub(super) async fn connection(stream: TcpStream, chain: Chain, stop: CancellationToken) {
    let served = stop.run_until_cancelled(converse(stream, chain)).await;
    if let Some(Err(error)) = served {
        tracing::debug!(%error, "a client of the chain went away");
    }
}

async fn converse(mut stream: TcpStream, chain: Chain) -> io::Result<()> {
    // Answers are small and waited for; without this each would be held back for 40 ms.
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut blocks = chain.new_blocks();
    let (mut line, mut told) = (Vec::new(), false);
    loop {
        let answer = tokio::select! {
            biased;
            // It ends with the chain's last handle, and one is held here.
            Ok(()) = blocks.changed(), if told => {
                json!({ "jsonrpc": "2.0", "method": NEW_BLOCKS, "params": [tip(&chain.lock())] })
            }
            read = read_line(&mut reader, &mut line) => match read? {
                Read::Line => {
                    if !told {
                        blocks.mark_unchanged();
                    }
                    let answer = answer(&mut chain.lock(), &line, &mut told);
                    line.clear();
                    answer
                }
                Read::TooLong => {
                    let refused = failure(&Value::Null, &Fault::Request("a line is too long"));
                    return write(&mut writer, &refused).await;
                }
                Read::End => return Ok(()),
            },
        };
        write(&mut writer, &answer).await?;
    }
}

enum Read {
    Line,
    TooLong,
    End,
}

/// Reads on until the line is whole. What was read stays in `line` when this is given up in between.
async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> io::Result<Read> {
    let room = u64::try_from(LINE_BYTES_MAX.saturating_sub(line.len())).unwrap_or(u64::MAX);
    reader.take(room).read_until(b'\n', line).await?;
    Ok(match line.last() {
        Some(b'\n') => Read::Line,
        Some(_) if line.len() >= LINE_BYTES_MAX => Read::TooLong,
        Some(_) | None => Read::End,
    })
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), answer: &Value) -> io::Result<()> {
    let mut line = answer.to_string().into_bytes();
    line.push(b'\n');
    writer.write_all(&line).await
}

/// Answers a line, one request or an array of them. `told` is set by whoever asks to be told of new blocks.
fn answer(ledger: &mut Ledger, line: &[u8], told: &mut bool) -> Value {
    match serde_json::from_slice(line) {
        Ok(Value::Array(batch)) if batch.is_empty() => {
            failure(&Value::Null, &Fault::Request("an empty array"))
        }
        Ok(Value::Array(batch)) if batch.len() > BATCH_MAX => {
            failure(&Value::Null, &Fault::Request("an array of too many"))
        }
        Ok(Value::Array(batch)) => batch.iter().map(|request| respond(ledger, request, told)).collect(),
        Ok(request) => respond(ledger, &request, told),
        Err(error) => failure(&Value::Null, &error.into()),
    }
}

fn respond(ledger: &mut Ledger, request: &Value, told: &mut bool) -> Value {
    let id = request.get("id").unwrap_or(&Value::Null);
    let result = read_request(request).and_then(|(method, params)| call(ledger, method, params));
    match result {
        Ok(result) => {
            *told |= request.get("method").is_some_and(|method| method == NEW_BLOCKS);
            json!({ "jsonrpc": "2.0", "id": id, "result": result })
        }
        Err(fault) => failure(id, &fault),
    }
}

/// An answer without a result. Clients take any `error` for one, also `null`, so that no other answer has it.
fn failure(id: &Value, fault: &Fault) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": fault.code(), "message": fault.to_string() } })
}

fn read_request(request: &Value) -> Result<(&str, &[Value]), Fault> {
    let request = request.as_object().ok_or(Fault::Request("no object"))?;
    if !matches!(request.get("id"), Some(Value::Number(_) | Value::String(_))) {
        return Err(Fault::Request("its id is no number and no string"));
    }
    let method = request.get("method").and_then(Value::as_str).ok_or(Fault::Request("it has no method"))?;
    match request.get("params") {
        Some(Value::Array(params)) => Ok((method, params)),
        Some(_) => Err(Fault::Request("its params are no array")),
        None => Ok((method, &[])),
    }
}

fn call(ledger: &mut Ledger, method: &str, params: &[Value]) -> Result<Value, Fault> {
    match method {
        "server.version" => Ok(json!([SOFTWARE, PROTOCOL])),
        "server.features" => Ok(features()),
        "server.ping" => Ok(Value::Null),
        NEW_BLOCKS => Ok(tip(ledger)),
        "blockchain.block.header" => {
            absent(params, 1)?;
            Ok(serialize_hex(&block_at(ledger, number(params, 0)?)?.header).into())
        }
        "blockchain.block.headers" => {
            absent(params, 2)?;
            Ok(headers(ledger, number(params, 0)?, number(params, 1)?))
        }
        "blockchain.scripthash.get_history" => Ok(history(ledger, &script_hash(params)?)),
        "blockchain.transaction.get" => {
            absent(params, 1)?;
            let known = ledger.known(&txid(params)?).ok_or(Fault::NotThere("transaction"))?;
            Ok(serialize_hex(&known.tx).into())
        }
        "blockchain.transaction.get_merkle" => proof(ledger, txid(params)?, number(params, 1)?),
        "blockchain.transaction.id_from_pos" => {
            absent(params, 2)?;
            let (block, position) = (block_at(ledger, number(params, 0)?)?, number(params, 1)?);
            let tx = usize::try_from(position).ok().and_then(|position| block.txdata.get(position));
            Ok(tx.ok_or(Fault::NotThere("transaction"))?.compute_txid().to_string().into())
        }
        "blockchain.transaction.broadcast" => {
            let tx: Transaction =
                deserialize_hex(text(params, 0)?).map_err(|error| Fault::Transaction(error.to_string()))?;
            Ok(ledger.accept(tx)?.to_string().into())
        }
        "blockchain.estimatefee" => number(params, 0).map(|_blocks| fee_rate()),
        "blockchain.relayfee" => Ok(fee_rate()),
        _ => Err(Fault::Method(method.to_owned())),
    }
}

fn text(params: &[Value], place: usize) -> Result<&str, Fault> {
    params.get(place).and_then(Value::as_str).ok_or(Fault::Parameter(place, "a text"))
}

fn number(params: &[Value], place: usize) -> Result<u32, Fault> {
    let number = params.get(place).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
    number.ok_or(Fault::Parameter(place, "a whole number"))
}

fn txid(params: &[Value]) -> Result<Txid, Fault> {
    text(params, 0)?.parse().map_err(|_| Fault::Parameter(0, "a transaction's id"))
}

/// Electrum writes them backwards.
fn script_hash(params: &[Value]) -> Result<sha256::Hash, Fault> {
    let hash: sha256::Hash =
        text(params, 0)?.parse().map_err(|_| Fault::Parameter(0, "the SHA-256 of a script"))?;
    let mut bytes = hash.to_byte_array();
    bytes.reverse();
    Ok(sha256::Hash::from_byte_array(bytes))
}

/// Checkpoints, proofs of positions and transactions taken apart: nobody here asks for them, so they are refused.
fn absent(params: &[Value], place: usize) -> Result<(), Fault> {
    match params.get(place) {
        None | Some(Value::Null | Value::Bool(false)) => Ok(()),
        Some(value) if *value == 0 => Ok(()),
        Some(_) => Err(Fault::Parameter(place, "absent: this server does not do that")),
    }
}

fn block_at(ledger: &Ledger, height: u32) -> Result<&Block, Fault> {
    ledger.block_at(height).ok_or(Fault::NotThere("block"))
}

fn features() -> Value {
    json!({
        "genesis_hash": constants::genesis_block(Network::Regtest).block_hash().to_string(),
        "hash_function": "sha256",
        "hosts": {},
        "protocol_min": PROTOCOL,
        "protocol_max": PROTOCOL,
        "pruning": null,
        "server_version": SOFTWARE,
    })
}

/// In bitcoins per 1,000 virtual bytes, as Bitcoin Core has it.
fn fee_rate() -> Value {
    json!(FEE_RATE / 100_000.0)
}

fn tip(ledger: &Ledger) -> Value {
    json!({ "height": ledger.height(), "hex": serialize_hex(&ledger.tip().header) })
}

fn headers(ledger: &Ledger, from: u32, count: u32) -> Value {
    let heights = from..from.saturating_add(count.min(HEADERS_MAX));
    let headers: Vec<_> = heights.map_while(|height| ledger.block_at(height)).collect();
    let hex: String = headers.iter().map(|block| serialize_hex(&block.header)).collect();
    json!({ "count": headers.len(), "hex": hex, "max": HEADERS_MAX })
}

/// All of a script's transactions: the confirmed ones as the chain has them, then those that wait.
fn history(ledger: &Ledger, script_hash: &sha256::Hash) -> Value {
    let mut listed: Vec<_> =
        ledger.touching(script_hash).iter().filter_map(|txid| ledger.known(txid)).collect();
    listed.sort_by_cached_key(|known| match known.height {
        Some(height) => (height, position(ledger, height, &known.tx.compute_txid())),
        None => (u32::MAX, None),
    });
    let entries = listed.into_iter().map(|known| {
        let tx_hash = known.tx.compute_txid().to_string();
        match known.height {
            Some(height) => json!({ "height": height, "tx_hash": tx_hash }),
            None => {
                let parents = known.tx.input.iter().map(|input| ledger.known(&input.previous_output.txid));
                let height = if parents.flatten().any(|parent| parent.height.is_none()) { -1 } else { 0 };
                let fee = ledger.fee(&known.tx).map_or(0, bitcoin::Amount::to_sat);
                json!({ "height": height, "tx_hash": tx_hash, "fee": fee })
            }
        }
    });
    entries.collect()
}

fn position(ledger: &Ledger, height: u32, txid: &Txid) -> Option<usize> {
    ledger.block_at(height)?.txdata.iter().position(|tx| tx.compute_txid() == *txid)
}

/// What shows that a transaction is in a block: what it is hashed with on its way up to the root.
fn proof(ledger: &Ledger, txid: Txid, height: u32) -> Result<Value, Fault> {
    let block = block_at(ledger, height)?;
    let position = position(ledger, height, &txid).ok_or(Fault::NotThere("transaction in that block"))?;
    let mut row: Vec<sha256d::Hash> = block.txdata.iter().map(|tx| tx.compute_txid().to_raw_hash()).collect();
    let (mut at, mut merkle) = (position, Vec::new());
    while row.len() > 1 {
        // The last of an odd row is hashed with itself.
        let beside = row.get(at ^ 1).or_else(|| row.get(at));
        merkle.extend(beside.map(ToString::to_string));
        row = row.chunks(2).filter_map(|pair| Some(joined(pair.first()?, pair.last()?))).collect();
        at /= 2;
    }
    Ok(json!({ "block_height": height, "merkle": merkle, "pos": position }))
}

fn joined(left: &sha256d::Hash, right: &sha256d::Hash) -> sha256d::Hash {
    let mut engine = sha256d::Hash::engine();
    engine.input(left.as_byte_array());
    engine.input(right.as_byte_array());
    sha256d::Hash::from_engine(engine)
}

#[cfg(test)]
mod tests;
