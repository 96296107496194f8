//! Why a lease is not held, in words for people: status files, notices and command lines show them as they are.

use oa_nips::lease::{Published, State};
use oa_nips::nostr::{PublicKey, ToBech32};

use crate::lease::Need;

/// The digits of an instance that are shown: enough to tell a handful of nodes apart.
const DIGITS: usize = 8;

fn npub(key: &PublicKey) -> String {
    key.to_bech32().unwrap_or_else(|_| key.to_hex())
}

fn utc(at_ms: u64) -> String {
    let at = i64::try_from(at_ms / 1000).ok().and_then(|at_s| jiff::Timestamp::from_second(at_s).ok());
    at.map_or_else(|| "the end of time".to_owned(), |at| at.to_string())
}

fn node(of: &Published) -> String {
    let instance: String = of.lease.instance.to_string().chars().take(DIGITS).collect();
    match &of.lease.node {
        Some(name) => format!("another node ({name:?}, instance {instance}, epoch {})", of.lease.epoch),
        None => format!("another node (instance {instance}, epoch {})", of.lease.epoch),
    }
}

pub(super) fn asking(key: &PublicKey) -> String {
    format!("asking the relays who holds the lease of {}", npub(key))
}

pub(super) fn few_answers(key: &PublicKey, answered: usize, need: Need, seen: Option<&Published>) -> String {
    let npub = npub(key);
    let seen = seen.map(|seen| format!("; as far as is known, {} has it", node(seen))).unwrap_or_default();
    let asks = need.asks;
    format!(
        "{answered} relays answered who holds the lease of {npub}, and {asks} must, to be sure that no other node \
         uses the key{seen}"
    )
}

pub(super) fn held_by(key: &PublicKey, other: &Published, until_ms: u64) -> String {
    let (node, npub, until) = (node(other), npub(key), utc(until_ms));
    match other.lease.state {
        State::Claimed => format!("{node} has claimed the lease of {npub}; it is waited for until {until}"),
        State::Held | State::Released => format!("{node} holds the lease of {npub} until {until}"),
    }
}

pub(super) fn in_doubt(key: &PublicKey, until_ms: u64) -> String {
    let (npub, until) = (npub(key), utc(until_ms));
    format!(
        "this node's own claim to the lease of {npub} was not answered in time, and may have hidden another's; it is \
         waited for until {until}"
    )
}

pub(super) fn claiming(key: &PublicKey) -> String {
    format!("claiming the lease of {}", npub(key))
}

pub(super) fn settling(key: &PublicKey) -> String {
    format!("waiting a moment whether another node claims the lease of {} too", npub(key))
}

pub(super) fn not_taken(key: &PublicKey, relays: &[String]) -> String {
    let said = if relays.is_empty() { String::new() } else { format!(": {}", relays.join(", ")) };
    format!("too few relays took the claim to the lease of {} in time{said}", npub(key))
}

pub(super) fn vanished(key: &PublicKey) -> String {
    format!("the claim to the lease of {} is not on its relays any more; it is made again", npub(key))
}

pub(super) fn ran_out(key: &PublicKey) -> String {
    format!("the lease of {} ran out: no relay could be reached to renew it, or too few", npub(key))
}

pub(super) fn lost(key: &PublicKey, other: &Published, is_copy: bool) -> String {
    let npub = npub(key);
    if is_copy {
        return format!(
            "a copy of this store was started later and has taken the lease of {npub} (epoch {}): what it did since \
             is not known here",
            other.lease.epoch
        );
    }
    format!(
        "{} has taken the lease of {npub} since this one had it: what it did is not known here",
        node(other)
    )
}

pub(super) fn released(key: &PublicKey) -> String {
    format!("the lease of {} was released", npub(key))
}
