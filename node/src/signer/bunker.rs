//! A key that lives in a bunker (NIP-46), asked through the process's relay pool.
//!
//! [`Link`] carries requests there: the machine in `machine` makes the events, the port [`Publish`] sends them, and
//! whoever reads the pool hands what comes for [`Link::filter`] to [`Link::deliver`]. The relays of the bunker must be
//! among the pool's own, as a subscription stands on those. [`Bunker`] is the link and the key behind it, as a
//! [`Signer`]. Nothing runs between calls.
//!
//! A bunker that is away, asks its owner first or says no to what another answer is possible for is
//! [`SignerError::Unavailable`]: the mail waits. Only what can never work is [`SignerError::Refused`].

mod address;
mod machine;
mod wary;

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use oa_nips::hex::Hex;
use oa_nips::nostr::util::BoxedFuture;
use oa_nips::nostr::{Event, Filter, Keys, PublicKey, RelayUrl, Timestamp, UnsignedEvent};
use oa_nips::port::{Ack, Publish, Signer, SignerError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

pub use self::address::AddressError;
use self::machine::Machine;
pub use self::wary::Wary;
use super::{Conversations, LocalSigner, nip44_cipher};
use crate::bunker::message::{self, Answer, Call, Cipher, KIND, Way};
use crate::bunker::uri::{Remote, Secret};
use crate::codes;
use crate::time::Time;

/// Until a request counts as unanswered.
const DEADLINE: Duration = Duration::from_secs(10);
/// Answers to one request that wait to be read: that its owner is asked, and the true one. More are let go.
const ANSWERS: usize = 4;

/// What in a refusal means that another time it may be granted: NIP-46 has no codes, and a message that is taken for
/// unreadable is lost.
const PASSING: [&str; 14] = [
    "auth", "permi", "allow", "denied", "reject", "declin", "connect", "session", "time", "rate", "limit",
    "busy", "lock", "offline",
];

/// A way to a bunker. A cheap handle.
#[derive(Debug, Clone)]
pub struct Link {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: PublicKey,
    remote: Remote,
    machine: Mutex<Machine<mpsc::Sender<Answer>>>,
    publish: Arc<dyn Publish>,
    time: Arc<dyn Time>,
    patience: Patience,
    /// Since when nothing was answered that was asked.
    silence: Mutex<Option<Silence>>,
}

/// A bunker that is away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// When the first unanswered request was given up, in milliseconds since 1970.
    pub since_ms: u64,
    /// What became of the last.
    pub why: String,
}

/// The bunker's owner, where he can be told something.
pub trait Owner: Debug + Send + Sync {
    /// The bunker does what was asked once he has opened this address, an http or https one.
    fn asked(&self, url: &str);
}

/// How long answers are waited for.
#[derive(Debug, Clone)]
pub struct Patience {
    /// From a request to its answer. 10 s by default.
    pub answer: Duration,
    /// Who is told when the bunker asks its owner first, and how long the answer may take from then on; without him
    /// such a request has failed, and is made again later.
    pub owner: Option<(Arc<dyn Owner>, Duration)>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { answer: DEADLINE, owner: None }
    }
}

/// A way to a bunker that does not keep it.
#[derive(Debug, Clone)]
pub(crate) struct WeakLink(Weak<Inner>);

impl WeakLink {
    /// The way, if anybody still has it.
    pub(crate) fn upgrade(&self) -> Option<Link> {
        self.0.upgrade().map(|inner| Link { inner })
    }
}

impl Link {
    /// A way to `remote` for the client key that it knows us by, or shall know.
    pub fn new(remote: Remote, client: Keys, publish: Arc<dyn Publish>, time: Arc<dyn Time>) -> Self {
        Self::patient(Patience::default(), remote, client, publish, time)
    }

    /// The same for who is more, or less, patient.
    pub fn patient(
        patience: Patience,
        remote: Remote,
        client: Keys,
        publish: Arc<dyn Publish>,
        time: Arc<dyn Time>,
    ) -> Self {
        let key = client.public_key();
        // One conversation, with the bunker.
        let machine = Machine::new(LocalSigner::new(client, Conversations::new(2)), remote.public_key);
        let machine = Mutex::new(machine);
        let silence = Mutex::default();
        Self { inner: Arc::new(Inner { client: key, remote, machine, publish, time, patience, silence }) }
    }

    pub(crate) fn downgrade(&self) -> WeakLink {
        WeakLink(Arc::downgrade(&self.inner))
    }

    /// The bunker.
    pub fn remote(&self) -> &Remote {
        &self.inner.remote
    }

    /// What has to be listened for on the bunker's relays, before anything is asked.
    pub fn filter(&self) -> Filter {
        Filter::new().kind(KIND).author(self.inner.remote.public_key).pubkey(self.inner.client)
    }

    /// Takes an event that came from a relay, verified or not; whether it answered a request.
    pub fn deliver(&self, event: &Event) -> bool {
        let answered = self.machine().answer(event);
        if answered.is_some() {
            *self.heard() = None;
        }
        // The waiter may have given up in this moment.
        answered.is_some_and(|(waiter, answer)| waiter.try_send(answer).is_ok())
    }

    /// Introduces this client with the secret of the bunker's address, and asks whose key is there. `permissions` is
    /// what it would like to do, as NIP-46 writes it: `sign_event:14,nip44_encrypt`.
    ///
    /// # Errors
    /// [`SignerError::Refused`] when the bunker does not let us in, [`SignerError::Unavailable`] when it is away or
    /// asks its owner.
    pub async fn connect(&self, secret: Option<Secret>, permissions: &str) -> Result<Bunker, SignerError> {
        // Whatever it answers but an error: some say ack, some repeat the secret.
        self.ask(Call::Connect { secret, permissions: permissions.to_owned() }).await?;
        let public_key = self.key().await?;
        Ok(self.clone().resume(public_key))
    }

    /// Whose key is there, for a client that was let in.
    ///
    /// # Errors
    /// As [`Link::connect`].
    pub async fn key(&self) -> Result<PublicKey, SignerError> {
        let key = self.ask(Call::GetPublicKey).await?;
        PublicKey::from_hex(key.trim())
            .map_err(|_| SignerError::Unavailable("the bunker named no public key".to_owned()))
    }

    /// The signer of a bunker that let this client in before, whose key is `public_key`.
    pub fn resume(self, public_key: PublicKey) -> Bunker {
        Bunker { link: self, public_key }
    }

    /// Whether the bunker is there.
    ///
    /// # Errors
    /// As [`Link::connect`].
    pub async fn ping(&self) -> Result<(), SignerError> {
        self.ask(Call::Ping).await.map(drop)
    }

    /// Takes leave of the bunker: it forgets this client.
    ///
    /// # Errors
    /// As [`Link::connect`].
    pub async fn logout(&self) -> Result<(), SignerError> {
        self.ask(Call::Logout).await.map(drop)
    }

    /// Since when the bunker is away, if the last that was asked was not answered.
    pub fn silence(&self) -> Option<Silence> {
        self.heard().clone()
    }

    fn heard(&self) -> MutexGuard<'_, Option<Silence>> {
        // Assigned whole, or not at all.
        self.inner.silence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn machine(&self) -> MutexGuard<'_, Machine<mpsc::Sender<Answer>>> {
        // Whatever a panic left behind, every entry of the map is right.
        self.inner.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks and waits for the answer.
    async fn ask(&self, call: Call) -> Result<String, SignerError> {
        let Inner { remote, publish, time, patience, .. } = &*self.inner;
        let id = Hex(codes::random()).to_string();
        let (waiter, mut answers) = mpsc::channel(ANSWERS);
        let at = Timestamp::from_secs(time.now_ms() / 1000);
        let event = self.machine().request(id.clone(), &call, at, waiter)?;
        let _waiting = Waiting { link: self, id };
        let sent = async {
            let sends = remote.relays.iter().map(|relay| send(&**publish, relay, &event, patience.answer));
            let refusals: Vec<String> = join_all(sends).await.into_iter().flatten().collect();
            if refusals.len() < remote.relays.len() {
                return std::future::pending().await;
            }
            refusals.join("; ")
        };
        tokio::pin!(sent);
        let (mut wait, mut owner) = (patience.answer, patience.owner.as_ref());
        let mut until = Instant::now() + wait;
        let why_not = loop {
            tokio::select! {
                biased;
                answer = answers.recv() => match answer {
                    // Once: a bunker that goes on asking keeps nobody waiting for ever.
                    Some(Answer::AuthUrl(url)) if is_link(&url) && let Some((told, longer)) = owner.take() => {
                        told.asked(&url);
                        (wait, until) = (*longer, Instant::now() + *longer);
                    }
                    answer => return taken(&call, answer),
                },
                reasons = &mut sent => break format!("no relay of the bunker's took the request: {reasons}"),
                () = sleep_until(until) => break format!("no answer from the bunker within {} s", wait.as_secs_f32()),
            }
        };
        // It may have come in the same moment, from a relay that then went away.
        if let Ok(answer) = answers.try_recv() {
            return taken(&call, Some(answer));
        }
        let since_ms = time.now_ms();
        self.heard().get_or_insert(Silence { since_ms, why: String::new() }).why.clone_from(&why_not);
        Err(SignerError::Unavailable(why_not))
    }
}

/// What an answer means.
fn taken(call: &Call, answer: Option<Answer>) -> Result<String, SignerError> {
    match answer {
        Some(Answer::Result(result)) => Ok(result),
        Some(Answer::Error(reason)) => Err(refusal(call, &reason)),
        Some(Answer::AuthUrl(url)) => Err(SignerError::Unavailable(authorise(&url))),
        // Only if its place were taken from it, which nobody does.
        None => Err(SignerError::Unavailable("nobody waits for the bunker".to_owned())),
    }
}

/// Frees the place of a request that is answered or given up.
struct Waiting<'a> {
    link: &'a Link,
    id: String,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.link.machine().forget(&self.id);
    }
}

/// Sends to one relay; why it was not taken, if it was not.
async fn send(publish: &dyn Publish, relay: &RelayUrl, event: &Event, deadline: Duration) -> Option<String> {
    match publish.publish(relay, event, deadline).await {
        Ack::Accepted => None,
        Ack::Refused(reason) | Ack::Unreached(reason) => Some(format!("{relay}: {reason}")),
    }
}

/// Whether an address may be shown to be opened. Any other could be made to do something when it is clicked.
fn is_link(url: &str) -> bool {
    (url.starts_with("https://") || url.starts_with("http://")) && !url.contains(char::is_whitespace)
}

/// What to tell the owner of a bunker that asks first.
fn authorise(url: &str) -> String {
    if is_link(url) {
        format!("the bunker asks its owner to open URL {url}")
    } else {
        "the bunker asks its owner to open an address that is none".to_owned()
    }
}

/// What a bunker's refusal means for the call.
fn refusal(call: &Call, reason: &str) -> SignerError {
    let said = format!("the bunker says: {reason}");
    let may_pass = || {
        let reason = reason.to_ascii_lowercase();
        PASSING.iter().any(|word| reason.contains(word))
    };
    match call {
        // Not invited: asking again will not help.
        Call::Connect { .. } => SignerError::Refused(said),
        // Most of what cannot be decrypted never can be, and must not come again and again.
        Call::Convert { way: Way::Decrypt, .. } if !may_pass() => SignerError::Refused(said),
        _ => SignerError::Unavailable(said),
    }
}

/// A key in a bunker.
#[derive(Debug, Clone)]
pub struct Bunker {
    link: Link,
    public_key: PublicKey,
}

impl Bunker {
    /// The way to it.
    pub fn link(&self) -> &Link {
        &self.link
    }

    async fn convert(
        &self,
        cipher: Cipher,
        way: Way,
        peer: &PublicKey,
        text: &str,
    ) -> Result<String, SignerError> {
        self.link.ask(Call::Convert { cipher, way, peer: *peer, text: text.to_owned() }).await
    }

    async fn sign_there(&self, mut event: UnsignedEvent) -> Result<Event, SignerError> {
        if event.pubkey != self.public_key {
            return Err(SignerError::Refused(format!("cannot sign for {}", event.pubkey)));
        }
        event.verify_id().map_err(super::refused)?;
        let id = event.id();
        let answer = self.link.ask(Call::SignEvent(Box::new((&event).into()))).await?;
        // The id is a hash of everything but the signature: with it, author, time, kind, tags and content are ours.
        let signed = message::signed(&answer)
            .filter(|signed| signed.id == id && signed.pubkey == self.public_key && signed.verify().is_ok());
        signed.ok_or_else(|| SignerError::Unavailable("the bunker signed something else".to_owned()))
    }
}

impl Signer for Bunker {
    fn public_key(&self) -> PublicKey {
        self.public_key
    }

    fn is_immediate(&self) -> bool {
        false
    }

    fn sign(&self, event: UnsignedEvent) -> BoxedFuture<'_, Result<Event, SignerError>> {
        Box::pin(self.sign_there(event))
    }

    fn nip44_encrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(self.convert(Cipher::Nip44, Way::Encrypt, peer, text))
    }

    fn nip44_decrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(async move {
            // What cannot be valid is not worth a journey.
            nip44_cipher(text)?;
            self.convert(Cipher::Nip44, Way::Decrypt, peer, text).await
        })
    }

    fn nip04_encrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(self.convert(Cipher::Nip04, Way::Encrypt, peer, text))
    }

    fn nip04_decrypt<'a>(
        &'a self,
        peer: &'a PublicKey,
        text: &'a str,
    ) -> BoxedFuture<'a, Result<String, SignerError>> {
        Box::pin(self.convert(Cipher::Nip04, Way::Decrypt, peer, text))
    }
}

#[cfg(test)]
mod tests;
