//! A tree in memory for tests, which counts what it is asked, and is slow, silent or unwilling on demand.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use oa_nips::files::{Code, FileType, OpError, Stat, Verb};

use super::inodes::join;
use super::tree::{Answer, RemoteTree};

/// A folder in memory with files of all types. A call answers `did ` and the request.
#[derive(Debug, Default)]
pub(super) struct MemoryTree(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<String, (FileType, Vec<u8>)>,
    /// Where streams begin that have let bytes go.
    starts: BTreeMap<String, u64>,
    asked: Vec<(Verb, String, Vec<u8>)>,
    delay: Duration,
    /// Never answers about paths that begin so.
    silent: Option<String>,
    /// What it refuses.
    refused: Option<(Verb, Code)>,
}

impl MemoryTree {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a file there.
    pub(super) fn put(&self, path: &str, file_type: FileType, content: &[u8]) {
        self.state().nodes.insert(path.to_owned(), (file_type, content.to_vec()));
    }

    /// Adds to a file.
    pub(super) fn grow(&self, path: &str, content: &[u8]) {
        self.state().nodes.get_mut(path).unwrap().1.extend_from_slice(content);
    }

    /// Lets the oldest bytes of a stream go.
    pub(super) fn let_go(&self, path: &str, bytes: usize) {
        let mut state = self.state();
        state.nodes.get_mut(path).unwrap().1.drain(..bytes);
        *state.starts.entry(path.to_owned()).or_default() += bytes as u64;
    }

    /// A file's content.
    pub(super) fn content(&self, path: &str) -> Option<Vec<u8>> {
        self.state().nodes.get(path).map(|(_, content)| content.clone())
    }

    /// What came with this verb: messages, requests, contents.
    pub(super) fn asked(&self, verb: Verb) -> Vec<String> {
        let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
        let state = self.state();
        state.asked.iter().filter(|ask| ask.0 == verb).map(|(_, _, body)| text(body)).collect()
    }

    /// Takes this long for each answer from now on.
    pub(super) fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Never answers about what begins so from now on.
    pub(super) fn silence(&self, prefix: Option<&str>) {
        self.state().silent = prefix.map(str::to_owned);
    }

    /// Refuses this verb from now on.
    pub(super) fn refuse(&self, refused: Option<(Verb, Code)>) {
        self.state().refused = refused;
    }

    fn answer<'a, T: Send + 'a>(
        &'a self,
        verb: Verb,
        path: &'a str,
        body: Vec<u8>,
        act: impl FnOnce(&mut State, Vec<u8>) -> Result<T, Code> + Send + 'a,
    ) -> Answer<'a, T> {
        async move {
            let (delay, is_silent, refused) = {
                let mut state = self.state();
                state.asked.push((verb, path.to_owned(), body.clone()));
                let is_silent = state.silent.as_ref().is_some_and(|prefix| path.starts_with(prefix));
                (state.delay, is_silent, state.refused)
            };
            if is_silent {
                std::future::pending::<()>().await;
            }
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let error = |code| OpError::new(code, format!("{verb:?} {path}"));
            match refused.filter(|(refused, _)| *refused == verb) {
                Some((_, code)) => Err(error(code)),
                None => act(&mut self.state(), body).map_err(error),
            }
        }
        .boxed()
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("/", |(parent, _)| if parent.is_empty() { "/" } else { parent })
}

impl State {
    fn start(&self, path: &str) -> u64 {
        self.starts.get(path).copied().unwrap_or_default()
    }

    fn kind(&self, path: &str) -> Result<FileType, Code> {
        if path == "/" {
            return Ok(FileType::Dir);
        }
        self.nodes.get(path).map(|(kind, _)| *kind).ok_or(Code::NotFound)
    }

    fn file(&mut self, path: &str) -> Result<&mut Vec<u8>, Code> {
        match self.nodes.get_mut(path) {
            Some((FileType::Dir, _)) => Err(Code::IsDir),
            Some((_, content)) => Ok(content),
            None if path == "/" => Err(Code::IsDir),
            None => Err(Code::NotFound),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<Stat>, Code> {
        if self.kind(path)? != FileType::Dir {
            return Err(Code::NotDir);
        }
        let first = join(path, "");
        let beneath = self.nodes.range(first.clone()..).take_while(|(path, _)| path.starts_with(&first));
        let entry = |(path, node): (&String, &(FileType, Vec<u8>))| {
            let name = path.strip_prefix(&first).filter(|name| !name.contains('/'))?;
            Some(Stat { name: name.to_owned(), file_type: node.0, size: node.1.len() as u64, start: 0 })
        };
        Ok(beneath.filter_map(entry).collect())
    }

    fn must_be_folder(&self, path: &str) -> Result<(), Code> {
        if self.kind(path)? == FileType::Dir { Ok(()) } else { Err(Code::NotDir) }
    }

    fn write(&mut self, path: &str, body: Vec<u8>) -> Result<(), Code> {
        self.must_be_folder(parent(path))?;
        match self.file(path) {
            Ok(content) => *content = body,
            Err(Code::NotFound) => drop(self.nodes.insert(path.to_owned(), (FileType::Value, body))),
            Err(code) => return Err(code),
        }
        Ok(())
    }

    fn must_be_empty(&self, path: &str) -> Result<(), Code> {
        let is_full = self.kind(path) == Ok(FileType::Dir) && !self.list(path)?.is_empty();
        if is_full { Err(Code::Exists) } else { Ok(()) }
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), Code> {
        let is_folder = self.kind(from)? == FileType::Dir;
        self.must_be_folder(parent(to))?;
        match self.kind(to) {
            Ok(FileType::Dir) if !is_folder => return Err(Code::IsDir),
            Ok(FileType::Dir) => self.must_be_empty(to)?,
            Ok(_) if is_folder => return Err(Code::NotDir),
            Ok(_) | Err(_) => {}
        }
        let beneath = format!("{from}/");
        let is_moved = |path: &String| path == from || path.starts_with(&beneath);
        let moved: Vec<String> = self.nodes.keys().filter(|path| is_moved(path)).cloned().collect();
        for old in moved {
            let node = self.nodes.remove(&old).unwrap();
            self.nodes.insert(format!("{to}{}", old.strip_prefix(from).unwrap()), node);
        }
        Ok(())
    }
}

impl RemoteTree for MemoryTree {
    fn stat<'a>(&'a self, path: &'a str) -> Answer<'a, Stat> {
        self.answer(Verb::Stat, path, Vec::new(), |state, _| {
            let file_type = state.kind(path)?;
            let start = state.start(path);
            let size = state.nodes.get(path).map_or(0, |(_, content)| start + content.len() as u64);
            Ok(Stat { name: path.rsplit('/').next().unwrap_or_default().to_owned(), file_type, size, start })
        })
    }

    fn list<'a>(&'a self, path: &'a str) -> Answer<'a, Vec<Stat>> {
        self.answer(Verb::List, path, Vec::new(), |state, _| state.list(path))
    }

    fn read<'a>(&'a self, path: &'a str, offset: u64, count: u64) -> Answer<'a, Vec<u8>> {
        self.answer(Verb::Read, path, Vec::new(), move |state, _| {
            if matches!(state.kind(path)?, FileType::Append | FileType::Call) {
                return Err(Code::PermissionDenied);
            }
            let count = if count == 0 { usize::MAX } else { count as usize };
            let skipped = offset.saturating_sub(state.start(path));
            Ok(state.file(path)?.iter().skip(skipped as usize).take(count).copied().collect())
        })
    }

    fn write<'a>(&'a self, path: &'a str, body: Vec<u8>) -> Answer<'a, ()> {
        self.answer(Verb::Write, path, body, |state, body| state.write(path, body))
    }

    fn append<'a>(&'a self, path: &'a str, body: Vec<u8>) -> Answer<'a, ()> {
        self.answer(Verb::Append, path, body, |state, _| state.file(path).map(drop))
    }

    fn call<'a>(&'a self, path: &'a str, body: Vec<u8>) -> Answer<'a, Vec<u8>> {
        self.answer(Verb::Call, path, body, |state, body| {
            state.file(path)?;
            Ok([b"did ", &body[..]].concat())
        })
    }

    fn mkdir<'a>(&'a self, path: &'a str) -> Answer<'a, ()> {
        self.answer(Verb::Mkdir, path, Vec::new(), |state, _| {
            state.must_be_folder(parent(path))?;
            if state.kind(path).is_ok() {
                return Err(Code::Exists);
            }
            state.nodes.insert(path.to_owned(), (FileType::Dir, Vec::new()));
            Ok(())
        })
    }

    fn remove<'a>(&'a self, path: &'a str) -> Answer<'a, ()> {
        self.answer(Verb::Remove, path, Vec::new(), |state, _| {
            state.must_be_empty(path)?;
            state.nodes.remove(path).map(drop).ok_or(Code::NotFound)
        })
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str) -> Answer<'a, ()> {
        self.answer(Verb::Rename, from, Vec::new(), move |state, _| state.rename(from, to))
    }
}
