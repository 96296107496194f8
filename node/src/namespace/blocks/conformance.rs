//! What every writable block must do: one list of what the verbs mean, and random operations against a model that
//! shares no code with any of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use oa_nips::files::{Code, FileType, Stat};
use oa_nips::nostr::Keys;
use proptest::prelude::*;

use super::memory;
use crate::agent::manifest::Manifest;
use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::rights::Role;
use crate::namespace::service::{Change, Class, Context, FileService, LookUp, Span, State, Subject, Watch};
use crate::store::row::AgentRow;

/// The limits that the suite expects.
pub(super) const LIMITS: memory::Config =
    memory::Config { file_bytes_max: 4096, bytes_max: 1 << 20, entries_max: 10_000 };

pub(super) fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn write(content: &[u8]) -> Change {
    Change::Write(content.to_vec())
}

fn append(more: &[u8]) -> Change {
    Change::Append(more.to_vec())
}

fn rename(to: &str) -> Change {
    Change::Rename(path(to))
}

/// An agent's files, as the effects of changes leave them.
#[derive(Debug, Default)]
pub(super) struct Files(pub(super) BTreeMap<Path, Vec<u8>>);

impl State for Files {
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.get(path).cloned())
    }

    fn paths(&self, prefix: &str) -> Result<Vec<String>, Error> {
        Ok(self.0.keys().map(ToString::to_string).filter(|path| path.starts_with(prefix)).collect())
    }
}

/// Asks a service as a tick does, and commits what comes of it.
#[derive(Debug)]
pub(super) struct Driver {
    service: Arc<dyn FileService>,
    pub(super) state: Files,
    row: AgentRow,
    manifest: Manifest,
    is_agents: bool,
}

impl Driver {
    pub(super) fn new(service: Arc<dyn FileService>) -> Self {
        let keys = Keys::parse(&format!("{:064x}", 7)).unwrap();
        let row = serde_json::json!({
            "id": 7, "name": "alice", "pubkey": keys.public_key(), "created_at_ms": 0, "lifecycle": "active",
            "version": 1, "lease_epoch": 0, "owner": null, "floor_s": 0, "session": "0".repeat(32),
            "head": oa_nips::record::Head::GENESIS, "published": 0,
            "inbox_next": 0, "inbox_depth": 0, "inbox_strangers": 0,
            "outbox_next": 0, "dead_next": 0, "refused_next": 0, "failures": 0,
        });
        let row = serde_json::from_value(row).unwrap();
        Self {
            service,
            state: Files::default(),
            row,
            manifest: Manifest::new("alice", "echo"),
            is_agents: true,
        }
    }

    /// Asks in nobody's tree.
    pub(super) fn without_agent(self) -> Self {
        Self { is_agents: false, ..self }
    }

    fn cx(&self) -> Context<'_> {
        let subject = Subject { row: &self.row, manifest: &self.manifest, state: &self.state };
        Context {
            role: Role::Agent,
            caller: self.row.pubkey,
            subject: self.is_agents.then_some(subject),
            wake: None,
            now_ms: 0,
            key: [0; 32],
        }
    }

    pub(super) async fn apply(&mut self, at: &str, change: Change) -> Result<Vec<u8>, Code> {
        let at = path(at);
        if self.service.class(&at, &change) != Class::Transactional {
            return self.service.act(&self.cx(), &at, &change).await.map_err(|error| error.code);
        }
        let effect = self.service.change(&self.cx(), &at, &change).await.map_err(|error| error.code)?;
        for (path, content) in effect.files {
            match content {
                Some(content) => self.state.0.insert(path, content),
                None => self.state.0.remove(&path),
            };
        }
        Ok(effect.reply)
    }

    pub(super) async fn stat(&self, at: &str) -> Result<Stat, Code> {
        self.service.stat(&self.cx(), &path(at)).await.map_err(|error| error.code)
    }

    pub(super) async fn read(&self, at: &str) -> Result<Vec<u8>, Code> {
        self.service.read(&self.cx(), &path(at), Span::ALL).await.map_err(|error| error.code)
    }

    pub(super) async fn read_span(&self, at: &str, offset: u64, count: usize) -> Result<Vec<u8>, Code> {
        let span = Span { offset, count };
        self.service.read(&self.cx(), &path(at), span).await.map_err(|error| error.code)
    }

    pub(super) async fn list(&self, at: &str) -> Result<Vec<Stat>, Code> {
        self.service.list(&self.cx(), &path(at)).await.map_err(|error| error.code)
    }

    pub(super) async fn look_up(&self, at: &str, change: Change) -> Result<LookUp, Code> {
        self.service.look_up(&self.cx(), &path(at), &change).await.map_err(|error| error.code)
    }

    pub(super) fn watch(&self, at: &str) -> Result<Watch, Code> {
        self.service.watch(&self.cx(), &path(at)).map_err(|error| error.code)
    }

    pub(super) fn start(&self, at: &str) -> u64 {
        self.service.start(&self.cx(), &path(at))
    }

    /// The names in a folder; those of folders end with a slash.
    pub(super) async fn names(&self, at: &str) -> Result<Vec<String>, Code> {
        let name = |stat: Stat| if stat.file_type == FileType::Dir { stat.name + "/" } else { stat.name };
        Ok(self.list(at).await?.into_iter().map(name).collect())
    }

    /// Everything there is, by path; nothing for a folder.
    pub(super) async fn walk(&self) -> BTreeMap<String, Option<Vec<u8>>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![Path::root()];
        while let Some(folder) = folders.pop() {
            let listed = self.list(folder.as_str()).await.unwrap();
            assert!(listed.is_sorted_by(|a, b| a.name < b.name), "{folder}: {listed:?}");
            for stat in listed {
                let at = folder.join(&stat.name).unwrap();
                assert_eq!(self.stat(at.as_str()).await.as_ref(), Ok(&stat), "{at}");
                if stat.file_type == FileType::Dir {
                    found.insert(at.to_string(), None);
                    folders.push(at);
                } else {
                    let content = self.read(at.as_str()).await.unwrap();
                    assert_eq!(content.len() as u64, stat.size, "{at}");
                    found.insert(at.to_string(), Some(content));
                }
            }
        }
        found
    }
}

/// Every verb and every refusal, on an empty folder.
pub(super) async fn suite(folder: &mut Driver) {
    files(folder).await;
    folders(folder).await;
    renames(folder).await;
    limits(folder).await;
}

async fn files(it: &mut Driver) {
    assert_eq!(it.names("/").await.unwrap(), [""; 0]);
    assert_eq!(it.stat("/").await.unwrap().file_type, FileType::Dir);
    assert_eq!(it.apply("/f", write(b"one")).await, Ok(vec![]));
    assert_eq!(it.apply("/f", append(b" two")).await, Ok(vec![]));
    assert_eq!(it.apply("/new", append(b"three")).await, Ok(vec![]));
    assert_eq!(it.read("/f").await.unwrap(), b"one two");
    assert_eq!(it.read_span("/f", 2, 3).await.unwrap(), b"e t");
    assert_eq!(it.read_span("/f", 7, 3).await.unwrap(), b"");
    assert_eq!(it.read_span("/f", u64::MAX, 3).await.unwrap(), b"");
    assert_eq!(it.apply("/f", write(b"")).await, Ok(vec![]), "an empty file is a file");
    assert_eq!(it.stat("/f").await.unwrap().size, 0);
    assert_eq!(it.names("/").await.unwrap(), ["f", "new"]);
    assert_eq!(it.stat("/new").await.unwrap().size, 5);
    assert_eq!(it.stat("/none").await, Err(Code::NotFound));
    assert_eq!(it.read("/none").await, Err(Code::NotFound));
    assert_eq!(it.list("/none").await, Err(Code::NotFound));
    assert_eq!(it.list("/f").await, Err(Code::NotDir));
    assert_eq!(it.stat("/f/x").await, Err(Code::NotDir));
    assert_eq!(it.read("/").await, Err(Code::IsDir));
    assert_eq!(it.apply("/none/x", write(b"")).await, Err(Code::NotFound));
    assert_eq!(it.apply("/none/x", append(b"")).await, Err(Code::NotFound));
    assert_eq!(it.apply("/f/x", write(b"")).await, Err(Code::NotDir));
    assert_eq!(it.apply("/", write(b"")).await, Err(Code::IsDir));
    assert_eq!(it.apply("/", append(b"")).await, Err(Code::IsDir));
    assert_eq!(it.apply("/f", Change::Call(vec![])).await, Err(Code::PermissionDenied));
    assert_eq!(it.apply("/new", Change::Remove).await, Ok(vec![]));
    assert_eq!(it.apply("/new", Change::Remove).await, Err(Code::NotFound));
    // Names that mean something elsewhere are plain names.
    let names = ["．．", "∕etc∕passwd", "..x", "~", "-rf", "C:\\x", "%2e%2e", "e\u{301}", "é"];
    for name in names {
        assert_eq!(it.apply(&format!("/{name}"), write(name.as_bytes())).await, Ok(vec![]), "{name}");
    }
    for name in names {
        assert_eq!(it.read(&format!("/{name}")).await.unwrap(), name.as_bytes());
        assert_eq!(it.apply(&format!("/{name}"), Change::Remove).await, Ok(vec![]));
    }
    assert_eq!(it.apply("/f", Change::Remove).await, Ok(vec![]));
}

async fn folders(it: &mut Driver) {
    assert_eq!(it.apply("/", Change::Mkdir).await, Err(Code::Exists));
    assert_eq!(it.apply("/d", Change::Mkdir).await, Ok(vec![]));
    assert_eq!(it.apply("/d", Change::Mkdir).await, Err(Code::Exists));
    assert_eq!(it.apply("/none/d", Change::Mkdir).await, Err(Code::NotFound));
    assert_eq!(it.apply("/d", write(b"")).await, Err(Code::IsDir));
    assert_eq!(it.apply("/d", append(b"")).await, Err(Code::IsDir));
    assert_eq!(it.read("/d").await, Err(Code::IsDir));
    assert_eq!(it.names("/d").await.unwrap(), [""; 0]);
    assert_eq!(it.apply("/d/f", write(b"x")).await, Ok(vec![]));
    assert_eq!(it.apply("/d/f", Change::Mkdir).await, Err(Code::Exists));
    assert_eq!(it.apply("/d/f/d", Change::Mkdir).await, Err(Code::NotDir));
    assert_eq!(it.apply("/d", Change::Remove).await, Err(Code::Exists), "holds something");
    assert_eq!(it.apply("/", Change::Remove).await, Err(Code::PermissionDenied));
    assert_eq!(it.apply("/d/f", Change::Remove).await, Ok(vec![]));
    assert_eq!(it.names("/").await.unwrap(), ["d/"], "a folder stays when it is emptied");
    assert_eq!(it.apply("/d", Change::Remove).await, Ok(vec![]));
    assert_eq!(it.stat("/d").await, Err(Code::NotFound));
}

async fn renames(it: &mut Driver) {
    for (at, change) in [
        ("/d", Change::Mkdir),
        ("/d/sub", Change::Mkdir),
        ("/d/sub/f", write(b"deep")),
        ("/empty", Change::Mkdir),
        ("/f", write(b"f")),
        ("/g", write(b"g")),
    ] {
        assert_eq!(it.apply(at, change).await, Ok(vec![]), "{at}");
    }
    assert_eq!(it.apply("/none", rename("/x")).await, Err(Code::NotFound));
    assert_eq!(it.apply("/", rename("/x")).await, Err(Code::PermissionDenied));
    assert_eq!(it.apply("/f", rename("/")).await, Err(Code::PermissionDenied));
    assert_eq!(it.apply("/f", rename("/none/x")).await, Err(Code::NotFound));
    assert_eq!(it.apply("/f", rename("/g/x")).await, Err(Code::NotDir));
    assert_eq!(it.apply("/f", rename("/d")).await, Err(Code::IsDir));
    assert_eq!(it.apply("/d", rename("/f")).await, Err(Code::NotDir));
    assert_eq!(it.apply("/empty", rename("/d")).await, Err(Code::Exists));
    assert_eq!(it.apply("/d", rename("/d/sub/x")).await, Err(Code::InvalidInput));
    assert_eq!(it.apply("/f", rename("/f")).await, Ok(vec![]));
    assert_eq!(it.apply("/f", rename("/g")).await, Ok(vec![]));
    assert_eq!(it.read("/g").await.unwrap(), b"f");
    assert_eq!(it.apply("/d", rename("/empty")).await, Ok(vec![]));
    assert_eq!(it.read("/empty/sub/f").await.unwrap(), b"deep");
    assert_eq!(it.names("/").await.unwrap(), ["empty/", "g"]);
    assert_eq!(it.stat("/d").await, Err(Code::NotFound));
    for at in ["/empty/sub/f", "/empty/sub", "/empty", "/g"] {
        assert_eq!(it.apply(at, Change::Remove).await, Ok(vec![]));
    }
}

async fn limits(it: &mut Driver) {
    let most = vec![b'x'; LIMITS.file_bytes_max];
    assert_eq!(it.apply("/f", write(&most)).await, Ok(vec![]));
    assert_eq!(it.apply("/f", append(b"x")).await, Err(Code::TooLarge));
    assert_eq!(it.apply("/g", write(&[most.as_slice(), b"x"].concat())).await, Err(Code::TooLarge));
    assert_eq!(it.read("/f").await.unwrap(), most);
    assert_eq!(it.names("/").await.unwrap(), ["f"]);
    assert_eq!(it.apply("/f", Change::Remove).await, Ok(vec![]));
}

/// What a plain folder does, in the most plain way: every path with its content, nothing for a folder.
#[derive(Debug, Clone, Default)]
pub(super) struct Model(pub(super) BTreeMap<String, Option<Vec<u8>>>);

impl Model {
    fn parent(&self, at: &Path) -> Result<(), Code> {
        let mut folder = at.parent();
        let mut result = Ok(());
        while folder != Path::root() {
            match self.0.get(folder.as_str()) {
                Some(None) => {}
                Some(Some(_)) => result = Err(Code::NotDir),
                None => result = Err(Code::NotFound),
            }
            folder = folder.parent();
        }
        result
    }

    fn get(&self, at: &Path) -> Result<&Option<Vec<u8>>, Code> {
        self.parent(at)?;
        self.0.get(at.as_str()).ok_or(Code::NotFound)
    }

    fn is_empty(&self, at: &Path) -> bool {
        !self.0.keys().any(|path| path.starts_with(&at.beneath()))
    }

    fn put(&mut self, at: &Path, content: Vec<u8>) -> Result<(), Code> {
        if *at == Path::root() {
            return Err(Code::IsDir);
        }
        self.parent(at)?;
        if let Some(None) = self.0.get(at.as_str()) {
            return Err(Code::IsDir);
        }
        if content.len() > LIMITS.file_bytes_max {
            return Err(Code::TooLarge);
        }
        self.0.insert(at.to_string(), Some(content));
        Ok(())
    }

    fn rename(&mut self, at: &Path, to: &Path) -> Result<(), Code> {
        let from = self.get(at)?.clone();
        if *to == Path::root() {
            return Err(Code::PermissionDenied);
        }
        if at == to {
            return Ok(());
        }
        if from.is_none() && to.as_str().starts_with(&at.beneath()) {
            return Err(Code::InvalidInput);
        }
        self.parent(to)?;
        match (&from, self.0.get(to.as_str())) {
            (None, Some(Some(_))) => return Err(Code::NotDir),
            (Some(_), Some(None)) => return Err(Code::IsDir),
            (None, Some(None)) if !self.is_empty(to) => return Err(Code::Exists),
            _ => {}
        }
        let beneath = at.beneath();
        let moved: Vec<String> = self.0.keys().filter(|path| path.starts_with(&beneath)).cloned().collect();
        for path in moved {
            let content = self.0.remove(&path).unwrap();
            self.0.insert(to.beneath() + path.strip_prefix(&beneath).unwrap(), content);
        }
        self.0.remove(at.as_str());
        self.0.insert(to.to_string(), from);
        Ok(())
    }

    pub(super) fn apply(&mut self, at: &Path, change: &Change) -> Result<(), Code> {
        let is_root = *at == Path::root();
        match change {
            Change::Write(content) => self.put(at, content.clone()),
            Change::Append(more) => {
                let old = self.0.get(at.as_str()).cloned().flatten().unwrap_or_default();
                self.put(at, [old, more.clone()].concat())
            }
            Change::Call(_) => Err(Code::PermissionDenied),
            Change::Mkdir if is_root => Err(Code::Exists),
            Change::Remove | Change::Rename(_) if is_root => Err(Code::PermissionDenied),
            Change::Mkdir => {
                self.parent(at)?;
                if self.0.contains_key(at.as_str()) {
                    return Err(Code::Exists);
                }
                self.0.insert(at.to_string(), None);
                Ok(())
            }
            Change::Remove => {
                if self.get(at)?.is_none() && !self.is_empty(at) {
                    return Err(Code::Exists);
                }
                self.0.remove(at.as_str());
                Ok(())
            }
            Change::Rename(to) => self.rename(at, to),
        }
    }
}

/// Does the same to both; every verdict and what there is at the end must be equal.
pub(super) fn against_model(mut folder: Driver, mut model: Model, ops: &[(Path, Change)]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for (number, (at, change)) in ops.iter().enumerate() {
            let done = folder.apply(at.as_str(), change.clone()).await.map(|_| ());
            assert_eq!(done, model.apply(at, change), "{number}: {} {at} {change:?}", change.verb());
        }
        assert_eq!(folder.walk().await, model.0);
    });
}

/// Operations on few names, so that they meet.
pub(super) fn ops() -> impl Strategy<Value = Vec<(Path, Change)>> {
    let change = prop_oneof![
        4 => content().prop_map(Change::Write),
        2 => content().prop_map(Change::Append),
        4 => Just(Change::Mkdir),
        2 => Just(Change::Remove),
        3 => any_path().prop_map(Change::Rename),
    ];
    proptest::collection::vec((any_path(), change), 0..40)
}

fn any_path() -> impl Strategy<Value = Path> {
    let depth = prop_oneof![1 => Just(0_usize), 12 => Just(1), 12 => Just(2), 6 => Just(3)];
    let names = depth.prop_flat_map(|depth| proptest::collection::vec(prop_oneof!["a", "b", "c"], depth));
    names.prop_map(|names| path(&format!("/{}", names.join("/"))))
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        20 => proptest::collection::vec(any::<u8>(), 0..20),
        1 => Just(vec![7; LIMITS.file_bytes_max / 2]),
        1 => Just(vec![7; LIMITS.file_bytes_max + 1]),
    ]
}
