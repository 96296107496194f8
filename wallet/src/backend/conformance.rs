//! What every backend does, as tests that each of them runs: [`all`] on two that have money and can pay each other.

use std::future::Future;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use oa_nips::nostr::SECP256K1;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_nips::nostr::secp256k1::SecretKey;

use super::*;

/// How long anything may take, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// What every payment here may cost.
const FEE_MAX: Msat = Msat::new(10_000);

/// Runs the suite. Both sides need some 50,000 sat in channels; they are stopped at the end.
pub(crate) async fn all(alice: &dyn Backend, bob: &dyn Backend) {
    tells_who_it_is(alice, bob).await;
    an_invoice_is_paid_both_ways(alice, bob).await;
    an_open_amount_is_the_payers(alice, bob).await;
    what_cannot_be_paid_is_refused_and_costs_nothing(alice, bob).await;
    held_money_waits_and_is_taken(alice, bob).await;
    held_money_is_sent_back(alice, bob).await;
    a_hold_invoice_is_taken_by_nobody_else(alice, bob).await;
    keysend_arrives_under_the_given_hash(alice, bob).await;
    an_offer_is_paid_twice(alice, bob).await;
    twenty_at_once(alice, bob).await;
    an_event_comes_until_it_is_acknowledged(alice, bob).await;
    the_newest_payments_are_listed_first(alice, bob).await;
    nothing_answers_after_a_stop(alice).await;
}

/// Looks until there is something to see.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The oldest event, which has to be there soon.
pub(crate) async fn oldest(of: &dyn Backend) -> Delivery {
    tokio::time::timeout(SOON, of.next_event()).await.expect("there is an event").unwrap()
}

/// Reads and acknowledges events until one matches.
pub(crate) async fn event(of: &dyn Backend, what: &str, matches: impl Fn(&Event) -> bool) -> Event {
    let read = async {
        loop {
            let delivery = of.next_event().await.unwrap();
            of.acknowledge(delivery.id).await.unwrap();
            if matches(&delivery.event) {
                return delivery.event;
            }
        }
    };
    tokio::time::timeout(SOON, read).await.unwrap_or_else(|_| panic!("no event: {what}"))
}

pub(crate) fn asked(amount: Option<u64>, description: &str) -> InvoiceRequest {
    InvoiceRequest { amount: amount.map(Msat::new), description: description.to_owned(), expiry_s: 3_600 }
}

fn preimage(text: &str) -> Preimage {
    Preimage(sha256::Hash::hash(text.as_bytes()).to_byte_array())
}

async fn owned(backend: &dyn Backend) -> Msat {
    backend.balance().await.unwrap().in_channels
}

/// Waits until a side owns exactly that much: the last round of a payment comes after its end.
pub(crate) async fn owns(backend: &dyn Backend, amount: Msat) {
    until(&format!("owns {amount}"), || async { (owned(backend).await == amount).then_some(()) }).await;
}

/// Waits for a payment's end, which has to be a good one.
pub(crate) async fn settled(payer: &dyn Backend, payment: &Payment) -> (Payment, Preimage, Msat) {
    let payment = payer.wait(payment.id, SOON).await.unwrap();
    let State::Settled { preimage: Some(preimage), fee } = payment.state else { panic!("{payment:?}") };
    assert_eq!(Some(preimage.hash()), payment.hash);
    (payment, preimage, fee)
}

/// Makes a payment, waits until both sides own what they should, and gives how it ended.
async fn transfer(
    payer: &dyn Backend,
    payee: &dyn Backend,
    start: impl Future<Output = Result<Payment, Error>>,
) -> (Payment, Preimage, Msat) {
    let (before_payer, before_payee) = (owned(payer).await, owned(payee).await);
    let (payment, proof, fee) = settled(payer, &start.await.unwrap()).await;
    let amount = payment.amount.unwrap();
    owns(payer, before_payer.saturating_sub(amount).saturating_sub(fee)).await;
    owns(payee, before_payee.saturating_add(amount)).await;
    (payment, proof, fee)
}

/// Pays an invoice of `payee` and checks everything that can be seen of it.
async fn pays(payer: &dyn Backend, payee: &dyn Backend, amount: u64) {
    let invoice = payee.invoice(asked(Some(amount), "tea")).await.unwrap();
    let amount = Msat::new(amount);
    let pending = payee.look_up(invoice.hash).await.unwrap().unwrap();
    assert_eq!(
        (pending.state, pending.direction, pending.amount),
        (State::Pending, Direction::Incoming, Some(amount))
    );
    assert_eq!(payer.look_up(invoice.hash).await.unwrap(), None);
    let (payment, proof, fee) = transfer(payer, payee, payer.pay(&invoice.bolt11, None, FEE_MAX)).await;
    assert_eq!((payment.id, payment.direction), (invoice.hash, Direction::Outgoing));
    assert_eq!((payment.amount, payment.kind), (Some(amount), Kind::Bolt11));
    let expected = Event::Sent { id: invoice.hash, hash: invoice.hash, preimage: Some(proof), fee };
    let sent =
        event(payer, "sent", |event| matches!(event, Event::Sent { hash, .. } if *hash == invoice.hash))
            .await;
    assert_eq!(sent, expected);
    let expected = Event::Received { hash: invoice.hash, amount, records: Vec::new() };
    assert_eq!(event(payee, "received", |event| *event == expected).await, expected);
    let received = payee.look_up(invoice.hash).await.unwrap().unwrap();
    assert_eq!(received.state, State::Settled { preimage: Some(proof), fee: Msat::ZERO });
}

async fn tells_who_it_is(alice: &dyn Backend, bob: &dyn Backend) {
    let (one, other) = (alice.info().await.unwrap(), bob.info().await.unwrap());
    assert_eq!((one.network, other.network), (Network::Regtest, Network::Regtest));
    assert_ne!(one.node_id, other.node_id);
    assert!(one.block_height > 0);
    assert_eq!(one.play_money, one.alias.starts_with("play money"));
    let peers = alice.peers().await.unwrap();
    assert!(peers.iter().any(|peer| peer.id == other.node_id && peer.connected), "{peers:?}");
}

async fn an_invoice_is_paid_both_ways(alice: &dyn Backend, bob: &dyn Backend) {
    pays(alice, bob, 5_000_000).await;
    pays(bob, alice, 1_234_567).await;
    // A thousandth of a satoshi, which no chain can hold.
    pays(alice, bob, 1).await;
}

async fn an_open_amount_is_the_payers(alice: &dyn Backend, bob: &dyn Backend) {
    let invoice = bob.invoice(asked(None, "")).await.unwrap();
    assert_eq!(alice.pay(&invoice.bolt11, None, FEE_MAX).await, Err(Error::AmountMissing));
    assert_eq!(alice.pay(&invoice.bolt11, Some(Msat::ZERO), FEE_MAX).await, Err(Error::AmountMissing));
    let amount = Some(Msat::new(77_777));
    let (payment, _, _) = transfer(alice, bob, alice.pay(&invoice.bolt11, amount, FEE_MAX)).await;
    assert_eq!(payment.amount, amount);
    assert_eq!(bob.look_up(invoice.hash).await.unwrap().unwrap().amount, amount);
}

/// An invoice of somebody whom no channel leads to.
fn stranger(currency: Currency) -> String {
    let key = SecretKey::from_slice(&[7; 32]).unwrap();
    InvoiceBuilder::new(currency)
        .description(String::new())
        .payment_hash(sha256::Hash::hash(b"stranger"))
        .payment_secret(PaymentSecret([1; 32]))
        .duration_since_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap())
        .min_final_cltv_expiry_delta(144)
        .amount_milli_satoshis(1_000)
        .basic_mpp()
        .build_signed(|message| SECP256K1.sign_ecdsa_recoverable(message, &key))
        .unwrap()
        .to_string()
}

async fn what_cannot_be_paid_is_refused_and_costs_nothing(alice: &dyn Backend, bob: &dyn Backend) {
    let before = alice.balance().await.unwrap();
    let pay = |bolt11: String, amount: Option<u64>| async move {
        alice.pay(&bolt11, amount.map(Msat::new), FEE_MAX).await.unwrap_err()
    };
    assert!(matches!(pay("lnbcrt1nonsense".to_owned(), None).await, Error::Malformed(_)));
    let wrong = Error::WrongNetwork { ours: Network::Regtest, theirs: Network::Mainnet };
    assert_eq!(pay(stranger(Currency::Bitcoin), None).await, wrong);
    assert_eq!(pay(stranger(Currency::Regtest), None).await, Error::NoRoute);
    let own = alice.invoice(asked(Some(1_000), "")).await.unwrap();
    assert_eq!(pay(own.bolt11, None).await, Error::OwnInvoice);
    let tea = bob.invoice(asked(Some(1_000), "")).await.unwrap();
    assert_eq!(pay(tea.bolt11.clone(), Some(999)).await, Error::AmountMismatch { theirs: Msat::new(1_000) });
    let open = bob.invoice(asked(None, "")).await.unwrap();
    for too_much in [before.in_channels.get() + 1, u64::MAX] {
        let refused = pay(open.bolt11.clone(), Some(too_much)).await;
        assert!(
            matches!(refused, Error::InsufficientBalance { available } if available <= before.spendable),
            "{refused:?}"
        );
    }
    let short = InvoiceRequest { expiry_s: 1, ..asked(Some(1_000), "") };
    let short = bob.invoice(short).await.unwrap();
    until("it is late", || async {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        (now > short.expires_at).then_some(())
    })
    .await;
    assert_eq!(pay(short.bolt11, None).await, Error::Expired);
    owns(alice, before.in_channels).await;

    transfer(alice, bob, alice.pay(&tea.bolt11, None, FEE_MAX)).await;
    assert_eq!(pay(tea.bolt11, None).await, Error::AlreadyPaid);
    for bad in [asked(Some(0), ""), asked(Some(u64::MAX), ""), asked(None, &"x".repeat(640))] {
        assert!(bob.invoice(bad).await.is_err());
    }
    assert_eq!(bob.wait(PaymentHash::from_bytes([9; 32]), SOON).await, Err(Error::NotFound));
}

/// Begins to pay a hold invoice of bob's and waits until bob holds the money.
async fn held(alice: &dyn Backend, bob: &dyn Backend, proof: Preimage, amount: u64) -> Payment {
    let hash = proof.hash();
    let invoice = bob.hold_invoice(hash, asked(Some(amount), "held")).await.unwrap();
    assert_eq!(invoice.hash, hash);
    assert_eq!(bob.settle(proof).await, Err(Error::NotHeld));
    let payment = alice.pay(&invoice.bolt11, None, FEE_MAX).await.unwrap();
    let arrived =
        event(bob, "held", |event| matches!(event, Event::Held { hash: held, .. } if *held == hash)).await;
    let Event::Held { amount: arrived, deadline: Some(deadline), .. } = arrived else {
        panic!("{arrived:?}")
    };
    assert_eq!(arrived, Msat::new(amount));
    assert!(deadline > bob.info().await.unwrap().block_height);
    let waiting = alice.wait(hash, Duration::from_millis(20)).await.unwrap();
    assert_eq!(waiting.state, State::Pending);
    assert_eq!(alice.pay(&invoice.bolt11, None, FEE_MAX).await, Err(Error::InFlight));
    assert_eq!(bob.look_up(hash).await.unwrap().unwrap().state, State::Pending);
    payment
}

async fn held_money_waits_and_is_taken(alice: &dyn Backend, bob: &dyn Backend) {
    let proof = preimage("taken");
    let (before_alice, before_bob) = (owned(alice).await, owned(bob).await);
    let payment = held(alice, bob, proof, 300_000).await;
    bob.settle(proof).await.unwrap();
    bob.settle(proof).await.unwrap();
    assert_eq!(bob.cancel(proof.hash()).await, Err(Error::AlreadyPaid));
    let (_, receipt, fee) = settled(alice, &payment).await;
    assert_eq!(receipt, proof);
    owns(alice, before_alice.saturating_sub(Msat::new(300_000)).saturating_sub(fee)).await;
    owns(bob, before_bob.saturating_add(Msat::new(300_000))).await;
    let received = |event: &Event| matches!(event, Event::Received { hash, .. } if *hash == proof.hash());
    event(bob, "received once settled", received).await;
    assert_eq!(bob.hold_invoice(proof.hash(), asked(Some(1), "")).await, Err(Error::AlreadyPaid));
    assert_eq!(bob.settle(preimage("never asked for")).await, Err(Error::NotFound));
}

async fn held_money_is_sent_back(alice: &dyn Backend, bob: &dyn Backend) {
    let proof = preimage("sent back");
    let (before_alice, before_bob) = (owned(alice).await, owned(bob).await);
    let payment = held(alice, bob, proof, 400_000).await;
    bob.cancel(proof.hash()).await.unwrap();
    bob.cancel(proof.hash()).await.unwrap();
    let failed = alice.wait(payment.id, SOON).await.unwrap();
    assert!(matches!(failed.state, State::Failed { .. }), "{failed:?}");
    let told = |event: &Event| matches!(event, Event::Failed { id, .. } if *id == proof.hash());
    let told = event(alice, "failed", told).await;
    assert_eq!(told, Event::Failed { id: proof.hash(), why: FailReason::Rejected });
    let failed = alice.look_up(payment.id).await.unwrap().unwrap();
    assert_eq!(failed.state, State::Failed { why: FailReason::Rejected });
    owns(alice, before_alice).await;
    owns(bob, before_bob).await;
    assert_eq!(bob.settle(proof).await, Err(Error::NotHeld));
}

/// A cancelled invoice stays cancelled, whoever pays it; and plain invoices are nobody's to hold.
async fn a_hold_invoice_is_taken_by_nobody_else(alice: &dyn Backend, bob: &dyn Backend) {
    let proof = preimage("withdrawn");
    let invoice = bob.hold_invoice(proof.hash(), asked(Some(9_000), "")).await.unwrap();
    bob.cancel(proof.hash()).await.unwrap();
    let marker = bob.invoice(asked(Some(1_000), "marker")).await.unwrap();
    let (before_alice, before_bob) = (owned(alice).await, owned(bob).await);
    let payment = alice.pay(&invoice.bolt11, None, FEE_MAX).await.unwrap();
    let marked = alice.pay(&marker.bolt11, None, FEE_MAX).await.unwrap();
    let (_, _, fee) = settled(alice, &marked).await;
    // Reading bob's events up to the marker is what lets a backend send the first payment back.
    let seen = event(bob, "the marker", |event| match event {
        Event::Held { hash, .. } => *hash == invoice.hash,
        Event::Received { hash, .. } => *hash == marker.hash,
        _ => false,
    });
    assert!(matches!(seen.await, Event::Received { .. }), "cancelled, and held all the same");
    let failed = alice.wait(payment.id, SOON).await.unwrap();
    assert!(matches!(failed.state, State::Failed { .. }), "{failed:?}");
    owns(alice, before_alice.saturating_sub(Msat::new(1_000)).saturating_sub(fee)).await;
    owns(bob, before_bob.saturating_add(Msat::new(1_000))).await;
    assert_eq!(bob.settle(proof).await, Err(Error::NotHeld));
    let plain = bob.invoice(asked(Some(1_000), "")).await.unwrap();
    assert_eq!(bob.cancel(plain.hash).await, Err(Error::NotFound));
    assert_eq!(bob.hold_invoice(preimage("open").hash(), asked(None, "")).await, Err(Error::AmountMissing));
}

async fn keysend_arrives_under_the_given_hash(alice: &dyn Backend, bob: &dyn Backend) {
    let record = Record { kind: 7_629_169, value: b"hello".to_vec() };
    let keysend = Keysend {
        payee: bob.info().await.unwrap().node_id,
        amount: Msat::new(21_000),
        preimage: preimage("keysend"),
        fee_max: FEE_MAX,
        records: vec![record.clone()],
    };
    let hash = keysend.preimage.hash();
    let (payment, proof, _) = transfer(alice, bob, alice.keysend(keysend.clone())).await;
    assert_eq!((payment.id, &payment.kind, proof), (hash, &Kind::Keysend, keysend.preimage));
    let expected = Event::Received { hash, amount: Msat::new(21_000), records: vec![record] };
    event(bob, "the keysend", |event| *event == expected).await;
    assert_eq!(alice.keysend(keysend.clone()).await, Err(Error::AlreadyPaid));
    let to_self =
        Keysend { payee: alice.info().await.unwrap().node_id, preimage: preimage("self"), ..keysend };
    assert_eq!(alice.keysend(to_self).await, Err(Error::OwnInvoice));
}

async fn an_offer_is_paid_twice(alice: &dyn Backend, bob: &dyn Backend) {
    let offer = bob.offer(Some(Msat::new(12_000)), "tea, again").await.unwrap();
    let mut hashes = Vec::new();
    for _ in 0..2 {
        let (payment, _, _) =
            transfer(alice, bob, alice.pay_offer(&offer, None, Some("thanks"), FEE_MAX)).await;
        assert_eq!((&payment.kind, payment.amount), (&Kind::Offer, Some(Msat::new(12_000))));
        let hash = payment.hash.unwrap();
        assert_eq!(alice.look_up(hash).await.unwrap().unwrap().id, payment.id);
        event(bob, "the offer", |event| matches!(event, Event::Received { hash: paid, .. } if *paid == hash))
            .await;
        hashes.push(hash);
    }
    assert_ne!(hashes[0], hashes[1]);
    let open = bob.offer(None, "anything").await.unwrap();
    assert_eq!(alice.pay_offer(&open, None, None, FEE_MAX).await, Err(Error::AmountMissing));
    transfer(alice, bob, alice.pay_offer(&open, Some(Msat::new(5_000)), None, FEE_MAX)).await;
    assert_eq!(bob.pay_offer(&open, Some(Msat::new(5_000)), None, FEE_MAX).await, Err(Error::OwnInvoice));
    assert!(matches!(alice.pay_offer("lno1nonsense", None, None, FEE_MAX).await, Err(Error::Malformed(_))));
}

async fn twenty_at_once(alice: &dyn Backend, bob: &dyn Backend) {
    let (before_alice, before_bob) = (owned(alice).await, owned(bob).await);
    let payments = (0..20).map(|n| async move {
        // Ten each way.
        let (payer, payee) = if n % 2 == 0 { (alice, bob) } else { (bob, alice) };
        let invoice = payee.invoice(asked(Some(100_000 + n), "at once")).await.unwrap();
        let payment = payer.pay(&invoice.bolt11, None, FEE_MAX).await.unwrap();
        settled(payer, &payment).await.2
    });
    let fees = futures_util::future::join_all(payments).await;
    let paid = |parity: usize| (0..20).filter(|n| n % 2 == parity).map(|n| 100_000 + n as u64).sum::<u64>();
    let cost = |parity: usize| fees.iter().skip(parity).step_by(2).map(|fee| fee.get()).sum::<u64>();
    owns(alice, Msat::new(before_alice.get() + paid(1) - paid(0) - cost(0))).await;
    owns(bob, Msat::new(before_bob.get() + paid(0) - paid(1) - cost(1))).await;
}

async fn an_event_comes_until_it_is_acknowledged(alice: &dyn Backend, bob: &dyn Backend) {
    let invoice = bob.invoice(asked(Some(2_000), "")).await.unwrap();
    let is_it = |event: &Event| matches!(event, Event::Received { hash, .. } if *hash == invoice.hash);
    transfer(alice, bob, alice.pay(&invoice.bolt11, None, FEE_MAX)).await;
    let read = async {
        loop {
            let delivery = bob.next_event().await.unwrap();
            if is_it(&delivery.event) {
                return delivery;
            }
            bob.acknowledge(delivery.id).await.unwrap();
        }
    };
    let first = tokio::time::timeout(SOON, read).await.unwrap();
    assert_eq!(oldest(bob).await, first);
    bob.acknowledge(EventId(first.id.0 + 1)).await.unwrap();
    bob.acknowledge(EventId(0)).await.unwrap();
    assert_eq!(oldest(bob).await, first, "only its own number acknowledges it");
    bob.acknowledge(first.id).await.unwrap();
    bob.acknowledge(first.id).await.unwrap();
    let next = tokio::time::timeout(Duration::from_millis(50), bob.next_event()).await;
    assert!(next.is_err(), "there is no other: {next:?}");
}

async fn the_newest_payments_are_listed_first(alice: &dyn Backend, bob: &dyn Backend) {
    let all = bob.list(Filter::default()).await.unwrap();
    assert!(all.is_sorted_by_key(|payment| std::cmp::Reverse(payment.updated_at)));
    let settled_in = Filter {
        direction: Some(Direction::Incoming),
        unpaid: false,
        limit: 3,
        offset: 1,
        ..Filter::default()
    };
    let page = bob.list(settled_in.clone()).await.unwrap();
    let whole = bob.list(Filter { limit: usize::MAX, offset: 0, ..settled_in }).await.unwrap();
    assert_eq!(page, whole[1..4]);
    for payment in &whole {
        assert!(payment.direction == Direction::Incoming && matches!(payment.state, State::Settled { .. }));
    }
    // What one side sent the other received, and the sums agree.
    let lightning = |payments: Vec<Payment>, direction| -> Vec<(PaymentHash, Option<Msat>)> {
        let mut sums: Vec<_> = payments
            .into_iter()
            .filter(|payment| {
                payment.direction == direction && matches!(payment.state, State::Settled { .. })
            })
            .filter_map(|payment| Some((payment.hash?, payment.amount)))
            .collect();
        sums.sort_unstable();
        sums
    };
    let sent = lightning(alice.list(Filter::default()).await.unwrap(), Direction::Outgoing);
    assert_eq!(sent, lightning(all, Direction::Incoming));
    assert!(sent.len() > 15);
}

async fn nothing_answers_after_a_stop(alice: &dyn Backend) {
    let drained = async {
        // Whatever was left unread, somebody who waits for more is told that there will be none.
        loop {
            match alice.next_event().await {
                Ok(delivery) => alice.acknowledge(delivery.id).await.unwrap(),
                Err(error) => return error,
            }
        }
    };
    let stop = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        alice.stop().await.unwrap();
    };
    let (told, ()) = tokio::time::timeout(SOON, async { tokio::join!(drained, stop) }).await.unwrap();
    assert!(matches!(told, Error::Unavailable(_)));
    assert!(matches!(alice.balance().await, Err(Error::Unavailable(_))));
    assert!(matches!(
        alice.pay("lnbcrt1", None, FEE_MAX).await,
        Err(Error::Unavailable(_) | Error::Malformed(_))
    ));
    alice.stop().await.unwrap();
}
