//! What agents have used of what they may spend: two budgets for each account, counted in the unit of rows that begins
//! or ends the payment.
//!
//! One is of the caps, and everything that a tick spends draws on it. The other is of what an agent may spend from
//! midnight to midnight without anybody's consent (`approval_above`): what was consented to does not draw on it, and
//! many small payments come to what one large one does.

use oa_wallet::account::{Holder, fee_reserve};
use oa_wallet::budget::{Actual, Ask, Budget, Consent, GrantId, LimitOf, Limits, Usage, Verdict};
use oa_wallet::msat::Msat;
use oa_wallet::store::{Draft, Rows, StoreError};

use super::error::said;
use super::{Caps, Money, PayAsked};
use crate::namespace::Error;
use crate::namespace::service::ChangeKey;
use oa_nips::files::Code;
use oa_nips::hex::Hex;

/// What was spent by an agent, by account.
const BUDGETS: &str = "money.budgets";
/// What was spent by it without consent, by account.
const UNASKED: &str = "money.unasked";
/// The scope that payments ask a budget for.
const PAY: &str = "pay";

/// Under what an agent pays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Under {
    /// The caps of its mount.
    pub(crate) caps: Caps,
    /// Names the tick.
    pub(crate) tick: u64,
    /// Whether somebody has consented to this very payment.
    pub(crate) consent: Consent,
}

/// The same in bitcoin, at the time of the payment.
#[derive(Debug)]
pub(super) struct Leave {
    limits: Limits<Msat>,
    unasked: Limits<Msat>,
    tick: u64,
    consent: Consent,
}

/// What a payment draws on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Grants {
    pub(super) capped: Option<GrantId>,
    pub(super) unasked: Option<GrantId>,
}

impl Money {
    /// What holds for a payment at this moment.
    ///
    /// # Errors
    /// Where a cap is in dollars, and no exchange rate is known.
    pub(super) fn leave(&self, under: &Under) -> Result<Leave, Error> {
        let Under { caps, tick, consent } = *under;
        let (fx, now_ms) = (self.fx(), self.now_ms());
        let limits =
            caps.limits(fx.as_ref(), now_ms).map_err(|error| said(Code::Unavailable, error.to_string()))?;
        Ok(Leave { limits, unasked: caps.unasked(fx.as_ref(), now_ms), tick, consent })
    }

    /// Whether a payment needs consent first: where what it can cost, on top of what was spent today without consent,
    /// is above the threshold. What is being paid under this key, or cannot be read and will be refused, does not.
    pub(crate) fn asks(&self, holder: &Holder, caps: &Caps, asked: &PayAsked, key: ChangeKey) -> bool {
        let Ok((bill, amount)) = asked.bill() else { return false };
        if caps.approval_above.is_none() || matches!(self.of_call(&Hex(key)), Ok(Some(_))) {
            return false;
        }
        let is_inside = self.is_ours(&bill.payment_hash.0).unwrap_or(false);
        let fees = if is_inside { Msat::ZERO } else { fee_reserve(amount) };
        // What cannot be counted is asked for.
        self.unasked(holder, caps).is_none_or(|(_, left)| amount.saturating_add(fees) > left)
    }

    /// What an agent has spent today without consent, and how much is left of the threshold.
    pub(crate) fn unasked(&self, holder: &Holder, caps: &Caps) -> Option<(Msat, Msat)> {
        let usage = usage(&self.inner.book.rows(), UNASKED, holder).ok()?;
        let limits = caps.unasked(self.fx().as_ref(), self.now_ms());
        let standing = Budget::new(limits, usage).standing(self.now_s());
        Some((standing.spent.saturating_add(standing.reserved), standing.remaining?))
    }

    /// What an agent has used of its caps.
    pub(crate) fn usage(&self, holder: &Holder) -> Result<Usage<Msat>, Error> {
        Ok(usage(&self.inner.book.rows(), BUDGETS, holder)?)
    }
}

fn usage(rows: &dyn Rows, space: &str, holder: &Holder) -> Result<Usage<Msat>, StoreError> {
    Ok(Draft::new(rows).get(space, holder.as_str())?.unwrap_or_default())
}

/// Asks the caps, and whether it may be spent without consent. This is where payments are serialised: whoever looked
/// before may have looked at the same time as another.
pub(super) fn spend(
    draft: &mut Draft<'_>,
    holder: &Holder,
    leave: Option<&Leave>,
    amount: Msat,
    now_ms: u64,
) -> Result<Grants, Error> {
    let Some(leave) = leave else { return Ok(Grants::default()) };
    // Consent is the other budget's concern.
    let ask =
        Ask { amount, scope: PAY, consent: Consent::Given, tick: Some(leave.tick), now_s: now_ms / 1000 };
    let capped = match reserve(draft, BUDGETS, holder, &leave.limits, &ask)? {
        Verdict::Granted(grant) => Some(grant.id),
        other => return Err(refused(&other, amount)),
    };
    if leave.consent == Consent::Given {
        return Ok(Grants { capped, unasked: None });
    }
    match reserve(draft, UNASKED, holder, &leave.unasked, &ask)? {
        Verdict::Granted(grant) => Ok(Grants { capped, unasked: Some(grant.id) }),
        Verdict::Exceeded { remaining, .. } => {
            let reason = format!(
                "{amount} with the reserve for fees is more than {remaining}, what is left today of what may be \
                 spent without consent: ask again to have it asked for"
            );
            Err(said(Code::ApprovalRequired, reason))
        }
        other => Err(refused(&other, amount)),
    }
}

fn reserve(
    draft: &mut Draft<'_>,
    space: &str,
    holder: &Holder,
    limits: &Limits<Msat>,
    ask: &Ask<'_, Msat>,
) -> Result<Verdict<Msat>, StoreError> {
    let usage: Usage<Msat> = draft.get(space, holder.as_str())?.unwrap_or_default();
    let mut budget = Budget::new(limits.clone(), usage);
    let verdict = budget.reserve(ask);
    if let Verdict::Granted(_) = verdict {
        draft.put(space, holder.as_str(), budget.usage())?;
    }
    Ok(verdict)
}

fn refused(verdict: &Verdict<Msat>, amount: Msat) -> Error {
    match verdict {
        Verdict::Exceeded { limit_of, remaining, limit, .. } => {
            let of = match limit_of {
                LimitOf::Tick => "tick",
                LimitOf::Period => "day",
            };
            let reason = format!(
                "{amount} with the reserve for fees is more than {remaining}, what is left of {limit} a {of}"
            );
            said(Code::BudgetExceeded, reason)
        }
        Verdict::TooManyOpen { max } => said(Code::RateLimited, format!("{max} payments are not over yet")),
        // The scope is all there is.
        Verdict::Granted(_) | Verdict::NeedsApproval { .. } | Verdict::OutOfScope => {
            said(Code::ApprovalRequired, "needs consent")
        }
    }
}

/// Counts what a payment did cost, or gives its grants back.
pub(super) fn reconcile(
    draft: &mut Draft<'_>,
    holder: &Holder,
    grants: Grants,
    spent: Msat,
    now_ms: u64,
) -> Result<(), Error> {
    let limits = Caps::default().limits(None, now_ms).map_err(|error| said(Code::Io, error.to_string()))?;
    for (space, grant) in [(BUDGETS, grants.capped), (UNASKED, grants.unasked)] {
        let Some(grant) = grant else { continue };
        let usage: Usage<Msat> = draft.get(space, holder.as_str())?.unwrap_or_default();
        let mut budget = Budget::new(limits.clone(), usage);
        if let Err(error) = budget.reconcile(grant, Actual::Known(spent), now_ms / 1000) {
            // Money moved all the same, and the ledger says so.
            tracing::error!(%holder, %error, space, "a cap was not counted");
            continue;
        }
        draft.put(space, holder.as_str(), budget.usage())?;
    }
    Ok(())
}
