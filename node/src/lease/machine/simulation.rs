//! A world of a few nodes with one key and a few relays, in simulated time: messages are lost, late and out of order,
//! relays go away, clocks differ, processes die. At no instant may two nodes hold the lease, and once all is well one
//! must.

use std::collections::{BTreeMap, HashMap};

use oa_nips::hex::Hex;
use oa_nips::lease::{Id, Lease, Published};
use oa_nips::nostr::{EventId, Keys, PublicKey};
use proptest::prelude::*;

use super::{Action, Event, Machine, Round};
use crate::lease::{Config, LeaseState, Need, Standing, Start, Tenure};

/// How long things go wrong, and how long they then go well, in milliseconds.
const WRONG_MS: u64 = 20 * 60_000;
const WELL_MS: u64 = 10 * 60_000;
/// How long a race for the lease takes at most.
const RACE_MS: u64 = 60_000;
/// The world's time at the beginning, in milliseconds since 1970.
const BEGIN_MS: u64 = 1_790_000_000_000;
/// Others come when the fresh key's first lease is over.
const OTHERS_MS: u64 = 120_000;

/// How bad the world is.
#[derive(Debug, Clone)]
struct Weather {
    seed: u64,
    nodes: usize,
    relays: usize,
    /// Of a hundred messages, so many are lost, and so many take minutes.
    lost: u64,
    late: u64,
    /// Mean time between deaths of a node, and between outages of a relay, in milliseconds.
    dies_every_ms: u64,
    outage_every_ms: u64,
    /// How long other messages take at most, in milliseconds.
    slow_ms: u64,
    /// Whether nothing comes live, and all must be asked for.
    is_deaf: bool,
}

#[derive(Debug, Clone)]
enum What {
    Boot(usize),
    Die(usize),
    Blackout,
    Outage(usize, bool),
    Wake(usize, u64),
    Stored(usize, Published, Option<(usize, u64, Round)>),
    Taken(usize, u64, Round, bool),
    Asked(usize, (usize, u64, Round)),
    Answer(usize, u64, Round, Option<Published>),
    Deadline(usize, u64, Round),
    Heard(usize, u64, Published),
}

/// What a node waits for.
#[derive(Debug)]
enum Pending {
    Ask { enough: usize, answered: usize, leases: Vec<Published> },
    Publish { enough: usize, id: EventId, acks: usize, replies: usize },
}

#[derive(Debug)]
struct Node {
    machine: Option<Machine>,
    /// Grows with each start, so that what was meant for an earlier process is dropped.
    life: u64,
    kept: Option<LeaseState>,
    /// Ahead of the world's clock.
    ahead_ms: u64,
    standing: Standing,
    pending: HashMap<Round, Pending>,
}

#[derive(Debug)]
struct Relay {
    newest: Option<Published>,
    is_away: bool,
    /// Whether it says yes to what is older than what it has.
    is_polite: bool,
}

#[derive(Debug)]
struct World {
    weather: Weather,
    key: PublicKey,
    rng: u64,
    now_ms: u64,
    count: u64,
    queue: BTreeMap<(u64, u64), What>,
    nodes: Vec<Node>,
    relays: Vec<Relay>,
    is_well: bool,
    holds: usize,
    log: Vec<String>,
}

impl World {
    /// Nodes and relays, and nothing that happens.
    fn new(weather: Weather) -> Self {
        let mut world = Self {
            key: Keys::parse(&"77".repeat(32)).unwrap().public_key(),
            rng: weather.seed,
            now_ms: BEGIN_MS,
            count: 0,
            queue: BTreeMap::new(),
            nodes: Vec::new(),
            relays: Vec::new(),
            is_well: false,
            holds: 0,
            log: Vec::new(),
            weather,
        };
        let skew_ms = u64::try_from(Config::default().skew.as_millis()).unwrap();
        for _ in 0..world.weather.nodes {
            let (ahead_ms, standing) = (world.below(skew_ms + 1), Standing::Waiting { why: String::new() });
            let (machine, kept, pending) = (None, None, HashMap::new());
            world.nodes.push(Node { machine, life: 0, kept, ahead_ms, standing, pending });
        }
        for _ in 0..world.weather.relays {
            let is_polite = world.below(2) == 0;
            world.relays.push(Relay { newest: None, is_away: false, is_polite });
        }
        world
    }

    /// The first node has a fresh key; the others come later; all die now and then, and relays go away.
    fn through_time(weather: Weather) -> Self {
        let mut world = Self::new(weather);
        for n in 0..world.weather.nodes {
            let at_ms = if n == 0 { 0 } else { OTHERS_MS + world.below(60_000) };
            world.later(at_ms, What::Boot(n));
            let dies_ms = world.below(world.weather.dies_every_ms * 2);
            world.later(OTHERS_MS + dies_ms, What::Die(n));
        }
        world.later(OTHERS_MS, What::Blackout);
        for n in 0..world.weather.relays {
            let at_ms = world.below(world.weather.outage_every_ms * 2);
            world.later(at_ms, What::Outage(n, true));
        }
        world
    }

    /// The first node had the lease and released it; now it and the others start in the same moment.
    fn at_once(weather: Weather) -> Self {
        let mut world = Self::new(weather);
        let (instance, boot, at) = (world.id(), world.id(), BEGIN_MS / 1000 - 10);
        let mut kept = LeaseState::new(instance);
        kept.tenure = Some(Tenure::new(boot, 1, at, 0));
        world.nodes[0].kept = Some(kept);
        // It does not start as a fresh key.
        world.nodes[0].life = 1;
        let state = oa_nips::lease::State::Released;
        let lease = Lease { v: 1, instance, boot, epoch: 1, expires_at: at, state, node: None };
        let released = Published { id: EventId::all_zeros(), at, lease };
        for relay in &mut world.relays {
            relay.newest = Some(released.clone());
        }
        for n in 0..world.weather.nodes {
            let at_ms = world.below(4 * world.weather.slow_ms);
            world.later(at_ms, What::Boot(n));
        }
        world
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.rng = self.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.rng ^ (self.rng >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random() % bound.max(1)
    }

    fn id(&mut self) -> Id {
        let (a, b) = (self.random(), self.random());
        Hex::from_slice(&[a.to_be_bytes(), b.to_be_bytes()].concat()).unwrap()
    }

    fn later(&mut self, after_ms: u64, what: What) {
        self.count += 1;
        self.queue.insert((self.now_ms + after_ms, self.count), what);
    }

    /// Sends a message, which may be lost or late.
    fn send(&mut self, what: What) {
        let (dice, quick_ms, late_ms) =
            (self.below(100), 1 + self.below(self.weather.slow_ms), self.below(200_000));
        match self.is_well {
            true => self.later(quick_ms % 400, what),
            false if dice < self.weather.lost => {}
            false if dice < self.weather.lost + self.weather.late => self.later(late_ms, what),
            false => self.later(quick_ms, what),
        }
    }

    fn clock_ms(&self, node: usize) -> u64 {
        self.now_ms + self.nodes[node].ahead_ms
    }

    fn run_until(&mut self, end_ms: u64) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end_ms {
                break;
            }
            self.now_ms = entry.key().0;
            let what = entry.remove();
            self.happen(what);
            let holders: Vec<_> = (0..self.nodes.len()).filter(|n| self.holds(*n)).collect();
            self.holds += holders.len();
            let log = || self.log.iter().rev().take(60).rev().cloned().collect::<Vec<_>>().join("\n");
            assert!(holders.len() <= 1, "{holders:?} hold at {}:\n{}", self.now_ms - BEGIN_MS, log());
        }
        self.now_ms = end_ms;
    }

    fn holds(&self, node: usize) -> bool {
        let one = &self.nodes[node];
        one.machine.is_some() && one.standing.epoch(self.clock_ms(node)).is_some()
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Boot(n) => self.boot(n),
            What::Die(n) => self.die(n),
            What::Blackout => self.blackout(),
            What::Outage(n, is_away) => self.outage(n, is_away),
            What::Wake(n, life) if self.nodes[n].life == life => self.apply(n, Event::Tick),
            What::Stored(relay, event, from) => self.stored(relay, event, from),
            What::Asked(relay, (n, life, round)) if !self.relays[relay].is_away => {
                let newest = self.relays[relay].newest.clone();
                self.send(What::Answer(n, life, round, newest));
            }
            What::Answer(n, life, round, newest) if self.nodes[n].life == life => {
                if let Some(Pending::Ask { answered, leases, .. }) = self.nodes[n].pending.get_mut(&round) {
                    *answered += 1;
                    leases.extend(newest);
                }
                self.conclude(n, round, false);
            }
            What::Taken(n, life, round, is_taken) if self.nodes[n].life == life => {
                if let Some(Pending::Publish { acks, replies, .. }) = self.nodes[n].pending.get_mut(&round) {
                    *replies += 1;
                    *acks += usize::from(is_taken);
                }
                self.conclude(n, round, false);
            }
            What::Deadline(n, life, round) if self.nodes[n].life == life => self.conclude(n, round, true),
            What::Heard(n, life, event) if self.nodes[n].life == life => self.apply(n, Event::Heard(event)),
            _ => {}
        }
    }

    fn boot(&mut self, n: usize) {
        if self.nodes[n].machine.is_some() {
            return;
        }
        let (boot, instance) = (self.id(), self.id());
        let is_first = n == 0 && self.nodes[n].life == 0;
        let node = &mut self.nodes[n];
        let mut kept = node.kept.clone().unwrap_or_else(|| LeaseState::new(instance));
        if matches!(node.standing, Standing::Lost { .. }) && !self.is_well {
            kept = kept.renounced(instance);
        }
        node.life += 1;
        node.kept = Some(kept.clone());
        let need = Need::overlapping(self.relays.len());
        let start = if is_first { Start::Fresh } else { Start::Again };
        let now_ms = self.clock_ms(n);
        let (machine, actions) = Machine::start(Config::default(), need, self.key, kept, boot, start, now_ms);
        self.nodes[n].machine = Some(machine);
        self.log.push(format!("{} node {n} starts", self.now_ms - BEGIN_MS));
        self.act(n, actions);
    }

    /// A node dies, or ends as it should; then it comes back.
    fn die(&mut self, n: usize) {
        if self.is_well {
            return;
        }
        let (dice, away_ms, next_ms) =
            (self.below(4), self.below(150_000), self.below(self.weather.dies_every_ms * 2));
        if dice == 0 && self.nodes[n].machine.is_some() {
            self.apply(n, Event::Release);
            self.later(2000, What::Die(n));
            return;
        }
        self.log.push(format!("{} node {n} dies", self.now_ms - BEGIN_MS));
        self.end(n);
        self.later(if dice == 1 { 5 } else { away_ms }, What::Boot(n));
        self.later(away_ms + next_ms, What::Die(n));
    }

    /// All die at once, and come back at once when their leases are over: the moment for two to claim.
    fn blackout(&mut self) {
        if self.is_well {
            return;
        }
        self.log.push(format!("{} blackout", self.now_ms - BEGIN_MS));
        let away_ms = self.below(200_000);
        for n in 0..self.nodes.len() {
            self.end(n);
            let boot_ms = self.below(4 * self.weather.slow_ms);
            self.later(away_ms + boot_ms, What::Boot(n));
        }
        let next_ms = self.below(400_000);
        self.later(away_ms + next_ms, What::Blackout);
    }

    /// Nothing goes wrong any more: relays are there, and all nodes run.
    fn clear_up(&mut self) {
        self.is_well = true;
        self.relays.iter_mut().for_each(|relay| relay.is_away = false);
        for n in 0..self.nodes.len() {
            let is_ending = self.nodes[n].standing.why().is_some_and(|why| why.ends_with("was released"));
            if is_ending {
                self.end(n);
            }
            self.boot(n);
        }
    }

    fn end(&mut self, n: usize) {
        self.nodes[n].machine = None;
        self.nodes[n].life += 1;
        self.nodes[n].pending.clear();
    }

    fn outage(&mut self, n: usize, is_away: bool) {
        let next_ms = match is_away {
            true => self.below(180_000),
            false => self.below(self.weather.outage_every_ms * 2),
        };
        self.relays[n].is_away = is_away && !self.is_well;
        self.later(next_ms, What::Outage(n, !is_away));
    }

    fn stored(&mut self, relay: usize, event: Published, from: Option<(usize, u64, Round)>) {
        if self.relays[relay].is_away {
            return;
        }
        let kept = &mut self.relays[relay];
        let is_newer = kept.newest.as_ref().is_none_or(|newest| event.replaces(newest));
        if is_newer {
            kept.newest = Some(event.clone());
        }
        let is_taken = is_newer || kept.is_polite || kept.newest.as_ref() == Some(&event);
        if let Some((n, life, round)) = from {
            self.send(What::Taken(n, life, round, is_taken));
        }
        if is_newer && !self.weather.is_deaf {
            for n in 0..self.nodes.len() {
                self.send(What::Heard(n, self.nodes[n].life, event.clone()));
            }
        }
    }

    /// Tells a machine what came of a question or publication, once it is enough or too late.
    fn conclude(&mut self, n: usize, round: Round, is_late: bool) {
        let relays = self.relays.len();
        let is_enough = match self.nodes[n].pending.get(&round) {
            Some(Pending::Ask { enough, answered, .. }) => answered >= enough || *answered == relays,
            Some(Pending::Publish { enough, acks, replies, .. }) => acks >= enough || *replies == relays,
            None => return,
        };
        if !is_enough && !is_late {
            return;
        }
        let event = match self.nodes[n].pending.remove(&round) {
            Some(Pending::Ask { answered, leases, .. }) => Event::Answers { round, answered, leases },
            Some(Pending::Publish { id, acks, .. }) => {
                Event::Taken { round, id: Some(id), acks, said: Vec::new() }
            }
            None => return,
        };
        self.apply(n, event);
    }

    fn apply(&mut self, n: usize, event: Event) {
        let now_ms = self.clock_ms(n);
        let Some(machine) = &mut self.nodes[n].machine else { return };
        let actions = machine.apply(now_ms, event);
        self.act(n, actions);
    }

    fn act(&mut self, n: usize, actions: Vec<Action>) {
        let life = self.nodes[n].life;
        for action in actions {
            if !matches!(action, Action::Save(_)) {
                self.log.push(format!("{} node {n} {action:?}", self.now_ms - BEGIN_MS));
            }
            match action {
                Action::Save(kept) => self.nodes[n].kept = Some(kept),
                Action::Stand(standing) => self.nodes[n].standing = standing,
                Action::Ask { round, enough, within } => {
                    let pending = Pending::Ask { enough, answered: 0, leases: Vec::new() };
                    self.nodes[n].pending.insert(round, pending);
                    for relay in 0..self.relays.len() {
                        self.send(What::Asked(relay, (n, life, round)));
                    }
                    self.later(within.as_millis() as u64, What::Deadline(n, life, round));
                }
                Action::Publish { round, lease, at, enough, within } => {
                    let id = EventId::from_slice(&[self.id().0, self.id().0].concat()).unwrap();
                    let pending = Pending::Publish { enough, id, acks: 0, replies: 0 };
                    self.nodes[n].pending.insert(round, pending);
                    for relay in 0..self.relays.len() {
                        let event = Published { id, at, lease: lease.clone() };
                        self.send(What::Stored(relay, event, Some((n, life, round))));
                    }
                    self.later(within.as_millis() as u64, What::Deadline(n, life, round));
                }
                Action::End => self.nodes[n].machine = None,
            }
        }
        if let Some(wake_ms) = self.nodes[n].machine.as_ref().and_then(Machine::wake_ms) {
            let after_ms = wake_ms.saturating_sub(self.clock_ms(n));
            // Now and then a process is not scheduled for a while.
            let asleep_ms = if self.below(50) == 0 { self.below(100_000) } else { 0 };
            self.later(after_ms + asleep_ms, What::Wake(n, life));
        }
    }
}

fn weather() -> impl Strategy<Value = Weather> {
    let times = (20_000..600_000u64, 20_000..900_000u64, 10..2700u64);
    (any::<u64>(), 2..=3usize, 1..=4usize, 0..40u64, 0..20u64, times, any::<bool>()).prop_map(
        |(seed, nodes, relays, lost, late, (dies_every_ms, outage_every_ms, slow_ms), is_deaf)| Weather {
            seed,
            nodes,
            relays,
            lost,
            late,
            dies_every_ms,
            outage_every_ms,
            slow_ms,
            is_deaf,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn never_do_two_hold_and_in_the_end_one_does(weather in weather()) {
        let mut world = World::through_time(weather);
        world.run_until(BEGIN_MS + WRONG_MS);
        world.clear_up();
        world.run_until(BEGIN_MS + WRONG_MS + WELL_MS);
        let holders: Vec<_> = (0..world.nodes.len()).filter(|n| world.holds(*n)).collect();
        let standings: Vec<_> = world.nodes.iter().map(|node| &node.standing).collect();
        prop_assert_eq!(holders.len(), 1, "{:?}", standings);
        prop_assert!(world.holds > 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn of_those_who_claim_at_once_never_do_two_hold(weather in weather()) {
        let mut world = World::at_once(weather);
        world.run_until(BEGIN_MS + RACE_MS);
    }
}
