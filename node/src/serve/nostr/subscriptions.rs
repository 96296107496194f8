//! `/nostr/subscriptions/<id>.json`: filters whose events wake the agent; see [`crate::subscriptions`].
//!
//! A file is a filter that was checked, with `since`: where it does not say, from when it was written.

use oa_nips::filter;
use oa_nips::nostr::{JsonUtil as _, Timestamp};

use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::service::{Answer, Change, Context, Effect, FileService, Span, Stat, not_taken};
use crate::serve::at;
use crate::serve::state::{StateFolder, flat_json};
use crate::subscriptions::FOLDER;
use crate::subscriptions::index::AGENT_MAX;

/// Longest file, in bytes.
const FILE_BYTES_MAX: usize = 32 * 1024;
/// Longest id, in characters.
const ID_CHARS_MAX: usize = 64;

/// Serves the folder.
#[derive(Debug)]
pub(super) struct Folder(StateFolder);

impl Default for Folder {
    fn default() -> Self {
        Self(StateFolder::checked(at("/nostr/subscriptions"), check))
    }
}

/// `<id>.json`, a filter that names kinds, and no more of them than there may be.
fn check(cx: &Context<'_>, path: &Path, content: &[u8]) -> Result<(), String> {
    let id = flat_json(path)?;
    let is_plain = id.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
    if !is_plain || id.len() > ID_CHARS_MAX {
        return Err(format!("an id has 1 to {ID_CHARS_MAX} characters of a-z, 0-9 and -"));
    }
    if content.len() > FILE_BYTES_MAX {
        return Err(format!("over {FILE_BYTES_MAX} bytes"));
    }
    let filter = filter::parse(content).map_err(|error| error.to_string())?;
    if filter.kinds.is_none() {
        return Err("kinds: a subscription names the kinds it listens for".to_owned());
    }
    let state = cx.subject().map_err(|error| error.to_string())?.state;
    let full = format!("{FOLDER}{id}.json");
    let others = state.paths(FOLDER).map_err(|error| error.to_string())?;
    if others.iter().filter(|other| **other != full).count() >= AGENT_MAX {
        return Err(format!("an agent has at most {AGENT_MAX} subscriptions"));
    }
    Ok(())
}

/// A filter as it is kept. One that says what the file says already goes on from when that began.
fn dated(cx: &Context<'_>, path: &Path, content: &[u8]) -> Result<Vec<u8>, Error> {
    if content.len() > FILE_BYTES_MAX {
        return Err(Error::too_large(path, FILE_BYTES_MAX));
    }
    let filter = filter::parse(content).map_err(|error| Error::invalid(path, error.to_string()))?;
    if filter.since.is_some() {
        return Ok(filter.as_json().into_bytes());
    }
    let full: Option<Path> = format!("{FOLDER}{}", path.name().unwrap_or_default()).parse().ok();
    let old = full.map(|full| cx.subject()?.state.read(&full)).transpose()?.flatten();
    let old = old.and_then(|old| filter::parse(&old).ok());
    let began = old
        .as_ref()
        .and_then(|old| old.since)
        .filter(|_| old.clone().map(|old| old.remove_since()) == Some(filter.clone()));
    let since = began.unwrap_or_else(|| Timestamp::from_secs(cx.now_ms / 1000));
    Ok(filter.since(since).as_json().into_bytes())
}

impl FileService for Folder {
    fn is_fixed(&self) -> bool {
        self.0.is_fixed()
    }

    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        self.0.stat(cx, path)
    }

    fn list<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        self.0.list(cx, path)
    }

    fn read<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        self.0.read(cx, path, span)
    }

    fn change<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Effect> {
        Box::pin(async move {
            match change {
                Change::Write(content) => {
                    let content = Change::Write(dated(cx, path, content)?);
                    self.0.change(cx, path, &content).await
                }
                Change::Remove | Change::Rename(_) => self.0.change(cx, path, change).await,
                // A folder in it, or half a filter, is none.
                Change::Append(_) | Change::Mkdir | Change::Call(_) => Err(not_taken(path, change)),
            }
        })
    }
}
