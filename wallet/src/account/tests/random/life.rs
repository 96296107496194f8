//! What a random life is made of, and how often what happens in it.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::model::LIMIT;

/// Payment hashes there are, so few that commands meet each other's.
pub(super) const HASHES: u8 = 8;
/// More than the wallet ever has, in millisatoshi: what a wallet gone mad says a payment cost.
const ABSURD: u64 = 1_000_000_000;

/// A step as it is drawn, before it has the names it needs.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Invoice(u8, usize, u64),
    PaidIn(u8, u64),
    Reserve(u8, usize, u64),
    /// Of the payments there are, the one at that place.
    Sent(usize),
    Unknown(usize),
    /// With a fee.
    Settle(usize, u64),
    Fail(usize),
    Transfer(usize, usize, u64),
    /// Of the invoices there are, the one at that place.
    Inside(usize, usize),
    Adjust(bool, u64),
    /// What was done before, word for word.
    Again(usize),
    Wait(u64),
}

/// How a draft ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum End {
    Commit,
    /// It is committed, nobody hears of it, and all of it is done again.
    AnswerLost,
    /// The process dies before the commit.
    Crash,
    /// The process dies after it.
    CrashAfter,
    /// Somebody else commits first.
    Race,
}

fn step() -> impl Strategy<Value = Step> {
    let amount = || {
        let odd = prop_oneof![Just(0), Just(1), Just(u64::MAX), Just(LIMIT as u64)];
        prop_oneof![10 => 1..15_000_000_u64, 3 => 1..2000_u64, 1 => odd]
    };
    let fee = prop_oneof![8 => 0..20_000_u64, 4 => 0..15_000_000_u64, 1 => Just(ABSURD), 1 => Just(u64::MAX)];
    let (hash, holder, at) = (|| 0..HASHES, || 0..4_usize, || 0..2 * usize::from(HASHES));
    prop_oneof![
        3 => (hash(), holder(), amount()).prop_map(|(hash, holder, amount)| Step::Invoice(hash, holder, amount)),
        3 => (hash(), amount()).prop_map(|(hash, amount)| Step::PaidIn(hash, amount)),
        8 => (hash(), holder(), amount()).prop_map(|(hash, holder, amount)| Step::Reserve(hash, holder, amount)),
        2 => at().prop_map(Step::Sent),
        2 => at().prop_map(Step::Unknown),
        4 => (at(), fee).prop_map(|(at, fee)| Step::Settle(at, fee)),
        4 => at().prop_map(Step::Fail),
        6 => (holder(), holder(), amount()).prop_map(|(from, to, amount)| Step::Transfer(from, to, amount)),
        3 => (at(), holder()).prop_map(|(at, holder)| Step::Inside(at, holder)),
        1 => (any::<bool>(), amount()).prop_map(|(is_up, amount)| Step::Adjust(is_up, amount)),
        5 => any::<usize>().prop_map(Step::Again),
        1 => (0..90_000_u64).prop_map(Step::Wait),
    ]
}

/// Drafts, each with how it ends.
pub(super) fn life() -> impl Strategy<Value = Vec<(Vec<Step>, End)>> {
    let end = prop_oneof![
        6 => Just(End::Commit),
        2 => Just(End::AnswerLost),
        2 => Just(End::Crash),
        1 => Just(End::CrashAfter),
        2 => Just(End::Race),
    ];
    vec((vec(step(), 1..6), end), 1..25)
}
