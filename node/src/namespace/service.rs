//! What serves files: the one trait behind every mount, for a tick, a remote operator and FUSE alike.
//!
//! A service is shared by all agents and callers; who asks, about which agent, in which tick, comes with each call
//! as a [`Context`]. Reading answers a snapshot. Changing is of two kinds, and each path says which by its
//! [`Class`]: a *transactional* change answers an [`Effect`], writes that somebody else commits, with the tick or with
//! the reply to the operator, or not at all; an *outside* change is done by [`FileService::act`] between an intent
//! and a reply that the caller journals.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use oa_nips::files::Code;
pub use oa_nips::files::{FileType, Stat};
use oa_nips::nostr::PublicKey;
use tokio::sync::watch;

use super::error::Error;
use super::path::Path;
use super::rights::Role;
use crate::agent::envelope::{Envelope, Trust};
use crate::agent::manifest::Manifest;
use crate::store::row::{AgentRow, Outgoing};
use crate::store::write::Write;

/// What a service answers, maybe later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Names one change across retries and crashes: in a tick a hash of (agent, envelope, ordinal, path), by an operator
/// of (caller, op). Never of what was chosen to carry it out.
pub type ChangeKey = [u8; 32];

/// Who asks, about whom, when.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// In which role.
    pub role: Role,
    /// Under which key: the agent's own in a tick.
    pub caller: PublicKey,
    /// Whose tree; nobody's for `/node` and the like.
    pub subject: Option<Subject<'a>>,
    /// What woke the tick that asks; nothing when somebody outside does.
    pub wake: Option<Wake<'a>>,
    /// The tick's clock, or the node's: milliseconds since 1970.
    pub now_ms: u64,
    /// For changes.
    pub key: ChangeKey,
}

/// The agent whose tree it is.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// As it is in the store.
    pub row: &'a AgentRow,
    /// Likewise.
    pub manifest: &'a Manifest,
    /// Its files: in a tick with what the tick has written.
    pub state: &'a dyn State,
}

/// The envelope of a tick.
#[derive(Debug, Clone, Copy)]
pub struct Wake<'a> {
    /// What arrived.
    pub envelope: &'a Envelope,
    /// How far its sender is trusted.
    pub trust: Trust,
    /// What the tick has sent so far; it goes out with the commit.
    pub sent: &'a [Outgoing],
    /// Whether somebody who may has consented to this very change.
    pub is_consented: bool,
}

impl<'a> Context<'a> {
    /// The agent, for services that are only mounted in agents' trees.
    ///
    /// # Errors
    /// [`Error::not_found`] elsewhere.
    pub fn subject(&self) -> Result<Subject<'a>, Error> {
        self.subject.ok_or_else(|| Error::not_found("/"))
    }
}

/// An agent's own files, by their whole path in its tree.
pub trait State: Debug + Send + Sync {
    /// A file's content.
    ///
    /// # Errors
    /// What the store said.
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Error>;

    /// The paths of the files that begin with `prefix`, sorted.
    ///
    /// # Errors
    /// What the store said.
    fn paths(&self, prefix: &str) -> Result<Vec<String>, Error>;

    /// Waits until all that it shows is on disk, where everybody else can see it.
    ///
    /// # Errors
    /// What the store said.
    fn settled(&self) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub offset: u64,
    /// Most bytes.
    pub count: usize,
}

impl Span {
    /// The whole file.
    pub const ALL: Self = Self { offset: 0, count: usize::MAX };

    /// This part of a content that is at hand.
    pub fn of(self, content: &[u8]) -> Vec<u8> {
        let from = usize::try_from(self.offset).unwrap_or(usize::MAX);
        content.iter().skip(from).take(self.count).copied().collect()
    }
}

/// What is to be done to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Creates the file or replaces its content.
    Write(Vec<u8>),
    /// Adds one message.
    Append(Vec<u8>),
    /// Asks a call file.
    Call(Vec<u8>),
    /// Creates a folder.
    Mkdir,
    /// Removes a file or an empty folder.
    Remove,
    /// Moves a file or folder to this path of the same service.
    Rename(Path),
}

impl Change {
    /// The verb, as the protocol calls it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Write(_) => "write",
            Self::Append(_) => "append",
            Self::Call(_) => "call",
            Self::Mkdir => "mkdir",
            Self::Remove => "remove",
            Self::Rename(_) => "rename",
        }
    }

    /// What is written, or asked.
    pub fn body(&self) -> &[u8] {
        match self {
            Self::Write(body) | Self::Append(body) | Self::Call(body) => body,
            Self::Mkdir | Self::Remove | Self::Rename(_) => &[],
        }
    }
}

/// How a change takes effect, which decides what an intent without a reply becomes after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// [`FileService::change`]: lands with a transaction, or never.
    Transactional,
    /// [`FileService::act`], which may be done again.
    Idempotent,
    /// [`FileService::act`], of which [`FileService::look_up`] can tell whether it was done.
    Queryable,
    /// [`FileService::act`], which is never done again: its outcome stays unknown.
    AtMostOnce,
}

/// What a transactional change comes to, to be committed by whoever asked for it.
#[derive(Debug, Default)]
pub struct Effect {
    /// What a call answers.
    pub reply: Vec<u8>,
    /// Files of the agent's state, by whole path; nothing removes one.
    pub files: Vec<(Path, Option<Vec<u8>>)>,
    /// Mail and events of the agent.
    pub out: Vec<Outgoing>,
    /// What else lands in the same transaction.
    pub writes: Vec<Write>,
}

impl Effect {
    /// A change of one file of the agent's state.
    pub fn file(path: Path, content: Option<Vec<u8>>) -> Self {
        Self { files: vec![(path, content)], ..Self::default() }
    }

    /// One write to the store, and what the call answers.
    pub fn write(write: Write, reply: impl Into<Vec<u8>>) -> Self {
        Self { writes: vec![write], reply: reply.into(), ..Self::default() }
    }

    /// An answer that changes nothing.
    pub fn reply(reply: impl Into<Vec<u8>>) -> Self {
        Self { reply: reply.into(), ..Self::default() }
    }
}

/// What is known of an outside change whose reply was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookUp {
    /// It was done, and answered this.
    Done(Vec<u8>),
    /// It was done, and failed.
    Failed(Error),
    /// It was not done, and can be done now.
    NotDone,
    /// Nobody can tell, now.
    Unknown,
}

/// Tells that a path may have more to read: the number grows with each change. Lagging is no loss: a watcher reads
/// from where it was.
pub type Watch = watch::Receiver<u64>;

/// Serves the files beneath a mount. Paths are absolute within it: `/` is the mount itself.
pub trait FileService: Debug + Send + Sync {
    /// What a path is.
    ///
    /// # Errors
    /// [`Code::NotFound`]
    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat>;

    /// The entries of a folder, sorted by name.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`
    fn list<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>>;

    /// A part of a file; past its end nothing. A stream answers what is there of it, see [`FileService::start`].
    ///
    /// # Errors
    /// `NotFound`, `IsDir`, `PermissionDenied` for what is only written
    fn read<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>>;

    /// Whether what it answers is the same in every run of one tick: the agent's own files, and what the envelope
    /// fixes. Reading anything else is journaled.
    fn is_fixed(&self) -> bool {
        false
    }

    /// Whether it looks at nothing but the context. What else there is may be behind the agent: a tick can run before the
    /// ticks before it are on disk, and waits for them before it asks whoever looks further.
    fn is_own(&self) -> bool {
        self.is_fixed()
    }

    /// How a change to this path takes effect.
    fn class(&self, _path: &Path, _change: &Change) -> Class {
        Class::Transactional
    }

    /// What a transactional change comes to. Refuses what is not for this path.
    ///
    /// # Errors
    /// Whatever the file says; nothing has happened then.
    fn change<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Effect> {
        let _ = cx;
        Box::pin(async move { Err(not_taken(path, change)) })
    }

    /// Does an outside change. [`Context::key`] is the same when it is done again.
    ///
    /// # Errors
    /// Whatever the file says; `outcome_unknown` when it may have happened.
    fn act<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Vec<u8>> {
        let _ = cx;
        Box::pin(async move { Err(not_taken(path, change)) })
    }

    /// Looks up what became of an outside change of [`Class::Queryable`].
    ///
    /// # Errors
    /// When it cannot be looked up now.
    fn look_up<'a>(
        &'a self,
        _cx: &'a Context<'a>,
        _path: &'a Path,
        _change: &'a Change,
    ) -> Answer<'a, LookUp> {
        Box::pin(async { Ok(LookUp::Unknown) })
    }

    /// Wakes with every change of a path.
    ///
    /// # Errors
    /// `Unavailable` for what does not tell.
    fn watch(&self, _cx: &Context<'_>, path: &Path) -> Result<Watch, Error> {
        Err(Error::new(Code::Unavailable, path, "cannot be watched"))
    }

    /// The offset of the oldest byte that a stream still has: what is before it was let go.
    fn start(&self, _cx: &Context<'_>, _path: &Path) -> u64 {
        0
    }
}

/// What becomes of an outside change that was begun, and whose reply was lost: it is done again, looked up, or stays
/// unknown, as its class says.
///
/// # Errors
/// The outer one when nobody can find out now: whoever asks tries again later, and tells nobody anything.
pub async fn resume(
    service: &dyn FileService,
    cx: &Context<'_>,
    path: &Path,
    change: &Change,
    class: Class,
) -> Result<Result<Vec<u8>, Error>, Error> {
    let unknown = || {
        let reason = "was begun before a crash; nobody knows how it ended";
        Err(Error::new(Code::OutcomeUnknown, path, reason))
    };
    Ok(match class {
        // A transactional change has no intent; were there one, nothing had happened.
        Class::Transactional | Class::Idempotent => service.act(cx, path, change).await,
        Class::AtMostOnce => unknown(),
        Class::Queryable => match service.look_up(cx, path, change).await? {
            LookUp::Done(reply) => Ok(reply),
            LookUp::Failed(error) => Err(error),
            LookUp::NotDone => service.act(cx, path, change).await,
            LookUp::Unknown => unknown(),
        },
    })
}

/// The refusal of a verb that a path does not take.
pub fn not_taken(path: &Path, change: &Change) -> Error {
    let verb = change.verb();
    Error::new(Code::PermissionDenied, path, format!("does not take {verb}"))
}

/// A folder's line.
pub fn dir(name: impl Into<String>) -> Stat {
    Stat { name: name.into(), file_type: FileType::Dir, size: 0, start: 0 }
}

/// A file's line.
pub fn file(name: impl Into<String>, file_type: FileType, size: u64) -> Stat {
    Stat { name: name.into(), file_type, size, start: 0 }
}
