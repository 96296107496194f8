//! What a run does, decided by its seed alone: whose keys, which protocol, whom a kill hits, at what moment.
//!
//! Only the kills' aim also depends on which phases are still lacking, which depends on how the machine happened to
//! run: the same seed and the same luck give the same run.

use std::time::Duration;

use oa_nips::mail::Protocol;
use oa_nips::nostr::hashes::{Hash as _, HashEngine as _, sha256};
use oa_nips::nostr::{Keys, SecretKey};

use super::phase::{Dead, Phase};

/// A deterministic source of numbers, SplitMix64: no cryptography hangs on it.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall the same way for the same `seed`, purpose and number.
    pub fn new(seed: u64, purpose: &str, number: u64) -> Self {
        Self(digest(seed, purpose, number).first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)))
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 when there is none.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll().checked_rem(end).unwrap_or(0)
    }

    /// One of several; nothing of none.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let at = usize::try_from(self.below(from.len() as u64)).ok()?;
        from.get(at).copied()
    }
}

/// What the node tells that makes a kill due after its delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cue {
    /// Mail went into the inbox.
    MailIn,
    /// A tick ended: its reply is committed.
    Tick,
    /// The node heard the relay's OK; it is about to note it.
    MailOut,
}

impl Cue {
    /// Its name among the node's events.
    pub fn event(self) -> &'static str {
        match self {
            Self::MailIn => "mail_in",
            Self::Tick => "tick",
            Self::MailOut => "mail_out",
        }
    }
}

/// One kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strike {
    /// Who dies.
    pub dead: Dead,
    /// The phase it is meant for.
    pub aim: Phase,
    /// What it waits for.
    pub cue: Cue,
    /// How many of them: a later one hits a deeper queue.
    pub cues: u64,
    /// From the last of them to the kill.
    pub delay: Duration,
}

/// All decisions of a run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    seed: u64,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// A sender's keys.
    pub fn keys(&self, sender: usize) -> Keys {
        // One digest in 2^128 is no secret key; the next is.
        let secret = (0..).find_map(|n: u64| {
            SecretKey::from_slice(&digest(self.seed, &format!("sender {sender}"), n)).ok()
        });
        secret.map_or_else(Keys::generate, Keys::new)
    }

    /// Which protocol a sender's `n`-th message takes, from 1: the first two differ, the others as it falls.
    pub fn protocol(&self, sender: usize, n: u64) -> Protocol {
        let all = [Protocol::Nip17, Protocol::Nip04];
        let mut dice = Dice::new(self.seed, &format!("protocols of {sender}"), n.max(2));
        let fallen = dice.pick(&all).unwrap_or(Protocol::Nip17);
        match (n, fallen) {
            (1, Protocol::Nip17) => Protocol::Nip04,
            (1, Protocol::Nip04) => Protocol::Nip17,
            _ => fallen,
        }
    }

    /// The `round`-th kill. Three of four aim at what is `lacking`, where anything is.
    pub fn strike(&self, round: u64, lacking: &[Phase]) -> Strike {
        let mut dice = Dice::new(self.seed, "strike", round);
        let any = dice.pick(&Phase::ALL);
        let wanted = dice.pick(lacking).filter(|_| dice.below(4) > 0);
        let aim = wanted.or(any).unwrap_or(Phase::Received);
        let (cue, span_us) = match aim {
            Phase::Received => (Cue::MailIn, 3_000),
            Phase::Running => (Cue::MailIn, 6_000),
            Phase::Committed => (Cue::Tick, 1_000),
            Phase::SentBeforeOk if dice.below(2) == 0 => (Cue::MailOut, 600),
            Phase::SentBeforeOk => (Cue::Tick, 5_000),
        };
        // What is in the inbox or runs there is hit only by the node's end.
        let whom: &[Dead] = match aim {
            Phase::Received | Phase::Running => &[Dead::Node, Dead::Node, Dead::Both],
            Phase::Committed | Phase::SentBeforeOk => &[Dead::Node, Dead::Relay, Dead::Both],
        };
        let dead = dice.pick(whom).unwrap_or(Dead::Both);
        let cues = 1 + dice.below(4);
        Strike { dead, aim, cue, cues, delay: Duration::from_micros(dice.below(span_us)) }
    }
}

fn digest(seed: u64, purpose: &str, number: u64) -> [u8; 32] {
    let mut engine = sha256::HashEngine::default();
    engine.input(b"oa/crash\0");
    engine.input(&seed.to_be_bytes());
    engine.input(&number.to_be_bytes());
    engine.input(purpose.as_bytes());
    sha256::Hash::from_engine(engine).to_byte_array()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_seed_decides_everything_and_another_one_differently() {
        let (plan, same, other) = (Plan::new(7), Plan::new(7), Plan::new(8));
        let strikes = |plan: &Plan| (0..50).map(|n| plan.strike(n, &Phase::ALL)).collect::<Vec<_>>();
        assert_eq!(strikes(&plan), strikes(&same));
        assert_ne!(strikes(&plan), strikes(&other));
        assert_eq!(plan.keys(1), same.keys(1));
        assert_ne!(plan.keys(1), plan.keys(2));
        assert_ne!(plan.keys(1), other.keys(1));
    }

    #[test]
    fn every_sender_mixes_both_protocols() {
        for seed in 0..50 {
            let plan = Plan::new(seed);
            for sender in 0..4 {
                assert_ne!(plan.protocol(sender, 1), plan.protocol(sender, 2), "seed {seed}");
                let legacy = (1..=250).filter(|n| plan.protocol(sender, *n) == Protocol::Nip04).count();
                assert!((75..175).contains(&legacy), "{legacy} of 250, seed {seed}");
            }
        }
    }

    #[test]
    fn kills_go_for_what_is_lacking_and_now_and_then_for_anything() {
        let plan = Plan::new(3);
        let aimed = (0..400).map(|n| plan.strike(n, &[Phase::Running])).collect::<Vec<_>>();
        let hits = aimed.iter().filter(|strike| strike.aim == Phase::Running).count();
        assert!((280..380).contains(&hits), "{hits} of 400");
        let free = (0..400).map(|n| plan.strike(n, &[])).collect::<Vec<_>>();
        for phase in Phase::ALL {
            assert!(free.iter().filter(|strike| strike.aim == phase).count() > 60, "{phase:?}");
        }
        let dead: HashSet<_> = free.iter().map(|strike| strike.dead).collect();
        assert_eq!(dead.len(), 3);
        let node_only = |strike: &&Strike| matches!(strike.aim, Phase::Received | Phase::Running);
        assert!(free.iter().filter(node_only).all(|strike| strike.dead != Dead::Relay));
    }
}
