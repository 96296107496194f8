//! The client against wallets that misbehave: late, twice, never, wrong, forged, busy, old.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use oa_nips::kind;
use oa_nips::nostr::{Event, EventId, Filter, Keys, SecretKey, Timestamp};
use oa_nips::nwc::{self, Encryption, Info};
use serde_json::{Value, json};

use super::play::invoice;
use super::world::{KeySigner, Net, client, clock, quick, relay};
use crate::backend::{PaymentHash, Preimage};
use crate::msat::Msat;
use crate::nwc::client::{CallError, Client, Config, Outcome, Untrue};
use crate::nwc::message::{
    Error, ErrorCode, HoldOrder, InvoiceOrder, Notification, PayOrder, Request, Response, State, Topic,
};
use crate::nwc::seal;
use crate::nwc::uri::Uri;

pub(super) const PREIMAGE: Preimage = Preimage([7; 32]);

/// What a scripted wallet does with a request.
pub(super) enum Deed {
    Answer(Response),
    After(Duration, Response),
    /// Signed by somebody else in the wallet's name.
    Forged(Response),
    /// Signed by the wallet, then changed.
    Tampered(Response),
    /// To a request that was never made.
    Astray(Response),
    /// In the other encryption.
    Otherwise(Response),
    /// Not a word of JSON, well encrypted.
    Babble(String),
}

/// A wallet that follows a script: the request, and how many came before.
pub(super) struct Rogue {
    pub(super) keys: Keys,
    pub(super) uri: Uri,
    pub(super) net: Net,
}

impl Rogue {
    pub(super) fn start(
        info: Option<Info>,
        mut script: impl FnMut(&Request, usize) -> Vec<Deed> + Send + 'static,
    ) -> Self {
        let (keys, net, relays) = (Keys::generate(), Net::default(), vec![relay(1)]);
        let secret = SecretKey::generate();
        let uri = Uri::new(keys.public_key(), relays.clone(), secret).unwrap();
        if let Some(info) = info {
            let event = info.event(keys.public_key(), Timestamp::from_secs(clock() / 1000));
            net.send(&relay(1), &event.sign_with_keys(&keys).unwrap());
        }
        let filter = Filter::new().kind(kind::WALLET_REQUEST).pubkey(keys.public_key());
        let mut requests = net.listen(&relays, filter);
        let (wallet, heard) = (keys.clone(), net.clone());
        tokio::spawn(async move {
            let mut count = 0;
            while let Some(event) = requests.recv().await {
                let header = nwc::Request::read(&event).unwrap();
                let encryption = header.encryption.clone().unwrap();
                let signer = KeySigner(wallet.clone());
                let text = seal::decrypt(&signer, &header.client, encryption, &event.content).await.unwrap();
                for deed in script(&Request::parse(&text).unwrap(), count) {
                    do_it(&heard, &wallet, &header, encryption, deed).await;
                }
                count += 1;
            }
        });
        Self { keys, uri, net }
    }

    pub(super) fn client(&self) -> Client {
        client(&self.net, &self.uri, quick(&self.uri))
    }

    /// The requests that were sent, by method, with their ids.
    pub(super) async fn asked(&self) -> Vec<(String, EventId)> {
        let mut asked = Vec::new();
        for event in self.net.log().into_iter().filter(|event| event.kind == kind::WALLET_REQUEST) {
            let encryption = nwc::Request::read(&event).unwrap().encryption.unwrap();
            let signer = KeySigner(self.keys.clone());
            let text = seal::decrypt(&signer, &event.pubkey, encryption, &event.content).await.unwrap();
            asked.push((Request::parse(&text).unwrap().method().to_owned(), event.id));
        }
        asked
    }
}

async fn do_it(net: &Net, wallet: &Keys, header: &nwc::Request, encryption: Encryption, deed: Deed) {
    let other = match encryption {
        Encryption::Nip04 => Encryption::Nip44,
        Encryption::Nip44 => Encryption::Nip04,
    };
    let said = async |encryption, text: &str, request| {
        let signer = KeySigner(wallet.clone());
        let text = seal::encrypt(&signer, &header.client, encryption, text).await.unwrap();
        let at = Timestamp::from_secs(clock() / 1000);
        nwc::response(wallet.public_key(), header.client, request, text, at)
    };
    let sealed =
        async |encryption, response: &Response, request| said(encryption, &response.to_json(), request).await;
    let event = match deed {
        Deed::Answer(response) => {
            sealed(encryption, &response, header.id).await.sign_with_keys(wallet).unwrap()
        }
        Deed::After(pause, response) => {
            let event = sealed(encryption, &response, header.id).await.sign_with_keys(wallet).unwrap();
            let net = net.clone();
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                net.send(&relay(1), &event);
            });
            return;
        }
        Deed::Forged(response) => {
            let event = sealed(encryption, &response, header.id).await;
            let thief = Keys::generate();
            let mut stolen = event.clone();
            stolen.pubkey = thief.public_key();
            stolen.id = None;
            let signed: Event = stolen.sign_with_keys(&thief).unwrap();
            net.send(&relay(1), &signed);
            let mut forged = signed;
            forged.pubkey = wallet.public_key();
            forged
        }
        Deed::Tampered(response) => {
            let mut event = sealed(encryption, &response, header.id).await.sign_with_keys(wallet).unwrap();
            event.created_at = event.created_at + 1;
            event
        }
        Deed::Astray(response) => {
            sealed(encryption, &response, EventId::all_zeros()).await.sign_with_keys(wallet).unwrap()
        }
        Deed::Babble(text) => said(encryption, &text, header.id).await.sign_with_keys(wallet).unwrap(),
        Deed::Otherwise(response) => {
            sealed(other, &response, header.id).await.sign_with_keys(wallet).unwrap()
        }
    };
    net.send(&relay(1), &event);
}

pub(super) fn ok(request: &Request, result: Value) -> Response {
    Response::ok(request.method(), result)
}

pub(super) fn no(request: &Request, code: ErrorCode) -> Response {
    Response::error(request.method(), Error::new(code, "no"))
}

pub(super) fn paid(request: &Request, preimage: Preimage) -> Response {
    ok(request, json!({ "preimage": preimage.reveal().to_string(), "fees_paid": 3 }))
}

pub(super) fn known(request: &Request, state: State, preimage: Option<Preimage>) -> Response {
    let preimage = preimage.map(|preimage| preimage.reveal().to_string());
    let hash = PREIMAGE.hash().to_string();
    let known = json!({ "type": "outgoing", "state": state, "payment_hash": hash, "amount": 1000,
        "fees_paid": 2, "preimage": preimage });
    ok(request, known)
}

pub(super) fn order() -> PayOrder {
    PayOrder { invoice: invoice(PREIMAGE, Some(1000), clock() / 1000, 3600), amount: None, metadata: None }
}

pub(super) fn settled(fee: u64) -> Outcome {
    Outcome::Settled { preimage: PREIMAGE, fee: Some(Msat::new(fee)) }
}

pub(super) fn modern() -> Option<Info> {
    Some(Info { encryptions: vec![Encryption::Nip04, Encryption::Nip44], ..Info::default() })
}

pub(super) async fn pays(
    script: impl FnMut(&Request, usize) -> Vec<Deed> + Send + 'static,
) -> (Outcome, Rogue) {
    let rogue = Rogue::start(modern(), script);
    let outcome = rogue.client().pay_invoice(order()).await.unwrap();
    (outcome, rogue)
}

#[tokio::test]
async fn a_lost_answer_is_sent_for_again_and_then_looked_up() {
    let (outcome, rogue) = pays(|request, _| match request {
        Request::LookupInvoice(_) => vec![Deed::Answer(known(request, State::Settled, Some(PREIMAGE)))],
        _ => vec![],
    })
    .await;
    assert_eq!(outcome, settled(2));
    let pays: Vec<_> =
        rogue.asked().await.into_iter().filter(|(method, _)| method == "pay_invoice").collect();
    assert!(pays.len() >= 2, "it was sent again");
    assert!(pays.iter().all(|pay| *pay == pays[0]), "as it was");
}

#[tokio::test]
async fn a_late_answer_counts_while_it_is_looked_up() {
    let (outcome, _) = pays(|request, nth| match request {
        Request::LookupInvoice(_) => vec![Deed::Answer(known(request, State::Pending, None))],
        _ if nth == 0 => vec![Deed::After(Duration::from_millis(1500), paid(request, PREIMAGE))],
        _ => vec![],
    })
    .await;
    assert_eq!(outcome, settled(3));
}

#[tokio::test]
async fn answers_that_come_twice_or_too_late_disturb_nothing() {
    let rogue = Rogue::start(modern(), |request, nth| {
        let answer = || Deed::Answer(ok(request, json!({ "balance": nth })));
        vec![
            answer(),
            answer(),
            Deed::After(Duration::from_millis(20), ok(request, json!({ "balance": 99 }))),
        ]
    });
    let client = rogue.client();
    for nth in 0..5 {
        assert_eq!(client.balance().await.unwrap(), Msat::new(nth));
    }
}

#[tokio::test]
async fn forged_changed_and_stray_answers_are_passed_over() {
    let (outcome, _) = pays(|request, _| {
        let lie = || no(request, ErrorCode::InsufficientBalance);
        let other = Response::ok("get_balance", json!({ "balance": 1 }));
        vec![
            Deed::Forged(lie()),
            Deed::Tampered(lie()),
            Deed::Astray(lie()),
            Deed::Answer(other),
            Deed::Answer(paid(request, PREIMAGE)),
        ]
    })
    .await;
    assert_eq!(outcome, settled(3));
}

#[tokio::test]
async fn a_receipt_that_opens_nothing_is_not_believed() {
    let lie = |looked_up: fn(&Request) -> Response| {
        move |request: &Request, _: usize| match request {
            Request::LookupInvoice(_) => vec![Deed::Answer(looked_up(request))],
            _ => vec![Deed::Answer(paid(request, Preimage([8; 32])))],
        }
    };
    let (outcome, _) = pays(lie(|request| known(request, State::Pending, None))).await;
    assert_eq!(outcome, Outcome::Unknown);
    let (outcome, _) = pays(lie(|request| known(request, State::Settled, Some(Preimage([8; 32]))))).await;
    assert_eq!(outcome, Outcome::Unknown, "look-up lies too");
    let (outcome, _) = pays(lie(|request| known(request, State::Settled, Some(PREIMAGE)))).await;
    assert_eq!(outcome, settled(2));
}

#[tokio::test]
async fn a_failure_is_one_when_look_up_says_so() {
    let (outcome, _) = pays(|request, _| match request {
        Request::LookupInvoice(_) => vec![Deed::Answer(no(request, ErrorCode::NotFound))],
        _ => vec![Deed::Answer(no(request, ErrorCode::PaymentFailed))],
    })
    .await;
    assert!(matches!(outcome, Outcome::Failed { code: ErrorCode::PaymentFailed, .. }), "{outcome:?}");
    let (outcome, _) = pays(|request, _| match request {
        Request::LookupInvoice(_) => vec![Deed::Answer(known(request, State::Settled, Some(PREIMAGE)))],
        _ => vec![Deed::Answer(no(request, ErrorCode::PaymentFailed))],
    })
    .await;
    assert_eq!(outcome, settled(2), "it was paid after all");
}

#[tokio::test]
async fn silence_is_unknown_and_resolved_later() {
    let silent = Arc::new(Mutex::new(true));
    let is_silent = silent.clone();
    let rogue = Rogue::start(modern(), move |request, _| match request {
        _ if *is_silent.lock().unwrap() => vec![],
        Request::LookupInvoice(_) => vec![Deed::Answer(known(request, State::Settled, Some(PREIMAGE)))],
        _ => vec![],
    });
    let client = rogue.client();
    let prepared = client.prepare(order()).await.unwrap();
    assert_eq!(client.perform(&prepared).await, Outcome::Unknown);
    *silent.lock().unwrap() = false;
    let kept = serde_json::to_string(&prepared).unwrap();
    let prepared = serde_json::from_str(&kept).unwrap();
    assert_eq!(client.resolve(&prepared).await, settled(2), "after a restart, from what was written down");
}

#[tokio::test]
async fn a_busy_wallet_is_asked_again() {
    let (outcome, _) = pays(|request, nth| {
        let busy = Deed::Answer(no(request, ErrorCode::RateLimited));
        vec![if nth < 2 { busy } else { Deed::Answer(paid(request, PREIMAGE)) }]
    })
    .await;
    assert_eq!(outcome, settled(3));
    let rogue = Rogue::start(modern(), |request, nth| {
        let busy = Deed::Answer(no(request, ErrorCode::RateLimited));
        vec![if nth < 2 { busy } else { Deed::Answer(ok(request, json!({ "balance": 1 }))) }]
    });
    assert_eq!(rogue.client().balance().await.unwrap(), Msat::new(1));
}

#[tokio::test]
async fn an_old_wallet_is_spoken_to_in_nip04() {
    let balance = |request: &Request, _: usize| vec![Deed::Answer(ok(request, json!({ "balance": 5 })))];
    let old = Info { encryptions: vec![Encryption::Nip04], ..Info::default() };
    let rogue = Rogue::start(Some(old), balance);
    assert_eq!(rogue.client().balance().await.unwrap(), Msat::new(5));
    let asked: Vec<_> =
        rogue.net.log().into_iter().filter(|event| event.kind == kind::WALLET_REQUEST).collect();
    assert!(asked.iter().all(|event| nwc::Request::read(event).unwrap().encryption == Ok(Encryption::Nip04)));
    let rogue = Rogue::start(None, move |request, nth| match nth {
        0 => vec![Deed::Otherwise(no(request, ErrorCode::UnsupportedEncryption))],
        _ => balance(request, nth),
    });
    assert_eq!(rogue.client().balance().await.unwrap(), Msat::new(5), "that said so only when asked");
    let strange = Info { encryptions: vec![], ..Info::default() };
    let rogue = Rogue::start(Some(strange), balance);
    assert!(matches!(rogue.client().balance().await, Err(CallError::Encryption)));
}

fn invoice_order() -> InvoiceOrder {
    InvoiceOrder {
        amount: Msat::new(1000),
        description: None,
        description_hash: None,
        expiry: None,
        metadata: None,
    }
}

fn made(request: &Request, preimage: Preimage, amount: Option<u64>, hash: PaymentHash) -> Response {
    let text = invoice(preimage, amount, clock() / 1000, 3600);
    let made =
        json!({ "type": "incoming", "invoice": text, "payment_hash": hash.to_string(), "amount": 1000 });
    ok(request, made)
}

#[tokio::test]
async fn an_invoice_for_something_else_is_not_shown_to_anybody() {
    async fn asks(amount: Option<u64>, hash: PaymentHash) -> Result<(), CallError> {
        let rogue = Rogue::start(modern(), move |request, _| {
            vec![Deed::Answer(made(request, PREIMAGE, amount, hash))]
        });
        rogue.client().make_invoice(invoice_order()).await.map(drop)
    }
    let hash = PREIMAGE.hash();
    assert!(asks(Some(1000), hash).await.is_ok());
    let untrue = asks(Some(999), hash).await;
    assert!(matches!(untrue, Err(CallError::Untrue(Untrue::Amount { .. }))), "{untrue:?}");
    let untrue = asks(None, hash).await;
    assert!(matches!(untrue, Err(CallError::Untrue(Untrue::AmountOpen))), "{untrue:?}");
    let untrue = asks(Some(1000), Preimage([8; 32]).hash()).await;
    assert!(matches!(untrue, Err(CallError::Untrue(Untrue::Hash { .. }))), "{untrue:?}");
}

#[tokio::test]
async fn a_hold_invoice_is_on_our_hash_or_none() {
    let hold = |hash| HoldOrder {
        amount: Msat::new(1000),
        payment_hash: hash,
        description: None,
        description_hash: None,
        expiry: None,
        min_cltv_expiry_delta: None,
    };
    let rogue = Rogue::start(modern(), |request, _| {
        vec![Deed::Answer(made(request, Preimage([8; 32]), Some(1000), Preimage([8; 32]).hash()))]
    });
    let untrue = rogue.client().make_hold_invoice(hold(PREIMAGE.hash())).await;
    assert!(matches!(untrue, Err(CallError::Untrue(Untrue::Hash { .. }))), "{untrue:?}");
    let rogue = Rogue::start(modern(), |request, _| match request {
        Request::LookupInvoice(_) => vec![Deed::Answer(made(request, PREIMAGE, Some(1000), PREIMAGE.hash()))],
        _ => vec![],
    });
    let found = rogue.client().make_hold_invoice(hold(PREIMAGE.hash())).await.unwrap();
    assert_eq!(found.payment_hash, PREIMAGE.hash(), "a lost answer is made good");
}

#[tokio::test]
async fn money_is_waited_for_without_notifications_and_believed_by_look_up_alone() {
    let rogue = Rogue::start(modern(), |request, nth| {
        let state = if nth < 4 { "pending" } else { "settled" };
        let found = json!({ "type": "incoming", "state": state, "payment_hash": PREIMAGE.hash().to_string(),
            "amount": 1000 });
        vec![Deed::Answer(ok(request, found))]
    });
    let client = rogue.client();
    let mut hints = client.notifications();
    let transaction = serde_json::from_value(json!({ "state": "settled", "amount": 1000,
        "payment_hash": PREIMAGE.hash().to_string(), "settled_at": 5 }));
    let told = Notification { topic: Topic::PaymentReceived, transaction: transaction.unwrap() };
    for keys in [&Keys::generate(), &rogue.keys] {
        let signer = KeySigner(keys.clone());
        let to = rogue.uri.keys().public_key();
        for encryption in [Encryption::Nip44, Encryption::Nip04] {
            let text = seal::encrypt(&signer, &to, encryption, &told.to_json()).await.unwrap();
            let at = Timestamp::from_secs(clock() / 1000);
            let event = nwc::notification(keys.public_key(), to, encryption, text, at);
            rogue.net.send(&relay(1), &event.sign_with_keys(keys).unwrap());
        }
    }
    let found = client.wait_for(PREIMAGE.hash(), super::world::SOON).await.unwrap();
    assert_eq!(found.state, State::Settled);
    assert!(rogue.asked().await.len() >= 5, "whatever was claimed, look-up decided");
    assert_eq!(hints.recv().await.unwrap(), told);
    assert!(hints.try_recv().is_err(), "once, though it came in both encryptions, and not from a stranger");
}

#[tokio::test]
async fn nothing_is_sent_before_answers_can_be_heard() {
    let rogue = Rogue::start(modern(), |request, _| vec![Deed::Answer(ok(request, json!({ "balance": 1 })))]);
    let keys = rogue.uri.keys();
    let filter = Client::filter(rogue.uri.wallet, keys.public_key(), clock() / 1000);
    let events = rogue.net.listen(&rogue.uri.relays, filter);
    let port = Arc::new(rogue.net.clone());
    let (stands, listening) = tokio::sync::watch::channel(false);
    let ports = crate::nwc::client::Ports {
        signer: Arc::new(KeySigner(keys)),
        publish: port.clone(),
        subscribe: port,
        clock,
    };
    let client = Client::start(quick(&rogue.uri), ports, events, listening);
    assert!(matches!(client.balance().await, Err(CallError::NotListening)));
    assert_eq!(rogue.asked().await, []);
    stands.send_replace(true);
    assert_eq!(client.balance().await.unwrap(), Msat::new(1));
}

#[tokio::test]
async fn orders_that_cannot_be_paid_are_not_sent() {
    let rogue = Rogue::start(modern(), |_, _| vec![]);
    let client = client(&rogue.net, &rogue.uri, Config { paid_within: Duration::ZERO, ..quick(&rogue.uri) });
    let open = invoice(PREIMAGE, None, clock() / 1000, 3600);
    for (text, amount) in
        [("lnbc1", None), (open.as_str(), None), (open.as_str(), Some(0)), (open.as_str(), Some(u64::MAX))]
    {
        let order = PayOrder { invoice: text.to_owned(), amount: amount.map(Msat::new), metadata: None };
        assert!(matches!(client.prepare(order).await, Err(CallError::Bill(_))), "{text} {amount:?}");
    }
    assert_eq!(rogue.asked().await, []);
}
