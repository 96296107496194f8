//! What an agent can be made to sign and decrypt, and what not.

use oa_nips::files::Code;
use oa_nips::mail::{Draft, Protocol};
use oa_nips::nostr::nips::nip44;
use oa_nips::nostr::{
    Event, EventBuilder, JsonUtil as _, Keys, Kind, PublicKey, Tag, Timestamp, ToBech32, UnsignedEvent,
};
use oa_nips::record::{Fields, Head, Record};
use oa_nips::template::FORBIDDEN;
use serde_json::{Value, json};

use super::*;
use crate::agent::envelope::Envelope;
use crate::namespace::Namespace;
use crate::outbox;
use crate::serve::fixture::{Fixture, NOW_MS, someone};
use crate::store::row::Outgoing;

async fn is_valid(ns: &mut Namespace, request: Value) -> bool {
    let reply = ns.call("/identity/verify", request.to_string().as_bytes()).await.unwrap();
    serde_json::from_slice::<Value>(&reply).unwrap()["valid"].as_bool().unwrap()
}

async fn signature(ns: &mut Namespace, data: &[u8]) -> String {
    String::from_utf8(ns.call("/identity/sign", data).await.unwrap()).unwrap()
}

#[tokio::test]
async fn what_the_agent_signed_verifies_and_nothing_else_does() {
    let fixture = Fixture::new();
    let mut ns = fixture.tick();
    let (npub, data) = (fixture.row.pubkey.to_bech32().unwrap(), "I was here");
    let signature = signature(&mut ns, data.as_bytes()).await;
    assert_eq!(signature.len(), 128);
    assert!(is_valid(&mut ns, json!({ "npub": npub, "data": data, "signature": signature })).await);
    let base64 = STANDARD.encode(data);
    let hex = fixture.row.pubkey.to_hex();
    assert!(is_valid(&mut ns, json!({ "pubkey": hex, "data_base64": base64, "signature": signature })).await);
    let other = someone().to_hex();
    for wrong in [
        json!({ "npub": npub, "data": "I was there", "signature": signature }),
        json!({ "pubkey": other, "data": data, "signature": signature }),
        json!({ "npub": npub, "data": data, "signature": "00" }),
        json!({ "npub": npub, "data": data, "signature": "" }),
    ] {
        assert!(!is_valid(&mut ns, wrong).await);
    }
    for shapeless in [
        json!({ "data": data, "signature": signature }),
        json!({ "npub": npub, "pubkey": hex, "data": data, "signature": signature }),
        json!({ "npub": npub, "signature": signature }),
        json!({ "npub": npub, "data": data, "data_base64": base64, "signature": signature }),
        json!({ "npub": "nobody", "data": data, "signature": signature }),
        json!({ "npub": npub, "data": data, "signature": signature, "more": 1 }),
    ] {
        let refused = ns.call("/identity/verify", shapeless.to_string().as_bytes()).await.unwrap_err();
        assert_eq!(refused.code, Code::InvalidInput, "{shapeless}");
    }
    assert_eq!(ns.calls().len(), 1, "signing is journaled, checking need not be");
}

/// An event of the agent that it must not be brought to sign.
fn wanted(author: PublicKey, kind: u16) -> UnsignedEvent {
    let tags = [Tag::identifier("x"), Tag::public_key(author)];
    let mut event =
        UnsignedEvent::new(author, Timestamp::from_secs(NOW_MS / 1000), Kind::from(kind), tags, "");
    event.ensure_id();
    event
}

/// All that a signer of events hashes or signs on the way to the event's signature.
fn baits(event: &UnsignedEvent) -> Vec<Vec<u8>> {
    let id = event.id.unwrap();
    let hashed =
        json!([0, event.pubkey, event.created_at, event.kind, event.tags, event.content]).to_string();
    let prefixed = [b"oa/sign/v1".as_slice(), id.as_bytes()].concat();
    vec![
        id.as_bytes().to_vec(),
        id.to_hex().into_bytes(),
        hashed.into_bytes(),
        event.as_json().into_bytes(),
        prefixed,
    ]
}

#[tokio::test]
async fn neither_signing_nor_publishing_yields_an_event_that_is_not_the_agents_to_make() {
    let mut fixture = Fixture::new();
    // Auth, seal, wallet, lists, deletion, operator and all others of the table, at the ends of each of its lines.
    let named = [
        22_242, 13, 13_194, 23_194, 23_195, 17_375, 10_000, 10_002, 10_050, 30_000, 3, 5, 62, 25_930, 25_931,
        25_932, 25_933,
    ];
    let ends = FORBIDDEN.iter().flat_map(|(from, to, _)| [*from, *to]);
    let kinds: std::collections::BTreeSet<u16> = ends.chain(named).collect();
    // Even a manifest that was never checked does not help.
    fixture.manifest.nostr.kinds = kinds.iter().copied().collect();
    for kind in kinds {
        let mut ns = fixture.tick();
        let event = wanted(fixture.row.pubkey, kind);
        for bait in baits(&event) {
            let signature = signature(&mut ns, &bait).await.parse().unwrap();
            let id = event.id.unwrap();
            let forged =
                Event::new(id, event.pubkey, event.created_at, event.kind, event.tags.clone(), "", signature);
            assert!(forged.verify_id(), "only the signature is missing");
            assert!(!forged.verify_signature(), "kind {kind}: {bait:?}");
        }
        let template = json!({ "kind": kind, "content": "", "tags": event.tags });
        let refused = ns.call("/nostr/publish", template.to_string().as_bytes()).await.unwrap_err();
        assert_eq!(refused.code, Code::InvalidInput);
        assert!(refused.reason.contains("never published"), "kind {kind}: {refused}");
        assert!(ns.finish().unwrap().unwrap().out.is_empty());
    }
    // The check can fail: with the signer of events the same event is signed.
    let event = fixture.signer().sign(wanted(fixture.row.pubkey, 5)).await.unwrap();
    assert!(event.verify_signature());
}

async fn decrypt(ns: &mut Namespace, from: PublicKey, payload: &str) -> Result<String, Code> {
    let request = json!({ "from": from.to_bech32().unwrap(), "payload": payload });
    let text = ns.call("/identity/decrypt", request.to_string().as_bytes()).await;
    text.map(|text| String::from_utf8(text).unwrap()).map_err(|error| error.code)
}

fn encrypted(by: &Keys, to: PublicKey, text: &str) -> String {
    nip44::encrypt(by.secret_key(), &to, text, nip44::Version::V2).unwrap()
}

#[tokio::test]
async fn texts_go_both_ways() {
    let (fixture, bob) = (Fixture::new(), Keys::generate());
    let mut ns = fixture.tick();
    let request = json!({ "to": bob.public_key().to_bech32().unwrap(), "text": "for Bob" }).to_string();
    let payload = ns.call("/identity/encrypt", request.as_bytes()).await.unwrap();
    let payload = String::from_utf8(payload).unwrap();
    assert_eq!(nip44::decrypt(bob.secret_key(), &fixture.row.pubkey, &payload).unwrap(), "for Bob");
    let payload = encrypted(&bob, fixture.row.pubkey, r#"{"answer": 42}"#);
    assert_eq!(decrypt(&mut ns, bob.public_key(), &payload).await.unwrap(), r#"{"answer": 42}"#);
    assert_eq!(decrypt(&mut ns, someone(), &payload).await, Err(Code::InvalidInput), "somebody else's");
    assert_eq!(decrypt(&mut ns, bob.public_key(), "garbage").await, Err(Code::InvalidInput));
    let paths: Vec<&str> = ns.calls().iter().map(|call| call.path.as_str()).collect();
    assert_eq!(paths.len(), 4, "{paths:?}");
    let large =
        json!({ "to": bob.public_key().to_hex(), "text": "x".repeat(TEXT_BYTES_MAX + 1) }).to_string();
    assert_eq!(ns.call("/identity/encrypt", large.as_bytes()).await.unwrap_err().code, Code::TooLarge);
}

#[tokio::test]
async fn a_strangers_find_is_not_opened_for_him() {
    let mut fixture = Fixture::new();
    let (me, owner, friend) = (fixture.row.pubkey, Keys::generate(), Keys::generate());
    fixture.row.owner = Some(owner.public_key());
    let mut ns = fixture
        .tick_for(Envelope::from_node(crate::agent::envelope::Kind::Poke, "s", NOW_MS), Trust::Stranger);

    // A wrap to the agent and the seal in it, as they lie on relays.
    let letter = LocalMail::new(&friend, me).await;
    assert_eq!(decrypt(&mut ns, letter.wrap.pubkey, &letter.wrap.content).await, Err(Code::PermissionDenied));
    assert_eq!(
        decrypt(&mut ns, friend.public_key(), &letter.seal.content).await,
        Err(Code::PermissionDenied)
    );

    // Its records, which only its owner reads.
    let record = Record::new(
        oa_nips::hex::Hex(me.to_bytes()),
        oa_nips::hex::Hex::ZERO,
        &Head::GENESIS,
        oa_nips::hex::Hex([3; 32]),
        Fields::new(),
        &[4; 32],
    );
    let records = serde_json::to_string(&[record]).unwrap();
    let published = fixture.signer().nip44_encrypt(&owner.public_key(), &records).await.unwrap();
    assert_eq!(decrypt(&mut ns, owner.public_key(), &published).await, Err(Code::PermissionDenied));

    // Anything of its owner's, while a stranger asks; the owner may.
    let secret = encrypted(&owner, me, "the word is swordfish");
    assert_eq!(decrypt(&mut ns, owner.public_key(), &secret).await, Err(Code::PermissionDenied));
    let mut owners =
        fixture.tick_for(Envelope::from_node(crate::agent::envelope::Kind::Poke, "o", NOW_MS), Trust::Owner);
    assert_eq!(decrypt(&mut owners, owner.public_key(), &secret).await.unwrap(), "the word is swordfish");
    assert_eq!(decrypt(&mut owners, owner.public_key(), &published).await, Err(Code::PermissionDenied));

    // What it keeps for itself, and what is between it and the node.
    let backup = fixture.signer().nip44_encrypt(&me, "my state").await.unwrap();
    assert_eq!(decrypt(&mut owners, me, &backup).await, Err(Code::PermissionDenied));
    let node = fixture.keyring.node();
    let command = node.nip44_encrypt(&me, "anything").await.unwrap();
    assert_eq!(decrypt(&mut owners, node.public_key(), &command).await, Err(Code::PermissionDenied));
    for peer in [me, node.public_key()] {
        let request = json!({ "to": peer.to_hex(), "text": "x" }).to_string();
        let refused = owners.call("/identity/encrypt", request.as_bytes()).await.unwrap_err();
        assert_eq!(refused.code, Code::PermissionDenied);
    }
}

/// A message in its layers.
struct LocalMail {
    wrap: Event,
    seal: Event,
}

impl LocalMail {
    async fn new(by: &Keys, to: PublicKey) -> Self {
        let signer = crate::signer::LocalSigner::new(by.clone(), crate::signer::Conversations::default());
        let draft = Draft::text(to, "for the agent's eyes", NOW_MS);
        let mail = Outgoing::Mail { draft: draft.clone(), protocol: Protocol::Nip17, relay: None };
        let wrap = outbox::sign(&mail, &signer, NOW_MS / 1000).await.unwrap().remove(0).event;
        let rumor = oa_nips::mail::to_json(&draft.rumor(by.public_key()));
        let seal = EventBuilder::new(Kind::Seal, encrypted(by, to, &rumor)).sign_with_keys(by).unwrap();
        Self { wrap, seal }
    }
}
