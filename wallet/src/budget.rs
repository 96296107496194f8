//! What may be spent: caps at the mount or the connection, whatever the one who spends believes.
//!
//! One life of money: **reserve** the most it can cost → a [`Grant`] → **reconcile** with what it did cost, or
//! **release**. What remains is the limit less what is reserved and what is spent. A budget is plain data without a
//! clock: whoever runs it writes [`Usage`] in the same transaction as the intent the grant is for, so that a crash
//! leaves either both or neither. It belongs to one mount of one agent, or to one wallet connection.
//!
//! A grant counts against the span of time (day, month…) it was given in, as long as it is open and when it is
//! reconciled. Only what it cost above its reservation counts against the span in which that came out, so that
//! nothing is ever spent uncounted.

mod period;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

pub use period::{ParseError, Period, Span};

use crate::msat::Amount;

/// Grants open at once: above what one agent can have under way, and few enough that the row stays small.
pub const GRANTS_OPEN_MAX: usize = 1024;

/// What operators and owners set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound = "", deny_unknown_fields)]
pub struct Limits<U: Amount> {
    /// The most in one tick.
    #[serde(default)]
    pub per_tick: Option<U>,
    /// The most in a span of time; nothing where only something else limits it, an account for one.
    #[serde(default)]
    pub per_period: Option<PerPeriod<U>>,
    /// What costs more than this needs somebody's consent.
    #[serde(default)]
    pub approval_above: Option<U>,
    /// For what it may be spent.
    pub scopes: Scopes,
}

/// So much in each span of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound = "", deny_unknown_fields)]
pub struct PerPeriod<U: Amount> {
    /// How much.
    pub amount: U,
    /// How often it begins anew.
    pub period: Period,
}

/// For what a budget may be spent, in the words of who asks: `pay`, a provider's name, a job kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scopes {
    /// For anything its mount offers.
    All,
    /// For these only; none at all when empty.
    Only(BTreeSet<String>),
}

impl Scopes {
    /// Whether `scope` is among them.
    pub fn allow(&self, scope: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(scopes) => scopes.contains(scope),
        }
    }
}

impl<U: Amount> Limits<U> {
    /// No limit in time, nor one for a tick.
    pub fn unlimited(scopes: Scopes) -> Self {
        Self { per_tick: None, per_period: None, approval_above: None, scopes }
    }

    /// `amount` in each `period`.
    pub fn per(amount: U, period: Period, scopes: Scopes) -> Self {
        Self { per_period: Some(PerPeriod { amount, period }), ..Self::unlimited(scopes) }
    }
}

/// A grant's number in its budget: never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GrantId(u64);

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Leave to spend up to `amount`. Whoever has it settles it exactly once, by its id, which outlives a restart in
/// [`Usage`] and in the caller's intent.
#[must_use = "a grant holds its amount until it is reconciled or released"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant<U> {
    /// By which it is settled.
    pub id: GrantId,
    /// The most it covers.
    pub amount: U,
}

/// Whether somebody who may has consented to this very expense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Nobody was asked, or has answered yet.
    Missing,
    /// An approver said yes; limits hold all the same.
    Given,
}

/// What somebody wants to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask<'a, U> {
    /// The most it can cost.
    pub amount: U,
    /// For what.
    pub scope: &'a str,
    /// Whether it was consented to.
    pub consent: Consent,
    /// In which tick, where it is in one: any number that differs from one tick to the next.
    pub tick: Option<u64>,
    /// Seconds since 1970.
    pub now_s: u64,
}

/// What a budget says to a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<U> {
    /// Go ahead, and settle it.
    Granted(Grant<U>),
    /// Within the limits, but above this it needs consent.
    NeedsApproval { above: U },
    /// More than remains.
    Exceeded {
        /// Which limit.
        limit_of: LimitOf,
        /// What is left.
        remaining: U,
        /// Of how much.
        limit: U,
        /// When there will be more, in seconds since 1970; with the next tick, or never, where it is nothing.
        renews_at_s: Option<u64>,
    },
    /// Not what this budget is for.
    OutOfScope,
    /// Too many grants wait to be settled.
    TooManyOpen { max: usize },
}

/// A limit that stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitOf {
    /// [`Limits::per_tick`].
    Tick,
    /// [`Limits::per_period`].
    Period,
}

/// What something did cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actual<U> {
    /// This much; it may be more than was reserved.
    Known(U),
    /// Nobody can tell: the reservation counts as spent.
    Unknown,
}

/// How a grant ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled<U> {
    /// What counts as spent.
    pub spent: U,
    /// What of the reservation can be spent again, if its span is not over.
    pub returned: U,
    /// What it cost above its reservation; until there is room again, nothing more is granted.
    pub overrun: U,
}

/// Why a grant is not settled: nothing was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// It was settled before.
    #[error("grant {0} is settled already")]
    Twice(GrantId),
    /// This budget never gave it.
    #[error("grant {0} is unknown")]
    Unknown(GrantId),
}

/// What was spent and what is reserved: the part of a budget that changes, kept by whoever runs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Usage<U: Amount> {
    /// The span that `spent` is counted in.
    from_s: u64,
    spent: U,
    tick: Option<TickUsage<U>>,
    /// Number of the next grant.
    next: u64,
    open: BTreeMap<GrantId, Open<U>>,
}

/// What the last tick that spent anything has spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound = "")]
struct TickUsage<U: Amount> {
    tick: u64,
    spent: U,
}

/// A grant that is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound = "")]
struct Open<U: Amount> {
    amount: U,
    /// The span it counts against.
    from_s: u64,
    tick: Option<u64>,
}

impl<U: Amount> Default for Usage<U> {
    fn default() -> Self {
        Self { from_s: 0, spent: U::ZERO, tick: None, next: 0, open: BTreeMap::new() }
    }
}

/// How a budget stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing<U> {
    /// The limit of the period, if there is one.
    pub limit: Option<U>,
    /// Reserved in this span and not settled.
    pub reserved: U,
    /// Spent in this span.
    pub spent: U,
    /// The limit less both.
    pub remaining: Option<U>,
    /// When it begins anew, in seconds since 1970.
    pub renews_at_s: Option<u64>,
}

/// Limits, and what has been used of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget<U: Amount> {
    limits: Limits<U>,
    usage: Usage<U>,
}

impl<U: Amount> Budget<U> {
    /// A budget as it was kept; [`Usage::default`] for a new one. Limits may have changed in between: what was used
    /// of the old ones counts against the new.
    pub fn new(limits: Limits<U>, usage: Usage<U>) -> Self {
        Self { limits, usage }
    }

    /// What was set.
    pub fn limits(&self) -> &Limits<U> {
        &self.limits
    }

    /// What is to be kept.
    pub fn usage(&self) -> &Usage<U> {
        &self.usage
    }

    /// Reserves what `ask` may cost.
    pub fn reserve(&mut self, ask: &Ask<'_, U>) -> Verdict<U> {
        if !self.limits.scopes.allow(ask.scope) {
            return Verdict::OutOfScope;
        }
        // What a span that is over has spent is nobody's concern, whatever the verdict is.
        self.roll(ask.now_s);
        let (span, spent) = (self.span(ask.now_s), self.usage.spent);
        let tick_spent = self.tick_spent(ask.tick);
        let exceeded = self.exceeds_tick(ask, tick_spent).or_else(|| self.exceeds_period(ask, span, spent));
        if let Some(refusal) = exceeded {
            return refusal;
        }
        if let Some(above) = self.limits.approval_above
            && ask.amount > above
            && ask.consent == Consent::Missing
        {
            return Verdict::NeedsApproval { above };
        }
        if self.usage.open.len() >= GRANTS_OPEN_MAX {
            return Verdict::TooManyOpen { max: GRANTS_OPEN_MAX };
        }
        let id = GrantId(self.usage.next);
        self.usage.next += 1;
        if let Some(tick) = ask.tick {
            self.usage.tick = Some(TickUsage { tick, spent: tick_spent });
        }
        self.usage.open.insert(id, Open { amount: ask.amount, from_s: span.from_s, tick: ask.tick });
        Verdict::Granted(Grant { id, amount: ask.amount })
    }

    /// Counts what a grant did cost, and ends it.
    ///
    /// # Errors
    /// [`SettleError`]: a grant is settled once, or nothing is counted.
    pub fn reconcile(
        &mut self,
        id: GrantId,
        actual: Actual<U>,
        now_s: u64,
    ) -> Result<Settled<U>, SettleError> {
        let Some(open) = self.usage.open.remove(&id) else {
            return Err(if id.0 < self.usage.next {
                SettleError::Twice(id)
            } else {
                SettleError::Unknown(id)
            });
        };
        let spent = match actual {
            Actual::Known(spent) => spent,
            Actual::Unknown => open.amount,
        };
        let overrun = spent.saturating_sub(open.amount);
        self.roll(now_s);
        let counted = if open.from_s >= self.usage.from_s { spent } else { overrun };
        self.usage.spent = self.usage.spent.saturating_add(counted);
        if let Some(usage) = &mut self.usage.tick
            && open.tick == Some(usage.tick)
        {
            usage.spent = usage.spent.saturating_add(spent);
        }
        Ok(Settled { spent, returned: open.amount.saturating_sub(spent), overrun })
    }

    /// Ends a grant of which nothing was spent.
    ///
    /// # Errors
    /// As [`Budget::reconcile`].
    pub fn release(&mut self, id: GrantId, now_s: u64) -> Result<Settled<U>, SettleError> {
        self.reconcile(id, Actual::Known(U::ZERO), now_s)
    }

    /// Counts what was spent without a grant: a payment that was given up, and whose grant was released, happened
    /// after all.
    pub fn record(&mut self, spent: U, now_s: u64) {
        self.roll(now_s);
        self.usage.spent = self.usage.spent.saturating_add(spent);
    }

    /// How it stands at `now_s`.
    pub fn standing(&self, now_s: u64) -> Standing<U> {
        let span = self.span(now_s);
        let spent = if span.from_s > self.usage.from_s { U::ZERO } else { self.usage.spent };
        let reserved = self.reserved(span);
        let limit = self.limits.per_period.map(|per| per.amount);
        let remaining = limit.map(|limit| limit.saturating_sub(reserved).saturating_sub(spent));
        Standing { limit, reserved, spent, remaining, renews_at_s: span.to_s }
    }

    /// Grants that wait to be settled, the oldest first: what to look into after a restart.
    pub fn open(&self) -> impl Iterator<Item = Grant<U>> {
        self.usage.open.iter().map(|(id, open)| Grant { id: *id, amount: open.amount })
    }

    /// Begins the span of `now_s`, if it is a new one.
    fn roll(&mut self, now_s: u64) {
        let span = self.span(now_s);
        if span.from_s > self.usage.from_s {
            (self.usage.from_s, self.usage.spent) = (span.from_s, U::ZERO);
        }
    }

    /// The span that counts now. A clock that was set back does not reopen a span that is over.
    fn span(&self, now_s: u64) -> Span {
        let period = self.limits.per_period.map_or(Period::Never, |per| per.period);
        let span = period.span(now_s.max(self.usage.from_s));
        // Where the period was changed to a longer one, what was spent since it last began still counts.
        Span { from_s: span.from_s.max(self.usage.from_s), to_s: span.to_s }
    }

    fn reserved(&self, span: Span) -> U {
        self.sum(|open| open.from_s >= span.from_s)
    }

    fn sum(&self, counts: impl Fn(&Open<U>) -> bool) -> U {
        let open = self.usage.open.values().filter(|open| counts(open));
        open.fold(U::ZERO, |sum, open| sum.saturating_add(open.amount))
    }

    fn tick_spent(&self, tick: Option<u64>) -> U {
        self.usage.tick.filter(|usage| Some(usage.tick) == tick).map_or(U::ZERO, |usage| usage.spent)
    }

    fn exceeds_tick(&self, ask: &Ask<'_, U>, spent: U) -> Option<Verdict<U>> {
        let (limit, tick) = (self.limits.per_tick?, ask.tick?);
        let reserved = self.sum(|open| open.tick == Some(tick));
        exceeds(LimitOf::Tick, limit, [reserved, spent], ask.amount, None)
    }

    fn exceeds_period(&self, ask: &Ask<'_, U>, span: Span, spent: U) -> Option<Verdict<U>> {
        let limit = self.limits.per_period?.amount;
        exceeds(LimitOf::Period, limit, [self.reserved(span), spent], ask.amount, span.to_s)
    }
}

/// A refusal where `amount` on top of what is `used` is above `limit`.
fn exceeds<U: Amount>(
    limit_of: LimitOf,
    limit: U,
    used: [U; 2],
    amount: U,
    renews_at_s: Option<u64>,
) -> Option<Verdict<U>> {
    let used = used.into_iter().try_fold(U::ZERO, U::checked_add);
    let total = used.and_then(|used| used.checked_add(amount));
    if total.is_some_and(|total| total <= limit) {
        return None;
    }
    let remaining = used.map_or(U::ZERO, |used| limit.saturating_sub(used));
    Some(Verdict::Exceeded { limit_of, remaining, limit, renews_at_s })
}
