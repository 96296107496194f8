//! Commands that wait for a node which is away: each is done once, in sequence, with the caller's role of that moment,
//! although the node is killed while it does them.
//!
//! In each round the node is stopped and three people leave commands in a queue each, in a shuffled order: an operator;
//! one who was an operator and is none any more when the node comes back; one who becomes one meanwhile. The operator
//! also leaves one by `oa`, which waits for its answer. The node is started, killed with `kill -9` after some replies,
//! and started again. In the last round the operator, too, has no role after the kill.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use oa_nips::files::queued::{Command, EXPIRES_S_MAX, QueueId};
use oa_nips::files::{OpId, Request, Verb};
use oa_nips::hex::Hex;
use oa_nips::nostr::{Event, Keys, PublicKey, Timestamp};
use oa_node::codes;

use super::asker::{Held, read};
use super::plan::Act;
use super::stage::Stage;
use super::{Config, verdict::State};
use crate::client::forge::{now_s, wrap_rumor};
use crate::crash::plan::Dice;
use crate::hosts::Hosts;
use crate::world::{Done, Home, eventually, is};

/// Commands in the operator's queue.
const COMMANDS: u32 = 20;
/// Commands of each of the others.
const OTHERS: u32 = 5;
/// How long the commands of a round may take, over a network that loses.
const ROUND: Duration = Duration::from_secs(90);
/// How long the node may take to end.
const DRAIN: Duration = Duration::from_secs(50);
/// How long a reply that makes a kill due is waited for.
const CUE: Duration = Duration::from_secs(60);

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Commands left on the relay.
    pub left: u32,
    /// Rounds, and those whose kill hit a queue that was begun and not done.
    pub rounds: u32,
    /// See `rounds`.
    pub amid: u32,
    /// Commands of the round in which the operator lost its role that were done before.
    pub before_loss: usize,
    /// What must not be.
    pub violations: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { left, rounds, amid, before_loss, .. } = self;
        write!(
            f,
            "waiting commands  {left} in {rounds} rounds; {amid} kills hit a queue half done; \
             {before_loss} of {COMMANDS} were done when the operator lost its role"
        )
    }
}

/// Who leaves commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// An operator.
    Steady,
    /// An operator no more.
    Former,
    /// An operator from the next start on.
    Coming,
}

impl Who {
    const ALL: [Self; 3] = [Self::Former, Self::Coming, Self::Steady];

    fn commands(self) -> u32 {
        if self == Self::Steady { COMMANDS } else { OTHERS }
    }

    /// Where its commands of a round leave a line each.
    fn file(self, round: u32) -> String {
        format!("/memory/waiting/{round}-{self:?}").to_lowercase()
    }
}

/// All rounds.
pub(super) async fn run(
    config: &Config,
    hosts: &Hosts,
    stage: &mut Stage,
    say: &mut (dyn FnMut(String) + Send),
) -> Result<Tally> {
    let mut tally = Tally { rounds: config.rounds, ..Tally::default() };
    for round in 0..config.rounds {
        let scene = Scene {
            round,
            steady: stage.operator.clone(),
            former: Keys::generate(),
            coming: Keys::generate(),
            watcher: Keys::generate(),
            node: stage.node_key(),
            laptop: stage.laptop.clone(),
            is_last: round + 1 == config.rounds,
        };
        let half = scene
            .play(config.seed, hosts, stage, &mut tally)
            .await
            .with_context(|| format!("round {round}"))?;
        say(format!("round {round}: killed when {half} of {COMMANDS} commands were done"));
    }
    Ok(tally)
}

struct Scene {
    round: u32,
    steady: Keys,
    former: Keys,
    coming: Keys,
    /// An operator who only looks.
    watcher: Keys,
    node: PublicKey,
    laptop: Home,
    /// Whether the operator loses its role.
    is_last: bool,
}

impl Scene {
    /// One round; answers how many commands of the operator were done when the node was killed.
    async fn play(&self, seed: u64, hosts: &Hosts, stage: &mut Stage, tally: &mut Tally) -> Result<usize> {
        let mut dice = Dice::new(seed, "waiting", u64::from(self.round));
        // The former operator is one before; that commands are left by one who is known makes no difference later.
        stage.configure(&[&self.steady, &self.former].map(Keys::public_key))?;
        restart(stage).await?;
        stage.node.terminate(DRAIN).await?;
        let mut events = Vec::new();
        for who in Who::ALL {
            let mut queue = self.queue(who)?;
            shuffle(&mut queue, &mut dice);
            events.append(&mut queue);
        }
        tally.left += u32::try_from(events.len())? + 1;
        self.leave(hosts, events).await?;
        stage.configure(&[&self.steady, &self.coming, &self.watcher].map(Keys::public_key))?;
        let by_oa = self.by_oa(hosts);
        let killed = async {
            stage.node.restart().await?;
            // Replies come later than what they answer: most kills are to hit a queue half done.
            let mut left = 4 + dice.below(u64::from(COMMANDS / 2));
            let due = stage.node.wait_for(CUE, |event| {
                left -= u64::from(is(event, "mail_out"));
                left == 0
            });
            due.await.context("no reply to a command")?;
            stage.node.kill().await?;
            let half = done(&stage.look()?, &Who::Steady.file(self.round));
            if self.is_last {
                stage.configure(&[&self.coming, &self.watcher].map(Keys::public_key))?;
            }
            stage.node.restart().await?;
            self.settle(hosts).await?;
            anyhow::Ok(half)
        };
        let (half, by_oa) = tokio::join!(killed, by_oa);
        let half = half?;
        tally.amid += u32::from((1..COMMANDS as usize).contains(&half));
        if self.is_last {
            tally.before_loss = half;
        }
        tally.violations.extend(self.judge(half, &stage.look()?, &by_oa?));
        Ok(half)
    }

    /// The commands of one, in their order.
    fn queue(&self, who: Who) -> Result<Vec<Event>> {
        let keys = match who {
            Who::Steady => &self.steady,
            Who::Former => &self.former,
            Who::Coming => &self.coming,
        };
        let (queue, now_s): (QueueId, u64) = (fresh(), now_s());
        let command = |seq| {
            let act = Act::new(Verb::Append, &who.file(self.round), format!("{seq}\n"));
            let request = Request::new(fresh(), act.verb, act.path, act.body.into_bytes());
            let command = Command { queue, seq, request, expires_s: now_s + EXPIRES_S_MAX };
            let rumor = command.rumor(keys.public_key(), self.node, Timestamp::from_secs(now_s))?;
            wrap_rumor(keys, &self.node, &rumor)
        };
        (0..who.commands()).map(command).collect()
    }

    async fn leave(&self, hosts: &Hosts, events: Vec<Event>) -> Result<()> {
        let (node, keys) = (self.node, self.steady.clone());
        hosts
            .client
            .run(move || async move {
                let held = Held::connect(node, keys).await?;
                for event in &events {
                    held.put(event).await?;
                }
                held.close().await;
                Ok(())
            })
            .await
    }

    /// The operator's command by `oa`, which waits for its answer.
    async fn by_oa(&self, hosts: &Hosts) -> Result<Done> {
        let (home, round) = (self.laptop.clone(), self.round);
        let wait = if self.is_last { "--wait=5s" } else { "--wait=55s" };
        let run = move || async move {
            let path = format!("/agents/{}/memory/waiting/{round}-oa", super::plan::AGENT);
            home.oa(&["append", &path, "0\n", "--queue", wait]).await
        };
        hosts.client.run(run).await
    }

    /// Waits until everything that must be done is; what must not be done came before it.
    async fn settle(&self, hosts: &Hosts) -> Result<()> {
        let (node, keys, round, is_last) = (self.node, self.watcher.clone(), self.round, self.is_last);
        hosts
            .client
            .run(move || async move {
                let held = Held::connect(node, keys).await?;
                let whole = async |who: Who| {
                    eventually(ROUND, || async {
                        let bytes = read(&held, &who.file(round)).await?;
                        let lines: Vec<_> =
                            bytes.split(|byte| *byte == b'\n').map(String::from_utf8_lossy).collect();
                        ensure!(
                            lines.len() > who.commands() as usize,
                            "of {who:?} only these are done: {lines:?}"
                        );
                        Ok(())
                    })
                    .await
                };
                whole(Who::Coming).await?;
                if !is_last {
                    whole(Who::Steady).await?;
                }
                held.close().await;
                Ok(())
            })
            .await
    }

    /// What must not be.
    fn judge(&self, half: usize, state: &State, by_oa: &Done) -> Vec<String> {
        let mut found = Vec::new();
        for who in Who::ALL {
            let count = match who {
                Who::Former => 0,
                Who::Coming => OTHERS as usize,
                Who::Steady if self.is_last => half,
                Who::Steady => COMMANDS as usize,
            };
            let wanted: String = (0..count).map(|n| format!("{n}\n")).collect();
            let file = who.file(self.round);
            let there =
                state.files.get(&file).map(|bytes| String::from_utf8_lossy(bytes)).unwrap_or_default();
            if there != wanted {
                found.push(format!("round {}: {file} is {there:?}, not {wanted:?}", self.round));
            }
        }
        let times = done(state, &format!("/memory/waiting/{}-oa", self.round));
        let is_right = if by_oa.code == Some(0) { times == 1 } else { times <= 1 };
        if !is_right || (by_oa.code != Some(0) && !self.is_last) {
            found.push(format!("round {}: done {times} times, oa said {by_oa:?}", self.round));
        }
        found
    }
}

async fn restart(stage: &mut Stage) -> Result<()> {
    stage.node.terminate(DRAIN).await?;
    stage.node.restart().await.map(drop)
}

fn done(state: &State, file: &str) -> usize {
    state.files.get(file).map_or(0, |bytes| String::from_utf8_lossy(bytes).lines().count())
}

fn fresh() -> OpId {
    Hex(codes::random().first_chunk().copied().unwrap_or_default())
}

fn shuffle<T>(all: &mut [T], dice: &mut Dice) {
    for n in (1..all.len()).rev() {
        let other = usize::try_from(dice.below(n as u64 + 1)).unwrap_or_default();
        all.swap(n, other);
    }
}
