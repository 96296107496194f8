//! Blocks and faucet transactions. Pure.

use bitcoin::absolute::LockTime;
use bitcoin::block::{Header, Version};
use bitcoin::hashes::Hash as _;
use bitcoin::opcodes::all::OP_PUSHNUM_1;
use bitcoin::transaction;
use bitcoin::{
    Amount, Block, CompactTarget, OutPoint, Script, ScriptBuf, Sequence, Transaction, TxIn, TxMerkleNode,
    TxOut, Witness, WitnessMerkleNode, script,
};

use super::ledger::{Ledger, Refusal};

/// What each block gives the faucet. It does not halve: the coins are worth nothing anyway.
const SUBSIDY: Amount = Amount::from_int_btc(50);

/// What a faucet transaction pays.
const FAUCET_FEE: Amount = Amount::from_sat(1_000);

/// Change below this stays in the fee.
const DUST: Amount = Amount::from_sat(1_000);

/// The easiest target there is: every other attempt hits.
const BITS: u32 = 0x207f_ffff;

/// Anybody can spend it: the faucet's script, hashed as witness programs are.
fn anyone() -> ScriptBuf {
    ScriptBuf::from(vec![OP_PUSHNUM_1.to_u8()])
}

/// Where the faucet keeps its coins.
pub(super) fn faucet_script() -> ScriptBuf {
    anyone().to_p2wsh()
}

/// Makes the block that comes next. `salt` tells apart what is mined twice at one height.
pub(super) fn next(ledger: &Ledger, transactions: Vec<Transaction>, now: u32, salt: u64) -> Block {
    let mut txdata = vec![coinbase(ledger.height().saturating_add(1), salt)];
    txdata.extend(transactions);
    let mut block = Block {
        header: Header {
            version: Version::TWO,
            prev_blockhash: ledger.tip().block_hash(),
            merkle_root: TxMerkleNode::all_zeros(),
            time: now.max(ledger.median_time().saturating_add(1)),
            bits: CompactTarget::from_consensus(BITS),
            nonce: 0,
        },
        txdata,
    };
    commit_to_witnesses(&mut block);
    block.header.merkle_root = block.compute_merkle_root().expect("a block has its coinbase");
    let target = block.header.target();
    while block.header.validate_pow(target).is_err() {
        block.header.nonce = block.header.nonce.wrapping_add(1);
    }
    block
}

fn coinbase(height: u32, salt: u64) -> Transaction {
    let script_sig =
        script::Builder::new().push_int(i64::from(height)).push_slice(salt.to_be_bytes()).into_script();
    Transaction {
        version: transaction::Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::null(),
            script_sig,
            sequence: Sequence::MAX,
            witness: Witness::from_slice(&[[0u8; 32]]),
        }],
        output: vec![TxOut { value: SUBSIDY, script_pubkey: faucet_script() }],
    }
}

/// BIP 141: the coinbase commits to the witnesses of all others.
fn commit_to_witnesses(block: &mut Block) {
    let root = block.witness_root().unwrap_or(WitnessMerkleNode::all_zeros());
    let commitment = Block::compute_witness_commitment(&root, &[0; 32]);
    let mut data = [0; 36];
    let (magic, rest) = data.split_at_mut(4);
    magic.copy_from_slice(&[0xaa, 0x21, 0xa9, 0xed]);
    rest.copy_from_slice(commitment.as_byte_array());
    if let Some(coinbase) = block.txdata.first_mut() {
        coinbase.output.push(TxOut { value: Amount::ZERO, script_pubkey: ScriptBuf::new_op_return(data) });
    }
}

/// A transaction from the faucet to `script`.
pub(super) fn faucet(ledger: &Ledger, script: &Script, amount: Amount) -> Result<Transaction, Refusal> {
    let home = faucet_script();
    let wanted = amount.checked_add(FAUCET_FEE).ok_or(Refusal::Dry)?;
    let (mut input, mut sum) = (Vec::new(), Amount::ZERO);
    for (outpoint, value) in ledger.unspent(&home) {
        if sum >= wanted {
            break;
        }
        sum = sum.checked_add(value).ok_or(Refusal::Dry)?;
        input.push(TxIn {
            previous_output: outpoint,
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::from_slice(&[anyone().as_bytes()]),
        });
    }
    let change = sum.checked_sub(wanted).ok_or(Refusal::Dry)?;
    let mut output = vec![TxOut { value: amount, script_pubkey: script.to_owned() }];
    if change >= DUST {
        output.push(TxOut { value: change, script_pubkey: home });
    }
    Ok(Transaction { version: transaction::Version::TWO, lock_time: LockTime::ZERO, input, output })
}
