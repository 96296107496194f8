//! The chain's state: blocks, the transactions that wait, who spends what. Pure; the only clock is an argument.
//!
//! Consensus light: every input must exist and be unspent, no transaction makes money, lock times hold, a better
//! paid double spend replaces a worse paid one that waits. Scripts, signatures and the maturity of coinbases are not
//! checked: both sides of every test are ours.

use std::collections::{HashMap, HashSet, VecDeque};

use bitcoin::absolute::{Height, Time};
use bitcoin::block::Header;
use bitcoin::hashes::{Hash as _, sha256};
use bitcoin::{Amount, Block, BlockHash, Network, OutPoint, Script, Transaction, TxOut, Txid, constants};

/// Most transactions that wait for a block; more are refused.
const POOL_MAX: usize = 5_000;

/// How many blocks the median of times is taken over (BIP 113).
const MEDIAN_OF: usize = 11;

/// A transaction of the best chain, or one that waits.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) tx: Transaction,
    /// The block that confirms it, if one does.
    pub(super) height: Option<u32>,
}

/// Why a transaction is not taken, in Bitcoin Core's words where it has some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Only blocks make coins.
    #[error("coinbase")]
    Coinbase,
    /// Nothing goes in or out, or something goes in twice.
    #[error("bad-txns")]
    Shape,
    /// An input is not there, or a block has spent it.
    #[error("bad-txns-inputs-missingorspent")]
    MissingOrSpent,
    /// More comes out than goes in.
    #[error("bad-txns-in-belowout")]
    InBelowOut,
    /// Its lock time is not over.
    #[error("non-final")]
    NonFinal,
    /// It is in a block.
    #[error("Transaction already in block chain")]
    Confirmed,
    /// It spends what a waiting one spends, and pays no more.
    #[error("insufficient fee, rejecting replacement")]
    Conflict,
    /// Too many wait.
    #[error("mempool full")]
    Full,
    /// The faucet has not got as much.
    #[error("the faucet is dry: mine more blocks")]
    Dry,
}

/// Blocks, and what waits for the next.
#[derive(Debug)]
pub(super) struct Ledger {
    /// The best chain; the index is the height.
    best: Vec<Block>,
    /// Every block there ever was, also of abandoned branches.
    headers: HashMap<BlockHash, (Header, u32)>,
    /// Transactions of the best chain and those that wait.
    known: HashMap<Txid, Known>,
    /// Which of those spends an output, by which input.
    spent_by: HashMap<OutPoint, (Txid, u32)>,
    /// SHA-256 of a script → transactions that pay to it or spend from it, the oldest first.
    by_script: HashMap<sha256::Hash, Vec<Txid>>,
    /// What waits, parents before children.
    pool: VecDeque<Txid>,
}

impl Ledger {
    pub(super) fn new() -> Self {
        let mut ledger = Self {
            best: Vec::new(),
            headers: HashMap::new(),
            known: HashMap::new(),
            spent_by: HashMap::new(),
            by_script: HashMap::new(),
            pool: VecDeque::new(),
        };
        ledger.connect(constants::genesis_block(Network::Regtest));
        ledger
    }

    pub(super) fn height(&self) -> u32 {
        u32::try_from(self.best.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    pub(super) fn tip(&self) -> &Block {
        self.best.last().expect("the genesis block is never disconnected")
    }

    pub(super) fn block_at(&self, height: u32) -> Option<&Block> {
        self.best.get(usize::try_from(height).ok()?)
    }

    /// A block by its hash: its header, its height, and whether it is in the best chain.
    pub(super) fn header(&self, hash: &BlockHash) -> Option<(&Header, u32, bool)> {
        let (header, height) = self.headers.get(hash)?;
        let in_best = self.block_at(*height).is_some_and(|block| block.block_hash() == *hash);
        Some((header, *height, in_best))
    }

    pub(super) fn known(&self, txid: &Txid) -> Option<&Known> {
        self.known.get(txid)
    }

    pub(super) fn spender(&self, outpoint: &OutPoint) -> Option<(Txid, u32)> {
        self.spent_by.get(outpoint).copied()
    }

    pub(super) fn output(&self, outpoint: &OutPoint) -> Option<&TxOut> {
        self.known.get(&outpoint.txid)?.tx.output.get(usize::try_from(outpoint.vout).ok()?)
    }

    /// Transactions that touch a script, the oldest first.
    pub(super) fn touching(&self, script_hash: &sha256::Hash) -> &[Txid] {
        self.by_script.get(script_hash).map_or(&[], Vec::as_slice)
    }

    pub(super) fn waiting(&self) -> usize {
        self.pool.len()
    }

    /// Median of the last eleven blocks' times: a block's time is later than that.
    pub(super) fn median_time(&self) -> u32 {
        let mut times: Vec<_> =
            self.best.iter().rev().take(MEDIAN_OF).map(|block| block.header.time).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or(0)
    }

    /// Outputs to `script` that nothing spends, confirmed or not, the oldest first.
    pub(super) fn unspent(&self, script: &Script) -> Vec<(OutPoint, Amount)> {
        let mut found = Vec::new();
        for txid in self.touching(&script_hash(script)) {
            let Some(known) = self.known.get(txid) else { continue };
            for (vout, output) in (0u32..).zip(&known.tx.output) {
                let outpoint = OutPoint { txid: *txid, vout };
                if output.script_pubkey == *script && !self.spent_by.contains_key(&outpoint) {
                    found.push((outpoint, output.value));
                }
            }
        }
        found
    }

    /// Takes a transaction to wait for a block. One that waits already is taken again.
    pub(super) fn accept(&mut self, tx: Transaction) -> Result<Txid, Refusal> {
        let txid = tx.compute_txid();
        match self.known.get(&txid) {
            Some(Known { height: Some(_), .. }) => return Err(Refusal::Confirmed),
            Some(Known { height: None, .. }) => return Ok(txid),
            None => {}
        }
        if tx.is_coinbase() {
            return Err(Refusal::Coinbase);
        }
        let inputs: HashSet<_> = tx.input.iter().map(|input| input.previous_output).collect();
        if tx.input.is_empty() || tx.output.is_empty() || inputs.len() != tx.input.len() {
            return Err(Refusal::Shape);
        }
        let fee = self.fee(&tx)?;
        if !self.is_final(&tx) {
            return Err(Refusal::NonFinal);
        }
        let mut rivals = Vec::new();
        for outpoint in &inputs {
            let Some((rival, _)) = self.spent_by.get(outpoint) else { continue };
            if self.known.get(rival).is_none_or(|known| known.height.is_some()) {
                return Err(Refusal::MissingOrSpent);
            }
            rivals.push(*rival);
        }
        self.replace(&rivals, &inputs, fee)?;
        if self.pool.len() >= POOL_MAX {
            return Err(Refusal::Full);
        }
        self.remember(tx, None);
        self.pool.push_back(txid);
        Ok(txid)
    }

    /// Makes room for a double spend that pays more than all it replaces.
    fn replace(&mut self, rivals: &[Txid], inputs: &HashSet<OutPoint>, fee: Amount) -> Result<(), Refusal> {
        let doomed: HashSet<_> = rivals.iter().flat_map(|rival| self.family(rival)).collect();
        if inputs.iter().any(|outpoint| doomed.contains(&outpoint.txid)) {
            return Err(Refusal::Conflict);
        }
        let paid: Amount = doomed
            .iter()
            .filter_map(|txid| self.fee(&self.known.get(txid)?.tx).ok())
            .fold(Amount::ZERO, |sum, fee| sum.checked_add(fee).unwrap_or(Amount::MAX));
        if !doomed.is_empty() && fee <= paid {
            return Err(Refusal::Conflict);
        }
        for rival in rivals {
            self.evict(rival);
        }
        Ok(())
    }

    /// What goes in and does not come out.
    pub(super) fn fee(&self, tx: &Transaction) -> Result<Amount, Refusal> {
        let mut sum = Amount::ZERO;
        for input in &tx.input {
            let output = self.output(&input.previous_output).ok_or(Refusal::MissingOrSpent)?;
            sum = sum.checked_add(output.value).ok_or(Refusal::InBelowOut)?;
        }
        for output in &tx.output {
            sum = sum.checked_sub(output.value).ok_or(Refusal::InBelowOut)?;
        }
        Ok(sum)
    }

    /// Whether its lock times, absolute and relative (BIP 68), let it into the next block.
    pub(super) fn is_final(&self, tx: &Transaction) -> bool {
        let next = self.height().saturating_add(1);
        let absolute = !tx.is_lock_time_enabled()
            || match (Height::from_consensus(self.height()), Time::from_consensus(self.median_time())) {
                (Ok(height), Ok(time)) => tx.lock_time.is_satisfied_by(height, time),
                _ => false,
            };
        let relative = tx.version.0 < 2
            || tx.input.iter().all(|input| match input.sequence.to_relative_lock_time() {
                Some(bitcoin::relative::LockTime::Blocks(blocks)) => self
                    .known
                    .get(&input.previous_output.txid)
                    .and_then(|known| known.height)
                    .map_or(blocks.value() == 0, |height| {
                        height.saturating_add(u32::from(blocks.value())) <= next
                    }),
                Some(bitcoin::relative::LockTime::Time(_)) | None => true,
            });
        absolute && relative
    }

    /// What the next block takes: all that wait, are final, and whose parents are in.
    pub(super) fn candidates(&self) -> Vec<Transaction> {
        let mut taken = HashSet::new();
        let mut chosen = Vec::new();
        for txid in &self.pool {
            let Some(known) = self.known.get(txid) else { continue };
            let parents_in = known.tx.input.iter().all(|input| {
                let parent = input.previous_output.txid;
                taken.contains(&parent) || self.known.get(&parent).is_some_and(|known| known.height.is_some())
            });
            if parents_in && self.is_final(&known.tx) {
                taken.insert(*txid);
                chosen.push(known.tx.clone());
            }
        }
        chosen
    }

    /// Puts a block on top. Its transactions wait here, or are its coinbase.
    pub(super) fn connect(&mut self, block: Block) {
        let height = u32::try_from(self.best.len()).unwrap_or(u32::MAX);
        let ids: HashSet<_> = block.txdata.iter().map(Transaction::compute_txid).collect();
        self.pool.retain(|txid| !ids.contains(txid));
        for tx in &block.txdata {
            self.remember(tx.clone(), Some(height));
        }
        self.headers.insert(block.block_hash(), (block.header, height));
        self.best.push(block);
    }

    /// Takes the top block off; what it confirmed waits again. The genesis block stays.
    pub(super) fn disconnect(&mut self) {
        if self.best.len() <= 1 {
            return;
        }
        let Some(block) = self.best.pop() else { return };
        for tx in block.txdata.iter().rev() {
            let txid = tx.compute_txid();
            if tx.is_coinbase() {
                self.evict(&txid);
            } else if let Some(known) = self.known.get_mut(&txid) {
                known.height = None;
                self.pool.push_front(txid);
            }
        }
    }

    /// Forgets a transaction and all that descend from it.
    pub(super) fn evict(&mut self, txid: &Txid) {
        for doomed in self.family(txid) {
            let Some(known) = self.known.remove(&doomed) else { continue };
            self.pool.retain(|waiting| *waiting != doomed);
            for input in &known.tx.input {
                self.spent_by.remove(&input.previous_output);
            }
            for history in self.by_script.values_mut() {
                history.retain(|listed| *listed != doomed);
            }
        }
    }

    /// A transaction and its descendants.
    fn family(&self, txid: &Txid) -> Vec<Txid> {
        let mut family = vec![*txid];
        let mut seen = HashSet::from([*txid]);
        let mut next = 0;
        while let Some(member) = family.get(next).copied() {
            next += 1;
            let Some(known) = self.known.get(&member) else { continue };
            for (vout, _) in (0u32..).zip(&known.tx.output) {
                if let Some((child, _)) = self.spent_by.get(&OutPoint { txid: member, vout })
                    && seen.insert(*child)
                {
                    family.push(*child);
                }
            }
        }
        family
    }

    fn remember(&mut self, tx: Transaction, height: Option<u32>) {
        let txid = tx.compute_txid();
        if let Some(known) = self.known.get_mut(&txid) {
            known.height = height;
            return;
        }
        let mut scripts: HashSet<_> =
            tx.output.iter().map(|output| script_hash(&output.script_pubkey)).collect();
        for (vin, input) in (0u32..).zip(&tx.input) {
            if let Some(output) = self.output(&input.previous_output) {
                scripts.insert(script_hash(&output.script_pubkey));
            }
            if !tx.is_coinbase() {
                self.spent_by.insert(input.previous_output, (txid, vin));
            }
        }
        for script in scripts {
            self.by_script.entry(script).or_default().push(txid);
        }
        self.known.insert(txid, Known { tx, height });
    }
}

/// What Esplora names a script by.
pub(super) fn script_hash(script: &Script) -> sha256::Hash {
    sha256::Hash::hash(script.as_bytes())
}
