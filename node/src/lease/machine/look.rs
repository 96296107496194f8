//! From a question to a lease: what the relays have is looked at, waited out, claimed, and looked at again.

use oa_nips::lease::{Published, State as Says};
use oa_nips::nostr::EventId;

use super::{Action, Claim, Machine, State, outdates, replaces};
use crate::lease::{Standing, words};
use crate::time::millis;

impl Machine {
    /// Decides by what the relays have, `since_ms` being when they were asked.
    pub(super) fn look(
        &mut self,
        now_ms: u64,
        since_ms: u64,
        answered: usize,
        leases: &[Published],
        out: &mut Vec<Action>,
    ) {
        if let Some(other) = leases.iter().find(|one| self.has_overtaken(one)) {
            return self.lose(other, out);
        }
        let current = leases.iter().filter(|one| !leases.iter().any(|other| outdates(other, one)));
        let others = current.filter(|one| !self.is_ours(one) && self.waited_out_ms(one) > now_ms);
        let other = others.max_by_key(|one| self.waited_out_ms(one));
        if answered < self.need.asks {
            let why = words::few_answers(&self.key, answered, self.need, other);
            return self.pause(now_ms, why, out);
        }
        if let Some(other) = other {
            return self.wait_out(now_ms, other, out);
        }
        self.pauses = 0;
        let newest = leases.iter().find(|one| leases.iter().all(|other| !other.replaces(one)));
        let is_last_holder = newest.is_some_and(|newest| self.is_ours(newest));
        self.claim(now_ms, since_ms, is_last_holder, out);
    }

    /// Waits until another's lease, or a claim of our own that is in doubt, is over.
    pub(super) fn wait_out(&mut self, now_ms: u64, other: &Published, out: &mut Vec<Action>) {
        let until_ms = self.waited_out_ms(other);
        let why = if other.lease.instance == self.kept.instance && other.lease.state == Says::Claimed {
            words::in_doubt(&self.key, until_ms)
        } else {
            words::held_by(&self.key, other, until_ms)
        };
        self.pauses = 0;
        let ask_ms = now_ms.saturating_add(millis(self.config.renew_every));
        self.state = State::Waiting { until_ms, ask_ms };
        out.push(Action::Stand(Standing::Waiting { why }));
    }

    fn claim(&mut self, now_ms: u64, since_ms: u64, is_last_holder: bool, out: &mut Vec<Action>) {
        let (epoch, at) = (self.next_epoch(), self.next_at(now_ms));
        let lease = self.lease(epoch, self.expires_at(now_ms, at), Says::Claimed);
        let round = self.publication(lease.clone(), at, self.need.acks, out);
        let (sent_ms, acked_ms, id) = (now_ms, now_ms, None);
        let claim = Claim { round, lease, at, id, since_ms, sent_ms, acked_ms, is_last_holder };
        self.state = State::Claiming(claim);
        out.push(Action::Stand(Standing::Waiting { why: words::claiming(&self.key) }));
    }

    /// Enough relays have the claim, or they have not; or it took too long, and then a rival's question may have been
    /// answered without it.
    pub(super) fn claim_taken(
        &mut self,
        now_ms: u64,
        claim: Claim,
        acks: usize,
        said: &[String],
        out: &mut Vec<Action>,
    ) {
        let took_ms = now_ms.checked_sub(claim.since_ms);
        let in_time = took_ms.is_some_and(|ms| ms <= millis(self.config.claim_within));
        if acks < self.need.acks || !in_time {
            return self.pause(now_ms, words::not_taken(&self.key, said), out);
        }
        if claim.is_last_holder {
            let round = self.question(self.need.asks, out);
            self.state = State::Checking { round, claim };
            return;
        }
        let until_ms = now_ms.saturating_add(millis(self.config.settle));
        self.state = State::Settling { claim, until_ms };
        out.push(Action::Stand(Standing::Waiting { why: words::settling(&self.key) }));
    }

    /// After the rest: holds the lease if the claim is the newest there is.
    pub(super) fn check(
        &mut self,
        now_ms: u64,
        claim: Claim,
        answered: usize,
        leases: &[Published],
        out: &mut Vec<Action>,
    ) {
        if let Some(other) = leases.iter().find(|one| self.has_overtaken(one)) {
            return self.lose(other, out);
        }
        let epoch = claim.lease.epoch;
        let rival = leases.iter().find(|one| self.is_rival(now_ms, one, epoch, claim.at, claim.id));
        if let Some(rival) = rival {
            return self.wait_out(now_ms, rival, out);
        }
        if answered < self.need.asks {
            let why = words::few_answers(&self.key, answered, self.need, None);
            return self.pause(now_ms, why, out);
        }
        if !leases.iter().any(|one| claim.id == Some(one.id)) {
            return self.pause(now_ms, words::vanished(&self.key), out);
        }
        self.take(now_ms, &claim, out);
    }

    /// Whether another's event is one that a claim must give way to.
    pub(super) fn is_rival(
        &self,
        now_ms: u64,
        one: &Published,
        epoch: u64,
        at: u64,
        id: Option<EventId>,
    ) -> bool {
        let is_other = one.lease.boot != self.boot && !self.is_ours(one);
        let is_higher = one.lease.epoch > epoch && self.waited_out_ms(one) > now_ms;
        is_other && (is_higher || replaces(one, at, id))
    }
}
