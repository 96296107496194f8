//! `/memory`, `/goals`, `/schedule`, `/tmp`: the agent's own files. They change with the tick, or not at all.
//!
//! Folders are what paths make them. One that was made and has nothing in it yet holds a marker, [`MARKER`], which is
//! not listed.

use std::collections::BTreeMap;

use oa_nips::files::Code;

use crate::namespace::error::Error;
use crate::namespace::overlay::{FILE_BYTES_MAX, OVERLAY_FILES_MAX};
use crate::namespace::path::Path;
use crate::namespace::service::{
    Answer, Change, Context, Effect, FileService, FileType, Span, Stat, State, dir, file, not_taken,
};

/// Stands in a folder that was made by hand.
pub(crate) const MARKER: &str = ".dir";

/// Checks a file before it is written: its path within the mount, and its content.
pub(crate) type Check = fn(&Context<'_>, &Path, &[u8]) -> Result<(), String>;

/// One folder of the agent's state.
#[derive(Debug)]
pub(crate) struct StateFolder {
    /// Where it is mounted, which is where its files are in the state.
    at: Path,
    check: Check,
}

impl StateFolder {
    /// A folder that takes anything.
    pub(crate) fn new(at: Path) -> Self {
        Self::checked(at, |_, _, _| Ok(()))
    }

    /// A folder whose files are checked.
    pub(crate) fn checked(at: Path, check: Check) -> Self {
        Self { at, check }
    }

    fn full(&self, path: &Path) -> Result<Path, Error> {
        if *path == Path::root() {
            return Ok(self.at.clone());
        }
        format!("{}{path}", self.at).parse().map_err(|reason| Error::invalid_path(path, reason))
    }

    fn file(&self, cx: &Context<'_>, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        if *path == Path::root() || path.name() == Some(MARKER) {
            return Ok(None);
        }
        cx.subject()?.state.read(&self.full(path)?)
    }

    fn is_dir(&self, state: &dyn State, path: &Path) -> Result<bool, Error> {
        Ok(*path == Path::root() || !state.paths(&self.full(path)?.beneath())?.is_empty())
    }

    fn entries(&self, cx: &Context<'_>, path: &Path) -> Result<Vec<Stat>, Error> {
        let state = cx.subject()?.state;
        let prefix = self.full(path)?.beneath();
        let paths = state.paths(&prefix)?;
        if paths.is_empty() && *path != Path::root() {
            let is_file = self.file(cx, path)?.is_some();
            return Err(if is_file { Error::not_dir(path) } else { Error::not_found(path) });
        }
        let mut entries: BTreeMap<&str, Option<Path>> = BTreeMap::new();
        for full in &paths {
            let Some(rest) = full.strip_prefix(&prefix) else { continue };
            match rest.split_once('/') {
                Some((name, _)) => drop(entries.insert(name, None)),
                None if rest == MARKER => {}
                None => drop(entries.entry(rest).or_insert_with(|| full.parse().ok())),
            }
        }
        let stat = |(name, full): (&str, Option<Path>)| match full {
            None => Ok(dir(name)),
            Some(full) => {
                let size = state.read(&full)?.map_or(0, |content| content.len() as u64);
                Ok(file(name, FileType::Value, size))
            }
        };
        entries.into_iter().map(stat).collect()
    }

    fn put(&self, cx: &Context<'_>, path: &Path, content: Vec<u8>) -> Result<Effect, Error> {
        let state = cx.subject()?.state;
        // What is a file is no folder, and is found sooner.
        if self.file(cx, path)?.is_none() && self.is_dir(state, path)? {
            return Err(Error::is_dir(path));
        }
        if content.len() > FILE_BYTES_MAX {
            return Err(Error::too_large(path, FILE_BYTES_MAX));
        }
        let mut folder = path.parent();
        while folder != Path::root() {
            if self.file(cx, &folder)?.is_some() {
                return Err(Error::not_dir(&folder));
            }
            folder = folder.parent();
        }
        (self.check)(cx, path, &content).map_err(|reason| Error::invalid(path, reason))?;
        Ok(Effect::file(self.full(path)?, Some(content)))
    }

    fn remove(&self, cx: &Context<'_>, path: &Path) -> Result<Effect, Error> {
        if self.file(cx, path)?.is_some() {
            return Ok(Effect::file(self.full(path)?, None));
        }
        if *path == Path::root() {
            return Err(Error::new(Code::PermissionDenied, path, "what is mounted is not removed"));
        }
        if !self.entries(cx, path)?.is_empty() {
            return Err(Error::new(Code::Exists, path, "the folder is not empty"));
        }
        Ok(Effect::file(self.marker(path)?, None))
    }

    fn marker(&self, folder: &Path) -> Result<Path, Error> {
        let marker = folder.join(MARKER).map_err(|reason| Error::invalid_path(folder, reason))?;
        self.full(&marker)
    }

    fn mkdir(&self, cx: &Context<'_>, path: &Path) -> Result<Effect, Error> {
        if self.file(cx, path)?.is_some() || self.is_dir(cx.subject()?.state, path)? {
            return Err(Error::new(Code::Exists, path, "is there already"));
        }
        let marker = path.join(MARKER).map_err(|reason| Error::invalid_path(path, reason))?;
        self.put(cx, &marker, Vec::new()).map_err(|error| error.at(path))
    }

    fn rename(&self, cx: &Context<'_>, from: &Path, to: &Path) -> Result<Effect, Error> {
        let state = cx.subject()?.state;
        if let Some(content) = self.file(cx, from)? {
            let mut effect = self.put(cx, to, content)?;
            effect.files.insert(0, (self.full(from)?, None));
            return Ok(effect);
        }
        let (old, new) = (self.full(from)?.beneath(), self.full(to)?.beneath());
        let paths = state.paths(&old)?;
        if paths.is_empty() || *from == Path::root() {
            return Err(Error::not_found(from));
        }
        if new.starts_with(&old) {
            return Err(Error::invalid(to, "is within what is renamed"));
        }
        if self.file(cx, to)?.is_some() || !state.paths(&new)?.is_empty() {
            return Err(Error::new(Code::Exists, to, "is there already"));
        }
        if paths.len() * 2 > OVERLAY_FILES_MAX {
            return Err(Error::too_large(from, OVERLAY_FILES_MAX));
        }
        let mut effect = Effect::default();
        for path in paths {
            let invalid = |reason| Error::invalid_path(&path, reason);
            let moved: Path = path.replacen(&old, &new, 1).parse().map_err(invalid)?;
            let path: Path = path.parse().map_err(invalid)?;
            effect.files.push((moved, state.read(&path)?));
            effect.files.push((path, None));
        }
        Ok(effect)
    }
}

impl FileService for StateFolder {
    fn is_fixed(&self) -> bool {
        true
    }

    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async move {
            let name = path.name().or_else(|| self.at.name()).unwrap_or_default();
            if let Some(content) = self.file(cx, path)? {
                return Ok(file(name, FileType::Value, content.len() as u64));
            }
            if self.is_dir(cx.subject()?.state, path)? { Ok(dir(name)) } else { Err(Error::not_found(path)) }
        })
    }

    fn list<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move { self.entries(cx, path) })
    }

    fn read<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            match self.file(cx, path)? {
                Some(content) if span == Span::ALL => Ok(content),
                Some(content) => Ok(span.of(&content)),
                None if self.is_dir(cx.subject()?.state, path)? => Err(Error::is_dir(path)),
                None => Err(Error::not_found(path)),
            }
        })
    }

    fn change<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Effect> {
        Box::pin(async move {
            if path.name() == Some(MARKER) {
                return Err(Error::invalid(path, "the name is taken"));
            }
            match change {
                Change::Write(content) => self.put(cx, path, content.clone()),
                Change::Append(content) => {
                    let whole = [self.file(cx, path)?.unwrap_or_default().as_slice(), content].concat();
                    self.put(cx, path, whole)
                }
                Change::Remove => self.remove(cx, path),
                Change::Mkdir => self.mkdir(cx, path),
                Change::Rename(to) => self.rename(cx, path, to),
                Change::Call(_) => Err(not_taken(path, change)),
            }
        })
    }
}

/// `/goals/<id>.json`: a JSON object each.
pub(crate) fn check_goal(_: &Context<'_>, path: &Path, content: &[u8]) -> Result<(), String> {
    flat_json(path)?;
    match serde_json::from_slice::<serde_json::Value>(content) {
        Ok(serde_json::Value::Object(_)) => Ok(()),
        Ok(_) => Err("a goal is a JSON object".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// `/schedule/<id>.json`: an alarm each.
pub(crate) fn check_alarm(cx: &Context<'_>, path: &Path, content: &[u8]) -> Result<(), String> {
    let id = flat_json(path)?;
    id.parse::<crate::agent::alarm::AlarmId>().map_err(|error| error.to_string())?;
    crate::agent::alarm::parse(content, cx.now_ms).map(drop).map_err(|error| error.to_string())
}

/// The id in `/<id>.json`.
pub(crate) fn flat_json(path: &Path) -> Result<&str, String> {
    let id = path.as_str().strip_prefix('/').and_then(|name| name.strip_suffix(".json"));
    id.filter(|id| !id.is_empty() && !id.contains('/')).ok_or_else(|| "the name is <id>.json".to_owned())
}
