//! The client against a bunker that is scripted: right, wrong, slow, away.

use oa_nips::nostr::{EventBuilder, JsonUtil as _, Tag};

use super::*;
use crate::bunker::event;
use crate::bunker::message::{Request, Response};
use crate::time::System;

/// Short enough for tests of silence; everything else answers at once.
const SHORT: Duration = Duration::from_millis(50);

/// What the bunker says to a request; nothing keeps it silent.
type Script = dyn Fn(&Request, &LocalSigner) -> Option<Answer> + Send + Sync;

/// A relay with a bunker behind it, which answers what is published in the same moment.
struct Wire {
    transport: LocalSigner,
    user: LocalSigner,
    script: Box<Script>,
    ack: Ack,
    link: Mutex<Option<Link>>,
    calls: Mutex<Vec<Call>>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
    }
}

impl Publish for Wire {
    fn publish<'a>(&'a self, _: &'a RelayUrl, event: &'a Event, _: Duration) -> BoxedFuture<'a, Ack> {
        Box::pin(async move {
            let now_s = System.now_ms() / 1000;
            let request = event::read(event, &self.transport, now_s).await.unwrap();
            let answer = (self.script)(&request, &self.user);
            self.calls.lock().unwrap().push(request.call);
            if let Some(answer) = answer {
                let response = Response { id: request.id, answer };
                let at = Timestamp::from_secs(now_s);
                let event = event::write(&response, event.pubkey, &self.transport, at).await.unwrap();
                let link = self.link.lock().unwrap().clone().unwrap();
                link.deliver(&event);
            }
            self.ack.clone()
        })
    }
}

fn signer() -> LocalSigner {
    LocalSigner::new(Keys::generate(), Conversations::default())
}

fn wire(deadline: Duration, ack: Ack, script: Box<Script>) -> (Arc<Wire>, Link) {
    let (transport, user) = (signer(), signer());
    let relays = vec![RelayUrl::parse("ws://127.0.0.1:1").unwrap()];
    let remote = Remote { public_key: transport.public_key(), relays };
    let wire = Wire { transport, user, script, ack, link: Mutex::default(), calls: Mutex::default() };
    let wire = Arc::new(wire);
    let patience = Patience { answer: deadline, ..Patience::default() };
    let link = Link::patient(patience, remote, Keys::generate(), wire.clone(), Arc::new(System));
    *wire.link.lock().unwrap() = Some(link.clone());
    (wire, link)
}

/// A link to a bunker that does as the script says.
fn scripted(
    script: impl Fn(&Request, &LocalSigner) -> Option<Answer> + Send + Sync + 'static,
) -> (Arc<Wire>, Link) {
    wire(DEADLINE, Ack::Accepted, Box::new(script))
}

fn result(text: impl Into<String>) -> Option<Answer> {
    Some(Answer::Result(text.into()))
}

/// A bunker as it should be.
fn honest(request: &Request, user: &LocalSigner) -> Option<Answer> {
    match &request.call {
        Call::Connect { .. } => result("ack"),
        Call::GetPublicKey => result(user.keys.public_key().to_hex()),
        Call::SignEvent(template) => {
            result(user.sign_now(template.as_ref().clone().by(user.keys.public_key())).unwrap().as_json())
        }
        Call::Convert { cipher: Cipher::Nip44, way: Way::Encrypt, peer, text } => {
            result(user.encrypt(peer, text).unwrap())
        }
        Call::Convert { cipher: Cipher::Nip44, way: Way::Decrypt, peer, text } => Some(
            user.decrypt(peer, text).map_or_else(|_| Answer::Error("invalid mac".to_owned()), Answer::Result),
        ),
        Call::Ping => result("pong"),
        _ => Some(Answer::Error("unsupported".to_owned())),
    }
}

fn is_away<T: std::fmt::Debug>(outcome: Result<T, SignerError>, said: &str) {
    match outcome {
        Err(SignerError::Unavailable(reason)) => assert!(reason.contains(said), "{reason}"),
        other => panic!("not unavailable: {other:?}"),
    }
}

fn is_refused<T: std::fmt::Debug>(outcome: Result<T, SignerError>) {
    assert!(matches!(outcome, Err(SignerError::Refused(_))), "{outcome:?}");
}

#[tokio::test]
async fn an_honest_bunker_is_a_signer_like_any_other() {
    let (wire, link) = scripted(honest);
    let bunker = link.connect(Secret::new("word"), "sign_event:1").await.unwrap();
    assert_eq!(bunker.public_key(), wire.user.public_key());
    assert!(!bunker.is_immediate());
    let first = Call::Connect { secret: Secret::new("word"), permissions: "sign_event:1".to_owned() };
    assert_eq!(*wire.calls.lock().unwrap(), [first, Call::GetPublicKey]);
    let event = EventBuilder::text_note("hi").tag(Tag::hashtag("t")).build(bunker.public_key());
    let signed = bunker.sign(event.clone()).await.unwrap();
    signed.verify().unwrap();
    assert_eq!((signed.pubkey, signed.content, signed.tags), (event.pubkey, event.content, event.tags));
    let peer = signer();
    let cipher = bunker.nip44_encrypt(&peer.public_key(), "secret").await.unwrap();
    assert_eq!(peer.nip44_decrypt(&bunker.public_key(), &cipher).await.unwrap(), "secret");
    assert_eq!(bunker.nip44_decrypt(&peer.public_key(), &cipher).await.unwrap(), "secret");
    link.ping().await.unwrap();
    assert!(link.machine().is_idle());
}

#[tokio::test]
async fn another_event_than_was_asked_for_is_not_taken() {
    type Tamper = fn(UnsignedEvent, &LocalSigner) -> String;
    let cases: [Tamper; 5] = [
        |event, user| {
            user.sign_now(UnsignedEvent { id: None, content: "other".to_owned(), ..event }).unwrap().as_json()
        },
        |event, user| {
            let later = Timestamp::from_secs(event.created_at.as_secs() + 1);
            user.sign_now(UnsignedEvent { id: None, created_at: later, ..event }).unwrap().as_json()
        },
        |event, _| {
            let eve = signer();
            let by = UnsignedEvent { id: None, pubkey: eve.public_key(), ..event };
            eve.sign_now(by).unwrap().as_json()
        },
        |event, user| {
            // The right id over another content.
            let mut signed = user.sign_now(event).unwrap();
            signed.content = "other".to_owned();
            signed.as_json()
        },
        |_, _| "ack".to_owned(),
    ];
    for tamper in cases {
        let (wire, link) = scripted(move |request, user| match &request.call {
            Call::SignEvent(template) => {
                result(tamper(template.as_ref().clone().by(user.public_key()), user))
            }
            _ => None,
        });
        let bunker = link.resume(wire.user.public_key());
        let event = EventBuilder::text_note("hi").build(bunker.public_key());
        is_away(bunker.sign(event).await, "signed something else");
    }
}

#[tokio::test]
async fn what_it_cannot_sign_is_refused_without_asking() {
    let (wire, link) = scripted(honest);
    let bunker = link.resume(wire.user.public_key());
    is_refused(bunker.sign(EventBuilder::text_note("hi").build(signer().public_key())).await);
    let mut event = EventBuilder::text_note("shown").build(bunker.public_key());
    event.ensure_id();
    event.content = "signed".to_owned();
    is_refused(bunker.sign(event).await);
    is_refused(bunker.nip44_decrypt(&signer().public_key(), "not base64!").await);
    assert!(wire.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_bunker_that_is_away_is_unavailable() {
    let (wire, link) = wire(SHORT, Ack::Accepted, Box::new(|_, _| None));
    let bunker = link.clone().resume(wire.user.public_key());
    is_away(bunker.sign(EventBuilder::text_note("hi").build(bunker.public_key())).await, "no answer");
    is_away(link.connect(None, "").await, "no answer");
    assert!(link.machine().is_idle(), "who gave up does not wait");
}

#[tokio::test(start_paused = true)]
async fn a_bunker_that_is_away_is_not_waited_for_again_until_it_is_back() {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_util::FutureExt as _;
    use tokio::sync::Notify;

    let is_there = Arc::new(AtomicBool::new(false));
    let script = {
        let is_there = is_there.clone();
        move |request: &Request, user: &LocalSigner| {
            if is_there.load(Ordering::Relaxed) { honest(request, user) } else { None }
        }
    };
    let (wire, link) = wire(SHORT, Ack::Accepted, Box::new(script));
    let back = Arc::new(Notify::new());
    let wary = Wary::new(link.clone().resume(wire.user.public_key()), back.clone());
    let peer = signer();
    let note = || EventBuilder::text_note("hi").build(wary.public_key());
    is_away(wary.sign(note()).await, "no answer");
    assert!(link.silence().is_some());
    // At once, whatever is asked.
    is_away(wary.sign(note()).now_or_never().unwrap(), "away");
    is_away(wary.nip44_encrypt(&peer.public_key(), "x").now_or_never().unwrap(), "away");
    let asked = wire.calls.lock().unwrap().iter().filter(|call| !matches!(call, Call::Ping)).count();
    assert_eq!(asked, 1, "only whether it is back is asked");
    is_there.store(true, Ordering::Relaxed);
    assert!(wary.trouble().is_some_and(|why| why.contains("no answer")), "{:?}", wary.trouble());
    back.notified().await;
    assert_eq!(link.silence(), None);
    wary.sign(note()).await.unwrap();
    assert_eq!(wary.trouble(), None);
    // What it does not allow is told, too, and is no silence.
    is_away(wary.nip04_encrypt(&peer.public_key(), "x").await, "unsupported");
    assert!(link.silence().is_none() && wary.trouble().is_some_and(|why| why.contains("unsupported")));
}

#[tokio::test]
async fn relays_that_take_nothing_are_told_at_once() {
    for ack in [Ack::Unreached("no connection".to_owned()), Ack::Refused("blocked: no connection".to_owned())]
    {
        let (_wire, link) = wire(DEADLINE, ack, Box::new(|_, _| None));
        is_away(link.ping().await, "no connection");
    }
    // An answer counts even where the relay's OK is lost.
    let (_wire, link) = wire(DEADLINE, Ack::Unreached("no answer".to_owned()), Box::new(honest));
    link.ping().await.unwrap();
}

#[tokio::test]
async fn a_bunker_that_asks_its_owner_first_says_where() {
    let (_wire, link) = scripted(|_, _| Some(Answer::AuthUrl("https://bunker.example/ok".to_owned())));
    is_away(link.connect(None, "").await, "open URL https://bunker.example/ok");
    let (_wire, link) = scripted(|_, _| Some(Answer::AuthUrl("javascript:alert(1)".to_owned())));
    let error = link.ping().await.unwrap_err().to_string();
    assert!(!error.contains("javascript"), "{error}");
}

/// Writes down what it is told.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<String>>);

impl Owner for Told {
    fn asked(&self, url: &str) {
        self.0.lock().unwrap().push(url.to_owned());
    }
}

#[tokio::test]
async fn an_owner_who_is_there_is_told_and_waited_for() {
    let (told, user) = (Arc::new(Told::default()), signer());
    let (asking, remote) = {
        let (_, link) = scripted(honest);
        let asks = |answer: Duration, longer| Patience {
            answer,
            owner: Some((told.clone() as Arc<dyn Owner>, longer)),
        };
        (asks, link.remote().clone())
    };
    // What is published is kept, and answered by hand.
    #[derive(Debug, Default)]
    struct Kept(Mutex<Vec<Event>>);
    impl Publish for Kept {
        fn publish<'a>(&'a self, _: &'a RelayUrl, event: &'a Event, _: Duration) -> BoxedFuture<'a, Ack> {
            self.0.lock().unwrap().push(event.clone());
            Box::pin(async { Ack::Accepted })
        }
    }
    let remote = Remote { public_key: user.public_key(), ..remote };
    let start = |answer, longer| {
        let kept = Arc::new(Kept::default());
        let link = Link::patient(
            asking(answer, longer),
            remote.clone(),
            Keys::generate(),
            kept.clone(),
            Arc::new(System),
        );
        (link, kept)
    };
    let say = async |link: &Link, kept: &Kept, answer: Answer| {
        let asked = kept.0.lock().unwrap().first().cloned().unwrap();
        let now_s = System.now_ms() / 1000;
        let id = event::read(&asked, &user, now_s).await.unwrap().id;
        let response = Response { id, answer };
        link.deliver(
            &event::write(&response, asked.pubkey, &user, Timestamp::from_secs(now_s)).await.unwrap(),
        )
    };
    let url = || Answer::AuthUrl("https://bunker.example/ok".to_owned());

    // Told, and then answered.
    let (link, kept) = start(SHORT, DEADLINE);
    let mut ping = Box::pin(link.ping());
    assert!(futures_util::poll!(&mut ping).is_pending());
    assert!(say(&link, &kept, url()).await);
    assert!(futures_util::poll!(&mut ping).is_pending());
    assert_eq!(*told.0.lock().unwrap(), ["https://bunker.example/ok"]);
    // Longer than an answer may take without him.
    tokio::time::timeout(3 * SHORT, &mut ping).await.unwrap_err();
    assert!(say(&link, &kept, Answer::Result("pong".to_owned())).await);
    ping.await.unwrap();

    // Told, and then nothing; and asked again and again.
    let (link, kept) = start(DEADLINE, SHORT);
    let mut ping = Box::pin(link.ping());
    assert!(futures_util::poll!(&mut ping).is_pending());
    assert!(say(&link, &kept, url()).await);
    is_away(ping.await, "no answer");
    let (link, kept) = start(DEADLINE, DEADLINE);
    let mut ping = Box::pin(link.ping());
    assert!(futures_util::poll!(&mut ping).is_pending());
    assert!(say(&link, &kept, url()).await);
    assert!(say(&link, &kept, url()).await);
    is_away(ping.await, "open URL");
    assert!(link.machine().is_idle());
}

#[tokio::test]
async fn a_refusal_is_final_only_where_nothing_can_change() {
    let says = |reason: &'static str| scripted(move |_, _| Some(Answer::Error(reason.to_owned())));
    let cipher = signer().encrypt(&signer().public_key(), "x").unwrap();
    let peer = signer().public_key();
    for reason in ["invalid mac", "cannot decrypt", "unsupported"] {
        let (wire, link) = says(reason);
        is_refused(link.connect(None, "").await);
        let bunker = link.resume(wire.user.public_key());
        is_refused(bunker.nip44_decrypt(&peer, &cipher).await);
        is_away(bunker.sign(EventBuilder::text_note("hi").build(bunker.public_key())).await, reason);
        is_away(bunker.nip44_encrypt(&peer, "x").await, reason);
    }
    for reason in [
        "No permission",
        "not connected",
        "user rejected",
        "rate-limited",
        "Unauthorized",
        "not allowed: nip-44",
    ] {
        let (wire, link) = says(reason);
        is_away(link.resume(wire.user.public_key()).nip44_decrypt(&peer, &cipher).await, reason);
    }
}

#[tokio::test]
async fn who_stops_waiting_frees_the_place() {
    let (_wire, link) = wire(DEADLINE, Ack::Accepted, Box::new(|_, _| None));
    {
        let mut asking = Box::pin(link.ping());
        assert!(futures_util::poll!(&mut asking).is_pending());
        assert!(!link.machine().is_idle());
    }
    assert!(link.machine().is_idle());
}

#[test]
fn printing_a_link_shows_no_secret() {
    let client = Keys::generate();
    let remote = Remote { public_key: signer().public_key(), relays: Vec::new() };
    let publish = wire(DEADLINE, Ack::Accepted, Box::new(|_, _| None)).0;
    let link = Link::new(remote, client.clone(), publish, Arc::new(System));
    let shown = format!("{link:?} {:?}", link.clone().resume(client.public_key()));
    assert!(shown.contains("[redacted]") && !shown.contains(&client.secret_key().to_secret_hex()), "{shown}");
}
