//! Budgets: each rule by itself, then random lives of many grants against a plain count.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::msat::{MicroUsd, Msat};

/// 2026-07-24 00:00:00.
const DAY: u64 = 1_784_851_200;
const DAY_S: u64 = 86_400;

fn msat(msat: u64) -> Msat {
    Msat::new(msat)
}

fn only(scopes: &[&str]) -> Scopes {
    Scopes::Only(scopes.iter().map(|scope| (*scope).to_owned()).collect())
}

fn daily(limit: u64) -> Budget<Msat> {
    Budget::new(Limits::per(msat(limit), Period::Daily, Scopes::All), Usage::default())
}

fn ask(amount: u64, now_s: u64) -> Ask<'static, Msat> {
    Ask { amount: msat(amount), scope: "pay", consent: Consent::Missing, tick: None, now_s }
}

fn granted(budget: &mut Budget<Msat>, ask: Ask<'_, Msat>) -> GrantId {
    match budget.reserve(&ask) {
        Verdict::Granted(grant) => {
            assert_eq!(grant.amount, ask.amount);
            grant.id
        }
        other => panic!("{ask:?}: {other:?}"),
    }
}

fn exceeded(remaining: u64, limit: u64, renews_at_s: u64) -> Verdict<Msat> {
    Verdict::Exceeded {
        limit_of: LimitOf::Period,
        remaining: msat(remaining),
        limit: msat(limit),
        renews_at_s: Some(renews_at_s),
    }
}

#[test]
fn reservations_count_before_they_are_spent() {
    let mut budget = daily(1000);
    let first = granted(&mut budget, ask(600, DAY));
    assert_eq!(budget.reserve(&ask(401, DAY)), exceeded(400, 1000, DAY + DAY_S));
    let second = granted(&mut budget, ask(400, DAY));
    let settled = budget.reconcile(first, Actual::Known(msat(250)), DAY).unwrap();
    assert_eq!(settled, Settled { spent: msat(250), returned: msat(350), overrun: Msat::ZERO });
    budget.release(second, DAY).unwrap();
    let standing = budget.standing(DAY);
    assert_eq!(
        (standing.spent, standing.reserved, standing.remaining),
        (msat(250), msat(0), Some(msat(750)))
    );
    assert_eq!(standing.renews_at_s, Some(DAY + DAY_S));
}

#[test]
fn a_grant_is_settled_once() {
    let mut budget = daily(1000);
    let id = granted(&mut budget, ask(600, DAY));
    budget.reconcile(id, Actual::Known(msat(600)), DAY).unwrap();
    let before = budget.clone();
    assert_eq!(budget.reconcile(id, Actual::Known(msat(600)), DAY), Err(SettleError::Twice(id)));
    assert_eq!(budget.release(id, DAY), Err(SettleError::Twice(id)));
    assert_eq!(budget.release(GrantId(7), DAY), Err(SettleError::Unknown(GrantId(7))));
    assert_eq!(budget, before, "an error counts nothing");
}

#[test]
fn unknown_cost_is_the_reservation() {
    let mut budget = daily(1000);
    let id = granted(&mut budget, ask(600, DAY));
    budget.reconcile(id, Actual::Unknown, DAY).unwrap();
    assert_eq!(budget.reserve(&ask(401, DAY)), exceeded(400, 1000, DAY + DAY_S));
}

#[test]
fn what_was_spent_without_a_grant_counts_too() {
    let mut budget = daily(1000);
    budget.record(msat(700), DAY);
    assert_eq!(budget.reserve(&ask(301, DAY)), exceeded(300, 1000, DAY + DAY_S));
    budget.record(msat(100), DAY + DAY_S);
    assert_eq!(budget.standing(DAY + DAY_S).remaining, Some(msat(900)));
}

#[test]
fn an_overrun_is_recorded_and_stops_what_follows() {
    let mut budget = daily(1000);
    let id = granted(&mut budget, ask(900, DAY));
    assert_eq!(budget.reconcile(id, Actual::Known(msat(1300)), DAY).unwrap().overrun, msat(400));
    assert_eq!(budget.standing(DAY).spent, msat(1300));
    assert_eq!(budget.reserve(&ask(0, DAY)), exceeded(0, 1000, DAY + DAY_S));
    let _next_day = granted(&mut budget, ask(1000, DAY + DAY_S));
}

#[test]
fn a_grant_counts_in_the_span_it_was_given_in() {
    let mut budget = daily(1000);
    let (late, night) = (DAY + DAY_S - 1, DAY + DAY_S);
    let id = granted(&mut budget, ask(1000, late));
    let other = granted(&mut budget, ask(1000, night));
    let settled = budget.reconcile(id, Actual::Known(msat(1200)), night).unwrap();
    assert_eq!(settled.overrun, msat(200));
    assert_eq!(budget.standing(night).spent, msat(200), "only the overrun is of today");
    budget.release(other, night).unwrap();
    assert_eq!(budget.reserve(&ask(801, night)), exceeded(800, 1000, night + DAY_S));
}

#[test]
fn a_clock_set_back_gives_nothing_again() {
    let mut budget = daily(1000);
    let id = granted(&mut budget, ask(1000, DAY));
    budget.reconcile(id, Actual::Unknown, DAY).unwrap();
    for back_s in [1, DAY_S, DAY] {
        assert_eq!(budget.reserve(&ask(1, DAY - back_s)), exceeded(0, 1000, DAY + DAY_S), "{back_s} s back");
    }
}

#[test]
fn ticks_have_their_own_limit() {
    let mut limits = Limits::per(msat(1000), Period::Daily, Scopes::All);
    limits.per_tick = Some(msat(100));
    let mut budget = Budget::new(limits, Usage::default());
    let in_tick = |tick, amount| Ask { tick: Some(tick), ..ask(amount, DAY) };
    let first = granted(&mut budget, in_tick(1, 60));
    let refused = |remaining| Verdict::Exceeded {
        limit_of: LimitOf::Tick,
        remaining: msat(remaining),
        limit: msat(100),
        renews_at_s: None,
    };
    assert_eq!(budget.reserve(&in_tick(1, 41)), refused(40));
    budget.reconcile(first, Actual::Known(msat(90)), DAY).unwrap();
    assert_eq!(budget.reserve(&in_tick(1, 11)), refused(10));
    let _next_tick = granted(&mut budget, in_tick(2, 100));
    assert_eq!(budget.standing(DAY).remaining, Some(msat(810)));
}

#[test]
fn what_is_dear_needs_consent_and_consent_is_no_money() {
    let mut limits = Limits::per(msat(1000), Period::Daily, Scopes::All);
    limits.approval_above = Some(msat(500));
    let mut budget = Budget::new(limits, Usage::default());
    assert_eq!(budget.reserve(&ask(501, DAY)), Verdict::NeedsApproval { above: msat(500) });
    let _small = granted(&mut budget, ask(500, DAY));
    let yes = |amount| Ask { consent: Consent::Given, ..ask(amount, DAY) };
    assert_eq!(budget.reserve(&yes(501)), exceeded(500, 1000, DAY + DAY_S));
    assert_eq!(budget.reserve(&ask(501, DAY)), exceeded(500, 1000, DAY + DAY_S), "nobody is asked in vain");
}

#[test]
fn scopes_are_a_list_of_what_is_allowed() {
    let mut budget = Budget::new(Limits::unlimited(only(&["read"])), Usage::default());
    assert_eq!(budget.reserve(&ask(1, DAY)), Verdict::OutOfScope);
    let mut nothing = Budget::new(Limits::unlimited(only(&[])), Usage::default());
    assert_eq!(nothing.reserve(&ask(1, DAY)), Verdict::OutOfScope);
    let mut pays = Budget::new(Limits::unlimited(only(&["pay"])), Usage::default());
    let _free = granted(&mut pays, ask(u64::MAX, DAY));
}

#[test]
fn open_grants_are_bounded() {
    let mut budget = daily(u64::MAX);
    let grants: Vec<_> = (0..GRANTS_OPEN_MAX).map(|_| granted(&mut budget, ask(1, DAY))).collect();
    assert_eq!(budget.reserve(&ask(1, DAY)), Verdict::TooManyOpen { max: GRANTS_OPEN_MAX });
    assert!(budget.open().map(|grant| grant.id).eq(grants.iter().copied()));
    budget.release(grants[0], DAY).unwrap();
    let _room = granted(&mut budget, ask(1, DAY));
}

#[test]
fn sums_do_not_wrap() {
    let mut budget = daily(u64::MAX);
    let first = granted(&mut budget, ask(u64::MAX, DAY));
    assert_eq!(budget.reserve(&ask(1, DAY)), exceeded(0, u64::MAX, DAY + DAY_S));
    budget.reconcile(first, Actual::Unknown, DAY).unwrap();
    assert_eq!(budget.reserve(&ask(u64::MAX, DAY)), exceeded(0, u64::MAX, DAY + DAY_S));
}

#[test]
fn each_period_renews_by_its_calendar() {
    let at = DAY + 12 * 3600;
    let renews = [
        (Period::Weekly, Some(1_785_110_400)),
        (Period::Monthly, Some(1_785_542_400)),
        (Period::Yearly, Some(1_798_761_600)),
        (Period::Never, None),
    ];
    for (period, renews_at_s) in renews {
        let mut budget = Budget::new(Limits::per(msat(10), period, Scopes::All), Usage::default());
        let id = granted(&mut budget, ask(10, at));
        budget.reconcile(id, Actual::Unknown, at).unwrap();
        let refused =
            Verdict::Exceeded { limit_of: LimitOf::Period, remaining: msat(0), limit: msat(10), renews_at_s };
        assert_eq!(budget.reserve(&ask(1, at)), refused, "{period}");
        let Some(renews_at_s) = renews_at_s else { continue };
        assert_eq!(budget.reserve(&ask(1, renews_at_s - 1)), refused, "{period}");
        let _new = granted(&mut budget, ask(10, renews_at_s));
    }
}

#[test]
fn a_longer_period_keeps_what_was_spent() {
    let mut budget = daily(1000);
    let id = granted(&mut budget, ask(1000, DAY));
    budget.reconcile(id, Actual::Unknown, DAY).unwrap();
    let limits = Limits::per(msat(1000), Period::Monthly, Scopes::All);
    let mut budget = Budget::new(limits, budget.usage().clone());
    assert_eq!(budget.reserve(&ask(1, DAY + DAY_S)), exceeded(0, 1000, 1_785_542_400));
}

#[test]
fn limits_are_read_strictly() {
    let text = r#"{"per_period":{"amount":5,"period":"weekly"},"scopes":{"only":["pay"]}}"#;
    let limits: Limits<MicroUsd> = serde_json::from_str(text).unwrap();
    assert_eq!(limits, Limits::per(MicroUsd::new(5), Period::Weekly, only(&["pay"])));
    for bad in [r#"{"scopes":"all","per_dya":5}"#, r#"{"per_tick":5}"#, r#"{"scopes":"some"}"#] {
        assert!(serde_json::from_str::<Limits<MicroUsd>>(bad).is_err(), "{bad}");
    }
}

/// A step in the life of a budget.
#[derive(Debug, Clone)]
enum Step {
    Reserve(u64),
    /// The grant of that place among the open ones, at that cost in percent of it.
    Reconcile(usize, u64),
    Unknown(usize),
    Release(usize),
    /// Settles one that was settled already.
    Again(usize),
    Wait(u64),
    /// Writes it down and reads it back.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..600_u64).prop_map(Step::Reserve),
        4 => (0..20_usize, 0..150_u64).prop_map(|(at, percent)| Step::Reconcile(at, percent)),
        1 => (0..20_usize).prop_map(Step::Unknown),
        2 => (0..20_usize).prop_map(Step::Release),
        1 => (0..20_usize).prop_map(Step::Again),
        2 => (0..DAY_S).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

/// A count as simple as can be: each grant with the day it was given, and what was counted on each day.
#[derive(Debug, Default)]
struct Count {
    open: Vec<(GrantId, u64, u64)>,
    settled: Vec<GrantId>,
    /// Day → (counted within reservations, counted above them).
    days: BTreeMap<u64, (u64, u64)>,
}

const LIMIT: u64 = 1000;

impl Count {
    fn used(&self, day: u64) -> u64 {
        let (within, above) = self.days.get(&day).copied().unwrap_or_default();
        let open: u64 = self.open.iter().filter(|(_, on, _)| *on == day).map(|(_, _, amount)| amount).sum();
        within + above + open
    }

    fn settle(&mut self, budget: &mut Budget<Msat>, at: usize, actual: Actual<Msat>, now_s: u64) {
        if self.open.is_empty() {
            return;
        }
        let (id, day, amount) = self.open.remove(at % self.open.len());
        let settled = budget.reconcile(id, actual, now_s).unwrap();
        let spent = if let Actual::Known(spent) = actual { spent.get() } else { amount };
        assert_eq!(settled.spent, msat(spent));
        self.days.entry(day).or_default().0 += spent.min(amount);
        self.days.entry(now_s / DAY_S).or_default().1 += spent.saturating_sub(amount);
        self.settled.push(id);
    }
}

proptest! {
    #[test]
    fn no_day_is_granted_more_than_its_limit(steps in proptest::collection::vec(step(), 1..120)) {
        let mut budget = daily(LIMIT);
        let mut count = Count::default();
        let mut now_s = DAY;
        for step in steps {
            match step {
                Step::Reserve(amount) => {
                    let used = count.used(now_s / DAY_S);
                    match budget.reserve(&ask(amount, now_s)) {
                        Verdict::Granted(grant) => {
                            prop_assert!(used + amount <= LIMIT);
                            count.open.push((grant.id, now_s / DAY_S, amount));
                        }
                        Verdict::Exceeded { remaining, .. } => {
                            prop_assert!(used + amount > LIMIT, "refused what fits");
                            prop_assert_eq!(remaining, msat(LIMIT.saturating_sub(used)));
                        }
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
                Step::Reconcile(at, percent) => {
                    let amount = count.open.get(at % count.open.len().max(1)).map_or(0, |(_, _, amount)| *amount);
                    count.settle(&mut budget, at, Actual::Known(msat(amount * percent / 100)), now_s);
                }
                Step::Unknown(at) => count.settle(&mut budget, at, Actual::Unknown, now_s),
                Step::Release(at) => count.settle(&mut budget, at, Actual::Known(Msat::ZERO), now_s),
                Step::Again(at) => {
                    if let Some(id) = count.settled.get(at) {
                        prop_assert_eq!(budget.release(*id, now_s), Err(SettleError::Twice(*id)));
                    }
                }
                Step::Wait(span_s) => now_s += span_s,
                Step::Restart => {
                    let kept = serde_json::to_string(budget.usage()).unwrap();
                    budget = Budget::new(budget.limits().clone(), serde_json::from_str(&kept).unwrap());
                }
            }
            let standing = budget.standing(now_s);
            let used = standing.spent.get() + standing.reserved.get();
            prop_assert_eq!(used, count.used(now_s / DAY_S));
            for (within, _) in count.days.values() {
                prop_assert!(*within <= LIMIT);
            }
        }
    }
}
