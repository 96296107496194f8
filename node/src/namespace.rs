//! The tree an agent lives in. What is not served here does not exist for it.
//!
//! A [`Namespace`] belongs to one tick. Reads see the agent's files as committed, with the tick's own writes laid
//! over them; [`Namespace::into_changes`] hands the writes to the commit. The parts served so far:
//!
//! | path | type | what |
//! |---|---|---|
//! | `/trigger` | value | what woke this tick |
//! | `/reply` | append | answers whoever the trigger came from |
//! | `/status` | value | name, lifecycle, queue, relays |
//! | `/identity/npub`, `/identity/pubkey` | value | who the agent is |
//! | `/memory/…`, `/goals/…` | files | the agent's state |
//! | `/schedule/<id>.json` | files | alarms |
//! | `/tmp/…` | files | scratch for one tick |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use oa_nips::mail::{TEXT_BYTES_MAX, fits_one_message};

pub mod path;

pub use path::Path;

/// Largest file an agent may write, in bytes.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;
/// All that one tick may write, in bytes.
pub const OVERLAY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why a file operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0}: no such file")]
    NotFound(String),
    #[error("{0}: not allowed")]
    PermissionDenied(String),
    #[error("{0}: is a folder")]
    IsDir(String),
    #[error("{path}: not a path: {reason}")]
    InvalidPath { path: String, reason: path::PathError },
    #[error("{path}: {reason}")]
    InvalidInput { path: String, reason: String },
    #[error("{path}: over {limit} bytes")]
    TooLarge { path: String, limit: usize },
    #[error("{path}: {reason}")]
    Io { path: String, reason: String },
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The last component.
    pub name: String,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// The agent's committed files, as they were when the tick began.
pub trait Committed: Debug + Send + Sync {
    /// A file's content.
    ///
    /// # Errors
    /// What the store said.
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, String>;

    /// Every file whose path begins with `prefix`.
    ///
    /// # Errors
    /// What the store said.
    fn paths(&self, prefix: &str) -> Result<Vec<String>, String>;
}

/// Checks and completes what a tick writes to `/schedule`.
pub trait ScheduleCheck: Debug + Send + Sync {
    /// Refuses what is no alarm, naming the field.
    ///
    /// # Errors
    /// A sentence for the program.
    fn check(&self, id: &str, content: &[u8]) -> Result<(), String>;
}

/// What is fixed when a tick begins: the value files.
#[derive(Debug, Clone, Default)]
pub struct Values {
    /// `/trigger`.
    pub trigger: Vec<u8>,
    /// `/status`.
    pub status: Vec<u8>,
    /// `/identity/npub`.
    pub npub: String,
    /// `/identity/pubkey`.
    pub pubkey: String,
}

/// What a tick wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Files of the agent's state and alarms; nothing for a removed one.
    pub files: BTreeMap<Path, Option<Vec<u8>>>,
    /// The reply, if one was written.
    pub reply: Option<String>,
}

/// One tick's view of its agent's world.
#[derive(Debug)]
pub struct Namespace {
    values: Values,
    committed: Arc<dyn Committed>,
    schedule: Arc<dyn ScheduleCheck>,
    overlay: BTreeMap<Path, Option<Vec<u8>>>,
    overlay_bytes: usize,
    reply: Vec<u8>,
}

/// What serves a path.
enum Place<'a> {
    Value(&'a [u8]),
    Reply,
    Stored,
    Alarm(String),
    Nowhere,
}

impl Namespace {
    /// The namespace of one tick.
    pub fn new(values: Values, committed: Arc<dyn Committed>, schedule: Arc<dyn ScheduleCheck>) -> Self {
        Self { values, committed, schedule, overlay: BTreeMap::new(), overlay_bytes: 0, reply: Vec::new() }
    }

    fn place(&self, path: &Path) -> Place<'_> {
        let mut parts = path.components();
        let (first, rest) = (parts.next(), parts.next());
        match (first, rest) {
            (Some("trigger"), None) => Place::Value(&self.values.trigger),
            (Some("status"), None) => Place::Value(&self.values.status),
            (Some("reply"), None) => Place::Reply,
            (Some("identity"), Some("npub")) => Place::Value(self.values.npub.as_bytes()),
            (Some("identity"), Some("pubkey")) => Place::Value(self.values.pubkey.as_bytes()),
            (Some("memory" | "goals" | "tmp"), Some(_)) => Place::Stored,
            (Some("schedule"), Some(name)) if parts.next().is_none() => {
                name.strip_suffix(".json").map_or(Place::Nowhere, |id| Place::Alarm(id.to_owned()))
            }
            _ => Place::Nowhere,
        }
    }

    /// A file's content, with this tick's own writes.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidPath`], [`Error::Io`]
    #[expect(clippy::unused_async, reason = "call files will wait; programs are written for that already")]
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        let path = parse(path)?;
        match self.place(&path) {
            Place::Value(bytes) => Ok(bytes.to_vec()),
            Place::Reply => Ok(self.reply.clone()),
            Place::Stored | Place::Alarm(_) => {
                self.stored(&path)?.ok_or_else(|| Error::NotFound(path.to_string()))
            }
            Place::Nowhere => Err(Error::NotFound(path.to_string())),
        }
    }

    /// Creates or replaces a file; to `/reply`, the whole answer.
    ///
    /// # Errors
    /// [`Error::PermissionDenied`] for what is read-only, [`Error::TooLarge`], [`Error::InvalidInput`]
    #[expect(clippy::unused_async, reason = "call files will wait; programs are written for that already")]
    pub async fn write(&mut self, path: &str, content: &[u8]) -> Result<(), Error> {
        let path = parse(path)?;
        self.put(path, content.to_vec())
    }

    /// Adds to the end of a file, creating it if needed.
    ///
    /// # Errors
    /// As [`Namespace::write`].
    #[expect(clippy::unused_async, reason = "call files will wait; programs are written for that already")]
    pub async fn append(&mut self, path: &str, content: &[u8]) -> Result<(), Error> {
        let path = parse(path)?;
        let mut whole = match self.place(&path) {
            Place::Reply => self.reply.clone(),
            _ => self.stored(&path)?.unwrap_or_default(),
        };
        whole.extend_from_slice(content);
        self.put(path, whole)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::PermissionDenied`]
    #[expect(clippy::unused_async, reason = "call files will wait; programs are written for that already")]
    pub async fn remove(&mut self, path: &str) -> Result<(), Error> {
        let path = parse(path)?;
        match self.place(&path) {
            Place::Stored | Place::Alarm(_) => {}
            Place::Value(_) | Place::Reply => return Err(Error::PermissionDenied(path.to_string())),
            Place::Nowhere => return Err(Error::NotFound(path.to_string())),
        }
        self.stored(&path)?.ok_or_else(|| Error::NotFound(path.to_string()))?;
        self.overlay.insert(path, None);
        Ok(())
    }

    /// The entries of a folder, sorted by name. A folder that holds nothing is empty, not missing.
    ///
    /// # Errors
    /// [`Error::InvalidPath`], [`Error::Io`]
    #[expect(clippy::unused_async, reason = "call files will wait; programs are written for that already")]
    pub async fn list(&self, path: &str) -> Result<Vec<Entry>, Error> {
        let path = parse(path)?;
        if path == Path::root() {
            let dir = |name: &str| Entry { name: name.to_owned(), is_dir: true };
            let file = |name: &str| Entry { name: name.to_owned(), is_dir: false };
            let dirs = ["goals", "identity", "memory", "schedule", "tmp"].map(dir);
            let files = ["reply", "status", "trigger"].map(file);
            return Ok(dirs.into_iter().chain(files).collect::<BTreeSet<_>>().into_iter().collect());
        }
        let prefix = path.beneath();
        let mut paths: BTreeSet<String> =
            self.committed.paths(&prefix).map_err(|reason| io(&path, reason))?.into_iter().collect();
        for (changed, content) in &self.overlay {
            if content.is_some() && changed.as_str().starts_with(&prefix) {
                paths.insert(changed.to_string());
            } else {
                paths.remove(changed.as_str());
            }
        }
        if path.as_str() == "/identity" {
            paths.extend(["/identity/npub".to_owned(), "/identity/pubkey".to_owned()]);
        }
        let entry = |full: &String| {
            let rest = full.strip_prefix(&prefix)?;
            let (name, is_dir) = rest.split_once('/').map_or((rest, false), |(name, _)| (name, true));
            Some(Entry { name: name.to_owned(), is_dir })
        };
        Ok(paths.iter().filter_map(entry).collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// What the tick wrote, for its commit.
    ///
    /// # Errors
    /// When the reply is not UTF-8.
    pub fn into_changes(self) -> Result<Changes, Error> {
        let reply = String::from_utf8(self.reply).map_err(|error| Error::InvalidInput {
            path: "/reply".to_owned(),
            reason: format!("not UTF-8: {error}"),
        })?;
        let files = self.overlay.into_iter().filter(|(path, _)| path.strip("/tmp").is_none()).collect();
        Ok(Changes { files, reply: (!reply.is_empty()).then_some(reply) })
    }

    fn stored(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        match self.overlay.get(path) {
            Some(content) => Ok(content.clone()),
            None if path.strip("/tmp").is_some() => Ok(None),
            None => self.committed.read(path).map_err(|reason| io(path, reason)),
        }
    }

    fn put(&mut self, path: Path, content: Vec<u8>) -> Result<(), Error> {
        let limit = match self.place(&path) {
            Place::Value(_) => return Err(Error::PermissionDenied(path.to_string())),
            Place::Nowhere => return Err(Error::NotFound(path.to_string())),
            Place::Reply if !fits_one_message(&String::from_utf8_lossy(&content)) => 0,
            Place::Reply => TEXT_BYTES_MAX,
            Place::Stored => FILE_BYTES_MAX,
            Place::Alarm(id) => {
                let check = self.schedule.check(&id, &content);
                check.map_err(|reason| Error::InvalidInput { path: path.to_string(), reason })?;
                FILE_BYTES_MAX
            }
        };
        if content.len() > limit {
            // What grows when it is escaped is too large although it has fewer bytes.
            let limit = if limit == 0 { TEXT_BYTES_MAX } else { limit };
            return Err(Error::TooLarge { path: path.to_string(), limit });
        }
        if matches!(self.place(&path), Place::Reply) {
            self.reply = content;
            return Ok(());
        }
        let replaced = self.overlay.get(&path).and_then(Option::as_ref).map_or(0, Vec::len);
        let bytes = self.overlay_bytes - replaced + content.len();
        if bytes > OVERLAY_BYTES_MAX {
            return Err(Error::TooLarge { path: path.to_string(), limit: OVERLAY_BYTES_MAX });
        }
        self.overlay_bytes = bytes;
        self.overlay.insert(path, Some(content));
        Ok(())
    }
}

fn parse(path: &str) -> Result<Path, Error> {
    path.parse().map_err(|reason| Error::InvalidPath { path: path.chars().take(200).collect(), reason })
}

fn io(path: &Path, reason: String) -> Error {
    Error::Io { path: path.to_string(), reason }
}

/// A committed state held in memory: for programs under test.
#[derive(Debug, Default, Clone)]
pub struct MemoryState(pub BTreeMap<String, Vec<u8>>);

impl Committed for MemoryState {
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, String> {
        Ok(self.0.get(path.as_str()).cloned())
    }

    fn paths(&self, prefix: &str) -> Result<Vec<String>, String> {
        Ok(self.0.keys().filter(|path| path.starts_with(prefix)).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct NoAlarms;

    impl ScheduleCheck for NoAlarms {
        fn check(&self, _: &str, _: &[u8]) -> Result<(), String> {
            Err("text: missing".to_owned())
        }
    }

    fn namespace() -> Namespace {
        let state = MemoryState(BTreeMap::from([
            ("/memory/a".to_owned(), b"old".to_vec()),
            ("/memory/notes/1".to_owned(), b"one".to_vec()),
        ]));
        let values = Values { trigger: b"{}".to_vec(), ..Values::default() };
        Namespace::new(values, Arc::new(state), Arc::new(NoAlarms))
    }

    #[tokio::test]
    async fn reads_see_the_overlay_and_the_commit_gets_it() {
        let mut ns = namespace();
        ns.write("/memory/a", b"new").await.unwrap();
        ns.append("/memory/a", b"er").await.unwrap();
        ns.remove("/memory/notes/1").await.unwrap();
        ns.write("/tmp/x", b"scratch").await.unwrap();
        ns.append("/reply", b"hel").await.unwrap();
        ns.append("/reply", b"lo").await.unwrap();
        assert_eq!(ns.read("/memory/a").await.unwrap(), b"newer");
        assert_eq!(ns.read("/memory/notes/1").await, Err(Error::NotFound("/memory/notes/1".into())));
        let names: Vec<_> = ns.list("/memory").await.unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["a"]);
        let changes = ns.into_changes().unwrap();
        assert_eq!(changes.reply.as_deref(), Some("hello"));
        assert_eq!(changes.files.len(), 2);
    }

    #[tokio::test]
    async fn what_is_read_only_missing_or_no_path_is_refused() {
        let mut ns = namespace();
        assert!(matches!(ns.write("/trigger", b"").await, Err(Error::PermissionDenied(_))));
        assert!(matches!(ns.write("/etc/passwd", b"").await, Err(Error::NotFound(_))));
        assert!(matches!(ns.read("/memory/../trigger").await, Err(Error::InvalidPath { .. })));
        assert!(matches!(ns.write("/schedule/x.json", b"{}").await, Err(Error::InvalidInput { .. })));
        let large = vec![0; FILE_BYTES_MAX + 1];
        assert!(matches!(ns.write("/memory/a", &large).await, Err(Error::TooLarge { .. })));
        assert!(matches!(ns.write("/reply", &[b'x'; TEXT_BYTES_MAX + 1]).await, Err(Error::TooLarge { .. })));
        // A control character takes six bytes of JSON.
        assert!(matches!(ns.write("/reply", &[1; TEXT_BYTES_MAX]).await, Err(Error::TooLarge { .. })));
        ns.write("/reply", &[b'x'; TEXT_BYTES_MAX]).await.unwrap();
        let file = vec![0; FILE_BYTES_MAX];
        for n in 0..8 {
            ns.write(&format!("/memory/{n}"), &file).await.unwrap();
        }
        assert!(matches!(ns.write("/memory/9", &file).await, Err(Error::TooLarge { .. })));
    }
}
