//! The rules of a mailbox, as pure functions: who is heard, what fits, what was said before, what may be answered.

use oa_nips::hex::Hex;
use oa_nips::mail::Protocol;
use oa_nips::nostr::PublicKey;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use serde::{Deserialize, Serialize};

use crate::agent::envelope::Trust;
use crate::agent::manifest::{Manifest, Policy, Replies};

/// Envelopes an inbox holds.
pub const INBOX_MAX: u32 = 1000;
/// Envelopes one sender may have waiting.
pub const INBOX_SENDER_MAX: u32 = 300;
/// Envelopes strangers may have waiting together: half is for owner and allowlist.
pub const INBOX_STRANGERS_MAX: u32 = INBOX_MAX / 2;
/// Rumors dated further ahead than this are refused, in seconds.
pub const FUTURE_S_MAX: u64 = 15 * 60;
/// The floor stays this far behind the last complete catch-up, in seconds.
pub const FLOOR_BEHIND_S: u64 = 7 * 24 * 3600;
/// Equal text over both protocols within this is one message.
pub const TWIN_MS: u64 = 2 * 60 * 1000;
/// Messages of a correspondent remembered for [`TWIN_MS`].
pub const RECENT_MAX: usize = 16;

/// Why mail was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    #[error("older than the mailbox's floor")]
    BelowFloor,
    #[error("dated over 15 minutes ahead")]
    Future,
    #[error("this sender has {INBOX_SENDER_MAX} messages waiting")]
    SenderQuota,
    #[error("strangers have {INBOX_STRANGERS_MAX} messages waiting")]
    StrangerQuota,
    #[error("the inbox is full")]
    Full,
    #[error("the same text came over the other protocol")]
    Twin,
    #[error("not on the allowlist")]
    NotAllowed,
    #[error("waits to be let in")]
    Pairing,
    #[error("addressed to more than two people")]
    Room,
    #[error("too little proof of work")]
    ProofOfWork,
    #[error("could not be opened")]
    Unreadable,
    #[error("the agent is terminated")]
    Terminated,
    #[error("held a code that is for the node alone")]
    Code,
    #[error("dropped by a rule")]
    Dropped,
    #[error("asked too often lately")]
    TooOften,
}

/// What an agent knows of one correspondent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Peer {
    /// Let in by the owner.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allowed: bool,
    /// First and last message, in milliseconds since 1970.
    pub first_seen_ms: u64,
    pub last_seen_ms: u64,
    /// Envelopes waiting.
    #[serde(default)]
    pub queued: u32,
    /// What may still be answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<Bucket>,
    /// Last messages, for [`Peer::is_twin`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recent: Vec<Recent>,
    /// The code that lets this stranger in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairing: Option<String>,
    /// When it was last told: milliseconds since 1970.
    #[serde(default)]
    pub paired_at_ms: u64,
}

/// One message remembered by what it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recent {
    digest: Hex<16>,
    protocol: Protocol,
    at_ms: u64,
}

impl Recent {
    /// Remembers a text.
    pub fn new(text: &str, protocol: Protocol, at_ms: u64) -> Self {
        let hash = sha256::Hash::hash(text.as_bytes()).to_byte_array();
        let digest = hash.first_chunk().copied().map_or(Hex::ZERO, Hex);
        Self { digest, protocol, at_ms }
    }
}

impl Peer {
    /// Whether the same text came over the other protocol within [`TWIN_MS`].
    pub fn is_twin(&self, new: &Recent) -> bool {
        self.recent.iter().any(|old| {
            old.digest == new.digest
                && old.protocol != new.protocol
                && old.at_ms.abs_diff(new.at_ms) <= TWIN_MS
        })
    }

    /// Remembers a message, forgetting the oldest.
    pub fn remember(&mut self, new: Recent, now_ms: u64) {
        self.recent.retain(|old| old.at_ms.abs_diff(new.at_ms) <= TWIN_MS);
        if self.recent.len() >= RECENT_MAX {
            self.recent.remove(0);
        }
        self.recent.push(new);
        if self.first_seen_ms == 0 {
            self.first_seen_ms = now_ms;
        }
        self.last_seen_ms = now_ms;
    }
}

/// What is to be done with a message from somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hearing {
    /// Goes to the inbox.
    Heard(Trust),
    /// Gets a pairing code and nothing else.
    Pair,
    /// Refused and logged.
    Refused(Refusal),
}

/// Decides by manifest and acquaintance who is heard.
pub fn hearing(
    manifest: &Manifest,
    owner: Option<&PublicKey>,
    peer: &Peer,
    author: &PublicKey,
    pow_bits: u8,
) -> Hearing {
    if owner == Some(author) {
        return Hearing::Heard(Trust::Owner);
    }
    let listed = peer.allowed || manifest.dm.allow.iter().any(|npub| npub.0 == *author);
    if listed && manifest.dm.policy != Policy::Owner {
        return Hearing::Heard(Trust::Allowed);
    }
    if pow_bits < manifest.dm.pow_bits {
        return Hearing::Refused(Refusal::ProofOfWork);
    }
    match manifest.dm.policy {
        Policy::Owner | Policy::Allowlist => Hearing::Refused(Refusal::NotAllowed),
        Policy::Pairing => Hearing::Pair,
        Policy::Open => Hearing::Heard(Trust::Stranger),
    }
}

/// How far somebody is trusted; whoever would not be heard is a stranger.
pub fn trust(manifest: &Manifest, owner: Option<&PublicKey>, peer: &Peer, who: &PublicKey) -> Trust {
    match hearing(manifest, owner, peer, who, u8::MAX) {
        Hearing::Heard(trust) => trust,
        Hearing::Pair | Hearing::Refused(_) => Trust::Stranger,
    }
}

/// How full an inbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// All that wait.
    pub depth: u32,
    /// Of them, strangers'.
    pub strangers: u32,
    /// Of them, this sender's.
    pub sender: u32,
}

/// Decides whether one more envelope fits.
///
/// # Errors
/// The quota that is used up.
pub fn fits(fill: Fill, trust: Trust) -> Result<(), Refusal> {
    if trust == Trust::Node {
        return Ok(());
    }
    if fill.sender >= INBOX_SENDER_MAX {
        return Err(Refusal::SenderQuota);
    }
    if trust == Trust::Stranger && fill.strangers >= INBOX_STRANGERS_MAX {
        return Err(Refusal::StrangerQuota);
    }
    if fill.depth >= INBOX_MAX { Err(Refusal::Full) } else { Ok(()) }
}

/// Decides by its claimed time whether a message may be taken in.
///
/// # Errors
/// [`Refusal::BelowFloor`], [`Refusal::Future`]
pub fn timely(sent_at_ms: u64, floor_s: u64, now_ms: u64) -> Result<(), Refusal> {
    if sent_at_ms / 1000 < floor_s {
        Err(Refusal::BelowFloor)
    } else if sent_at_ms > now_ms.saturating_add(FUTURE_S_MAX * 1000) {
        Err(Refusal::Future)
    } else {
        Ok(())
    }
}

/// A token bucket in thousandths of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    level_milli: u64,
    at_ms: u64,
}

impl Bucket {
    /// Takes one reply out of `bucket` (full if there is none yet) at `now_ms`; answers the bucket after, or
    /// nothing when it is empty.
    pub fn take(bucket: Option<Self>, limits: &Replies, is_bot: bool, now_ms: u64) -> Option<Self> {
        let (burst, per_hour) = if is_bot {
            (limits.bot_burst, u64::from(limits.bot_per_hour))
        } else {
            (limits.burst, u64::from(limits.per_minute) * 60)
        };
        let full = u64::from(burst) * 1000;
        let old = bucket.unwrap_or(Self { level_milli: full, at_ms: now_ms });
        let refill = now_ms.saturating_sub(old.at_ms).saturating_mul(per_hour) / 3600;
        let level = old.level_milli.saturating_add(refill).min(full);
        // Time that refilled nothing is not lost: the clock moves only when something came in.
        let at_ms = if refill > 0 { now_ms } else { old.at_ms };
        let level_milli = level.checked_sub(1000)?;
        Some(Self { level_milli, at_ms })
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::Keys;

    use super::*;
    use crate::agent::manifest::Npub;

    fn key() -> PublicKey {
        Keys::generate().public_key()
    }

    #[test]
    fn each_policy_hears_whom_it_says() {
        let (owner, friend, stranger) = (key(), key(), key());
        let hears = |policy, author: &PublicKey| {
            let mut manifest = Manifest::new("a", "echo");
            manifest.dm.policy = policy;
            manifest.dm.allow = vec![Npub(friend)];
            hearing(&manifest, Some(&owner), &Peer::default(), author, 0)
        };
        for policy in [Policy::Owner, Policy::Allowlist, Policy::Pairing, Policy::Open] {
            assert_eq!(hears(policy, &owner), Hearing::Heard(Trust::Owner));
        }
        assert_eq!(hears(Policy::Owner, &friend), Hearing::Refused(Refusal::NotAllowed));
        assert_eq!(hears(Policy::Allowlist, &friend), Hearing::Heard(Trust::Allowed));
        assert_eq!(hears(Policy::Allowlist, &stranger), Hearing::Refused(Refusal::NotAllowed));
        assert_eq!(hears(Policy::Pairing, &stranger), Hearing::Pair);
        assert_eq!(hears(Policy::Open, &stranger), Hearing::Heard(Trust::Stranger));
    }

    #[test]
    fn a_stranger_must_work_where_work_is_asked() {
        let mut manifest = Manifest::new("a", "echo");
        manifest.dm = crate::agent::manifest::Dm { policy: Policy::Open, pow_bits: 10, ..manifest.dm };
        let hears = |bits| hearing(&manifest, None, &Peer::default(), &key(), bits);
        assert_eq!(hears(9), Hearing::Refused(Refusal::ProofOfWork));
        assert_eq!(hears(10), Hearing::Heard(Trust::Stranger));
    }

    #[test]
    fn half_the_inbox_is_kept_for_friends() {
        let fill = |depth, strangers, sender| Fill { depth, strangers, sender };
        assert_eq!(fits(fill(500, 500, 0), Trust::Stranger), Err(Refusal::StrangerQuota));
        assert_eq!(fits(fill(500, 500, 0), Trust::Allowed), Ok(()));
        assert_eq!(fits(fill(300, 0, 300), Trust::Owner), Err(Refusal::SenderQuota));
        assert_eq!(fits(fill(1000, 0, 0), Trust::Owner), Err(Refusal::Full));
        assert_eq!(fits(fill(5000, 0, 0), Trust::Node), Ok(()));
    }

    #[test]
    fn times_of_1971_and_2100_are_refused() {
        let now_ms = 1_800_000_000_000;
        let floor_s = now_ms / 1000 - FLOOR_BEHIND_S;
        assert_eq!(timely(31_536_000_000, floor_s, now_ms), Err(Refusal::BelowFloor));
        assert_eq!(timely(4_102_444_800_000, floor_s, now_ms), Err(Refusal::Future));
        assert_eq!(timely(now_ms + 14 * 60_000, floor_s, now_ms), Ok(()));
    }

    #[test]
    fn a_bucket_empties_and_refills() {
        let limits = Replies { burst: 2, per_minute: 60, bot_burst: 1, bot_per_hour: 1 };
        let first = Bucket::take(None, &limits, false, 0);
        let second = Bucket::take(first, &limits, false, 0);
        assert!(second.is_some());
        assert_eq!(Bucket::take(second, &limits, false, 100), None);
        assert!(Bucket::take(second, &limits, false, 1_000).is_some());
        let bot = Bucket::take(None, &limits, true, 0);
        assert_eq!(Bucket::take(bot, &limits, true, 3_599_000), None);
        assert!(Bucket::take(bot, &limits, true, 3_600_000).is_some());
    }

    #[test]
    fn twins_are_equal_texts_over_different_protocols_close_in_time() {
        let mut peer = Peer::default();
        peer.remember(Recent::new("hi", Protocol::Nip17, 1_000_000), 1);
        assert!(peer.is_twin(&Recent::new("hi", Protocol::Nip04, 1_000_000 + TWIN_MS)));
        assert!(!peer.is_twin(&Recent::new("hi", Protocol::Nip17, 1_000_000)));
        assert!(!peer.is_twin(&Recent::new("ho", Protocol::Nip04, 1_000_000)));
        assert!(!peer.is_twin(&Recent::new("hi", Protocol::Nip04, 1_000_001 + TWIN_MS)));
    }
}
