//! The lease as a pure machine: what happened and the time in, what is to be done out. [`super`] says why it is safe.
//!
//! It asks the relays, waits out others, claims, rests, looks again, holds and renews. Whoever drives it carries out
//! the actions in their order, answers each question with its number, and calls again when [`Machine::wake_ms`] is due.

mod hold;
mod look;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::time::Duration;

use oa_nips::lease::{Id, Lease, Published, State as Says};
use oa_nips::nostr::{EventId, PublicKey};
use oa_nips::record::INTEGER_MAX;

use self::hold::{Hold, Proof, Renewal};
use crate::lease::{Config, LeaseState, Need, Standing, Start, Tenure, words};
use crate::time::millis;

/// Numbers a question or a publication, so that a late answer is known as one.
pub type Round = u64;

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// What the relays have; `answered` of them did answer.
    Answers { round: Round, answered: usize, leases: Vec<Published> },
    /// What became of a publication: its event's id, how many relays took it, and what the others said.
    Taken { round: Round, id: Option<EventId>, acks: usize, said: Vec<String> },
    /// A lease of the key, as it came to a relay.
    Heard(Published),
    /// A relay is connected again.
    RelayUp,
    /// The node ends: others need not wait.
    Release,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Keep this, durably, before the next action.
    Save(LeaseState),
    /// Tell whoever uses the key.
    Stand(Standing),
    /// Ask all relays for the lease; answer when `enough` have answered, after `within` at the latest.
    Ask { round: Round, enough: usize, within: Duration },
    /// Publish to all relays; answer when `enough` have taken it, after `within` at the latest.
    Publish { round: Round, lease: Lease, at: u64, enough: usize, within: Duration },
    /// Nothing more will come.
    End,
}

/// Where the lease is, by what is waited for.
#[derive(Debug, Clone)]
enum State {
    /// Relays are to say what they have.
    Asking { round: Round, since_ms: u64 },
    /// Relays did not say, or did not take a claim: a pause before they are asked again.
    Pausing { until_ms: u64 },
    /// Another's lease is to run out, or to be released; relays are asked again meanwhile.
    Waiting { until_ms: u64, ask_ms: u64 },
    /// Relays are to take the claim.
    Claiming(Claim),
    /// Rivals' claims are to show.
    Settling { claim: Claim, until_ms: u64 },
    /// Relays are to say that the claim is still there.
    Checking { round: Round, claim: Claim },
    /// The lease is held, and to be renewed.
    Held(Hold),
    /// Nothing: another has used the key since.
    Lost,
    /// Relays are to take the release.
    Releasing { round: Round },
    /// Nothing: the machine has ended.
    Ended,
}

/// A claim on its way.
#[derive(Debug, Clone)]
struct Claim {
    round: Round,
    lease: Lease,
    at: u64,
    id: Option<EventId>,
    /// When its writer began to ask.
    since_ms: u64,
    /// When it was handed out.
    sent_ms: u64,
    /// When enough relays had it.
    acked_ms: u64,
    /// Whether this store's own lease was the newest there was.
    is_last_holder: bool,
}

/// The lease of one key, as one process sees it.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    need: Need,
    key: PublicKey,
    boot: Id,
    /// What is kept.
    kept: LeaseState,
    state: State,
    rounds: Round,
    /// The highest epoch and `created_at` seen.
    high: (u64, u64),
    /// Pauses since relays last answered.
    pauses: u32,
}

impl Machine {
    /// A machine for `key` in a process that is named `boot`, and what is to be done first.
    pub fn start(
        config: Config,
        need: Need,
        key: PublicKey,
        kept: LeaseState,
        boot: Id,
        start: Start,
        now_ms: u64,
    ) -> (Self, Vec<Action>) {
        let high = kept.tenure.as_ref().map_or((0, 0), |tenure| (tenure.epoch, tenure.at));
        let state = State::Ended;
        let mut machine = Self { config, need, key, boot, kept, state, rounds: 0, high, pauses: 0 };
        let mut out = Vec::new();
        let term_ends_ms = now_ms.saturating_add(millis(machine.config.term));
        let until_ms = match (start, &machine.kept.tenure) {
            (_, Some(tenure)) => tenure.until_ms.min(term_ends_ms),
            (Start::Fresh, None) => term_ends_ms,
            (Start::Again | Start::Renounced, None) => 0,
        };
        if until_ms > now_ms {
            machine.go_on(now_ms, until_ms, &mut out);
        } else {
            let why = words::asking(&machine.key);
            machine.ask(now_ms, why, &mut out);
        }
        machine.due(now_ms, &mut out);
        (machine, out)
    }

    /// Takes in what happened.
    pub fn apply(&mut self, now_ms: u64, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        self.run_out(now_ms, &mut out);
        match event {
            Event::Tick => {}
            Event::Answers { round, answered, leases } => {
                leases.iter().for_each(|one| self.saw(one));
                self.answered(now_ms, round, answered, &leases, &mut out);
            }
            Event::Taken { round, id, acks, said } => self.taken(now_ms, round, id, acks, &said, &mut out),
            Event::Heard(one) => {
                self.saw(&one);
                self.heard(now_ms, &one, &mut out);
            }
            Event::RelayUp => self.relay_up(now_ms),
            Event::Release => self.release(now_ms, &mut out),
        }
        self.due(now_ms, &mut out);
        out
    }

    /// When time alone changes something, in milliseconds since 1970.
    pub fn wake_ms(&self) -> Option<u64> {
        match &self.state {
            State::Pausing { until_ms } | State::Settling { until_ms, .. } => Some(*until_ms),
            State::Waiting { until_ms, ask_ms } => Some(*until_ms.min(ask_ms)),
            State::Held(hold) => Some(hold.wake_ms()),
            State::Asking { .. } | State::Claiming(_) | State::Checking { .. } => None,
            State::Lost | State::Releasing { .. } | State::Ended => None,
        }
    }

    /// What is due by now.
    fn due(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        match &self.state {
            State::Pausing { until_ms } if *until_ms <= now_ms => self.ask_quietly(now_ms, out),
            State::Waiting { until_ms, ask_ms } if *until_ms.min(ask_ms) <= now_ms => {
                self.ask_quietly(now_ms, out);
            }
            State::Settling { claim, until_ms } if *until_ms <= now_ms => {
                let claim = claim.clone();
                let round = self.question(self.need.asks, out);
                self.state = State::Checking { round, claim };
            }
            State::Held(_) => self.hold_due(now_ms, out),
            _ => {}
        }
    }

    fn answered(
        &mut self,
        now_ms: u64,
        round: Round,
        answered: usize,
        leases: &[Published],
        out: &mut Vec<Action>,
    ) {
        match &self.state {
            State::Asking { round: asked, since_ms } if *asked == round => {
                self.look(now_ms, *since_ms, answered, leases, out);
            }
            State::Checking { round: asked, claim } if *asked == round => {
                let claim = claim.clone();
                self.check(now_ms, claim, answered, leases, out);
            }
            State::Held(_) => self.hold_answered(now_ms, round, answered, leases, out),
            _ => {}
        }
    }

    fn taken(
        &mut self,
        now_ms: u64,
        round: Round,
        id: Option<EventId>,
        acks: usize,
        said: &[String],
        out: &mut Vec<Action>,
    ) {
        match &self.state {
            State::Claiming(claim) if claim.round == round => {
                let claim = Claim { id, acked_ms: now_ms, ..claim.clone() };
                self.claim_taken(now_ms, claim, acks, said, out);
            }
            State::Held(_) => self.renewal_taken(now_ms, round, id, acks, out),
            State::Releasing { round: released } if *released == round => {
                self.state = State::Ended;
                out.push(Action::End);
            }
            _ => {}
        }
    }

    fn heard(&mut self, now_ms: u64, one: &Published, out: &mut Vec<Action>) {
        match &mut self.state {
            State::Held(_) => self.hold_heard(now_ms, one, out),
            // Others' renewals are waited out when it comes to that; a release is worth a question.
            State::Waiting { ask_ms, .. } if one.lease.state == Says::Released => *ask_ms = now_ms,
            _ => {}
        }
    }

    fn relay_up(&mut self, now_ms: u64) {
        match &mut self.state {
            State::Pausing { until_ms } => *until_ms = now_ms,
            State::Held(Hold { renewal: Renewal::Due { at_ms, is_retry: true }, .. }) => *at_ms = now_ms,
            _ => {}
        }
    }

    fn release(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        if matches!(self.state, State::Releasing { .. } | State::Ended) {
            return;
        }
        out.push(Action::Stand(Standing::Waiting { why: words::released(&self.key) }));
        let State::Held(hold) = &self.state else {
            self.state = State::Ended;
            out.push(Action::End);
            return;
        };
        let (epoch, is_sure) = (hold.epoch, matches!(hold.proof, Proof::Full));
        let at = self.next_at(now_ms);
        if let Some(tenure) = &mut self.kept.tenure {
            tenure.until_ms = 0;
            // What is not sure was not published as held, and a release would hide a rival's claim.
            tenure.at = if is_sure { at } else { tenure.at };
        }
        out.push(Action::Save(self.kept.clone()));
        if !is_sure {
            self.state = State::Ended;
            out.push(Action::End);
            return;
        }
        let lease = self.lease(epoch, now_ms / 1000, Says::Released);
        let round = self.publication(lease, at, self.need.acks, out);
        self.state = State::Releasing { round };
    }

    fn saw(&mut self, one: &Published) {
        self.high = (self.high.0.max(one.lease.epoch), self.high.1.max(one.at));
    }

    /// A `created_at` that relays take as newer than all that was seen, in seconds since 1970.
    fn next_at(&mut self, now_ms: u64) -> u64 {
        self.high.1 = (now_ms / 1000).max(self.high.1.saturating_add(1));
        self.high.1
    }

    fn next_epoch(&mut self) -> u64 {
        self.high.0 = self.high.0.saturating_add(1).min(INTEGER_MAX);
        self.high.0
    }

    fn lease(&self, epoch: u64, expires_at: u64, state: Says) -> Lease {
        let (instance, boot, node) = (self.kept.instance, self.boot, self.config.node.clone());
        Lease { v: 1, instance, boot, epoch, expires_at, state, node }
    }

    /// When a lease that is published now runs out. It is counted from its `created_at` where that is ahead of the
    /// clock: see the wait for claims in doubt.
    fn expires_at(&self, now_ms: u64, at: u64) -> u64 {
        (now_ms / 1000).max(at).saturating_add(self.config.term.as_secs())
    }

    fn question(&mut self, enough: usize, out: &mut Vec<Action>) -> Round {
        self.rounds += 1;
        out.push(Action::Ask { round: self.rounds, enough, within: self.config.claim_within });
        self.rounds
    }

    fn publication(&mut self, lease: Lease, at: u64, enough: usize, out: &mut Vec<Action>) -> Round {
        self.rounds += 1;
        let (round, within) = (self.rounds, self.config.claim_within);
        out.push(Action::Publish { round, lease, at, enough, within });
        round
    }

    fn ask(&mut self, now_ms: u64, why: String, out: &mut Vec<Action>) {
        out.push(Action::Stand(Standing::Waiting { why }));
        self.ask_quietly(now_ms, out);
    }

    fn ask_quietly(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        let round = self.question(self.need.asks, out);
        self.state = State::Asking { round, since_ms: now_ms };
    }

    fn pause(&mut self, now_ms: u64, why: String, out: &mut Vec<Action>) {
        let pause = self.config.retry_first.saturating_mul(1 << self.pauses.min(16));
        self.pauses = self.pauses.saturating_add(1);
        let until_ms = now_ms.saturating_add(millis(pause.min(self.config.retry_last)));
        self.state = State::Pausing { until_ms };
        out.push(Action::Stand(Standing::Waiting { why }));
    }

    /// Stops for good: `other` has used the key since this store did.
    fn lose(&mut self, other: &Published, out: &mut Vec<Action>) {
        let is_copy = other.lease.instance == self.kept.instance;
        if let Some(tenure) = &mut self.kept.tenure {
            tenure.until_ms = 0;
        }
        self.state = State::Lost;
        out.push(Action::Stand(Standing::Lost { why: words::lost(&self.key, other, is_copy) }));
        out.push(Action::Save(self.kept.clone()));
    }

    /// Whether a lease is of this store's own past: one it held, and knows that it did.
    fn is_ours(&self, one: &Published) -> bool {
        self.kept.tenure.as_ref().is_some_and(|tenure| {
            one.lease.instance == self.kept.instance
                && (one.lease.epoch < tenure.epoch
                    || (one.lease.epoch == tenure.epoch && one.lease.boot == tenure.boot))
        })
    }

    /// Whether somebody else used the key after this store did. A claim is no use yet.
    fn has_overtaken(&self, one: &Published) -> bool {
        let since = self.kept.tenure.as_ref().map(|tenure| (tenure.epoch, tenure.at));
        one.lease.state != Says::Claimed
            && !self.is_ours(one)
            && since.is_some_and(|since| (one.lease.epoch, one.at) > since)
    }

    /// Until when a lease is waited out, in milliseconds since 1970: 0 for one that was released.
    fn waited_out_ms(&self, one: &Published) -> u64 {
        match one.lease.state {
            Says::Released => 0,
            Says::Claimed | Says::Held => {
                one.lease.expires_at.saturating_mul(1000).saturating_add(millis(self.config.skew))
            }
        }
    }
}

/// Whether a relay that has both keeps the first: `at` and id of one against another's.
fn replaces(one: &Published, at: u64, id: Option<EventId>) -> bool {
    match id {
        Some(id) => (one.at, Reverse(one.id)) > (at, Reverse(id)),
        None => one.at >= at,
    }
}

/// Whether `one` shows that `other` is over: a later word of the same process, or a later process of the same store
/// that had the lease.
fn outdates(one: &Published, other: &Published) -> bool {
    one.lease.instance == other.lease.instance
        && ((one.lease.boot == other.lease.boot && one.replaces(other))
            || (one.lease.epoch > other.lease.epoch && one.lease.state != Says::Claimed))
}

impl Tenure {
    fn new(boot: Id, epoch: u64, at: u64, until_ms: u64) -> Self {
        Self { epoch, boot, at, until_ms }
    }
}
