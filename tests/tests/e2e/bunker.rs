//! NIP-46 against nostr-tools, through our relay and pool: their client and our service, our client and a bunker made
//! with theirs. `tests/interop/install.sh` installs them.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use oa_nips::nostr::{Event, EventBuilder, Filter, Keys, RelayUrl, Timestamp};
use oa_nips::port::{Ack, Publish as _, Signer, SignerError};
use oa_node::bunker::message::{KIND, RequestError, Response};
use oa_node::bunker::uri::{BunkerUri, Remote, Secret};
use oa_node::bunker::{Grant, Service, State, event};
use oa_node::drivers::nostr::{Config, Incoming, OneKey, Pool};
use oa_node::signer::bunker::Link;
use oa_node::signer::{Conversations, LocalSigner};
use oa_node::time::{System, Time as _};
use oa_relay::{Relay, StoreConfig};
use oa_tests::bunker::{nostr_tools, signed_as};
use oa_tests::world::DEADLINE;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::mpsc;

/// Events that wait to be looked at.
const INCOMING: usize = 64;

fn signer() -> LocalSigner {
    LocalSigner::new(Keys::generate(), Conversations::default())
}

/// A relay, and a pool that is connected to it.
struct Stage {
    relay: Relay,
    url: RelayUrl,
    pool: Pool,
    incoming: mpsc::Receiver<Incoming>,
}

impl Stage {
    async fn start() -> Result<Self> {
        let config = oa_relay::Config::new(([127, 0, 0, 1], 0).into(), StoreConfig::Memory);
        let relay = Relay::start(config).await?;
        let url = RelayUrl::parse(&relay.url())?;
        let (sender, incoming) = mpsc::channel(INCOMING);
        let pool = Pool::start(Config::client([&url]), Arc::new(OneKey(Arc::new(signer()))), None, sender);
        Ok(Self { relay, url, pool, incoming })
    }

    async fn listens(&self, filter: Filter) -> Result<()> {
        self.pool.stand("bunker", filter);
        ensure!(self.pool.ready(1, DEADLINE).await == 1, "the relay does not answer");
        Ok(())
    }

    async fn next(incoming: &mut mpsc::Receiver<Incoming>) -> Option<Event> {
        loop {
            if let Incoming::Event { event, .. } = incoming.recv().await? {
                return Some(*event);
            }
        }
    }

    async fn end(self) {
        self.pool.shutdown().await;
        self.relay.shutdown().await;
    }
}

/// Answers one event as the node will; what is not for it stays unanswered.
async fn serve(
    service: &mut Service,
    transport: &LocalSigner,
    user: &LocalSigner,
    event: &Event,
) -> Result<Option<Event>> {
    let now_s = System.now_ms() / 1000;
    let response = match event::read(event, transport, now_s).await {
        Ok(request) => service.hear(event.pubkey, request, now_s).task.perform(user).await,
        Err(event::ReadError::Request(RequestError::Wrong { id, reason })) => Response::error(id, reason),
        Err(_) => return Ok(None),
    };
    Ok(Some(event::write(&response, event.pubkey, transport, Timestamp::from_secs(now_s)).await?))
}

#[tokio::test]
async fn nostr_tools_has_its_events_signed_by_our_bunker() -> Result<()> {
    let mut stage = Stage::start().await?;
    let (transport, user) = (signer(), signer());
    let mut service = Service::new(State::default(), user.public_key());
    let (secret, now_s) = (Secret::new("let me in").context("a secret")?, System.now_ms() / 1000);
    service.state_mut().invite(&secret, "nostr-tools", Grant::default(), now_s + 600, now_s)?;
    stage.listens(Filter::new().kind(KIND).pubkey(transport.public_key())).await?;
    let remote = Remote { public_key: transport.public_key(), relays: vec![stage.url.clone()] };
    let uri = BunkerUri { remote, secret: Some(secret) }.reveal();
    let client = nostr_tools(&["client", &uri])?.spawn()?;
    let serving = async {
        while let Some(event) = Stage::next(&mut stage.incoming).await {
            if let Some(answer) = serve(&mut service, &transport, &user, &event).await? {
                let ack = stage.pool.publish(&stage.url, &answer, DEADLINE).await;
                ensure!(ack == Ack::Accepted, "{ack:?}");
            }
        }
        bail!("the pool ended")
    };
    let output = tokio::select! {
        output = tokio::time::timeout(2 * DEADLINE, client.wait_with_output()) => output??,
        ended = serving => return ended,
    };
    signed_as(&output, &user.public_key())?;
    ensure!(service.state() == &State::default(), "nobody is left: {:?}", service.state());
    stage.end().await;
    Ok(())
}

#[tokio::test]
async fn a_bunker_made_with_nostr_tools_signs_for_us() -> Result<()> {
    let stage = Stage::start().await?;
    let mut child = nostr_tools(&["bunker", stage.url.as_str()])?.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("its stdout")?).lines();
    let line = tokio::time::timeout(DEADLINE, lines.next_line()).await??.context("it ended")?;
    let said: Value = serde_json::from_str(&line)?;
    let text = |key: &str| said.get(key).and_then(Value::as_str).context("it says where it is");
    let BunkerUri { remote, secret } = text("uri")?.parse()?;
    ensure!(remote.relays == [stage.url.clone()] && secret.is_some(), "{said}");

    let link = Link::new(remote, Keys::generate(), Arc::new(stage.pool.clone()), Arc::new(System));
    stage.listens(link.filter()).await?;
    let Stage { relay, pool, mut incoming, .. } = stage;
    let delivering = tokio::spawn({
        let link = link.clone();
        async move {
            while let Some(event) = Stage::next(&mut incoming).await {
                link.deliver(&event);
            }
        }
    });
    let uninvited = link.connect(None, "").await;
    ensure!(matches!(uninvited, Err(SignerError::Refused(_))), "{uninvited:?}");
    let bunker = link.connect(secret, "sign_event:1").await?;
    ensure!(bunker.public_key().to_hex() == text("key")?);
    let friend = signer();
    // Several at once, whose answers come in any order among noise.
    let notes = (0..20).map(|n| {
        let note = EventBuilder::text_note(format!("note {n}")).build(bunker.public_key());
        let bunker = bunker.clone();
        async move { bunker.sign(note).await }
    });
    for (n, note) in futures_util::future::join_all(notes).await.into_iter().enumerate() {
        let note = note?;
        note.verify()?;
        ensure!(note.content == format!("note {n}") && note.pubkey == bunker.public_key(), "{note:?}");
    }
    let cipher = bunker.nip44_encrypt(&friend.public_key(), "to a friend").await?;
    ensure!(friend.nip44_decrypt(&bunker.public_key(), &cipher).await? == "to a friend");
    ensure!(bunker.nip44_decrypt(&friend.public_key(), &cipher).await? == "to a friend");
    let foreign = friend.nip44_encrypt(&signer().public_key(), "to another").await?;
    let unread = bunker.nip44_decrypt(&friend.public_key(), &foreign).await;
    ensure!(matches!(unread, Err(SignerError::Refused(_))), "{unread:?}");
    link.ping().await?;
    drop(child.stdin.take());
    tokio::time::timeout(DEADLINE, child.wait()).await??;
    pool.shutdown().await;
    // It ends with the pool's last handle, and the link has one.
    delivering.abort();
    relay.shutdown().await;
    Ok(())
}
