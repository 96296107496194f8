//! Holding the lease: going on with it, proving it, renewing it, letting it run out.

use oa_nips::lease::{Published, State as Says};
use oa_nips::nostr::EventId;

use super::{Action, Claim, Machine, Round, State, replaces};
use crate::lease::{Standing, Tenure, words};
use crate::time::millis;

/// A lease that is held.
#[derive(Debug, Clone)]
pub(super) struct Hold {
    pub(super) epoch: u64,
    /// `created_at` and id of its last event, the id where it is known.
    at: u64,
    id: Option<EventId>,
    /// Until when, in milliseconds since 1970.
    until_ms: u64,
    pub(super) proof: Proof,
    pub(super) renewal: Renewal,
}

/// How sure it is that nobody else has it.
#[derive(Debug, Clone)]
pub(super) enum Proof {
    /// Quite.
    Full,
    /// A rival's claim may still show; the relays are asked once more, before a rival's rest is over.
    Provisional { check: Check, ends_ms: u64 },
}

/// The question whether a rival's claim shows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Check {
    Due { at_ms: u64 },
    Asked { round: Round },
}

/// Where the next renewal is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Renewal {
    /// It is not yet time.
    Due { at_ms: u64, is_retry: bool },
    /// Relays are to say whether another has taken the lease, which a renewal would hide.
    Asking { round: Round },
    /// Relays are to take it.
    Publishing { round: Round, expires_at: u64 },
}

impl Hold {
    pub(super) fn wake_ms(&self) -> u64 {
        let next_ms = match (&self.proof, self.renewal) {
            (Proof::Provisional { check: Check::Due { at_ms }, .. }, _) => *at_ms,
            (Proof::Full, Renewal::Due { at_ms, .. }) => at_ms,
            _ => self.until_ms,
        };
        next_ms.min(self.until_ms)
    }
}

impl Machine {
    /// Goes on with a lease that nobody else can have taken, as a new tenure.
    pub(super) fn go_on(&mut self, now_ms: u64, until_ms: u64, out: &mut Vec<Action>) {
        let (epoch, at) = (self.next_epoch(), self.high.1);
        let renewal = Renewal::Due { at_ms: now_ms, is_retry: false };
        self.hold(Hold { epoch, at, id: None, until_ms, proof: Proof::Full, renewal }, out);
    }

    /// Holds what was claimed, for good or until it is proven.
    pub(super) fn take(&mut self, now_ms: u64, claim: &Claim, out: &mut Vec<Action>) {
        let Claim { lease, at, id, .. } = claim;
        let expires_ms = lease.expires_at.saturating_mul(1000);
        let term_ends_ms = expires_ms.min(now_ms.saturating_add(millis(self.config.term)));
        let (until_ms, proof) = if claim.is_last_holder {
            let at_ms = claim.acked_ms.saturating_add(millis(self.config.claim_within));
            // A rival's rest began after this was handed out, so it ends later.
            let until_ms = claim.sent_ms.saturating_add(millis(self.config.settle));
            (until_ms, Proof::Provisional { check: Check::Due { at_ms }, ends_ms: term_ends_ms })
        } else {
            (term_ends_ms, Proof::Full)
        };
        let renewal = Renewal::Due { at_ms: now_ms, is_retry: false };
        self.hold(Hold { epoch: lease.epoch, at: *at, id: *id, until_ms, proof, renewal }, out);
    }

    fn hold(&mut self, hold: Hold, out: &mut Vec<Action>) {
        let Hold { epoch, at, until_ms, .. } = hold;
        self.kept.tenure = Some(Tenure::new(self.boot, epoch, at, until_ms));
        out.push(Action::Save(self.kept.clone()));
        out.push(Action::Stand(Standing::Held { epoch, until_ms }));
        self.state = State::Held(hold);
    }

    /// Ends a hold whose time is over. A clock that was set back must not make it longer than a term.
    pub(super) fn run_out(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        let term_ends_ms = now_ms.saturating_add(millis(self.config.term));
        let State::Held(hold) = &mut self.state else { return };
        hold.until_ms = hold.until_ms.min(term_ends_ms);
        if hold.until_ms <= now_ms {
            let why = words::ran_out(&self.key);
            self.ask(now_ms, why, out);
        }
    }

    pub(super) fn hold_due(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        let State::Held(mut hold) = self.state.clone() else { return };
        match (&mut hold.proof, &mut hold.renewal) {
            (Proof::Provisional { check, .. }, _) => {
                if let Check::Due { at_ms } = *check
                    && at_ms <= now_ms
                {
                    *check = Check::Asked { round: self.question(self.need.asks, out) };
                }
            }
            // All relays: a renewal hides what it does not know of.
            (Proof::Full, renewal @ Renewal::Due { .. }) => {
                if let Renewal::Due { at_ms, .. } = *renewal
                    && at_ms <= now_ms
                {
                    *renewal = Renewal::Asking { round: self.question(usize::MAX, out) };
                }
            }
            _ => {}
        }
        self.state = State::Held(hold);
    }

    pub(super) fn hold_answered(
        &mut self,
        now_ms: u64,
        round: Round,
        answered: usize,
        leases: &[Published],
        out: &mut Vec<Action>,
    ) {
        for one in leases {
            self.hold_heard(now_ms, one, out);
        }
        // It may be lost by what was heard.
        let State::Held(hold) = &self.state else { return };
        match (&hold.proof, hold.renewal) {
            (Proof::Provisional { check: Check::Asked { round: asked }, ends_ms }, _) if *asked == round => {
                let ends_ms = *ends_ms;
                let mut hold = hold.clone();
                let is_there = leases.iter().any(|one| hold.id == Some(one.id));
                if answered < self.need.asks || !is_there {
                    let at_ms = now_ms.saturating_add(millis(self.config.retry_first));
                    hold.proof = Proof::Provisional { check: Check::Due { at_ms }, ends_ms };
                    self.state = State::Held(hold);
                    return;
                }
                (hold.proof, hold.until_ms) = (Proof::Full, ends_ms);
                hold.renewal = Renewal::Due { at_ms: now_ms, is_retry: false };
                self.hold(hold, out);
            }
            (Proof::Full, Renewal::Asking { round: asked }) if asked == round => self.renew(now_ms, out),
            _ => {}
        }
    }

    fn renew(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        let State::Held(mut hold) = self.state.clone() else { return };
        let at = self.next_at(now_ms);
        let expires_at = self.expires_at(now_ms, at);
        let lease = self.lease(hold.epoch, expires_at, Says::Held);
        let round = self.publication(lease, at, self.need.acks, out);
        (hold.at, hold.id) = (at, None);
        hold.renewal = Renewal::Publishing { round, expires_at };
        self.state = State::Held(hold);
    }

    pub(super) fn renewal_taken(
        &mut self,
        now_ms: u64,
        round: Round,
        id: Option<EventId>,
        acks: usize,
        out: &mut Vec<Action>,
    ) {
        let State::Held(hold) = &self.state else { return };
        let Renewal::Publishing { round: asked, expires_at } = hold.renewal else { return };
        if asked != round {
            return;
        }
        let mut hold = Hold { id, ..hold.clone() };
        if acks < self.need.acks {
            let at_ms = now_ms.saturating_add(millis(self.config.retry_last));
            hold.renewal = Renewal::Due { at_ms, is_retry: true };
            self.state = State::Held(hold);
            return;
        }
        let term_ends_ms = now_ms.saturating_add(millis(self.config.term));
        hold.until_ms = hold.until_ms.max(expires_at.saturating_mul(1000)).min(term_ends_ms);
        let at_ms = now_ms.saturating_add(millis(self.config.renew_every));
        hold.renewal = Renewal::Due { at_ms, is_retry: false };
        self.hold(hold, out);
    }

    /// Another's lease has come to a relay while this one is held: it ends the hold, or is overwritten.
    pub(super) fn hold_heard(&mut self, now_ms: u64, one: &Published, out: &mut Vec<Action>) {
        let State::Held(hold) = &self.state else { return };
        if one.lease.boot == self.boot {
            return;
        }
        let (epoch, at, id) = (hold.epoch, hold.at, hold.id);
        let is_later = one.lease.epoch > epoch || (one.lease.epoch == epoch && replaces(one, at, id));
        if one.lease.state != Says::Claimed && is_later && !self.is_ours(one) {
            return self.lose(one, out);
        }
        let is_sure = matches!(hold.proof, Proof::Full);
        if !is_sure && self.is_rival(now_ms, one, epoch, at, id) {
            return self.give_way(now_ms, one, out);
        }
        // What is hidden on a relay must be shown again; while it is not proven, that would hide a rival.
        if let State::Held(Hold { renewal: Renewal::Due { at_ms, .. }, proof: Proof::Full, .. }) =
            &mut self.state
            && one.at >= at
        {
            *at_ms = now_ms;
        }
    }

    /// Leaves an unproven hold to a rival that may or may not make use of its claim.
    fn give_way(&mut self, now_ms: u64, rival: &Published, out: &mut Vec<Action>) {
        if let Some(tenure) = &mut self.kept.tenure {
            tenure.until_ms = 0;
        }
        self.wait_out(now_ms, rival, out);
        out.push(Action::Save(self.kept.clone()));
    }
}
