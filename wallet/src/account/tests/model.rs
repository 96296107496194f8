//! The ledger once more, as simply as can be said: plain numbers in maps. What the real one does is compared with it.

use std::collections::{BTreeMap, BTreeSet};

use crate::msat::Msat;

/// What each holder may grant themselves on one day, in millisatoshi.
pub(super) const LIMIT: i128 = 30_000_000;
const SUPPLY: i128 = Msat::SUPPLY.get() as i128;
const DAY_S: u64 = 86_400;

/// Something that is done, with every name it needs: done again, it is the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Invoice { hash: u8, holder: usize, amount: u64 },
    PaidIn { hash: u8, amount: u64 },
    Reserve { hash: u8, holder: usize, amount: u64, request: String },
    Sent { hash: u8 },
    Unknown { hash: u8 },
    Settle { hash: u8, amount: u64, fee: u64 },
    Fail { hash: u8 },
    Transfer { id: String, from: usize, to: usize, amount: u64 },
    Inside { hash: u8, holder: usize, amount: u64, request: String },
    Adjust { id: String, is_up: bool, amount: u64 },
}

/// Where a payment stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    Settled(u64, u64),
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paying {
    pub(super) holder: usize,
    pub(super) amount: u64,
    pub(super) stage: Stage,
    /// The day its budget was asked.
    day: u64,
    held: i128,
}

/// All there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) available: [i128; 4],
    pub(super) reserved: [i128; 4],
    pub(super) debt: [i128; 4],
    pub(super) lightning: i128,
    pub(super) suspense: i128,
    pub(super) equity: i128,
    pub(super) payments: BTreeMap<u8, Paying>,
    pub(super) invoices: BTreeMap<u8, (usize, u64, bool)>,
    /// What came in, by payment.
    incomes: BTreeMap<u8, u64>,
    /// Names of what was done.
    done: BTreeSet<String>,
    /// (holder, day) → what its grants came to, and what was spent above them.
    granted: BTreeMap<(usize, u64), i128>,
    above: BTreeMap<(usize, u64), i128>,
}

impl Model {
    /// Does it, if it can be done; answers whether it was.
    pub(super) fn apply(&mut self, command: &Command, now_s: u64) -> bool {
        let day = now_s / DAY_S;
        match command {
            Command::Invoice { hash, holder, amount } => self.invoice(*hash, *holder, *amount),
            Command::PaidIn { hash, amount } => self.paid_in(*hash, *amount),
            Command::Reserve { hash, holder, amount, request } => {
                self.reserve(*hash, *holder, *amount, request, day)
            }
            Command::Sent { hash } | Command::Unknown { hash } => {
                self.payments.get(hash).is_some_and(|paying| paying.stage == Stage::Open)
            }
            Command::Settle { hash, amount, fee } => self.settle(*hash, *amount, *fee, day),
            Command::Fail { hash } => self.fail(*hash),
            Command::Transfer { id, from, to, amount } => {
                if self.done.contains(id) {
                    return true;
                }
                self.moves(*from, *to, *amount) && self.done.insert(id.clone())
            }
            Command::Inside { hash, holder, amount, request } => {
                self.inside(*hash, *holder, *amount, request, day)
            }
            Command::Adjust { id, is_up, amount } => {
                if self.done.contains(id) {
                    return true;
                }
                let change = i128::from(*amount);
                if change == 0 || change > SUPPLY || (!is_up && self.lightning < change) {
                    return false;
                }
                let change = if *is_up { change } else { -change };
                self.lightning += change;
                self.suspense += change;
                self.done.insert(id.clone())
            }
        }
    }

    /// What a budget has used on a day.
    pub(super) fn used(&self, holder: usize, day: u64) -> i128 {
        let of = |map: &BTreeMap<(usize, u64), i128>| map.get(&(holder, day)).copied().unwrap_or_default();
        of(&self.granted) + of(&self.above)
    }

    /// What must hold whatever happens.
    pub(super) fn check(&self) {
        for holder in 0..4 {
            let (available, reserved, debt) =
                (self.available[holder], self.reserved[holder], self.debt[holder]);
            assert!(available >= 0 && reserved >= 0 && debt >= 0, "below zero: {self:?}");
            assert!(debt == 0 || available == 0, "owes and has: {self:?}");
        }
        let sum = |all: &[i128; 4]| all.iter().sum::<i128>();
        let debits = self.lightning + sum(&self.debt);
        let credits = self.suspense + self.equity + sum(&self.available) + sum(&self.reserved);
        assert_eq!(debits, credits, "{self:?}");
        assert!(self.granted.values().all(|granted| *granted <= LIMIT), "a budget was exceeded: {self:?}");
    }

    fn credit(&mut self, holder: usize, amount: i128) {
        let repaid = amount.min(self.debt[holder]);
        self.debt[holder] -= repaid;
        self.available[holder] += amount - repaid;
    }

    fn can_spend(&self, holder: usize, amount: i128) -> bool {
        (1..=SUPPLY).contains(&amount) && self.debt[holder] == 0 && self.available[holder] >= amount
    }

    fn moves(&mut self, from: usize, to: usize, amount: u64) -> bool {
        let amount = i128::from(amount);
        if from == to || !self.can_spend(from, amount) {
            return false;
        }
        self.available[from] -= amount;
        self.credit(to, amount);
        true
    }

    fn invoice(&mut self, hash: u8, holder: usize, amount: u64) -> bool {
        match self.invoices.get(&hash) {
            Some((known_holder, known_amount, _)) => (*known_holder, *known_amount) == (holder, amount),
            None if self.incomes.contains_key(&hash) => false,
            None => self.invoices.insert(hash, (holder, amount, false)).is_none(),
        }
    }

    fn paid_in(&mut self, hash: u8, amount: u64) -> bool {
        if let Some(known) = self.incomes.get(&hash) {
            return *known == amount;
        }
        if !(1..=SUPPLY).contains(&i128::from(amount)) {
            return false;
        }
        let holder = match self.invoices.get_mut(&hash) {
            Some((holder, _, is_paid)) => {
                *is_paid = true;
                *holder
            }
            None => 0,
        };
        self.lightning += i128::from(amount);
        self.credit(holder, i128::from(amount));
        self.incomes.insert(hash, amount);
        true
    }

    fn reserve(&mut self, hash: u8, holder: usize, amount: u64, request: &str, day: u64) -> bool {
        let held = i128::from(amount) + (i128::from(amount) + 99).div_euclid(100).max(10_000);
        if self.done.contains(request) {
            return true;
        }
        let is_free = self.payments.get(&hash).is_none_or(|paying| paying.stage == Stage::Failed);
        let fits = self.used(holder, day) + held <= LIMIT;
        if amount == 0 || !fits || !is_free || !self.can_spend(holder, held) {
            return false;
        }
        self.available[holder] -= held;
        self.reserved[holder] += held;
        *self.granted.entry((holder, day)).or_default() += held;
        self.payments.insert(hash, Paying { holder, amount, stage: Stage::Open, day, held });
        self.done.insert(request.to_owned())
    }

    fn settle(&mut self, hash: u8, amount: u64, fee: u64, today: u64) -> bool {
        let Some(paying) = self.payments.get_mut(&hash) else { return false };
        let reserve = (paying.held - i128::from(paying.amount)).max(0) as u64;
        let fee = if i128::from(amount) + i128::from(fee) > SUPPLY { reserve } else { fee };
        if let Stage::Settled(known_amount, known_fee) = paying.stage {
            return (known_amount, known_fee) == (amount, fee);
        }
        let total = i128::from(amount) + i128::from(fee);
        if amount == 0 || total > SUPPLY {
            return false;
        }
        let held = if paying.stage == Stage::Open { paying.held } else { 0 };
        let (holder, day) = (paying.holder, paying.day);
        paying.stage = Stage::Settled(amount, fee);
        if held > 0 {
            *self.granted.entry((holder, day)).or_default() -= (held - total).max(0);
        }
        *self.above.entry((holder, today)).or_default() += (total - held).max(0);
        self.reserved[holder] -= held;
        let from_wallet = total.min(self.lightning);
        self.lightning -= from_wallet;
        self.suspense += total - from_wallet;
        let over = (total - held).max(0);
        let from_available = over.min(self.available[holder]);
        self.available[holder] -= from_available;
        self.debt[holder] += over - from_available;
        self.credit(holder, (held - total).max(0));
        true
    }

    fn fail(&mut self, hash: u8) -> bool {
        let Some(paying) = self.payments.get_mut(&hash) else { return false };
        match paying.stage {
            Stage::Settled(..) => false,
            Stage::Failed => true,
            Stage::Open => {
                paying.stage = Stage::Failed;
                let (holder, day, held) = (paying.holder, paying.day, paying.held);
                *self.granted.entry((holder, day)).or_default() -= held;
                self.reserved[holder] -= held;
                self.credit(holder, held);
                true
            }
        }
    }

    fn inside(&mut self, hash: u8, holder: usize, amount: u64, request: &str, day: u64) -> bool {
        if self.done.contains(request) {
            return true;
        }
        let Some((to, asked, is_paid)) = self.invoices.get(&hash).copied() else { return false };
        let is_free = self.payments.get(&hash).is_none_or(|paying| paying.stage == Stage::Failed);
        if is_paid || asked != amount || !is_free || !self.moves(holder, to, amount) {
            return false;
        }
        self.invoices.insert(hash, (to, asked, true));
        let stage = Stage::Settled(amount, 0);
        self.payments.insert(hash, Paying { holder, amount, stage, day, held: 0 });
        self.done.insert(request.to_owned())
    }
}
