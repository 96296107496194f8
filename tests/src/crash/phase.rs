//! What a kill hit: the unfinished work it left behind, by phase. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use oa_nips::nostr::EventId;
use oa_node::agent::envelope::EnvelopeId;

/// Who was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dead {
    /// The node.
    Node,
    /// The relay.
    Relay,
    /// Both at once.
    Both,
}

impl Dead {
    /// Whether the node is among them.
    pub fn has_node(self) -> bool {
        self != Self::Relay
    }

    /// Whether the relay is among them.
    pub fn has_relay(self) -> bool {
        self != Self::Node
    }
}

impl fmt::Display for Dead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Relay => "relay",
            Self::Both => "node and relay",
        })
    }
}

/// How far a message had come when the kill hit it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// In the inbox, its tick not begun.
    Received,
    /// Its tick was running.
    Running,
    /// Its reply is in the outbox, signed or not, and no relay has it.
    Committed,
    /// The relay has its reply, and the node had not yet noted the relay's OK.
    SentBeforeOk,
}

impl Phase {
    /// In the order a message goes through them.
    pub const ALL: [Self; 4] = [Self::Received, Self::Running, Self::Committed, Self::SentBeforeOk];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Received => "received",
            Self::Running => "running",
            Self::Committed => "committed",
            Self::SentBeforeOk => "sent before OK",
        })
    }
}

/// What was unfinished when a kill hit, as found afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scene {
    /// Mail in the inbox.
    pub inbox: Vec<EnvelopeId>,
    /// Envelopes whose ticks were noted as running.
    pub running: BTreeSet<EnvelopeId>,
    /// Replies that no relay is known to have: the event for the correspondent, once it is signed.
    pub unsent: Vec<Option<EventId>>,
    /// Of them, those that the relay has all the same.
    pub at_relay: BTreeSet<EventId>,
}

/// How many messages a kill hit in each phase.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hits(BTreeMap<Phase, usize>);

impl Scene {
    /// Sorts what was unfinished into phases. What only the node works on is not hit by the end of the relay.
    pub fn hits(&self, dead: Dead) -> Hits {
        let mut hits = Hits::default();
        if dead.has_node() {
            // A note may outlive its tick by an instant: without the envelope it means nothing.
            let running = self.inbox.iter().filter(|id| self.running.contains(id)).count();
            hits.add(Phase::Received, self.inbox.len() - running);
            hits.add(Phase::Running, running);
        }
        let is_at_relay = |event: &&Option<EventId>| event.is_some_and(|id| self.at_relay.contains(&id));
        let sent = self.unsent.iter().filter(is_at_relay).count();
        hits.add(Phase::SentBeforeOk, sent);
        hits.add(Phase::Committed, self.unsent.len() - sent);
        hits
    }
}

impl Hits {
    fn add(&mut self, phase: Phase, count: usize) {
        if count > 0 {
            *self.0.entry(phase).or_default() += count;
        }
    }

    /// Whether nothing was hit.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The phases that were hit.
    pub fn phases(&self) -> impl Iterator<Item = Phase> {
        self.0.keys().copied()
    }
}

impl fmt::Display for Hits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.0.iter().map(|(phase, count)| format!("{count} {phase}")).collect();
        f.write_str(if parts.is_empty() { "nothing" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

/// The kills of a run so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Kills that hit unfinished work.
    pub kills: u64,
    /// Kills that hit none, and do not count.
    pub misses: u64,
    /// Kills that count, by who died.
    pub dead: BTreeMap<Dead, u64>,
    /// Kills that count, by phase; one may have hit several.
    pub phases: BTreeMap<Phase, u64>,
}

impl Tally {
    /// Counts a kill, once for each phase it hit.
    pub fn count(&mut self, dead: Dead, hits: &Hits) {
        if hits.is_empty() {
            self.misses += 1;
            return;
        }
        self.kills += 1;
        *self.dead.entry(dead).or_default() += 1;
        for phase in hits.phases() {
            *self.phases.entry(phase).or_default() += 1;
        }
    }

    /// Kills that hit a phase.
    pub fn of(&self, phase: Phase) -> u64 {
        self.phases.get(&phase).copied().unwrap_or_default()
    }

    /// The phases that fewer kills hit than `each`.
    pub fn lacking(&self, each: u64) -> Vec<Phase> {
        Phase::ALL.into_iter().filter(|phase| self.of(*phase) < each).collect()
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::hex::Hex;

    use super::*;

    fn event(byte: u8) -> EventId {
        EventId::from_byte_array([byte; 32])
    }

    fn scene() -> Scene {
        Scene {
            inbox: vec![Hex([1; 32]), Hex([2; 32]), Hex([3; 32])],
            running: BTreeSet::from([Hex([1; 32]), Hex([9; 32])]),
            unsent: vec![None, Some(event(4)), Some(event(5))],
            at_relay: BTreeSet::from([event(5), event(6)]),
        }
    }

    fn hits(counts: &[(Phase, usize)]) -> Hits {
        Hits(counts.iter().copied().collect())
    }

    #[test]
    fn each_message_is_in_one_phase() {
        let all =
            [(Phase::Received, 2), (Phase::Running, 1), (Phase::Committed, 2), (Phase::SentBeforeOk, 1)];
        assert_eq!(scene().hits(Dead::Node), hits(&all));
        assert_eq!(scene().hits(Dead::Both), hits(&all));
        assert_eq!(
            scene().hits(Dead::Node).to_string(),
            "2 received, 1 running, 2 committed, 1 sent before OK"
        );
    }

    #[test]
    fn the_relays_end_hits_only_what_was_on_its_way_there() {
        assert_eq!(scene().hits(Dead::Relay), hits(&[(Phase::Committed, 2), (Phase::SentBeforeOk, 1)]));
    }

    #[test]
    fn a_note_without_its_envelope_is_no_running_tick() {
        let scene = Scene { running: BTreeSet::from([Hex([1; 32])]), ..Scene::default() };
        assert!(scene.hits(Dead::Both).is_empty());
        assert_eq!(scene.hits(Dead::Both).to_string(), "nothing");
    }

    #[test]
    fn kills_count_once_and_for_every_phase_they_hit() {
        let mut tally = Tally::default();
        tally.count(Dead::Node, &scene().hits(Dead::Node));
        tally.count(Dead::Relay, &hits(&[(Phase::Committed, 5)]));
        tally.count(Dead::Both, &Hits::default());
        assert_eq!((tally.kills, tally.misses), (2, 1));
        assert_eq!((tally.of(Phase::Committed), tally.of(Phase::Running)), (2, 1));
        assert_eq!(tally.lacking(2), [Phase::Received, Phase::Running, Phase::SentBeforeOk]);
        assert_eq!(tally.lacking(1), []);
    }
}
