//! Random interleavings of paying, receiving, transferring, failing, crashing and asking again, against a model.

use std::collections::BTreeMap;

use oa_nips::files::Code;
use oa_nips::hex::Hash;
use oa_wallet::account::fee_reserve;
use oa_wallet::backend::Backend as _;
use oa_wallet::msat::Msat;
use proptest::prelude::*;

use super::rig::{Fate, Rig};
use crate::agent::AgentId;
use crate::money::{Caps, InvoiceAsked, holder};

const AGENTS: u32 = 3;
/// What an agent may spend in a day.
const PER_DAY: Msat = Msat::from_sat(600);
/// What the wallet has to begin with.
const BALANCE: Msat = Msat::from_sat(3000);

#[derive(Debug, Clone)]
enum Op {
    Pay {
        agent: u32,
        amount: u64,
        fate: Fate,
    },
    PayOwn {
        from: u32,
        to: u32,
        amount: u64,
    },
    Receive {
        agent: u32,
        amount: u64,
    },
    Give {
        agent: u32,
        amount: u64,
    },
    Crash,
    /// The nth call again, by its key.
    Again(usize),
    /// A payment that hangs ends: made or not.
    End {
        nth: usize,
        is_made: bool,
    },
}

fn ops() -> impl Strategy<Value = Op> {
    let (agent, amount) = (0..AGENTS, 1..300_000_u64);
    let fate = prop_oneof![
        3 => (0..30_000_u64).prop_map(|fee| Fate::Paid { fee: Msat::new(fee) }),
        1 => Just(Fate::PaidInSilence),
        1 => Just(Fate::Lost),
        2 => Just(Fate::Refused),
        2 => Just(Fate::Hangs),
    ];
    prop_oneof![
        6 => (agent.clone(), amount.clone(), fate).prop_map(|(agent, amount, fate)| Op::Pay { agent, amount, fate }),
        2 => (agent.clone(), agent.clone(), amount.clone()).prop_map(|(from, to, amount)| Op::PayOwn { from, to, amount }),
        2 => (agent.clone(), amount.clone()).prop_map(|(agent, amount)| Op::Receive { agent, amount }),
        3 => (agent, amount).prop_map(|(agent, amount)| Op::Give { agent, amount }),
        2 => Just(Op::Crash),
        2 => (0..20_usize).prop_map(Op::Again),
        2 => (0..4_usize, any::<bool>()).prop_map(|(nth, is_made)| Op::End { nth, is_made }),
    ]
}

/// What an account should have.
#[derive(Debug, Clone, Copy, Default)]
struct Has {
    available: u64,
    reserved: u64,
    debt: u64,
    /// Spent today under the cap, and held back under it.
    spent: u64,
    held: u64,
}

impl Has {
    fn take_in(&mut self, amount: u64) {
        let repaid = self.debt.min(amount);
        self.debt -= repaid;
        self.available += amount - repaid;
    }

    fn pay_out(&mut self, amount: u64) {
        let from_available = amount.min(self.available);
        self.available -= from_available;
        self.debt += amount - from_available;
    }
}

/// A payment that hangs.
struct Hanging {
    agent: u32,
    amount: u64,
    hash: Hash,
}

#[derive(Default)]
struct Model {
    has: BTreeMap<u32, Has>,
    operator: u64,
    hanging: Vec<Hanging>,
    /// Calls that were made: agent, invoice, key, whether they were begun.
    calls: Vec<(u32, String, [u8; 32], bool)>,
}

impl Model {
    fn of(&mut self, agent: u32) -> &mut Has {
        self.has.entry(agent).or_default()
    }

    /// What holding back comes to.
    fn reserves(&mut self, agent: u32, total: u64) -> bool {
        let has = self.of(agent);
        if has.debt > 0 || has.available < total || has.spent + has.held + total > PER_DAY.get() {
            return false;
        }
        has.available -= total;
        has.reserved += total;
        has.held += total;
        true
    }

    fn ends(&mut self, agent: u32, held: u64, cost: u64) {
        let has = self.of(agent);
        has.reserved -= held;
        has.held -= held;
        has.spent += cost;
        if cost <= held {
            has.take_in(held - cost);
        } else {
            has.pay_out(cost - held);
        }
    }
}

fn caps() -> Caps {
    toml::from_str(&format!("per_day = \"{PER_DAY}\"")).unwrap()
}

async fn pay(rig: &mut Rig, model: &mut Model, agent: u32, amount: u64, fate: Fate) {
    let (bill, hash) = rig.bill(Some(Msat::new(amount))).await;
    rig.bank.set(hash, fate);
    let key = rig.key();
    let answered = rig.pay_by(agent, &bill, caps(), key).await;
    let held = amount + fee_reserve(Msat::new(amount)).get();
    let is_begun = model.reserves(agent, held);
    model.calls.push((agent, bill, key, is_begun));
    if !is_begun {
        assert_eq!(answered.unwrap_err().code, Code::BudgetExceeded);
        assert_eq!(rig.bank.sent(&hash), 0, "nothing left");
        return;
    }
    match fate {
        Fate::Refused => {
            assert_eq!(answered.unwrap_err().code, Code::Unavailable);
            model.ends(agent, held, 0);
        }
        Fate::Hangs => {
            assert_eq!(answered.unwrap()["state"], "pending");
            model.hanging.push(Hanging { agent, amount, hash });
        }
        Fate::Paid { .. } | Fate::PaidInSilence | Fate::Lost => {
            let cost = match fate {
                Fate::Paid { fee } => amount + fee.get(),
                Fate::Lost => amount + 7,
                _ => held,
            };
            let answered = answered.unwrap();
            assert_eq!(
                (answered["state"].as_str(), answered["amount_msat"].as_u64()),
                (Some("settled"), Some(amount))
            );
            model.ends(agent, held, cost);
        }
    }
}

async fn apply(rig: &mut Rig, model: &mut Model, op: Op) {
    match op {
        Op::Pay { agent, amount, fate } => pay(rig, model, agent, amount, fate).await,
        Op::PayOwn { from, to, amount } => {
            let asked = InvoiceAsked::parse(format!("{amount}msat").as_bytes()).unwrap();
            let (key, pay_key) = (rig.key(), rig.key());
            let made = rig.money.invoice(&holder(AgentId(to)), None, &asked, key).await.unwrap();
            let made: serde_json::Value = serde_json::from_slice(&made).unwrap();
            let paid = rig.pay_by(from, made["invoice"].as_str().unwrap(), caps(), pay_key).await;
            if from != to && model.reserves(from, amount) {
                assert_eq!(paid.unwrap()["fee_msat"], 0);
                model.ends(from, amount, amount);
                model.of(to).take_in(amount);
            } else {
                paid.unwrap_err();
            }
        }
        Op::Receive { agent, amount } => {
            let asked = InvoiceAsked::parse(format!("{amount}msat").as_bytes()).unwrap();
            let key = rig.key();
            let made = rig.money.invoice(&holder(AgentId(agent)), None, &asked, key).await.unwrap();
            let made: serde_json::Value = serde_json::from_slice(&made).unwrap();
            rig.other.pay(made["invoice"].as_str().unwrap(), None, Msat::SUPPLY).await.unwrap();
            let hash = made["payment_hash"].as_str().unwrap().parse().unwrap();
            rig.money.look(hash).await.unwrap();
            rig.money.look(hash).await.unwrap();
            model.of(agent).take_in(amount);
        }
        Op::Give { agent, amount } => {
            if amount <= model.operator {
                rig.give(agent, Msat::new(amount)).await;
                model.operator -= amount;
                model.of(agent).take_in(amount);
            }
        }
        Op::Crash => rig.crash(),
        Op::Again(nth) => {
            let Some((agent, bill, key, true)) = model.calls.get(nth).cloned() else { return };
            let before = rig.verified().await.postings;
            let _ = rig.pay_by(agent, &bill, caps(), key).await;
            assert_eq!(rig.verified().await.postings, before, "a call that was made is not made again");
        }
        Op::End { nth, is_made } => {
            if nth >= model.hanging.len() {
                return;
            }
            let Hanging { agent, amount, hash } = model.hanging.remove(nth);
            rig.bank.set(hash, if is_made { Fate::Paid { fee: Msat::new(1) } } else { Fate::Refused });
            let held = amount + fee_reserve(Msat::new(amount)).get();
            model.ends(agent, held, if is_made { amount + 1 } else { 0 });
            let deadline = tokio::time::Instant::now() + super::rig::DEADLINE;
            while rig.verified().await.open_payments > model.hanging.len() {
                assert!(tokio::time::Instant::now() < deadline, "a payment that ended is still open");
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
    }
}

async fn check(rig: &Rig, model: &Model) {
    // Debits equal credits, no account is below zero, and every row is what the postings say.
    let verified = rig.verified().await;
    assert_eq!(verified.open_payments, model.hanging.len());
    assert!(verified.balances.book().is_balanced());
    for (agent, has) in &model.has {
        assert_eq!(rig.standing(*agent), [has.available, has.reserved, has.debt], "agent {agent}");
        let (_, used) = rig.money.used(&holder(AgentId(*agent)), &caps()).unwrap();
        assert_eq!((used.spent.get(), used.reserved.get()), (has.spent, has.held), "agent {agent}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn accounts_are_what_the_model_says_whatever_happens(script in proptest::collection::vec(ops(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut rig = Rig::new(BALANCE).await;
            let mut model = Model { operator: BALANCE.get(), ..Model::default() };
            for op in script {
                apply(&mut rig, &mut model, op).await;
                check(&rig, &model).await;
            }
            while !model.hanging.is_empty() {
                apply(&mut rig, &mut model, Op::End { nth: 0, is_made: true }).await;
            }
            rig.quiet().await;
            check(&rig, &model).await;
        });
    }
}
