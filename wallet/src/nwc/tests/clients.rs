//! The service against clients that are old, wrong or hostile, with real ciphertexts.

use std::sync::Arc;

use oa_nips::kind;
use oa_nips::nostr::{Event, Filter, Keys, Timestamp};
use oa_nips::nwc::{self, Encryption};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::play::PlayPurse;
use super::world::{KeySigner, MemoryRows, Net, SOON, clock, relay};
use crate::account::Holder;
use crate::nwc::connection::Connection;
use crate::nwc::message::{ErrorCode, Notification, Request, Response, Topic};
use crate::nwc::rows::RowsError;
use crate::nwc::seal;
use crate::nwc::service::{Config, Ended, Ports, Service};

/// A client that is a key and an ear.
struct Raw {
    keys: Keys,
    wallet: Keys,
    net: Net,
    heard: mpsc::Receiver<Event>,
    /// Notifications that came while an answer was waited for.
    told: Vec<Event>,
}

impl Raw {
    fn request(&self, encryption: Encryption, content: String) -> Event {
        let at = Timestamp::from_secs(clock() / 1000);
        let (from, to) = (self.keys.public_key(), self.wallet.public_key());
        nwc::request(from, to, encryption, content, at, None).sign_with_keys(&self.keys).unwrap()
    }

    async fn ask(&mut self, encryption: Encryption, request: &Request) -> Response {
        let signer = KeySigner(self.keys.clone());
        let text =
            seal::encrypt(&signer, &self.wallet.public_key(), encryption, &request.to_json()).await.unwrap();
        let event = self.request(encryption, text);
        self.net.send(&relay(1), &event);
        self.answer(&event, encryption).await
    }

    async fn next(&mut self) -> Event {
        timeout(SOON, self.heard.recv()).await.unwrap().unwrap()
    }

    async fn answer(&mut self, to: &Event, encryption: Encryption) -> Response {
        loop {
            let event = self.next().await;
            if nwc::Response::read(&event).is_ok_and(|answer| answer.request == to.id) {
                let signer = KeySigner(self.keys.clone());
                let text = seal::decrypt(&signer, &event.pubkey, encryption, &event.content).await.unwrap();
                return Response::parse(&text).unwrap();
            }
            self.told.push(event);
        }
    }
}

async fn served(rows: MemoryRows) -> (Service, Raw, PlayPurse) {
    let (keys, wallet, net, purse) =
        (Keys::generate(), Keys::generate(), Net::default(), PlayPurse::default());
    purse.with(|play| {
        play.now_s = clock() / 1000;
        play.give("shop", 1_000_000);
    });
    let events = net.listen(&[relay(1)], Service::filter(wallet.public_key(), clock() / 1000));
    let ports = Ports {
        signer: Arc::new(KeySigner(wallet.clone())),
        publish: Arc::new(net.clone()),
        rows: Arc::new(rows),
        purse: Arc::new(purse.clone()),
        steer: Arc::new(purse.clone()),
        clock,
    };
    let service = Service::start(Config::new(vec![relay(1)]), ports, events).await.unwrap();
    let connection = Connection::new(keys.public_key(), "shop", Holder::new("shop").unwrap(), clock() / 1000);
    service.connect(connection).await.unwrap();
    let kinds = [kind::WALLET_RESPONSE, kind::WALLET_NOTIFICATION, kind::WALLET_NOTIFICATION_LEGACY];
    let heard = net.listen(&[relay(1)], Filter::new().kinds(kinds).pubkey(keys.public_key()));
    (service, Raw { keys, wallet, net, heard, told: Vec::new() }, purse)
}

#[tokio::test]
async fn each_client_is_answered_and_told_in_its_encryption() {
    for (encryption, kind) in [
        (Encryption::Nip04, kind::WALLET_NOTIFICATION_LEGACY),
        (Encryption::Nip44, kind::WALLET_NOTIFICATION),
    ] {
        let (_service, mut raw, purse) = served(MemoryRows::default()).await;
        let balance = raw.ask(encryption, &Request::GetBalance).await;
        assert_eq!(balance.result.unwrap()["balance"], 1_000_000);
        let (invoice, hash) = purse.with(|play| play.bill(1, Some(1000)));
        let pay = json!({ "method": "pay_invoice", "params": { "invoice": invoice } }).to_string();
        assert!(raw.ask(encryption, &Request::parse(&pay).unwrap()).await.result.is_ok());
        let told = match raw.told.pop() {
            Some(told) => told,
            None => raw.next().await,
        };
        assert_eq!(told.kind, kind);
        let signer = KeySigner(raw.keys.clone());
        let text = seal::decrypt(&signer, &told.pubkey, encryption, &told.content).await.unwrap();
        let told = Notification::parse(&text).unwrap();
        assert_eq!((told.topic, told.transaction.payment_hash), (Topic::PaymentSent, hash));
    }
}

#[tokio::test]
async fn what_is_encrypted_otherwise_than_it_says_is_refused() {
    let (_service, mut raw, _) = served(MemoryRows::default()).await;
    let event = raw.request(Encryption::Nip44, "no ciphertext".to_owned());
    raw.net.send(&relay(1), &event);
    let refused = raw.answer(&event, Encryption::Nip44).await;
    assert_eq!(refused.result.unwrap_err().code, ErrorCode::Other);
    let mut odd = raw.request(Encryption::Nip44, "x".to_owned());
    let tags = [
        vec!["p".to_owned(), raw.wallet.public_key().to_hex()],
        vec!["encryption".to_owned(), "nip45".to_owned()],
    ];
    let tags = tags.into_iter().map(|tag| oa_nips::nostr::Tag::parse(tag).unwrap());
    let unsigned = oa_nips::nostr::UnsignedEvent::new(odd.pubkey, odd.created_at, odd.kind, tags, "x");
    odd = unsigned.sign_with_keys(&raw.keys).unwrap();
    raw.net.send(&relay(1), &odd);
    let refused = raw.answer(&odd, Encryption::Nip44).await;
    assert_eq!(refused.result.unwrap_err().code, ErrorCode::UnsupportedEncryption);
}

#[tokio::test]
async fn a_request_that_somebody_else_signed_is_not_heard() {
    let (_service, mut raw, purse) = served(MemoryRows::default()).await;
    let (invoice, _) = purse.with(|play| play.bill(1, Some(1000)));
    let pay = json!({ "method": "pay_invoice", "params": { "invoice": invoice } }).to_string();
    let signer = KeySigner(raw.keys.clone());
    let text = seal::encrypt(&signer, &raw.wallet.public_key(), Encryption::Nip44, &pay).await.unwrap();
    let event = raw.request(Encryption::Nip44, text);
    let thief = raw.request(Encryption::Nip44, "other".to_owned());
    let (mut signed, mut filled) = (event.clone(), event);
    signed.sig = thief.sig;
    filled.content = thief.content;
    raw.net.send(&relay(1), &signed);
    raw.net.send(&relay(1), &filled);
    assert!(raw.ask(Encryption::Nip44, &Request::GetBalance).await.result.is_ok());
    assert!(purse.with(|play| play.paid.is_empty()), "what came before has been dealt with");
}

#[tokio::test]
async fn the_answer_on_disk_goes_out_again_as_it_is() {
    let (_service, mut raw, _) = served(MemoryRows::default()).await;
    let order = Request::parse(r#"{"method":"make_invoice","params":{"amount":5}}"#).unwrap();
    let signer = KeySigner(raw.keys.clone());
    let to = raw.wallet.public_key();
    let text = seal::encrypt(&signer, &to, Encryption::Nip44, &order.to_json()).await.unwrap();
    let event = raw.request(Encryption::Nip44, text);
    let mut answers = Vec::new();
    for _ in 0..3 {
        raw.net.send(&relay(1), &event);
        answers.push(raw.next().await);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
}

#[tokio::test]
async fn a_store_that_failed_ends_the_service() {
    let rows = MemoryRows::default();
    let (service, raw, _) = served(rows.clone()).await;
    let mut raw = raw;
    assert!(raw.ask(Encryption::Nip44, &Request::GetBalance).await.result.is_ok());
    // Somebody else writes to the connection's row.
    for row in rows.0.lock().unwrap().values_mut() {
        row.version += 7;
    }
    let signer = KeySigner(raw.keys.clone());
    let text = Request::GetBalance.to_json();
    let text = seal::encrypt(&signer, &raw.wallet.public_key(), Encryption::Nip04, &text).await.unwrap();
    raw.net.send(&relay(1), &raw.request(Encryption::Nip04, text));
    let ended = timeout(SOON, service.ended()).await.unwrap();
    assert_eq!(ended, Ended::Store(RowsError::Stale));
}

#[tokio::test]
async fn a_response_never_shows_what_the_client_did_not_ask() {
    let (_service, mut raw, _) = served(MemoryRows::default()).await;
    let info = raw.ask(Encryption::Nip44, &Request::GetInfo).await.result.unwrap();
    assert_eq!(info["network"], Value::from("regtest"));
    assert!(
        !info["methods"].as_array().unwrap().iter().any(|method| method.as_str().unwrap().starts_with("oa_"))
    );
}
