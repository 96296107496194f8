//! The tree an agent lives in. What is not mounted does not exist for it.
//!
//! [`path::Path`] is a path that cannot be wrong, [`rights`] says who may do what, [`mount::Mounts`] which
//! [`service::FileService`] serves a path; [`blocks`] are services to build from, [`crate::serve`] has one for every
//! file of an agent. The same trees are served to operators (`crate::operator`) and to ticks: a [`Namespace`] is one
//! tick's view. Its reads see the tick's own writes; [`Namespace::finish`] hands what it did to the commit; what
//! cannot wait for the commit goes through the [`journal`].

use oa_nips::files::Code;
use oa_nips::hex::Hash;
use oa_nips::mail::{TEXT_BYTES_MAX, fits_one_message};
use oa_nips::nostr::hashes::{Hash as _, HashEngine, sha256};

pub mod blocks;
pub mod error;
pub mod journal;
pub mod mount;
pub mod overlay;
pub mod path;
pub mod rights;
pub mod service;
mod setting;

pub use error::Error;
pub use overlay::{FILE_BYTES_MAX, Files, MemoryState, OVERLAY_BYTES_MAX};
pub use path::Path;
pub use setting::{CallMade, Consent, Done, Durable, NoConsent, Setting};

use self::journal::{Journal, Line, Next, Nondeterministic, Pin};
use self::mount::Found;
use self::overlay::Overlay;
use self::rights::{Right, Role, in_agent};
use self::service::{Change, ChangeKey, Class, Context, Effect, Span, Stat, Subject, Wake};
use crate::store::row::{Blob, Outgoing};
use crate::store::write::Write;

/// Outgoing items and other writes one tick may hand to its commit.
pub const EFFECTS_MAX: usize = 256;

/// One tick's view of its agent's world.
#[derive(Debug)]
pub struct Namespace {
    setting: Setting,
    pin: Pin,
    overlay: Overlay,
    reply: Vec<u8>,
    out: Vec<Outgoing>,
    writes: Vec<Write>,
    journal: Journal,
    /// Changes asked for so far.
    changes: u32,
    calls: Vec<CallMade>,
    /// What needed consent, or had nobody to ask for it.
    frozen: Vec<CallMade>,
    /// Set once: nothing of the tick may count.
    poison: Option<Nondeterministic>,
    /// Set once: the journal failed, so the tick runs again later.
    put_off: Option<String>,
}

impl Namespace {
    /// The namespace of one tick, on the lines that earlier runs of it recorded.
    ///
    /// # Errors
    /// When the program is not the one that began this tick.
    pub fn new(setting: Setting, mut pin: Pin, recorded: Vec<Line>) -> Result<Self, Nondeterministic> {
        let journal = Journal::new(recorded, &mut pin)?;
        let overlay = Overlay::new(setting.committed.clone());
        Ok(Self {
            setting,
            pin,
            overlay,
            reply: Vec::new(),
            out: Vec::new(),
            writes: Vec::new(),
            journal,
            changes: 0,
            calls: Vec::new(),
            frozen: Vec::new(),
            poison: None,
            put_off: None,
        })
    }

    /// A file's content, with this tick's own writes.
    ///
    /// # Errors
    /// `NotFound`, `InvalidPath`, `IsDir`, `PermissionDenied`, `Io`
    pub async fn read(&mut self, path: &str) -> Result<Vec<u8>, Error> {
        self.read_span(path, Span::ALL).await
    }

    /// A part of a file's content.
    ///
    /// # Errors
    /// As [`Namespace::read`].
    pub async fn read_span(&mut self, path: &str, span: Span) -> Result<Vec<u8>, Error> {
        let path = parse(path)?;
        if path.as_str() == "/reply" {
            return Ok(span.of(&self.reply));
        }
        self.check(&path, Right::Read)?;
        if let Some(known) = self.recorded("read", &path, span)? {
            return known;
        }
        self.settle(&path).await?;
        let content =
            self.look(&path, async |cx, found| found.mount.service.read(&cx, &found.rest, span).await);
        let content = content.await;
        self.note("read", &path, span, &content)?;
        content
    }

    /// The entries of a folder, sorted by name.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `InvalidPath`, `PermissionDenied`, `Io`
    pub async fn list(&mut self, path: &str) -> Result<Vec<Stat>, Error> {
        let path = parse(path)?;
        self.check(&path, Right::Read)?;
        let from_json =
            |json: Vec<u8>| serde_json::from_slice(&json).map_err(|e| Error::io(&path, e.to_string()));
        if let Some(known) = self.recorded("list", &path, Span::ALL)? {
            return known.and_then(from_json);
        }
        self.settle(&path).await?;
        let entries = self.look(&path, async |cx, found| found.mount.service.list(&cx, &found.rest).await);
        let entries = self.setting.mounts.entries(&path, entries.await);
        let entries = entries.map(|entries| visible(&path, entries));
        if self.journals_reads(&path) {
            let json =
                entries.as_ref().map(|e| serde_json::to_vec(e).unwrap_or_default()).map_err(Clone::clone);
            self.note("list", &path, Span::ALL, &json)?;
        }
        entries
    }

    /// What a path is.
    ///
    /// # Errors
    /// `NotFound`, `InvalidPath`, `PermissionDenied`
    pub async fn stat(&mut self, path: &str) -> Result<Stat, Error> {
        let path = parse(path)?;
        let Some(name) = path.name() else { return Ok(service::dir("/")) };
        let mut listed = self.list(path.parent().as_str()).await?.into_iter();
        listed.find(|stat| stat.name == name).ok_or_else(|| Error::not_found(&path))
    }

    /// Creates or replaces a file; to `/reply`, the whole answer.
    ///
    /// # Errors
    /// `PermissionDenied` for what is read-only, `TooLarge`, `InvalidInput`, `ApprovalRequired`
    pub async fn write(&mut self, path: &str, content: &[u8]) -> Result<(), Error> {
        self.change(path, Change::Write(content.to_vec())).await.map(drop)
    }

    /// Adds to the end of a file, creating it if needed.
    ///
    /// # Errors
    /// As [`Namespace::write`].
    pub async fn append(&mut self, path: &str, content: &[u8]) -> Result<(), Error> {
        self.change(path, Change::Append(content.to_vec())).await.map(drop)
    }

    /// Asks a call file, and answers its reply.
    ///
    /// # Errors
    /// As [`Namespace::write`]; `OutcomeUnknown` when it may have been done, and nobody can tell.
    pub async fn call(&mut self, path: &str, request: &[u8]) -> Result<Vec<u8>, Error> {
        self.change(path, Change::Call(request.to_vec())).await
    }

    /// Removes a file or an empty folder.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`
    pub async fn remove(&mut self, path: &str) -> Result<(), Error> {
        self.change(path, Change::Remove).await.map(drop)
    }

    /// Does any change.
    ///
    /// # Errors
    /// As [`Namespace::write`].
    pub async fn change(&mut self, path: &str, change: Change) -> Result<Vec<u8>, Error> {
        let path = parse(path)?;
        self.check_alive(&path)?;
        self.check(&path, Right::Write)?;
        if path.as_str() == "/reply" {
            return self.set_reply(&change).map(|()| Vec::new());
        }
        self.changes += 1;
        let key = self.key(&path);
        self.settle(&path).await?;
        let mounts = self.setting.mounts.clone();
        let found = mounts.find(&path)?;
        found.allow(&path, &change)?;
        let asked = change.clone();
        let change = found.within(&mounts, change)?;
        // What an earlier run of the tick did without consent is answered as it was. Whoever is asked sees paths of the
        // agent's tree.
        if !self.journal.has(&journal::change_request(&path, &change))
            && let Some((writes, refusal)) = self.setting.consent.freeze(&self.context(key), &path, &asked)
        {
            self.absorb(&path, Effect { writes, ..Effect::default() })?;
            self.frozen.push(CallMade {
                path: path.to_string(),
                request: journal::change_request(&path, &asked),
                reply: Err(refusal.code),
                approval: None,
            });
            return Err(refusal);
        }
        match found.mount.service.class(&found.rest, &change) {
            Class::Transactional => {
                let effect = found.mount.service.change(&self.context(key), &found.rest, &change).await;
                self.absorb(&path, effect.map_err(|error| error.at(&path))?)
            }
            class => self.outside(&path, &found, class, &change, key).await,
        }
    }

    /// A change that cannot wait for the commit: intent on disk, then the act, then the reply on disk.
    async fn outside(
        &mut self,
        path: &Path,
        found: &Found<'_>,
        class: Class,
        change: &Change,
        key: ChangeKey,
    ) -> Result<Vec<u8>, Error> {
        let request = journal::change_request(path, change);
        if !self.journal.fits(change.body().len()) {
            return Err(Error::too_large(path, journal::BYTES_MAX));
        }
        let next = self.journal.next(&request, path);
        let (service, rest) = (&found.mount.service, &found.rest);
        let (ordinal, outcome) = match next.map_err(|poison| self.poison(path, poison))? {
            Next::Replied(outcome) => {
                self.made(path, request, &outcome);
                return outcome.map(|blob| blob.0);
            }
            Next::Fresh(ordinal) => {
                let (first, lines) = self.journal.intend(ordinal, request, path);
                self.persist(first, lines).await?;
                (ordinal, service.act(&self.context(key), rest, change).await)
            }
            Next::Interrupted(ordinal) => {
                let resumed = service::resume(&**service, &self.context(key), rest, change, class).await;
                // The tick had better run again later than be told something that may be wrong.
                (ordinal, resumed.map_err(|error| self.put_off_by(error.at(path)))?)
            }
        };
        let outcome = outcome.map(Blob).map_err(|error| error.at(path));
        let line = self.journal.replied(request, path, outcome.clone());
        self.persist(ordinal, vec![line]).await?;
        self.made(path, request, &outcome);
        outcome.map(|blob| blob.0)
    }

    async fn persist(&mut self, first: u32, lines: Vec<Line>) -> Result<(), Error> {
        let recorded = self.setting.durable.record(first, lines).await;
        recorded.map_err(|error| self.put_off_by(error))
    }

    fn put_off_by(&mut self, error: Error) -> Error {
        self.put_off.get_or_insert_with(|| error.to_string());
        error
    }

    /// Lays what the envelope brings into the tick, before the program runs.
    pub(crate) fn bring(&mut self, brought: Effect) -> Result<(), Error> {
        self.absorb(&Path::root(), brought).map(drop)
    }

    /// Why nothing of this run counts although the program did nothing wrong.
    pub(crate) fn put_off(&self) -> Option<&str> {
        self.put_off.as_deref()
    }

    fn made(&mut self, path: &Path, request: Hash, outcome: &journal::Outcome) {
        let reply = match outcome {
            Ok(blob) => Ok(oa_nips::hex::Hex(sha256::Hash::hash(&blob.0).to_byte_array())),
            Err(error) => Err(error.code),
        };
        self.calls.push(CallMade { path: path.to_string(), request, reply, approval: None });
    }

    /// What the tick did, for its commit.
    ///
    /// # Errors
    /// When the run did not do what an earlier run had done.
    pub fn finish(self) -> Result<Result<Done, Error>, Nondeterministic> {
        if let Some(poison) = self.poison {
            return Err(poison);
        }
        self.journal.finish()?;
        let reply = match String::from_utf8(self.reply) {
            Ok(reply) => reply,
            Err(error) => return Ok(Err(Error::invalid("/reply", format!("not UTF-8: {error}")))),
        };
        let is_kept = |path: &Path| path.strip("/tmp").is_none();
        let files = self.overlay.into_files().into_iter().filter(|(path, _)| is_kept(path)).collect();
        let reply = (!reply.is_empty()).then_some(reply);
        let granted = CallMade::granted(&self.setting.envelope);
        let calls = granted.into_iter().chain(self.calls).chain(self.frozen).collect();
        Ok(Ok(Done { files, reply, out: self.out, writes: self.writes, calls }))
    }

    /// The trust that holds for this tick: that of its first run.
    pub(crate) fn trust(&self) -> crate::agent::envelope::Trust {
        self.pin.trust
    }

    /// The outside changes of this run so far, which stay done if it fails.
    pub(crate) fn calls(&self) -> &[CallMade] {
        &self.calls
    }

    /// A run that cannot count any more does nothing more.
    fn check_alive(&self, path: &Path) -> Result<(), Error> {
        match (&self.poison, &self.put_off) {
            (Some(poison), _) => Err(Error::io(path, poison.to_string())),
            (None, Some(reason)) => Err(Error::io(path, reason.clone())),
            (None, None) => Ok(()),
        }
    }

    fn check(&self, path: &Path, right: Right) -> Result<(), Error> {
        let rights = in_agent(Role::Agent, path);
        if rights.has(right) {
            return Ok(());
        }
        // What the agent may not touch at all is not there for it.
        Err(if rights.any() { Error::denied(path) } else { Error::not_found(path) })
    }

    fn context(&self, key: ChangeKey) -> Context<'_> {
        let Setting { row, manifest, envelope, .. } = &self.setting;
        Context {
            role: Role::Agent,
            caller: row.pubkey,
            subject: Some(Subject { row, manifest, state: &self.overlay }),
            wake: Some(Wake { envelope, trust: self.pin.trust, sent: &self.out, is_consented: false }),
            now_ms: envelope.accepted_at_ms,
            key,
        }
    }

    /// Names a change: the same in every run of the tick.
    fn key(&self, path: &Path) -> ChangeKey {
        let mut engine = sha256::HashEngine::default();
        let Setting { row, envelope, .. } = &self.setting;
        for part in [
            row.pubkey.as_bytes().as_slice(),
            envelope.id.as_bytes(),
            &self.changes.to_be_bytes(),
            path.as_str().as_bytes(),
        ] {
            engine.input(part);
        }
        sha256::Hash::from_engine(engine).to_byte_array()
    }

    /// Waits until the disk is where the tick began, if whoever serves a path looks there.
    async fn settle(&mut self, path: &Path) -> Result<(), Error> {
        if self.setting.mounts.find(path).is_ok_and(|found| !found.mount.service.is_own()) {
            let settled = self.setting.committed.settled().await;
            // No fault of the program.
            settled.map_err(|error| self.put_off_by(error.at(path)))?;
        }
        Ok(())
    }

    async fn look<T>(
        &self,
        path: &Path,
        look: impl AsyncFnOnce(Context<'_>, Found<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let found = self.setting.mounts.find(path)?;
        look(self.context([0; 32]), found).await.map_err(|error| error.at(path))
    }

    /// Whether what a path answers may differ in another run of the tick.
    fn journals_reads(&self, path: &Path) -> bool {
        self.setting.mounts.find(path).is_ok_and(|found| !found.mount.service.is_fixed())
    }

    /// What an earlier run read here.
    fn recorded(
        &mut self,
        verb: &str,
        path: &Path,
        span: Span,
    ) -> Result<Option<Result<Vec<u8>, Error>>, Error> {
        self.check_alive(path)?;
        if !self.journals_reads(path) {
            return Ok(None);
        }
        if !self.journal.fits(0) {
            return Err(Error::too_large(path, journal::BYTES_MAX));
        }
        let request = journal::read_request(verb, path, span);
        let next = self.journal.next(&request, path);
        match next.map_err(|poison| self.poison(path, poison))? {
            Next::Replied(outcome) => Ok(Some(outcome.map(|blob| blob.0))),
            Next::Fresh(_) | Next::Interrupted(_) => Ok(None),
        }
    }

    fn note(
        &mut self,
        verb: &str,
        path: &Path,
        span: Span,
        content: &Result<Vec<u8>, Error>,
    ) -> Result<(), Error> {
        if !self.journals_reads(path) {
            return Ok(());
        }
        if !self.journal.fits(content.as_ref().map_or(0, Vec::len)) {
            return Err(Error::too_large(path, journal::BYTES_MAX));
        }
        let request = journal::read_request(verb, path, span);
        self.journal.read(request, path, content.clone().map(Blob));
        Ok(())
    }

    fn poison(&mut self, path: &Path, poison: Nondeterministic) -> Error {
        let error = Error::io(path, poison.to_string());
        self.poison = Some(poison);
        error
    }

    fn absorb(&mut self, path: &Path, effect: Effect) -> Result<Vec<u8>, Error> {
        let Effect { reply, files, out, writes } = effect;
        if self.out.len() + self.writes.len() + out.len() + writes.len() > EFFECTS_MAX {
            return Err(Error::new(
                Code::RateLimited,
                path,
                format!("over {EFFECTS_MAX} effects in one tick"),
            ));
        }
        self.overlay.lay(files)?;
        self.out.extend(out);
        self.writes.extend(writes);
        Ok(reply)
    }

    fn set_reply(&mut self, change: &Change) -> Result<(), Error> {
        let reply = match change {
            Change::Write(content) => content.clone(),
            Change::Append(content) => [self.reply.as_slice(), content].concat(),
            Change::Remove => Vec::new(),
            change => {
                return Err(service::not_taken(&"/reply".parse().unwrap_or_else(|_| Path::root()), change));
            }
        };
        // What grows when it is escaped is too large although it has fewer bytes.
        if reply.len() > TEXT_BYTES_MAX || !fits_one_message(&String::from_utf8_lossy(&reply)) {
            return Err(Error::too_large("/reply", TEXT_BYTES_MAX));
        }
        self.reply = reply;
        Ok(())
    }
}

/// The entries that the agent may touch.
fn visible(folder: &Path, entries: Vec<Stat>) -> Vec<Stat> {
    let is_visible =
        |stat: &Stat| folder.join(&stat.name).is_ok_and(|path| in_agent(Role::Agent, &path).any());
    entries.into_iter().filter(is_visible).collect()
}

fn parse(path: &str) -> Result<Path, Error> {
    path.parse().map_err(|reason| Error::invalid_path(path, reason))
}
