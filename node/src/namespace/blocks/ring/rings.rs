//! Many rings under one budget: those of the agents, by name. The least recently used let their bytes go first.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Ring;
use crate::agent::AgentId;
use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::service::{Answer, Context, FileService, FileType, Span, Stat, Watch, dir, file};

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Bytes of one ring.
    pub ring_bytes_max: usize,
    /// Bytes of all rings.
    pub bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { ring_bytes_max: 256 * 1024, bytes_max: 64 * 1024 * 1024 }
    }
}

/// The rings of many agents.
#[derive(Debug, Default)]
pub struct Rings {
    config: Config,
    rings: Mutex<Table>,
    /// Bytes of all rings.
    used: Arc<AtomicUsize>,
    /// Counts uses.
    uses: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    agents: HashMap<AgentId, BTreeMap<String, Arc<Ring>>>,
    /// Where new rings start: no earlier than any that was forgotten ended, so that a reader who comes back with an
    /// offset of before finds that it missed something.
    start: u64,
}

impl Rings {
    /// No rings yet.
    pub fn new(config: Config) -> Self {
        Self { config, ..Self::default() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self, ring: &Ring) {
        ring.used_at.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// An agent's ring of this name; an empty one if there was none.
    pub fn ring(&self, agent: AgentId, name: &str) -> Arc<Ring> {
        let mut table = self.table();
        let start = table.start;
        let names = table.agents.entry(agent).or_default();
        let ring = match names.get(name) {
            Some(ring) => Arc::clone(ring),
            None => {
                let ring = Ring::starting(start, self.config.ring_bytes_max, Arc::clone(&self.used));
                let ring = Arc::new(ring);
                names.insert(name.to_owned(), Arc::clone(&ring));
                ring
            }
        };
        self.touch(&ring);
        ring
    }

    /// An agent's ring of this name, if something was pushed to it lately.
    pub fn get(&self, agent: AgentId, name: &str) -> Option<Arc<Ring>> {
        let ring = self.table().agents.get(&agent)?.get(name).cloned()?;
        self.touch(&ring);
        Some(ring)
    }

    /// Whether an agent has any ring.
    pub fn is_open(&self, agent: AgentId) -> bool {
        // Without any ring there is nothing to look through, and this is asked often.
        self.bytes() > 0 && self.table().agents.contains_key(&agent)
    }

    /// Adds a line to an agent's ring of this name, and makes room elsewhere if that is needed.
    pub fn push_line(&self, agent: AgentId, name: &str, line: impl AsRef<[u8]>) {
        self.ring(agent, name).push_line(line);
        if self.bytes() > self.config.bytes_max {
            self.make_room();
        }
    }

    /// Bytes of all rings.
    pub fn bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Where a ring would start that does not exist.
    fn start(&self) -> u64 {
        self.table().start
    }

    /// Forgets an agent's rings.
    pub fn remove(&self, agent: AgentId) {
        let mut table = self.table();
        let names = table.agents.remove(&agent).unwrap_or_default();
        let end = names.values().map(|ring| ring.end()).max().unwrap_or_default();
        table.start = table.start.max(end);
    }

    /// Empties rings until an eighth of the budget is free, so that not every line has to look for room.
    fn make_room(&self) {
        let mut table = self.table();
        let target = self.config.bytes_max / 8 * 7;
        let mut oldest: Vec<(u64, Arc<Ring>)> = table
            .agents
            .values()
            .flat_map(BTreeMap::values)
            .map(|ring| (ring.used_at.load(Ordering::Relaxed), Arc::clone(ring)))
            .collect();
        oldest.sort_by_key(|(used_at, _)| *used_at);
        for (_, ring) in oldest {
            if self.bytes() <= target {
                break;
            }
            ring.empty();
        }
        let Table { agents, start } = &mut *table;
        for names in agents.values_mut() {
            // Whoever holds a ring or watches it goes on with it; under the table's lock nobody new gets hold of one.
            names.retain(|_, ring| {
                let stays = ring.size() > 0 || ring.is_watched() || Arc::strong_count(ring) > 1;
                if !stays {
                    *start = (*start).max(ring.end());
                }
                stays
            });
        }
        agents.retain(|_, names| !names.is_empty());
    }
}

/// The folder of an agent's rings of these names, whether something was pushed to them or not.
#[derive(Debug)]
pub struct Folder {
    rings: Arc<Rings>,
    /// Sorted.
    names: Vec<String>,
}

impl Folder {
    /// A folder for every agent.
    pub fn new<N: Into<String>>(rings: Arc<Rings>, names: impl IntoIterator<Item = N>) -> Self {
        let mut names: Vec<String> = names.into_iter().map(Into::into).collect();
        names.sort();
        Self { rings, names }
    }

    /// The name that a path is, and the agent; no name for the folder itself.
    fn find<'a>(&self, cx: &Context<'_>, path: &'a Path) -> Result<(AgentId, Option<&'a str>), Error> {
        let agent = cx.subject()?.row.id;
        let mut parts = path.components();
        let name = parts.next();
        if name.is_some_and(|name| !self.names.iter().any(|known| known == name)) {
            return Err(Error::not_found(path));
        }
        if parts.next().is_some() { Err(Error::not_dir(path)) } else { Ok((agent, name)) }
    }

    fn line(&self, agent: AgentId, name: &str) -> Stat {
        let size = self.rings.get(agent, name).map_or_else(|| self.rings.start(), |ring| ring.end());
        file(name, FileType::Stream, size)
    }
}

impl FileService for Folder {
    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async move {
            match self.find(cx, path)? {
                (agent, Some(name)) => Ok(self.line(agent, name)),
                (_, None) => Ok(dir("")),
            }
        })
    }

    fn list<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move {
            match self.find(cx, path)? {
                (_, Some(_)) => Err(Error::not_dir(path)),
                (agent, None) => Ok(self.names.iter().map(|name| self.line(agent, name)).collect()),
            }
        })
    }

    fn read<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            let (agent, name) = self.find(cx, path)?;
            let name = name.ok_or_else(|| Error::is_dir(path))?;
            Ok(self.rings.get(agent, name).map(|ring| ring.read(span).bytes).unwrap_or_default())
        })
    }

    fn watch(&self, cx: &Context<'_>, path: &Path) -> Result<Watch, Error> {
        let (agent, name) = self.find(cx, path)?;
        let name = name.ok_or_else(|| Error::is_dir(path))?;
        Ok(self.rings.ring(agent, name).watch())
    }

    fn start(&self, cx: &Context<'_>, path: &Path) -> u64 {
        let Ok((agent, Some(name))) = self.find(cx, path) else { return 0 };
        self.rings.get(agent, name).map_or_else(|| self.rings.start(), |ring| ring.start())
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::files::Code;

    use super::super::super::conformance::Driver;
    use super::*;

    const SMALL: Config = Config { ring_bytes_max: 4000, bytes_max: 16_000 };

    #[test]
    fn the_least_recently_used_lets_go_first_and_the_budget_holds() {
        let rings = Rings::new(SMALL);
        for agent in 0..4 {
            (0..10).for_each(|_| rings.push_line(AgentId(agent), "trace", [b'x'; 299]));
        }
        let size = |agent| rings.table().agents.get(&AgentId(agent)).map_or(0, |names| names["trace"].size());
        assert_eq!([0, 1, 2, 3].map(size), [3000; 4]);
        // Looked at, so no longer the oldest.
        assert!(rings.get(AgentId(0), "trace").is_some());
        (0..10).for_each(|_| rings.push_line(AgentId(4), "trace", [b'x'; 299]));
        assert_eq!([0, 1, 2, 3, 4].map(size), [3000, 0, 3000, 3000, 3000]);
        for round in 0..1000 {
            rings.push_line(AgentId(round % 100), "trace", [b'x'; 299]);
            assert!(rings.bytes() <= SMALL.bytes_max);
        }
        assert!(rings.table().agents.len() < 100, "empty ones are forgotten");
    }

    #[test]
    fn what_comes_after_a_ring_that_was_forgotten_is_told_apart_from_it() {
        let rings = Rings::new(SMALL);
        rings.push_line(AgentId(1), "trace", [b'x'; 999]);
        let end = rings.ring(AgentId(1), "trace").end();
        rings.remove(AgentId(1));
        assert_eq!(rings.bytes(), 0);
        rings.push_line(AgentId(1), "trace", "new");
        assert!(rings.ring(AgentId(1), "trace").start() >= end);
    }

    #[test]
    fn who_watches_is_not_left_with_a_ring_that_nobody_pushes_to() {
        let rings = Rings::new(SMALL);
        rings.push_line(AgentId(1), "trace", "one");
        let watch = rings.ring(AgentId(1), "trace").watch();
        for agent in 2..9 {
            (0..10).for_each(|_| rings.push_line(AgentId(agent), "trace", [b'x'; 299]));
        }
        assert_eq!(rings.ring(AgentId(1), "trace").size(), 0);
        rings.push_line(AgentId(1), "trace", "two");
        assert!(watch.has_changed().unwrap());
        assert_eq!(*watch.borrow(), 8, "offsets go on");
    }

    #[tokio::test]
    async fn a_folder_shows_each_agent_its_own() {
        let rings = Arc::new(Rings::default());
        let driver = Driver::new(Arc::new(Folder::new(Arc::clone(&rings), ["trace", "stdout"])));
        assert_eq!(driver.names("/").await.unwrap(), ["stdout", "trace"]);
        assert_eq!(driver.read("/trace").await.unwrap(), b"");
        let watch = driver.watch("/trace").unwrap();
        rings.push_line(AgentId(8), "trace", "another's");
        assert!(!watch.has_changed().unwrap());
        rings.push_line(AgentId(7), "trace", "mine");
        assert!(watch.has_changed().unwrap());
        assert_eq!(driver.read("/trace").await.unwrap(), b"mine\n");
        assert_eq!(driver.stat("/trace").await.unwrap(), file("trace", FileType::Stream, 5));
        assert_eq!(driver.start("/trace"), 0);
        assert_eq!(driver.read("/secret").await, Err(Code::NotFound));
        assert_eq!(driver.read("/trace/x").await, Err(Code::NotDir));
        assert_eq!(driver.read("/").await, Err(Code::IsDir));
    }
}
