//! What Esplora answers: the endpoints that the Lightning stack calls, from the ledger. Pure.

use bitcoin::consensus::encode::{deserialize_hex, serialize, serialize_hex};
use bitcoin::hashes::sha256;
use bitcoin::{Block, BlockHash, MerkleBlock, OutPoint, Script, Transaction, TxIn, Txid};
use serde_json::{Value, json};

use super::ledger::{Ledger, Refusal};

/// Confirmed transactions on one page of a script's history; clients count on it.
const PAGE: usize = 25;

/// Waiting transactions on a history's first page.
const PAGE_WAITING: usize = 50;

/// Blocks in a list.
const BLOCKS: u32 = 10;

/// What a transaction should pay, in satoshis per virtual byte, whatever the hurry: blocks here are never full.
pub(super) const FEE_RATE: f64 = 1.0;

/// An answer's body.
#[derive(Debug, PartialEq)]
pub(super) enum Body {
    Text(String),
    Json(Value),
    Bytes(Vec<u8>),
}

/// Why there is none.
#[derive(Debug, PartialEq)]
pub(super) enum Failure {
    NotFound,
    Bad(String),
}

type Answer = Result<Body, Failure>;

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Bad(format!("sendrawtransaction RPC error: {refusal}"))
    }
}

/// Answers `GET path`.
pub(super) fn get(ledger: &Ledger, path: &str) -> Answer {
    let parts: Vec<_> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["fee-estimates"] => Ok(Body::Json(fees())),
        ["blocks", "tip", "hash"] => Ok(Body::Text(ledger.tip().block_hash().to_string())),
        ["blocks", "tip", "height"] => Ok(Body::Text(ledger.height().to_string())),
        ["blocks"] => Ok(Body::Json(blocks(ledger, ledger.height()))),
        ["blocks", height] => Ok(Body::Json(blocks(ledger, number(height)?))),
        ["block-height", height] => {
            let block = ledger.block_at(number(height)?).ok_or(Failure::NotFound)?;
            Ok(Body::Text(block.block_hash().to_string()))
        }
        ["block", hash, rest @ ..] => block(ledger, &parse(hash)?, rest),
        ["tx", txid, rest @ ..] => transaction(ledger, &parse(txid)?, rest),
        ["scripthash", hash, "txs"] => Ok(Body::Json(history(ledger, &parse(hash)?, None))),
        ["scripthash", hash, "txs", "chain", last] => {
            Ok(Body::Json(history(ledger, &parse(hash)?, Some(parse(last)?))))
        }
        _ => Err(Failure::NotFound),
    }
}

/// Answers `POST /tx`.
pub(super) fn broadcast(ledger: &mut Ledger, body: &str) -> Answer {
    let tx: Transaction = deserialize_hex(body.trim()).map_err(|error| Failure::Bad(error.to_string()))?;
    Ok(Body::Text(ledger.accept(tx)?.to_string()))
}

fn number(text: &str) -> Result<u32, Failure> {
    text.parse().map_err(|_| Failure::Bad("not a height".to_owned()))
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| Failure::Bad("not a hash".to_owned()))
}

fn fees() -> Value {
    [1, 2, 3, 6, 12, 25, 144, 504, 1008].iter().map(|blocks| (blocks.to_string(), json!(FEE_RATE))).collect()
}

fn blocks(ledger: &Ledger, from: u32) -> Value {
    let heights = (0..BLOCKS).filter_map(|back| from.checked_sub(back));
    heights.filter_map(|height| Some(block_info(ledger.block_at(height)?, height))).collect()
}

fn block_info(block: &Block, height: u32) -> Value {
    let header = &block.header;
    json!({
        "id": block.block_hash().to_string(),
        "height": height,
        "version": header.version.to_consensus(),
        "timestamp": header.time,
        "tx_count": block.txdata.len(),
        "size": block.total_size(),
        "weight": block.weight().to_wu(),
        "merkle_root": header.merkle_root.to_string(),
        "previousblockhash": (height > 0).then(|| header.prev_blockhash.to_string()),
        "mediantime": header.time,
        "nonce": header.nonce,
        "bits": header.bits.to_consensus(),
        "difficulty": header.difficulty_float(),
    })
}

fn block(ledger: &Ledger, hash: &BlockHash, rest: &[&str]) -> Answer {
    let known = ledger.header(hash);
    if rest == ["status"] {
        // Of a block it never saw, Esplora says the same as of one that was abandoned.
        return Ok(Body::Json(match known {
            Some((_, height, true)) => {
                let next =
                    ledger.block_at(height.saturating_add(1)).map(|block| block.block_hash().to_string());
                json!({ "in_best_chain": true, "height": height, "next_best": next })
            }
            _ => json!({ "in_best_chain": false, "height": null, "next_best": null }),
        }));
    }
    let (header, height, in_best) = known.ok_or(Failure::NotFound)?;
    let whole = || ledger.block_at(height).filter(|_| in_best).ok_or(Failure::NotFound);
    match rest {
        ["header"] => Ok(Body::Text(serialize_hex(header))),
        ["raw"] => Ok(Body::Bytes(serialize(whole()?))),
        [] => Ok(Body::Json(block_info(whole()?, height))),
        _ => Err(Failure::NotFound),
    }
}

fn transaction(ledger: &Ledger, txid: &Txid, rest: &[&str]) -> Answer {
    let known = ledger.known(txid).ok_or(Failure::NotFound)?;
    match rest {
        [] => Ok(Body::Json(tx_info(ledger, txid).ok_or(Failure::NotFound)?)),
        ["raw"] => Ok(Body::Bytes(serialize(&known.tx))),
        ["hex"] => Ok(Body::Text(serialize_hex(&known.tx))),
        ["status"] => Ok(Body::Json(status(ledger, known.height))),
        ["merkleblock-proof"] => {
            let block = known.height.and_then(|height| ledger.block_at(height)).ok_or(Failure::NotFound)?;
            let proof = MerkleBlock::from_block_with_predicate(block, |listed| listed == txid);
            Ok(Body::Text(serialize_hex(&proof)))
        }
        ["outspend", vout] => {
            let outpoint = OutPoint { txid: *txid, vout: number(vout)? };
            ledger.output(&outpoint).ok_or(Failure::NotFound)?;
            Ok(Body::Json(match ledger.spender(&outpoint) {
                Some((spender, vin)) => {
                    let height = ledger.known(&spender).and_then(|known| known.height);
                    json!({
                        "spent": true, "txid": spender.to_string(), "vin": vin, "status": status(ledger, height),
                    })
                }
                None => json!({ "spent": false }),
            }))
        }
        _ => Err(Failure::NotFound),
    }
}

/// The waiting transactions of a script and a page of the confirmed ones, the newest first; or the page after `last`.
fn history(ledger: &Ledger, script_hash: &sha256::Hash, last: Option<Txid>) -> Value {
    let known = |txid: &&Txid| ledger.known(txid).and_then(|known| known.height).is_some();
    let (mut confirmed, waiting): (Vec<&Txid>, Vec<&Txid>) =
        ledger.touching(script_hash).iter().rev().partition(known);
    let waiting = waiting.into_iter().filter(|_| last.is_none()).take(PAGE_WAITING);
    confirmed.sort_by_key(|txid| std::cmp::Reverse(ledger.known(txid).and_then(|known| known.height)));
    let skip = last
        .and_then(|last| confirmed.iter().position(|txid| **txid == last))
        .map_or(0, |position| position.saturating_add(1));
    let confirmed = confirmed.into_iter().skip(skip).take(PAGE);
    waiting.chain(confirmed).filter_map(|txid| tx_info(ledger, txid)).collect()
}

fn status(ledger: &Ledger, height: Option<u32>) -> Value {
    match height.and_then(|height| Some((height, ledger.block_at(height)?))) {
        Some((height, block)) => json!({
            "confirmed": true,
            "block_height": height,
            "block_hash": block.block_hash().to_string(),
            "block_time": block.header.time,
        }),
        None => json!({ "confirmed": false }),
    }
}

fn tx_info(ledger: &Ledger, txid: &Txid) -> Option<Value> {
    let known = ledger.known(txid)?;
    let tx = &known.tx;
    let vout: Vec<_> =
        tx.output.iter().map(|output| output_info(&output.script_pubkey, output.value.to_sat())).collect();
    Some(json!({
        "txid": txid.to_string(),
        "version": tx.version.0,
        "locktime": tx.lock_time.to_consensus_u32(),
        "vin": tx.input.iter().map(|input| input_info(ledger, tx, input)).collect::<Vec<_>>(),
        "vout": vout,
        "size": tx.total_size(),
        "weight": tx.weight().to_wu(),
        "fee": ledger.fee(tx).map_or(0, bitcoin::Amount::to_sat),
        "status": status(ledger, known.height),
    }))
}

fn output_info(script: &Script, value: u64) -> Value {
    json!({ "scriptpubkey": script.to_hex_string(), "value": value })
}

fn input_info(ledger: &Ledger, tx: &Transaction, input: &TxIn) -> Value {
    let prevout = ledger
        .output(&input.previous_output)
        .map(|output| output_info(&output.script_pubkey, output.value.to_sat()));
    json!({
        "txid": input.previous_output.txid.to_string(),
        "vout": input.previous_output.vout,
        "prevout": prevout,
        "scriptsig": input.script_sig.to_hex_string(),
        "witness": input.witness.iter().map(hex).collect::<Vec<_>>(),
        "sequence": input.sequence.to_consensus_u32(),
        "is_coinbase": tx.is_coinbase(),
    })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all that is written to it");
        text
    })
}
