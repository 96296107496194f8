//! Reading a bundle: whole, of this version, in its order, signed by the node it names, or not at all.

use std::fmt::Debug;

use oa_nips::hex::Hex;
use oa_nips::record::{Chain, ChainError, Head};
use serde::Deserialize;

use super::{About, BYTES_MAX, Bundle, End, Line, RECORDS_MAX, VERSION, digest, to_be_signed};
use crate::agent::alarm::AlarmId;
use crate::agent::manifest::Manifest;
use crate::namespace::Path;
use crate::store::write::Holdings;

/// Why bytes are no bundle. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("this is no bundle: it does not begin with a line {{\"bundle\": …}}")]
    NoBundle,
    #[error("the bundle has format {0}, this program knows {VERSION}: a later release wrote it")]
    Version(u64),
    #[error("the bundle has {0} bytes, at most {BYTES_MAX} are allowed")]
    TooLarge(usize),
    #[error("the bundle is cut off: its last line is missing, or not whole")]
    Truncated,
    #[error("the bundle is damaged: its bytes are not those that were written")]
    Damaged,
    #[error("the bundle is not signed by the node that it names")]
    Signature,
    #[error("line {line} of the bundle cannot be read")]
    Syntax { line: usize, source: serde_json::Error },
    #[error("line {0} of the bundle is not in its place, or comes twice")]
    Order(usize),
    #[error("the bundle has a file or alarm that cannot be named {0:?}")]
    Name(String),
    #[error("the bundle's manifest cannot be used: {0}")]
    Manifest(String),
    #[error("the bundle's tick records are no chain that ends where the agent stands")]
    Records(#[source] ChainError),
    #[error("the bundle's tick records are no chain that ends where the agent stands")]
    Head,
}

/// As much of the first line as every version has.
#[derive(Deserialize)]
struct Probe {
    bundle: Version,
}

#[derive(Deserialize)]
struct Version {
    v: u64,
}

impl Bundle {
    /// Reads a bundle.
    ///
    /// # Errors
    /// The first thing that is wrong with it, in the order of [`OpenError`].
    pub fn open(bytes: &[u8]) -> Result<Self, OpenError> {
        let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let probe: Probe = serde_json::from_slice(first).map_err(|_| OpenError::NoBundle)?;
        if probe.bundle.v != VERSION {
            return Err(OpenError::Version(probe.bundle.v));
        }
        if bytes.len() > BYTES_MAX {
            return Err(OpenError::TooLarge(bytes.len()));
        }
        let (body, end) = split_end(bytes).ok_or(OpenError::Truncated)?;
        if digest(body) != end.sha256 {
            return Err(OpenError::Damaged);
        }
        let text = std::str::from_utf8(body).map_err(|_| OpenError::Damaged)?;
        let mut lines = text.lines().enumerate().map(|(n, line)| (n + 1, line));
        let about = match lines.next().map(|(line, json)| parse(line, json)) {
            Some(Ok(Line::Bundle(about))) => *about,
            Some(Err(error)) => return Err(error),
            _ => return Err(OpenError::NoBundle),
        };
        if !to_be_signed(&end.sha256).is_signed(&about.node, &end.signature) {
            return Err(OpenError::Signature);
        }
        let mut bundle = Self { about, manifest: String::new(), holdings: Holdings::default() };
        let mut section = 0;
        for (n, json) in lines {
            let line = parse(n, json)?;
            let next = bundle.put(line).ok_or(OpenError::Order(n))?;
            // The manifest once, then the lists one after the other.
            if next < section || (next == MANIFEST && section == MANIFEST) {
                return Err(OpenError::Order(n));
            }
            section = next;
            if section == 0 {
                return Err(OpenError::Order(n));
            }
        }
        if section == 0 {
            return Err(OpenError::Order(2));
        }
        bundle.check()?;
        Ok(bundle)
    }

    /// Takes a line; answers the number of its section, or nothing for one that is not in order.
    fn put(&mut self, line: Line) -> Option<u8> {
        let held = &mut self.holdings;
        Some(match line {
            Line::Bundle(_) | Line::End(_) => return None,
            Line::Manifest { toml } => {
                self.manifest = toml;
                MANIFEST
            }
            Line::File { path, content } => {
                after(&mut held.files, 2, (path, content.0), |(path, _)| path.clone())?
            }
            Line::Alarm { id, alarm } => after(&mut held.alarms, 3, (id, alarm), |(id, _)| id.clone())?,
            Line::Peer { key, peer } => after(&mut held.peers, 4, (key, peer), |(key, _)| *key.as_bytes())?,
            Line::Seen { id, sent_at_s } => after(&mut held.seen, 5, (id, sent_at_s), |(id, _)| *id)?,
            Line::Inbox { n, waiting } => after(&mut held.inbox, 6, (n, *waiting), |(n, _)| *n)?,
            Line::Letter { n, letter } => after(&mut held.letters, 7, (n, *letter), |(n, _)| *n)?,
            Line::Journal { envelope, ordinal, row } => {
                after(&mut held.journal, 8, (envelope, ordinal, *row), |(id, n, _)| (*id, *n))?
            }
            Line::Outbox { n, item } => after(&mut held.outbox, 9, (n, *item), |(n, _)| *n)?,
            Line::Record(record) => after(&mut held.records, 10, *record, |record| record.header.seq)?,
        })
    }

    /// What the lines must be to each other.
    fn check(&self) -> Result<(), OpenError> {
        let manifest =
            Manifest::read(&self.manifest).map_err(|error| OpenError::Manifest(error.to_string()))?;
        if manifest.name != self.about.name {
            return Err(OpenError::Manifest("it has another name than the agent".to_owned()));
        }
        for (path, _) in &self.holdings.files {
            let is_path = path.parse::<Path>().is_ok_and(|path| path != Path::root());
            // Alarms have lines of their own.
            if !is_path || path.starts_with("/schedule/") {
                return Err(OpenError::Name(path.clone()));
            }
        }
        if let Some((id, _)) = self.holdings.alarms.iter().find(|(id, _)| id.parse::<AlarmId>().is_err()) {
            return Err(OpenError::Name(id.clone()));
        }
        let About { inbox_next, outbox_next, letters_next, .. } = self.about;
        let is_within = self.holdings.inbox.last().is_none_or(|(n, _)| *n < inbox_next)
            && self.holdings.outbox.last().is_none_or(|(n, _)| *n < outbox_next)
            && self.holdings.letters.last().is_none_or(|(n, _)| *n < letters_next);
        if !is_within {
            return Err(OpenError::Order(1));
        }
        self.check_records()
    }

    fn check_records(&self) -> Result<(), OpenError> {
        let About { pubkey, session, head, .. } = &self.about;
        let Some(first) = self.holdings.records.first() else { return Ok(()) };
        if self.holdings.records.len() > RECORDS_MAX {
            return Err(OpenError::Head);
        }
        // What stood before the first is not here: it is taken at its word.
        let before = Head { seq: first.header.seq, hash: first.header.prev, state: Hex::ZERO };
        let mut chain = Chain::new(Hex(pubkey.to_bytes()), *session, before);
        for record in &self.holdings.records {
            chain.push(record).map_err(OpenError::Records)?;
        }
        // The state goes on without records when somebody outside writes files.
        let end = chain.head();
        if (end.seq, end.hash) == (head.seq, head.hash) { Ok(()) } else { Err(OpenError::Head) }
    }
}

/// The section of the manifest, the first.
const MANIFEST: u8 = 1;

/// Adds an item that must come after the last.
fn after<T, K: Ord + Debug>(list: &mut Vec<T>, section: u8, item: T, key: impl Fn(&T) -> K) -> Option<u8> {
    if list.last().is_some_and(|last| key(last) >= key(&item)) {
        return None;
    }
    list.push(item);
    Some(section)
}

/// The lines but the last, and the last.
fn split_end(bytes: &[u8]) -> Option<(&[u8], End)> {
    let whole = bytes.strip_suffix(b"\n")?;
    let at = whole.iter().rposition(|byte| *byte == b'\n')? + 1;
    let (body, _) = bytes.split_at_checked(at)?;
    let (_, last) = whole.split_at_checked(at)?;
    match serde_json::from_slice(last) {
        Ok(Line::End(end)) => Some((body, end)),
        _ => None,
    }
}

fn parse(line: usize, json: &str) -> Result<Line, OpenError> {
    serde_json::from_str(json).map_err(|source| OpenError::Syntax { line, source })
}
