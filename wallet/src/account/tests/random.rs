//! Random lives of four accounts: payments, income, transfers, crashes, answers that are lost, races, and everything
//! told twice. After each commit the rows are compared with a plain count and with a replay.
//!
//! A failing run prints its seed: `OA_SEED=<seed>` makes the same one again.

mod life;

use std::time::{SystemTime, UNIX_EPOCH};

use oa_nips::port::RowWrite;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

use life::{End, HASHES, Step, life};

use super::model::{Command, LIMIT, Model};
use super::*;
use crate::budget::{
    Actual, Ask, Budget, Consent, GrantId, Limits, Period, Scopes, Usage, Verdict as Allowed,
};
use crate::store::SqliteStore;

/// 2026-07-24 00:00:00.
const START_S: u64 = 1_784_851_200;
/// What each holder has at the beginning, and what is the house's.
const EACH_SAT: u32 = 20_000;

/// A mistake made on purpose, to see it found.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// A crash in a commit leaves half of it.
    TornCommit,
    /// Whoever commits last wins.
    IgnoresVersions,
    /// The ids of postings are not kept.
    ForgetsIds,
    /// What a budget was used for is not kept.
    ForgetsBudgets,
    /// A grant is not settled with its payment.
    LeaksGrants,
}

#[derive(Debug)]
enum Place {
    Memory(MemoryStore),
    Disk { dir: tempfile::TempDir, store: Option<Box<SqliteStore>> },
}

impl Place {
    fn disk() -> Self {
        let mut place = Self::Disk { dir: tempfile::tempdir().unwrap(), store: None };
        place.reopen();
        place
    }

    fn store(&self) -> &dyn Store {
        match self {
            Self::Memory(store) => store,
            Self::Disk { store, .. } => store.as_deref().unwrap(),
        }
    }

    /// All that was in memory is lost.
    fn reopen(&mut self) {
        if let Self::Disk { dir, store } = self {
            drop(store.take());
            *store = Some(Box::new(SqliteStore::open(&dir.path().join("wallet.db")).unwrap()));
        }
    }
}

/// A ledger, and what it should be.
#[derive(Debug)]
struct World {
    place: Place,
    fault: Fault,
    model: Model,
    /// Everything that was ever asked for, done or not.
    log: Vec<Command>,
    named: u64,
    now_s: u64,
}

fn name(holder: usize) -> Holder {
    [Holder::operator(), super::holder("a"), super::holder("b"), super::holder("c")][holder].clone()
}

impl World {
    fn new(place: Place, fault: Fault) -> Self {
        super::work(place.store(), |ledger| {
            let _ = ledger.opening("opening", Asset::Lightning, sat(5 * EACH_SAT), 0).unwrap();
            for holder in 0..4 {
                let _ = ledger.allot(&format!("allot {holder}"), &name(holder), sat(EACH_SAT), 0).unwrap();
            }
        });
        let each = i128::from(sat(EACH_SAT).get());
        let mut model = Model::default();
        (model.lightning, model.equity, model.available) = (5 * each, each, [each; 4]);
        Self { place, fault, model, log: Vec::new(), named: 0, now_s: START_S }
    }

    fn live(&mut self, steps: &[Step], end: End) {
        let before = self.model.clone();
        let from = self.log.len();
        let writes = self.draft(|world, draft| {
            for step in steps {
                if let Some((command, is_new)) = world.command(step) {
                    world.run(draft, &command, is_new);
                    world.log.push(command);
                }
            }
        });
        match end {
            End::Commit | End::AnswerLost | End::CrashAfter => self.commit(writes),
            End::Crash => {
                if self.fault == Fault::TornCommit {
                    self.tear(&writes);
                }
                self.model = before;
                self.place.reopen();
            }
            End::Race => self.race(writes, before, from),
        }
        match end {
            End::CrashAfter => self.place.reopen(),
            End::AnswerLost => self.redo(from),
            End::Commit | End::Crash | End::Race => {}
        }
        self.compare();
    }

    /// Does something on a draft, and answers what is to be written.
    fn draft(&mut self, work: impl FnOnce(&mut Self, &mut Draft<'_>)) -> Vec<RowWrite> {
        // The store stays where it is: the world needs the rest of itself meanwhile.
        let place = std::mem::replace(&mut self.place, Place::Memory(MemoryStore::default()));
        let mut draft = Draft::new(place.store());
        work(self, &mut draft);
        let writes = draft.into_writes();
        self.place = place;
        writes
    }

    fn redo(&mut self, from: usize) {
        let again: Vec<Command> = self.log[from..].to_vec();
        let writes = self.draft(|world, draft| {
            for command in &again {
                world.run(draft, command, false);
            }
        });
        self.commit(writes);
    }

    /// Somebody else commits between the draft and its commit; a draft that is stale is made anew.
    fn race(&mut self, writes: Vec<RowWrite>, before: Model, from: usize) {
        let rival = Command::Transfer { id: self.name("rival"), from: 0, to: 1, amount: 1 };
        let after = std::mem::replace(&mut self.model, before);
        let of_rival = self.draft(|world, draft| world.run(draft, &rival, true));
        let has_landed = !of_rival.is_empty();
        self.commit(of_rival);
        match self.try_commit(writes) {
            Verdict::Stale { .. } => self.redo(from),
            Verdict::Done => {
                self.model = after;
                if has_landed {
                    // The draft touched no account, or it would be stale: the order does not matter.
                    self.model.apply(&rival, self.now_s);
                }
            }
        }
    }

    fn commit(&mut self, writes: Vec<RowWrite>) {
        assert_eq!(self.try_commit(writes), Verdict::Done);
    }

    fn try_commit(&mut self, mut writes: Vec<RowWrite>) -> Verdict {
        match self.fault {
            Fault::ForgetsIds => writes.retain(|write| write.space != "wallet.ids"),
            Fault::ForgetsBudgets => writes.retain(|write| write.space != "test.budgets"),
            Fault::IgnoresVersions => self.update_versions(&mut writes),
            Fault::None | Fault::TornCommit | Fault::LeaksGrants => {}
        }
        self.place.store().commit(&[writes]).unwrap().remove(0)
    }

    fn tear(&self, writes: &[RowWrite]) {
        let half = writes[..writes.len() / 2].to_vec();
        self.place.store().commit(&[half]).unwrap();
    }

    fn update_versions(&self, writes: &mut [RowWrite]) {
        for write in writes {
            let row = self.place.store().get(&write.space, &write.key).unwrap();
            write.expect_version = row.map_or(0, |row| row.version);
        }
    }

    fn name(&mut self, what: &str) -> String {
        self.named += 1;
        format!("{what} {}", self.named)
    }

    /// What a step is in this world, and whether it is done for the first time.
    fn command(&mut self, step: &Step) -> Option<(Command, bool)> {
        let command = match *step {
            Step::Invoice(hash, holder, amount) => Command::Invoice { hash, holder, amount },
            Step::PaidIn(hash, amount) => Command::PaidIn { hash, amount },
            Step::Reserve(hash, holder, amount) => {
                Command::Reserve { hash, holder, amount, request: self.name("pay") }
            }
            Step::Sent(at) => Command::Sent { hash: self.payment(at) },
            Step::Unknown(at) => Command::Unknown { hash: self.payment(at) },
            Step::Settle(at, fee) => {
                let hash = self.payment(at);
                let amount = self.model.payments.get(&hash).map_or(1, |paying| paying.amount);
                Command::Settle { hash, amount, fee }
            }
            Step::Fail(at) => Command::Fail { hash: self.payment(at) },
            Step::Transfer(from, to, amount) => Command::Transfer { id: self.name("move"), from, to, amount },
            Step::Inside(at, holder) => {
                let known = self.model.invoices.keys();
                let hash = known.clone().nth(at % known.len().max(1)).copied().unwrap_or(0);
                let amount = self.model.invoices.get(&hash).map_or(1, |(_, amount, _)| *amount);
                Command::Inside { hash, holder, amount, request: self.name("inside") }
            }
            Step::Adjust(is_up, amount) => Command::Adjust { id: self.name("adjust"), is_up, amount },
            Step::Again(at) => {
                return self.log.get(at % self.log.len().max(1)).cloned().map(|again| (again, false));
            }
            Step::Wait(span_s) => {
                self.now_s += span_s;
                return None;
            }
        };
        Some((command, true))
    }

    /// The payment at that place, or one that was never begun.
    fn payment(&self, at: usize) -> u8 {
        let known = self.model.payments.keys();
        known.clone().nth(at % (known.len() + 1)).copied().unwrap_or(HASHES)
    }

    /// Does it, in the draft and in the model, and compares.
    fn run(&mut self, draft: &mut Draft<'_>, command: &Command, is_new: bool) {
        let real = self.real(draft, command);
        let model = self.model.apply(command, self.now_s);
        if is_new {
            assert_eq!(real, model, "{command:?}");
        }
        self.model.check();
        let book = Ledger::new(draft).book().unwrap();
        assert!(book.is_balanced(), "{book:?}");
        self.compare_standings(|holder| Ledger::new(draft).standing(holder).unwrap(), command);
    }

    fn real(&self, draft: &mut Draft<'_>, command: &Command) -> bool {
        let at_ms = self.now_s * 1000;
        let mut ledger = Ledger::new(draft);
        match command {
            Command::Invoice { hash, holder, amount } => {
                // The same at any time: an invoice's times are its own.
                ledger
                    .note_invoice(&super::hash(*hash), &name(*holder), Some(Msat::new(*amount)), 0, u64::MAX)
                    .is_ok()
            }
            Command::PaidIn { hash, amount } => {
                ledger.paid_in(&super::hash(*hash), Msat::new(*amount), at_ms).is_ok()
            }
            Command::Reserve { hash, holder, amount, request } => {
                self.reserve(draft, *hash, &name(*holder), Msat::new(*amount), request)
            }
            Command::Sent { hash } => ledger.sent(&super::hash(*hash), at_ms).is_ok(),
            Command::Unknown { hash } => ledger.unknown(&super::hash(*hash), at_ms).is_ok(),
            Command::Settle { hash, amount, fee } => {
                let outcome = super::outcome(Msat::new(*amount), Msat::new(*fee));
                self.over(draft, *hash, |ledger| ledger.settled(&super::hash(*hash), outcome, at_ms))
            }
            Command::Fail { hash } => {
                self.over(draft, *hash, |ledger| ledger.failed(&super::hash(*hash), "no", at_ms))
            }
            Command::Transfer { id, from, to, amount } => {
                ledger.transfer(id, &name(*from), &name(*to), Msat::new(*amount), at_ms).is_ok()
            }
            Command::Inside { hash, holder, amount, request } => {
                let new = NewPayment {
                    payment: super::hash(*hash),
                    holder: &name(*holder),
                    amount: Msat::new(*amount),
                    request,
                    at_ms,
                };
                ledger.pay_inside(&new, None).is_ok()
            }
            Command::Adjust { id, is_up, amount } => {
                let change = if *is_up { Change::Up } else { Change::Down };
                let amount = Msat::new(*amount);
                ledger.adjust(id, Asset::Lightning, change, Against::Suspense, amount, at_ms).is_ok()
            }
        }
    }

    /// As a caller does it: the budget is asked, the ledger is asked, and both are written together.
    fn reserve(&self, draft: &mut Draft<'_>, hash: u8, holder: &Holder, amount: Msat, request: &str) -> bool {
        let mut budget = budget(draft, holder);
        let most = amount.saturating_add(fee_reserve(amount));
        let ask =
            Ask { amount: most, scope: "pay", consent: Consent::Missing, tick: None, now_s: self.now_s };
        let Allowed::Granted(grant) = budget.reserve(&ask) else { return false };
        let payment = super::hash(hash);
        let new = NewPayment { payment, holder, amount, request, at_ms: self.now_s * 1000 };
        match Ledger::new(draft).reserve(&new) {
            Ok(Reservation::New(_)) => {
                draft.put("test.budgets", holder.as_str(), budget.usage()).unwrap();
                draft.put("test.grants", &payment.to_string(), &grant.id).unwrap();
                true
            }
            Ok(Reservation::Known(_)) => true,
            Err(_) => false,
        }
    }

    /// Ends a payment, and settles its grant with it where it was not over before.
    fn over(
        &self,
        draft: &mut Draft<'_>,
        hash: u8,
        end: impl FnOnce(&mut Ledger<'_, '_>) -> Result<Payment, PaymentError>,
    ) -> bool {
        let payment = super::hash(hash);
        let before = Ledger::new(draft).payment(&payment).unwrap();
        let Ok(after) = end(&mut Ledger::new(draft)) else { return false };
        let before = before.unwrap();
        // Also where a settled one was only given its proof.
        let was_settled = matches!(before.state, PaymentState::Settled { .. });
        if was_settled || before.state == after.state || self.fault == Fault::LeaksGrants {
            return true;
        }
        // What the ledger recorded, which is not what was said where the fee cannot be.
        let total = match after.state {
            PaymentState::Settled { amount, fee, .. } => amount.saturating_add(fee),
            _ => Msat::ZERO,
        };
        let mut budget = budget(draft, &after.holder);
        if before.state.is_open() {
            let grant: GrantId = draft.get("test.grants", &payment.to_string()).unwrap().unwrap();
            budget.reconcile(grant, Actual::Known(total), self.now_s).unwrap();
        } else {
            budget.record(total, self.now_s);
        }
        draft.put("test.budgets", after.holder.as_str(), budget.usage()).unwrap();
        true
    }

    fn compare_standings(&self, mut standing: impl FnMut(&Holder) -> Standing, after: &dyn std::fmt::Debug) {
        for holder in 0..4 {
            let Standing { available, reserved, debt } = standing(&name(holder));
            let real = [available, reserved, debt].map(|amount| i128::from(amount.get()));
            let model =
                [&self.model.available, &self.model.reserved, &self.model.debt].map(|all| all[holder]);
            assert_eq!(real, model, "{} after {after:?}", name(holder));
        }
    }

    /// Compares what is on disk with the model and with a replay.
    fn compare(&self) {
        let store = self.place.store();
        let verified = verify(store).unwrap_or_else(|error| panic!("{error}"));
        let balances = &verified.balances;
        self.compare_standings(|holder| balances.standing(holder), &"a replay");
        let book = balances.book();
        let real = [i128::from(book.lightning.get()), book.suspense.get().into(), book.equity.get().into()];
        assert_eq!(real, [self.model.lightning, self.model.suspense, self.model.equity]);
        let mut draft = Draft::new(store);
        for holder in 0..4 {
            let standing = budget(&mut draft, &name(holder)).standing(self.now_s);
            let used = standing.spent.saturating_add(standing.reserved);
            assert_eq!(
                i128::from(used.get()),
                self.model.used(holder, self.now_s / 86_400),
                "{}",
                name(holder)
            );
        }
    }
}

fn budget(draft: &mut Draft<'_>, holder: &Holder) -> Budget<Msat> {
    let usage: Usage<Msat> = draft.get("test.budgets", holder.as_str()).unwrap().unwrap_or_default();
    Budget::new(Limits::per(Msat::new(LIMIT as u64), Period::Daily, Scopes::All), usage)
}

/// Lives `cases` lives; the first that goes wrong is made as short as can be.
fn lives(cases: u32, seed: u64, fault: Fault, place: impl Fn() -> Place) -> Result<(), String> {
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: if fault == Fault::None { 4096 } else { 0 },
        ..Config::default()
    };
    let run = |life: Vec<(Vec<Step>, End)>| {
        let mut world = World::new(place(), fault);
        life.iter().for_each(|(steps, end)| world.live(steps, *end));
        Ok::<(), TestCaseError>(())
    };
    TestRunner::new(config).run(&life(), run).map_err(|error| error.to_string())
}

/// The seed of this run, told for when it fails.
fn seed() -> u64 {
    let given = std::env::var("OA_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into();
    let seed = given.unwrap_or_else(now);
    println!("random lives of accounts: OA_SEED={seed}");
    seed
}

#[test]
fn money_is_neither_made_nor_lost_in_memory() {
    let seed = seed();
    let place = || Place::Memory(MemoryStore::default());
    lives(400, seed, Fault::None, place).unwrap_or_else(|error| panic!("OA_SEED={seed}: {error}"));
}

#[test]
fn money_is_neither_made_nor_lost_on_disk() {
    let seed = seed();
    lives(12, seed, Fault::None, Place::disk).unwrap_or_else(|error| panic!("OA_SEED={seed}: {error}"));
}

#[test]
fn mistakes_made_on_purpose_are_found() {
    let seed = seed();
    let faults = [
        Fault::TornCommit,
        Fault::IgnoresVersions,
        Fault::ForgetsIds,
        Fault::ForgetsBudgets,
        Fault::LeaksGrants,
    ];
    for fault in faults {
        let found = lives(100, seed, fault, || Place::Memory(MemoryStore::default())).is_err();
        assert!(found, "OA_SEED={seed}: {fault:?} was not found");
    }
}
