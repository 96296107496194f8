//! A correspondent: writes note after note, the same bytes until the relay says OK, and never far ahead of the
//! answers.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use oa_nips::kind;
use oa_nips::mail::{self, Draft};
use oa_nips::nostr::{EventId, Filter, Keys, PublicKey};
use oa_node::signer::{Conversations, LocalSigner};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::plan::Plan;
use super::verdict::{Reply, Sent, text};
use crate::client::forge::now_ms;
use crate::client::{Client, Letter};
use crate::world::DEADLINE;

/// How long an OK is waited for before the same bytes are sent again.
const OK_WAIT: Duration = Duration::from_secs(3);
/// How long one attempt to connect may go on.
const CONNECT: Duration = Duration::from_secs(2);
/// How long to listen before looking whether the connection still stands.
const LISTEN: Duration = Duration::from_millis(500);
/// Messages written after the last that was answered: enough for a kill to find some in every phase.
const WINDOW: u64 = 12;

/// What the sender of a run is told and tells.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) number: usize,
    pub(super) plan: Plan,
    pub(super) relay: String,
    pub(super) agent: PublicKey,
    /// How many messages it may have written by now.
    pub(super) allowed: watch::Receiver<u64>,
    /// How many of its messages are answered.
    pub(super) answered: watch::Sender<u64>,
    /// Ends it.
    pub(super) end: CancellationToken,
}

/// A sender at work.
struct Writer {
    sender: Sender,
    client: Client,
    sent: Vec<Sent>,
    asked: HashMap<EventId, u64>,
    answered: HashSet<EventId>,
    /// The last message that was answered. One before it that was not does not hold up the rest.
    last: u64,
    last_ms: u64,
}

impl Sender {
    /// Writes and listens until its end; answers what the relay has taken.
    ///
    /// # Errors
    /// When the relay refuses a message.
    pub(super) async fn run(self) -> Result<Vec<Sent>> {
        let end = self.end.clone();
        let client = Client::connect(&self.relay, self.plan.keys(self.number), DEADLINE).await?;
        let mut writer = Writer {
            sender: self,
            client,
            sent: Vec::new(),
            asked: HashMap::new(),
            answered: HashSet::new(),
            last: 0,
            last_ms: 0,
        };
        loop {
            tokio::select! {
                biased;
                () = end.cancelled() => return Ok(writer.sent),
                step = writer.step() => step?,
            }
        }
    }
}

impl Writer {
    async fn step(&mut self) -> Result<()> {
        let written = self.sent.len() as u64;
        let ahead = written.saturating_sub(self.last);
        if written < *self.sender.allowed.borrow_and_update() && ahead < WINDOW {
            self.write(written + 1).await?;
            return self.listen(Duration::ZERO).await;
        }
        self.listen(LISTEN).await
    }

    /// Writes the `n`-th message and does not rest before the relay has it.
    async fn write(&mut self, n: u64) -> Result<()> {
        let Sender { number, plan, agent, .. } = &self.sender;
        let (sender, protocol) = (*number, plan.protocol(*number, n));
        // No two of the same millisecond, so that order is told by time.
        self.last_ms = now_ms().max(self.last_ms + 1);
        let draft = Draft::text(*agent, text(n), self.last_ms);
        let letter = Letter::new(self.client.keys(), &draft, protocol)?;
        loop {
            match self.client.publish(&letter.event, OK_WAIT).await {
                Ok(answer) if answer.accepted || answer.message.starts_with("duplicate:") => break,
                Ok(answer) => bail!("the relay refused message {n} of sender {sender}: {}", answer.message),
                Err(_) => self.reconnect().await,
            }
        }
        self.asked.insert(letter.id, n);
        self.sent.push(Sent { id: letter.id, sender, n, protocol });
        Ok(())
    }

    /// Takes answers that come until then.
    async fn listen(&mut self, within: Duration) -> Result<()> {
        let mut within = within;
        let mut allowed = self.sender.allowed.clone();
        loop {
            let mail = tokio::select! {
                biased;
                mail = self.client.next(within) => mail,
                changed = allowed.changed(), if !within.is_zero() => return changed.context("the run is over"),
            };
            match mail {
                Ok(mail) => self.heard(mail.reply_to),
                Err(_) if self.client.is_connected() => return Ok(()),
                Err(_) => {
                    self.reconnect().await;
                    return Ok(());
                }
            }
            within = Duration::ZERO;
        }
    }

    fn heard(&mut self, to: Option<EventId>) {
        if let Some((to, n)) = to.and_then(|to| Some((to, *self.asked.get(&to)?))) {
            self.answered.insert(to);
            self.last = self.last.max(n);
            self.sender.answered.send_replace(self.answered.len() as u64);
        }
    }

    /// Connects anew, however long it takes: whoever started the relay knows when to give up.
    async fn reconnect(&mut self) {
        while self.client.reconnect(CONNECT).await.is_err() {}
    }
}

/// All that the relay stores for a sender, opened.
///
/// # Errors
/// When it cannot be asked, or has something that the sender cannot open.
pub(super) async fn replies(relay: &str, number: usize, keys: &Keys) -> Result<Vec<Reply>> {
    let client = Client::connect(relay, Keys::generate(), DEADLINE).await?;
    let filter = Filter::new().kinds([kind::WRAP, kind::LEGACY_DM]).pubkey(keys.public_key());
    let signer = LocalSigner::new(keys.clone(), Conversations::default());
    let mut replies = Vec::new();
    for event in client.fetch(&filter, DEADLINE).await? {
        let mail = mail::unwrap(&event, &signer).await.context("what is stored for a sender is mail")?;
        replies.push(Reply {
            event: event.id,
            id: mail.id,
            sender: number,
            to: mail.reply_to,
            protocol: mail.protocol,
            text: mail.text().unwrap_or_default().to_owned(),
        });
    }
    Ok(replies)
}
