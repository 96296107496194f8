//! The lasting subscriptions on one relay: agents' mail in shards or in one wide one, and standing filters.
//!
//! One REQ of each is in flight at a time; what changes meanwhile is asked for after its EOSE. So adding agents
//! one by one costs at most one REQ a round trip.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use oa_nips::nostr::{Filter, PublicKey};
use tokio::time::Instant;

use super::Action;
use super::auth::{Auth, Settled};
use crate::drivers::nostr::wanted::Wanted;
use crate::drivers::nostr::wire;

/// Until EOSE; then the relay is taken not to serve the subscription.
const EOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// For all keys of a shard to authenticate.
const AUTH_TIMEOUT: Duration = Duration::from_secs(90);
/// CLOSED by `auth-required` or `restricted` this often in a row is final.
const AUTH_ROUNDS_MAX: u8 = 2;
/// Waits before a subscription that the relay closed is asked for again: doubled each time, up to the second.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// The wide subscription's id.
const WIDE: &str = "w";

/// All of them.
#[derive(Debug)]
pub(super) struct Subscriptions {
    own: bool,
    node: PublicKey,
    /// Everything of a mail filter but the recipients.
    mail: Filter,
    wide: bool,
    subs: BTreeMap<String, Sub>,
    stand_serial: u64,
    /// The relay serves mail to authenticated keys only: authenticate before asking.
    demands_auth: bool,
    needs_sync: bool,
    error: Option<String>,
}

#[derive(Debug)]
struct Sub {
    what: What,
    version: u64,
    state: State,
    /// Changed since it was last asked for.
    dirty: bool,
    /// Keys left out of what was last asked for.
    excluded: BTreeSet<PublicKey>,
    auth_rounds: u8,
    refusals: u32,
    /// It was live and was interrupted: something may have been missed.
    gap: bool,
}

#[derive(Debug)]
enum What {
    Wide,
    Shard(Arc<BTreeSet<PublicKey>>),
    Stand { name: String, filter: Box<Filter> },
}

/// Named by what it waits for.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// EOSE.
    Eose { until: Instant },
    /// Events.
    Live,
    /// These keys' authentication.
    Auth { keys: HashSet<PublicKey>, until: Instant },
    /// Another try.
    Retry { at: Instant },
}

/// What an event's subscription is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::drivers::nostr) enum Purpose {
    /// Agents' mail.
    Mail,
    /// A standing filter.
    Stand,
}

/// Whose mail one sweep query covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::drivers::nostr) enum Scope {
    /// Everybody's.
    Wide,
    /// Some agents'.
    Keys(Vec<PublicKey>),
}

impl Subscriptions {
    /// On a relay of our own keys authenticate; `mail` is a mail filter without recipients.
    pub(super) fn new(own: bool, wide: bool, node: PublicKey, mail: Filter) -> Self {
        Self {
            own,
            node,
            mail,
            wide,
            subs: BTreeMap::new(),
            stand_serial: 0,
            demands_auth: false,
            needs_sync: false,
            error: None,
        }
    }

    /// Asks for what changed.
    pub(super) fn sync(&mut self, wanted: &Wanted, auth: &mut Auth, now: Instant, out: &mut Vec<Action>) {
        self.needs_sync = false;
        if self.wide {
            if wanted.keys() > 0 && !self.subs.contains_key(WIDE) {
                self.subs.insert(WIDE.to_owned(), Sub::new(What::Wide, 0));
                self.touch(WIDE, auth, now, out);
            }
        } else {
            for (index, shard) in wanted.shards().iter().enumerate() {
                self.sync_shard(&format!("l{index}"), shard.version, &shard.keys, auth, now, out);
            }
        }
        self.sync_stands(wanted, auth, now, out);
    }

    fn sync_shard(
        &mut self,
        id: &str,
        version: u64,
        keys: &Arc<BTreeSet<PublicKey>>,
        auth: &mut Auth,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        match self.subs.get_mut(id) {
            Some(sub) if sub.version == version => return,
            Some(_) if keys.is_empty() => {
                self.subs.remove(id);
                out.push(Action::Send(wire::close(id)));
                return;
            }
            None if keys.is_empty() => return,
            Some(sub) => {
                sub.gap |= matches!(&sub.what, What::Shard(old) if !keys.is_subset(old));
                sub.what = What::Shard(Arc::clone(keys));
                sub.version = version;
                sub.auth_rounds = 0;
            }
            None => {
                self.subs.insert(id.to_owned(), Sub::new(What::Shard(Arc::clone(keys)), version));
            }
        }
        self.touch(id, auth, now, out);
    }

    fn sync_stands(&mut self, wanted: &Wanted, auth: &mut Auth, now: Instant, out: &mut Vec<Action>) {
        let mut known = BTreeMap::new();
        self.subs.retain(|id, sub| {
            let What::Stand { name, .. } = &sub.what else { return true };
            let stays = wanted.stands().contains_key(name);
            if stays {
                known.insert(name.clone(), (id.clone(), sub.version));
            } else {
                out.push(Action::Send(wire::close(id)));
            }
            stays
        });
        for (name, stand) in wanted.stands() {
            let what = What::Stand { name: name.clone(), filter: Box::new(stand.filter.clone()) };
            let id = match known.remove(name) {
                Some((_, version)) if version == stand.version => continue,
                Some((id, _)) => {
                    if let Some(sub) = self.subs.get_mut(&id) {
                        (sub.what, sub.version, sub.auth_rounds) = (what, stand.version, 0);
                    }
                    id
                }
                None => {
                    self.stand_serial += 1;
                    let id = format!("s{}", self.stand_serial);
                    self.subs.insert(id.clone(), Sub::new(what, stand.version));
                    id
                }
            };
            self.touch(&id, auth, now, out);
        }
    }

    /// Asks for one that changed, as soon as nothing is in flight for it.
    fn touch(&mut self, id: &str, auth: &mut Auth, now: Instant, out: &mut Vec<Action>) {
        match self.subs.get_mut(id) {
            Some(Sub { state: State::Eose { .. } | State::Auth { .. }, dirty, .. }) => *dirty = true,
            Some(_) => self.ask(id, auth, now, out),
            None => {}
        }
    }

    fn ask(&mut self, id: &str, auth: &mut Auth, now: Instant, out: &mut Vec<Action>) {
        let Some(sub) = self.subs.get_mut(id) else { return };
        sub.dirty = false;
        if self.demands_auth && sub.purpose() == Purpose::Mail {
            let keys = auth.want(sub.signers(self.node), now, out);
            if !keys.is_empty() {
                sub.state = State::Auth { keys, until: now + AUTH_TIMEOUT };
                return;
            }
        }
        let filter = match &sub.what {
            What::Wide => self.mail.clone(),
            What::Stand { filter, .. } => Filter::clone(filter),
            What::Shard(keys) => {
                sub.excluded = keys.iter().filter(|key| auth.is_refused(key)).copied().collect();
                let keys: Vec<_> = keys.difference(&sub.excluded).copied().collect();
                if keys.is_empty() {
                    sub.state = State::Retry { at: now + RETRY_MAX };
                    return;
                }
                self.mail.clone().pubkeys(keys)
            }
        };
        sub.state = State::Eose { until: now + EOSE_TIMEOUT };
        out.push(Action::Send(wire::req(id, &filter)));
    }

    /// What an event of this subscription is for; nothing for one that is not ours, or no more.
    pub(super) fn purpose(&self, id: &str) -> Option<Purpose> {
        self.subs.get(id).map(Sub::purpose)
    }

    /// Takes an EOSE.
    pub(super) fn eose(&mut self, id: &str, auth: &mut Auth, now: Instant, out: &mut Vec<Action>) {
        let Some(sub) = self.subs.get_mut(id) else { return };
        sub.state = State::Live;
        (sub.auth_rounds, sub.refusals) = (0, 0);
        if std::mem::take(&mut sub.gap) && sub.purpose() == Purpose::Mail {
            out.push(Action::Sweep);
        }
        if sub.dirty {
            self.ask(id, auth, now, out);
        }
    }

    /// Takes a CLOSED; whether it was one of these.
    pub(super) fn closed(
        &mut self,
        id: &str,
        reason: &str,
        auth: &mut Auth,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(sub) = self.subs.get_mut(id) else { return false };
        sub.gap = true;
        self.error = Some(wire::words(reason));
        tracing::debug!(sub = id, reason = wire::words(reason), "subscription closed by the relay");
        let wants_auth = self.own && matches!(wire::prefix(reason), "auth-required" | "restricted");
        if wants_auth && sub.auth_rounds < AUTH_ROUNDS_MAX {
            sub.auth_rounds += 1;
            self.demands_auth |= sub.purpose() == Purpose::Mail;
            let keys = auth.want(sub.signers(self.node), now, out);
            if keys.is_empty() {
                self.ask(id, auth, now, out);
            } else {
                sub.state = State::Auth { keys, until: now + AUTH_TIMEOUT };
            }
        } else if matches!(sub.what, What::Wide) && wants_auth {
            // Not granted: the agents go into shards instead, when the caller syncs.
            self.wide = false;
            self.needs_sync = true;
            self.subs.remove(id);
        } else {
            sub.retry(now);
        }
        true
    }

    /// Whether [`Self::sync`] must be called although nothing wanted has changed.
    pub(super) fn needs_sync(&self) -> bool {
        self.needs_sync
    }

    /// A key's authentication ended: who waited for it asks.
    pub(super) fn key_settled(
        &mut self,
        settled: Settled,
        auth: &mut Auth,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let mut ready = Vec::new();
        for (id, sub) in &mut self.subs {
            match &mut sub.state {
                State::Auth { keys, .. } => {
                    let last = keys.remove(&settled.key) && keys.is_empty();
                    ready.extend(last.then(|| id.clone()));
                }
                State::Eose { .. } if settled.accepted && sub.excluded.contains(&settled.key) => {
                    (sub.dirty, sub.gap) = (true, true);
                }
                State::Live | State::Retry { .. }
                    if settled.accepted && sub.excluded.contains(&settled.key) =>
                {
                    sub.gap = true;
                    ready.push(id.clone());
                }
                _ => {}
            }
        }
        ready.iter().for_each(|id| self.ask(id, auth, now, out));
    }

    /// Asks again where the wait is over, and stops waiting for relays that do not answer.
    pub(super) fn tick(&mut self, auth: &mut Auth, now: Instant, out: &mut Vec<Action>) {
        let mut again = Vec::new();
        for (id, sub) in &mut self.subs {
            match &sub.state {
                State::Eose { until } if *until <= now => {
                    self.error = Some("no answer to a subscription".to_owned());
                    sub.gap = true;
                    sub.retry(now);
                }
                State::Auth { until, .. } if *until <= now => {
                    self.error = Some("no end to authentication".to_owned());
                    sub.retry(now);
                }
                State::Retry { at } if *at <= now => {
                    sub.auth_rounds = 0;
                    again.push(id.clone());
                }
                _ => {}
            }
        }
        again.iter().for_each(|id| self.ask(id, auth, now, out));
    }

    /// Whether none waits for an answer.
    pub(super) fn is_settled(&self) -> bool {
        !self.needs_sync
            && self.subs.values().all(|sub| matches!(sub.state, State::Live | State::Retry { .. }))
    }

    /// How many the relay serves.
    pub(super) fn live(&self) -> usize {
        self.subs.values().filter(|sub| sub.state == State::Live).count()
    }

    /// How many keys the relay does not serve mail for.
    pub(super) fn unlistened(&self, wanted_keys: usize) -> usize {
        let of = |sub: &Sub| match (&sub.what, &sub.state) {
            (What::Shard(keys), State::Retry { .. }) => keys.len(),
            (What::Wide, State::Retry { .. }) => wanted_keys,
            _ => sub.excluded.len(),
        };
        self.subs.values().map(of).sum()
    }

    /// Whose mail can be swept here.
    pub(super) fn scopes(&self) -> Vec<Scope> {
        let scope = |sub: &Sub| match (&sub.what, &sub.state) {
            (_, State::Retry { .. } | State::Auth { .. }) | (What::Stand { .. }, _) => None,
            (What::Wide, _) => Some(Scope::Wide),
            (What::Shard(keys), _) => {
                Some(Scope::Keys(keys.iter().filter(|key| !sub.excluded.contains(*key)).copied().collect()))
            }
        };
        self.subs.values().filter_map(scope).collect()
    }

    /// The last refusal, in the relay's words.
    pub(super) fn take_error(&mut self) -> Option<String> {
        self.error.take()
    }
}

impl Sub {
    fn new(what: What, version: u64) -> Self {
        // Live until asked for: nothing is in flight.
        let (state, excluded) = (State::Live, BTreeSet::new());
        Self { what, version, state, dirty: false, excluded, auth_rounds: 0, refusals: 0, gap: false }
    }

    fn purpose(&self) -> Purpose {
        if matches!(self.what, What::Stand { .. }) { Purpose::Stand } else { Purpose::Mail }
    }

    /// The keys to authenticate for it: the node's, and the agents whose mail it is.
    fn signers(&self, node: PublicKey) -> Vec<PublicKey> {
        let mut signers = vec![node];
        if let What::Shard(keys) = &self.what {
            signers.extend(keys.iter().filter(|key| **key != node));
        }
        signers
    }

    fn retry(&mut self, now: Instant) {
        let wait = (RETRY_FIRST * (1 << self.refusals.min(6))).min(RETRY_MAX);
        self.refusals += 1;
        self.state = State::Retry { at: now + wait };
    }
}

#[cfg(test)]
mod tests;
