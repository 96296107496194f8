//! The home's queue: which one its queued commands stand in, and which place is next, so that what is asked later is
//! done later, by however many invocations.
//!
//! A place is written down with the command's bytes before they are sent, and crossed out when the relay has answered.
//! What was interrupted in between is sent again by the next invocation, the same bytes: a place that stayed empty
//! would keep those behind it waiting for a week.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use oa_nips::files::queued::{EXPIRES_S_MAX, QUEUE_MAX, QueueId};
use oa_nips::hex::Hex;
use oa_nips::nostr::{Event, PublicKey};
use oa_node::agent::manifest::Npub;
use oa_node::codes;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// A queue in use, locked for this process. Others wait until it is dropped.
#[derive(Debug)]
pub(crate) struct Line {
    path: PathBuf,
    saved: Saved,
    /// Closing it releases the lock.
    _lock: File,
}

/// `queue.json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    /// Whose commands they are, and for whom: another key or node has queues of its own.
    caller: Npub,
    node: Npub,
    queue: QueueId,
    /// The next place.
    next: u32,
    /// When it was last used, in seconds since 1970, by the node's clock.
    used_s: u64,
    /// The command at the place before, of which nobody knows whether the relay has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unsent: Option<Box<Event>>,
}

impl Saved {
    fn fresh(caller: PublicKey, node: PublicKey, now_s: u64) -> Self {
        let queue = Hex(codes::random().first_chunk().copied().unwrap_or_default());
        Self { caller: Npub(caller), node: Npub(node), queue, next: 0, used_s: now_s, unsent: None }
    }

    /// Whether another command can stand behind those that were. After a week nothing of it waits any more, and the
    /// node forgets it soon; a clock that went back says nothing.
    fn goes_on(&self, caller: PublicKey, node: PublicKey, now_s: u64) -> bool {
        let is_ours = (self.caller, self.node) == (Npub(caller), Npub(node));
        is_ours && self.next < QUEUE_MAX && now_s.abs_diff(self.used_s) < EXPIRES_S_MAX
    }
}

/// Which queue a command is to stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Choice {
    /// Behind what this home has queued before
    Home,
    /// A new one, which waits for nothing
    New,
}

impl Line {
    /// The queue of a home, once nobody else uses it.
    ///
    /// # Errors
    /// What the file system said, or that the file is none of ours.
    pub(crate) async fn open(
        home: &Path,
        choice: Choice,
        caller: PublicKey,
        node: PublicKey,
        now_s: u64,
    ) -> Result<Self> {
        let (path, lock) = (home.join("queue.json"), home.join("queue.lock"));
        let lock = tokio::task::spawn_blocking(move || locked(&lock)).await;
        let _lock = lock.map_err(|error| Error::new(Kind::Failed, error.to_string()))??;
        let kept = if choice == Choice::New { None } else { load(&path)? };
        let saved = kept.filter(|saved| saved.goes_on(caller, node, now_s));
        let saved = saved.unwrap_or_else(|| Saved::fresh(caller, node, now_s));
        Ok(Self { path, saved, _lock })
    }

    /// Begins another queue: the old one cannot be gone on with.
    pub(crate) fn renew(&mut self, now_s: u64) {
        self.saved = Saved::fresh(self.saved.caller.0, self.saved.node.0, now_s);
    }

    /// The queue, and the place that the next command has.
    pub(crate) fn place(&self) -> (QueueId, u32) {
        (self.saved.queue, self.saved.next)
    }

    /// A command of an earlier invocation that the relay may not have.
    pub(crate) fn unsent(&self) -> Option<&Event> {
        self.saved.unsent.as_deref()
    }

    /// Takes the place for a command that is about to be sent.
    ///
    /// # Errors
    /// What the file system said; then it must not be sent.
    pub(crate) fn take(&mut self, command: &Event, now_s: u64) -> Result<()> {
        self.saved.next += 1;
        self.saved.used_s = now_s;
        self.saved.unsent = Some(Box::new(command.clone()));
        self.save()
    }

    /// The relay has the command that [`Line::take`] or [`Line::unsent`] named.
    ///
    /// # Errors
    /// What the file system said; then it is sent again, which does no harm.
    pub(crate) fn sent(&mut self) -> Result<()> {
        self.saved.unsent = None;
        self.save()
    }

    /// The relay does not have the command, and never will: its place is free.
    ///
    /// # Errors
    /// What the file system said; then it is sent again.
    pub(crate) fn refused(&mut self) -> Result<()> {
        self.saved.unsent = None;
        self.saved.next = self.saved.next.saturating_sub(1);
        self.save()
    }

    /// Whole or not at all, and on disk before it answers.
    fn save(&self) -> Result<()> {
        let temporary = self.path.with_extension("json.new");
        let text = serde_json::to_string(&self.saved).unwrap_or_default();
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all())?;
        Ok(std::fs::rename(&temporary, &self.path)?)
    }
}

/// Waits for the lock: a queue is held for as long as a relay takes to answer.
fn locked(path: &Path) -> Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(std::io::Error::from)?;
    Ok(file)
}

fn load(path: &Path) -> Result<Option<Saved>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Error::new(Kind::Failed, format!("{}: {error}", path.display()))
            .hint("--queue=new begins another queue, whose commands do not wait for those of this one")
    })
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::{EventBuilder, Keys};

    use super::*;

    const NOW_S: u64 = 1_790_000_000;

    struct Rig {
        home: tempfile::TempDir,
        me: Keys,
        node: PublicKey,
    }

    impl Rig {
        fn new() -> Self {
            let (me, node) = (Keys::generate(), Keys::generate().public_key());
            Self { home: tempfile::tempdir().unwrap(), me, node }
        }

        async fn open(&self, choice: Choice, now_s: u64) -> Line {
            Line::open(self.home.path(), choice, self.me.public_key(), self.node, now_s).await.unwrap()
        }

        fn command(&self) -> Event {
            EventBuilder::text_note("command").sign_with_keys(&self.me).unwrap()
        }
    }

    #[tokio::test]
    async fn later_invocations_stand_behind_earlier_ones() {
        let (rig, mut queue) = (Rig::new(), None);
        for place in 0..3 {
            let mut line = rig.open(Choice::Home, NOW_S).await;
            assert_eq!(line.place(), (*queue.get_or_insert(line.place().0), place));
            line.take(&rig.command(), NOW_S).unwrap();
            line.sent().unwrap();
        }
        let other = Keys::generate().public_key();
        let of_other = Line::open(rig.home.path(), Choice::Home, rig.me.public_key(), other, NOW_S);
        assert_eq!(of_other.await.unwrap().place().1, 0, "another node knows nothing of those places");
        assert_eq!(rig.open(Choice::New, NOW_S).await.place().1, 0);
        let line = rig.open(Choice::Home, NOW_S + EXPIRES_S_MAX - 1).await;
        assert_eq!(
            Some(line.place()),
            queue.map(|queue| (queue, 3)),
            "a new queue without a command is none"
        );
        drop(line);
        let line = rig.open(Choice::Home, NOW_S + EXPIRES_S_MAX).await;
        assert_ne!(Some(line.place().0), queue, "the node forgets queues");
    }

    #[tokio::test]
    async fn a_place_is_kept_until_the_relay_has_answered() {
        let (rig, command) = (Rig::new(), Rig::new().command());
        rig.open(Choice::Home, NOW_S).await.take(&command, NOW_S).unwrap();
        // The process died here.
        let mut line = rig.open(Choice::Home, NOW_S).await;
        assert_eq!((line.unsent(), line.place().1), (Some(&command), 1));
        line.refused().unwrap();
        drop(line);
        let mut line = rig.open(Choice::Home, NOW_S).await;
        assert_eq!((line.unsent(), line.place().1), (None, 0), "nobody stands there");
        line.take(&command, NOW_S).unwrap();
        line.sent().unwrap();
        drop(line);
        assert_eq!(rig.open(Choice::Home, NOW_S).await.unsent(), None);
    }

    #[tokio::test]
    async fn one_invocation_at_a_time() {
        let rig = Rig::new();
        let mut line = rig.open(Choice::Home, NOW_S).await;
        let second = rig.open(Choice::Home, NOW_S);
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        line.take(&rig.command(), NOW_S).unwrap();
        line.sent().unwrap();
        drop(line);
        assert_eq!(second.await.place().1, 1, "it has read what the first wrote");
    }

    #[tokio::test]
    async fn a_damaged_file_is_not_taken_for_a_new_queue() {
        let rig = Rig::new();
        std::fs::write(rig.home.path().join("queue.json"), "{").unwrap();
        let (me, node) = (rig.me.public_key(), rig.node);
        let error = Line::open(rig.home.path(), Choice::Home, me, node, NOW_S).await.unwrap_err();
        assert!(error.hint.unwrap().contains("--queue=new"));
        rig.open(Choice::New, NOW_S).await;
    }
}
