//! What an agent can say and ask in public, and how much.

use oa_nips::mail::Protocol;
use oa_nips::nostr::{Event, EventBuilder, EventId, Keys, Kind, RelayUrl, Tag, ToBech32};
use serde_json::{Value, json};

use super::*;
use crate::agent::AgentId;
use crate::agent::envelope::{self, Envelope, Origin, Trust};
use crate::agent::mailbox::{Bucket, Peer};
use crate::agent::site::Site;
use crate::namespace::Namespace;
use crate::serve::fixture::{Fixture, NOW_MS, someone};
use crate::store::write::{NewAgent, Write};

async fn publish(ns: &mut Namespace, template: Value) -> Result<String, Error> {
    let reply = ns.call("/nostr/publish", template.to_string().as_bytes()).await?;
    let reply: Value = serde_json::from_slice(&reply).unwrap();
    Ok(reply["id"].as_str().unwrap().to_owned())
}

/// An envelope that came by so many machines.
fn mail(hop: u8) -> Envelope {
    let origin = Origin {
        peer: someone(),
        protocol: Protocol::Nip17,
        relay: None,
        mail: Some(EventId::all_zeros()),
        auto_hop: hop,
    };
    Envelope { origin: Some(origin), ..Envelope::from_node(envelope::Kind::Dm, "mail", NOW_MS) }
}

fn note(tags: &[Tag]) -> Event {
    EventBuilder::text_note("x").tags(tags.to_vec()).sign_with_keys(&Keys::generate()).unwrap()
}

fn auto(hop: u8) -> Tag {
    Tag::parse(["auto", &hop.to_string()]).unwrap()
}

#[tokio::test]
async fn a_note_goes_out_with_the_tick_under_the_id_that_was_answered() {
    let fixture = Fixture::new();
    let mut ns = fixture.tick();
    let id = publish(&mut ns, json!({ "kind": 1, "content": "hello", "tags": [["t", "oa"]] })).await.unwrap();
    let done = ns.finish().unwrap().unwrap();
    let [Outgoing::Event { event }] = &done.out[..] else { panic!("{:?}", done.out) };
    assert_eq!((event.id.unwrap().to_hex(), event.pubkey), (id, fixture.row.pubkey));
    assert_eq!((event.created_at.as_secs(), event.content.as_str()), (NOW_MS / 1000, "hello"));
    assert_eq!(event.tags.len(), 1, "nothing was added");
    assert!(done.calls.is_empty(), "it lands with the tick, so no journal is needed");
}

#[tokio::test]
async fn kinds_are_the_manifests_and_one_tick_has_a_bound() {
    let mut fixture = Fixture::new();
    let mut ns = fixture.tick();
    assert_eq!(
        publish(&mut ns, json!({ "kind": 7, "content": "+" })).await.unwrap_err().code,
        Code::InvalidInput
    );
    fixture.manifest.nostr.kinds.push(7);
    let mut ns = fixture.tick();
    publish(&mut ns, json!({ "kind": 7, "content": "+" })).await.unwrap();
    for n in 1..PUBLISHED_MAX {
        publish(&mut ns, json!({ "kind": 1, "content": n.to_string() })).await.unwrap();
    }
    let refused = publish(&mut ns, json!({ "kind": 1, "content": "one more" })).await.unwrap_err();
    assert_eq!(refused.code, Code::RateLimited);
    assert_eq!(ns.finish().unwrap().unwrap().out.len(), PUBLISHED_MAX);
}

#[tokio::test]
async fn what_machines_began_is_counted_and_ends() {
    let fixture = Fixture::new();
    let hop_after = async |envelope: Envelope| {
        let mut ns = fixture.tick_for(envelope, Trust::Stranger);
        publish(&mut ns, json!({ "kind": 1, "content": "re" })).await?;
        let done = ns.finish().unwrap().unwrap();
        let Some(Outgoing::Event { event }) = done.out.first() else { panic!("{:?}", done.out) };
        let tag = event.tags.iter().find(|tag| tag.as_slice()[0] == "auto");
        Ok::<_, Error>(tag.map(|tag| tag.as_slice()[1].clone()))
    };
    let heard = |tags: &[Tag]| Envelope::from_event(&note(tags), vec!["a".to_owned()], NOW_MS);
    assert_eq!(hop_after(mail(0)).await.unwrap(), None, "a person's wish is no automatic answer");
    assert_eq!(hop_after(mail(1)).await.unwrap().as_deref(), Some("2"));
    assert_eq!(hop_after(heard(&[])).await.unwrap().as_deref(), Some("1"));
    assert_eq!(hop_after(heard(&[auto(3)])).await.unwrap().as_deref(), Some("4"));
    assert_eq!(hop_after(heard(&[auto(4)])).await.unwrap_err().code, Code::RateLimited);
    assert_eq!(hop_after(mail(4)).await.unwrap_err().code, Code::RateLimited);
    // An alarm that the tick of an event set is of that event still.
    let event = heard(&[auto(4)]);
    let alarm =
        Envelope { heard: event.heard, ..Envelope::from_node(envelope::Kind::Alarm, "alarm", NOW_MS) };
    assert_eq!(hop_after(alarm).await.unwrap_err().code, Code::RateLimited);
}

async fn dm(ns: &mut Namespace, to: &str, text: &str) -> Result<(), Code> {
    ns.append(&format!("/nostr/dm/{to}"), text.as_bytes()).await.map_err(|error| error.code)
}

#[tokio::test]
async fn a_direct_message_goes_out_as_mail_and_equal_ones_are_two() {
    let (fixture, bob) = (Fixture::new(), someone());
    let mut ns = fixture.tick();
    dm(&mut ns, &bob.to_bech32().unwrap(), "hello").await.unwrap();
    dm(&mut ns, &bob.to_hex(), "hello").await.unwrap();
    let out = ns.finish().unwrap().unwrap().out;
    let drafts: Vec<_> = out
        .iter()
        .map(|outgoing| match outgoing {
            Outgoing::Mail { draft, protocol: Protocol::Nip17, relay: None } => draft,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(
        drafts.iter().all(|draft| draft.recipient == bob && draft.auto_hop == 1 && draft.content == "hello")
    );
    assert_eq!((drafts[0].at_ms, drafts[1].at_ms), (NOW_MS, NOW_MS + 1));
    assert_ne!(drafts[0].rumor(bob).id, drafts[1].rumor(bob).id);
}

#[tokio::test]
async fn what_is_no_message_is_refused() {
    let fixture = Fixture::new();
    let (mut ns, bob, me) = (fixture.tick(), someone().to_bech32().unwrap(), fixture.row.pubkey);
    for (to, text, code) in [
        (me.to_bech32().unwrap().as_str(), "hello me", Code::InvalidInput),
        ("bob", "hello", Code::InvalidInput),
        (&bob, " \n", Code::InvalidInput),
        (&bob, &"x".repeat(16 * 1024 + 1), Code::TooLarge),
        (&bob, &"\u{1}".repeat(8 * 1024), Code::TooLarge),
    ] {
        assert_eq!(dm(&mut ns, to, text).await, Err(code), "{to}");
    }
    assert!(ns.write(&format!("/nostr/dm/{bob}"), b"x").await.is_err(), "messages are appended");
    assert_eq!(ns.read(&format!("/nostr/dm/{bob}")).await.unwrap_err().code, Code::NotFound);
    let mut ns = fixture.tick_for(mail(4), Trust::Stranger);
    assert_eq!(dm(&mut ns, &bob, "and so on").await, Err(Code::RateLimited));
    assert!(ns.finish().unwrap().unwrap().out.is_empty());
}

#[tokio::test]
async fn one_correspondent_gets_no_more_than_the_manifest_says() {
    let mut fixture = Fixture::new();
    (fixture.manifest.replies.burst, fixture.manifest.replies.bot_burst) = (3, 1);
    let [bob, ann] = [(); 2].map(|()| someone().to_bech32().unwrap());
    let mut ns = fixture.tick();
    for _ in 0..3 {
        dm(&mut ns, &bob, "spam").await.unwrap();
    }
    assert_eq!(dm(&mut ns, &bob, "spam").await, Err(Code::RateLimited));
    dm(&mut ns, &ann, "each has a bucket").await.unwrap();
    // What a machine began draws on the smaller one.
    let mut ns = fixture.tick_for(mail(1), Trust::Stranger);
    dm(&mut ns, &bob, "one").await.unwrap();
    assert_eq!(dm(&mut ns, &bob, "two").await, Err(Code::RateLimited));
}

#[tokio::test]
async fn one_tick_writes_to_so_many_people() {
    let fixture = Fixture::new();
    let mut ns = fixture.tick();
    for _ in 0..20 {
        dm(&mut ns, &someone().to_hex(), "news").await.unwrap();
    }
    assert_eq!(dm(&mut ns, &someone().to_hex(), "news").await, Err(Code::RateLimited));
}

#[tokio::test]
async fn those_the_agent_has_had_to_do_with_are_listed_and_its_bucket_is_the_replies() {
    let mut fixture = Fixture::new();
    fixture.manifest.replies.burst = 2;
    let (bob, limits) = (someone(), fixture.manifest.replies);
    let new = NewAgent {
        id: AgentId(0),
        pubkey: fixture.row.pubkey,
        manifest: fixture.manifest.clone(),
        session: oa_nips::hex::Hex::ZERO,
        at_ms: NOW_MS,
        profile: Vec::new(),
    };
    let drawn = Bucket::take(None, &limits, false, NOW_MS).unwrap();
    let unit = vec![Write::CreateAgent(Box::new(new)), Write::Draw(AgentId(0), bob, drawn)];
    fixture.store.commit(unit).await.unwrap();
    let mut ns = fixture.tick();
    let listed: Vec<String> = ns.list("/nostr/dm").await.unwrap().into_iter().map(|stat| stat.name).collect();
    assert_eq!(listed, [bob.to_bech32().unwrap()]);
    dm(&mut ns, &listed[0], "the second").await.unwrap();
    assert_eq!(dm(&mut ns, &listed[0], "the third").await, Err(Code::RateLimited));
    let peer: Peer = fixture.store.peer(AgentId(0), &bob).unwrap().unwrap();
    assert_eq!(peer.bucket, Some(drawn), "the commit draws, not the write");
}

async fn query(ns: &mut Namespace, request: Value) -> Result<Vec<String>, Code> {
    let reply = ns.call("/nostr/query", request.to_string().as_bytes()).await.map_err(|error| error.code)?;
    let events: Vec<Event> = serde_json::from_slice(&reply).unwrap();
    Ok(events.into_iter().map(|event| event.content).collect())
}

fn dated(kind: u16, content: &str, at_s: u64) -> Event {
    let event = EventBuilder::new(Kind::from(kind), content).custom_created_at(at_s.into());
    event.sign_with_keys(&Keys::generate()).unwrap()
}

#[tokio::test]
async fn a_query_merges_what_relays_answer_and_hands_over_no_mail() {
    let mut fixture = Fixture::new();
    let [second, dead] =
        ["wss://second.example", "wss://dead.example"].map(|url| RelayUrl::parse(url).unwrap());
    fixture.manifest.nostr.relays = vec![second.clone(), dead, fixture.own.clone()];
    let (old, new, wrap) = (dated(1, "old", 10), dated(1, "new", 20), dated(1059, "wrap", 15));
    let stored = [(fixture.own.clone(), vec![old.clone(), wrap]), (second, vec![old, new])];
    fixture.relays.stored.lock().unwrap().extend(stored);
    let mut ns = fixture.tick();
    assert_eq!(query(&mut ns, json!({ "since": 1, "kinds": [1] })).await.unwrap(), ["old"]);
    assert_eq!(query(&mut ns, json!({ "authors": [someone().to_hex()] })).await.unwrap(), [""; 0]);
    let named = ["wss://own.example", "wss://second.example", "wss://dead.example"];
    assert_eq!(query(&mut ns, json!({ "kinds": [1], "relays": named })).await.unwrap(), ["new", "old"]);
    let newest = json!({ "kinds": [1], "limit": 1, "relays": named });
    assert_eq!(query(&mut ns, newest).await.unwrap(), ["new"]);
    assert_eq!(query(&mut ns, json!({ "kinds": [1], "relays": [named[2]] })).await, Err(Code::Unavailable));
    for (request, code) in [
        (json!({ "kinds": [1059] }), Code::InvalidInput),
        (json!({ "kinds": [4, 1] }), Code::InvalidInput),
        (json!({ "kinds": [1], "limit": 501 }), Code::InvalidInput),
        (json!({ "kinds": [1], "relays": ["wss://else.example"] }), Code::PermissionDenied),
        (json!({ "kinds": [1], "relays": [] }), Code::InvalidInput),
        (json!({ "kinds": [1], "relays": [named[0], named[1], named[2], named[0]] }), Code::InvalidInput),
        (json!({ "kinds": [1], "relays": "wss://own.example" }), Code::InvalidInput),
        (json!([1]), Code::InvalidInput),
    ] {
        assert_eq!(query(&mut ns, request.clone()).await, Err(code), "{request}");
    }
    let asked = fixture.relays.asked.lock().unwrap();
    assert!(asked.iter().all(|(_, filter)| filter.limit.is_some_and(|limit| limit <= 500)));
    assert_eq!(asked.len(), 1 + 1 + 3 + 3 + 1, "what is refused asks nobody");
}

#[tokio::test]
async fn a_query_hands_over_no_mail_even_if_no_kind_was_asked_for() {
    let fixture = Fixture::new();
    let ann = Keys::generate();
    let of = |kind: u16| EventBuilder::new(Kind::from(kind), kind.to_string()).sign_with_keys(&ann).unwrap();
    let stored = [1, 4, 13, 1059, 24133, 25930].map(of).to_vec();
    fixture.relays.stored.lock().unwrap().insert(fixture.own.clone(), stored);
    let mut ns = fixture.tick();
    assert_eq!(
        query(&mut ns, json!({ "authors": [ann.public_key().to_bech32().unwrap()] })).await.unwrap(),
        ["1"]
    );
}

#[tokio::test]
async fn the_relays_are_those_the_agent_names() {
    let fixture = Fixture::new();
    let relays: Vec<String> =
        serde_json::from_slice(&fixture.tick().read("/nostr/relays").await.unwrap()).unwrap();
    assert_eq!(relays, ["wss://own.example"]);
}

async fn subscribe(ns: &mut Namespace, id: &str, filter: Value) -> Result<Value, Error> {
    let path = format!("/nostr/subscriptions/{id}.json");
    ns.write(&path, filter.to_string().as_bytes()).await?;
    Ok(serde_json::from_slice(&ns.read(&path).await.unwrap()).unwrap())
}

#[tokio::test]
async fn a_subscription_is_a_filter_with_the_time_it_began() {
    let mut fixture = Fixture::new();
    let ann = someone();
    let mut ns = fixture.tick();
    let filter = json!({ "kinds": [1], "#p": [ann.to_bech32().unwrap()] });
    let kept = subscribe(&mut ns, "mentions", filter.clone()).await.unwrap();
    assert_eq!(kept, json!({ "kinds": [1], "#p": [ann.to_hex()], "since": NOW_MS / 1000 }));
    assert_eq!(subscribe(&mut ns, "old", json!({ "kinds": [1], "since": 5 })).await.unwrap()["since"], 5);
    fixture.keep(ns);
    // The same again, later, is the same subscription; another one begins anew.
    let later = Envelope::from_node(envelope::Kind::Poke, "later", NOW_MS + 60_000);
    let mut ns = fixture.tick_for(later, Trust::Node);
    assert_eq!(subscribe(&mut ns, "mentions", filter).await.unwrap(), kept);
    let other = subscribe(&mut ns, "mentions", json!({ "kinds": [30023] })).await.unwrap();
    assert_eq!(other, json!({ "kinds": [30023], "since": NOW_MS / 1000 + 60 }));
    ns.remove("/nostr/subscriptions/old.json").await.unwrap();
    fixture.keep(ns);
    assert_eq!(fixture.files.0.len(), 1);
}

#[tokio::test]
async fn what_is_no_subscription_is_refused() {
    let mut fixture = Fixture::new();
    let mut ns = fixture.tick();
    for bad in [
        json!({ "authors": [someone().to_hex()] }),
        json!({ "kinds": [1059] }),
        json!({ "kinds": [25930] }),
        json!({ "kinds": [1], "search": "x" }),
        json!([]),
    ] {
        assert_eq!(subscribe(&mut ns, "a", bad.clone()).await.unwrap_err().code, Code::InvalidInput, "{bad}");
    }
    for id in ["A", "a b", "x/y", &"x".repeat(65)] {
        assert!(subscribe(&mut ns, id, json!({ "kinds": [1] })).await.is_err(), "{id}");
    }
    assert!(ns.write("/nostr/subscriptions/a", br#"{"kinds":[1]}"#).await.is_err());
    assert!(ns.append("/nostr/subscriptions/a.json", br#"{"kinds":[1]}"#).await.is_err());
    for n in 0..20 {
        subscribe(&mut ns, &n.to_string(), json!({ "kinds": [1] })).await.unwrap();
    }
    subscribe(&mut ns, "7", json!({ "kinds": [7] })).await.unwrap();
    let refused = subscribe(&mut ns, "one-more", json!({ "kinds": [1] })).await.unwrap_err();
    assert!(refused.reason.contains("at most 20"), "{refused}");
    fixture.keep(ns);
    assert_eq!(fixture.files.0.len(), 20);
}

/// A domain on loopback where everybody is this one.
async fn domain(document: String) -> u16 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 4096]).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", document.len());
            let _ = socket.write_all((head + &document).as_bytes()).await;
        }
    });
    port
}

#[tokio::test]
async fn a_message_goes_to_whomever_a_domain_names() {
    let bob = someone();
    let document =
        json!({ "names": { "bob": bob.to_hex() }, "relays": { bob.to_hex(): ["wss://bob.example"] } });
    let port = domain(document.to_string()).await;
    let private = [format!("localhost:{port}")];
    let mut fixture = Fixture::with_http(crate::drivers::http::Client::of_node(&private));
    let ask = async |fixture: &Fixture, name: &str| {
        let asked = fixture.tick().call("/peers/find", format!(r#"{{"name":"{name}"}}"#).as_bytes()).await;
        asked.map_err(|error| error.code)
    };
    let name = format!("bob@localhost:{port}");
    assert_eq!(ask(&fixture, &name).await, Err(Code::PermissionDenied), "a name is a request to its host");
    let sites = ["localhost", "127.0.0.1:1"].map(|site| site.replace("localhost", &private[0]));
    fixture.manifest.http.allow = sites.iter().map(|site| Site::parse(site).unwrap()).collect();
    let found: Value = serde_json::from_slice(&ask(&fixture, &name).await.unwrap()).unwrap();
    assert_eq!(found[0]["npub"], bob.to_bech32().unwrap());
    assert_eq!(found[0]["relays"], json!(["wss://bob.example"]));
    assert_eq!(ask(&fixture, &format!("eve@localhost:{port}")).await, Err(Code::NotFound));
    assert_eq!(ask(&fixture, "bob@").await, Err(Code::InvalidInput));
    assert_eq!(ask(&fixture, "bob@127.0.0.1:1").await, Err(Code::NotFound), "private, and not listed");
    assert_eq!(ask(&fixture, "bob@else.example").await, Err(Code::PermissionDenied));
    // In a tick a name must have been asked for before.
    let mut ns = fixture.tick();
    assert_eq!(dm(&mut ns, &name, "hello").await, Err(Code::InvalidInput));
    dm(&mut ns, &bob.to_bech32().unwrap(), "hello").await.unwrap();
    let done = ns.finish().unwrap().unwrap();
    let [Outgoing::Mail { draft, .. }] = &done.out[..] else { panic!("{:?}", done.out) };
    assert_eq!((draft.recipient, draft.content.as_str()), (bob, "hello"));
}
