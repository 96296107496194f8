//! The counting service: does what it is told, once for each line that reaches it, and decides who dies.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::{Class, Config, Report, Told};

/// What is asked of the service, as a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ask {
    pub(super) class: Class,
    pub(super) key: String,
    /// Only asks whether it was done.
    pub(super) look_up: bool,
    /// Which envelope.
    pub(super) n: u32,
}

/// What is answered, likewise.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) done: bool,
}

/// When a kill hits a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hit {
    Before,
    Counted,
    Acked,
}

/// What was counted, and whom it killed.
#[derive(Debug)]
pub(super) struct Ledger {
    config: Config,
    state: Mutex<State>,
    kill: Notify,
    buried: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By class and key: times done, and the envelope.
    done: HashMap<(Class, String), (u32, u32)>,
    kills: [[u32; 3]; 3],
    random: u64,
}

impl Ledger {
    pub(super) fn new(config: Config) -> Self {
        let state = State { random: config.seed | 1, ..State::default() };
        Self { config, state: Mutex::new(state), kill: Notify::new(), buried: Notify::new() }
    }

    /// Waits until the child must die.
    pub(super) async fn next_kill(&self) {
        self.kill.notified().await;
    }

    /// The child is dead.
    pub(super) fn buried(&self) {
        self.buried.notify_waiters();
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether, and when, this call is hit: about every third, until each class has had its kills.
    fn hit(&self, class: Class) -> Option<Hit> {
        let mut state = self.state();
        let kills: u32 = state.kills.get(class as usize).map_or(0, |kills| kills.iter().sum());
        // xorshift64
        let mut x = state.random;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        state.random = x;
        if kills >= self.config.kills || !x.is_multiple_of(3) {
            return None;
        }
        let (hit, column) = match x / 3 % 3 {
            0 => (Hit::Before, 0),
            1 => (Hit::Counted, 1),
            _ => (Hit::Acked, 2),
        };
        if let Some(count) = state.kills.get_mut(class as usize).and_then(|kills| kills.get_mut(column)) {
            *count += 1;
        }
        Some(hit)
    }

    fn count(&self, ask: &Ask) {
        self.state().done.entry((ask.class, ask.key.clone())).or_insert((0, ask.n)).0 += 1;
    }

    async fn die(&self) {
        let buried = self.buried.notified();
        tokio::pin!(buried);
        buried.as_mut().enable();
        self.kill.notify_one();
        buried.await;
    }

    /// Compares what was done with what the program was told.
    pub(super) fn judge(&self, told: &[Vec<Told>]) -> Report {
        let state = self.state();
        let mut report = Report { kills: state.kills, ..Report::default() };
        for (n, calls) in told.iter().enumerate() {
            for (class, told) in Class::ALL.into_iter().zip(calls) {
                let of_it =
                    |((c, _), (_, m)): &(&(Class, String), &(u32, u32))| *c == class && *m as usize == n;
                let done: Vec<u32> = state.done.iter().filter(of_it).map(|(_, (times, _))| *times).collect();
                let is_right = match (class, told, done.as_slice()) {
                    (Class::Idempotent, Told::Done(_), [times]) => *times >= 1,
                    (Class::Queryable | Class::AtMostOnce, Told::Done(_), [1]) => true,
                    (Class::AtMostOnce, Told::Failed(code), [] | [1]) => {
                        report.unknown += 1;
                        code == "outcome_unknown"
                    }
                    _ => false,
                };
                if !is_right {
                    report.violations.push(format!("{class:?} of {n}: told {told:?}, done {done:?}"));
                }
            }
        }
        let [_, _, at_most_once] = state.kills;
        if report.unknown > at_most_once.iter().sum() {
            report.violations.push("more unknown outcomes than kills".to_owned());
        }
        report
    }
}

pub(super) async fn serve(listener: TcpListener, ledger: Arc<Ledger>) {
    while let Ok((socket, _)) = listener.accept().await {
        let ledger = ledger.clone();
        // A caller that was killed leaves a broken socket behind, which is what is tested.
        tokio::spawn(async move { drop(answer(socket, &ledger).await) });
    }
}

async fn answer(mut socket: TcpStream, ledger: &Ledger) -> Result<()> {
    let (read, mut write) = socket.split();
    let mut line = String::new();
    BufReader::new(read).read_line(&mut line).await?;
    let ask: Ask = serde_json::from_str(&line)?;
    if ask.look_up {
        let done = ledger.state().done.contains_key(&(ask.class, ask.key));
        return Ok(write.write_all(&serde_json::to_vec(&Answer { done })?).await?);
    }
    let hit = ledger.hit(ask.class);
    if hit == Some(Hit::Before) {
        ledger.die().await;
        return Ok(());
    }
    ledger.count(&ask);
    if hit == Some(Hit::Counted) {
        ledger.die().await;
        return Ok(());
    }
    write.write_all(&serde_json::to_vec(&Answer { done: true })?).await?;
    if hit == Some(Hit::Acked) {
        ledger.die().await;
    }
    Ok(())
}
