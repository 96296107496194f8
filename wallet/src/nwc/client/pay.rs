//! One payment as its payer sees it: sent until answered, looked up until its end is known. Pure.
//!
//! Nothing is guessed: without a preimage that opens the invoice's hash a payment is not settled, and without the
//! wallet's word about this very hash it has not failed.

use oa_nips::nostr::Event;
use serde::{Deserialize, Serialize};

use crate::account::fee_reserve;
use crate::backend::{PaymentHash, Preimage};
use crate::msat::Msat;
use crate::nwc::message::{Direction, Error, ErrorCode, Paid, Response, State, Transaction};

/// The longest wait between two looks at a payment, or before a busy wallet is asked again.
const PAUSE_LAST_MS: u64 = 15_000;

/// A fee above the amount and so many times what is held back for fees is none: wallets that name one count in another
/// unit, or lie.
const FEE_RESERVES_MAX: u64 = 10;

/// How far the clocks of a wallet and its client may be apart, in seconds.
pub(super) const CLOCKS_S: u64 = 120;

/// How a payment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Paid, with the proof.
    Settled {
        /// It opens the payment hash.
        preimage: Preimage,
        /// What the route cost; nothing where the wallet does not say or names what no route costs, which is to be
        /// taken for all that was reserved.
        fee: Option<Msat>,
    },
    /// Not paid, and it will not be.
    Failed {
        /// The wallet's reason.
        code: ErrorCode,
        /// In words.
        message: String,
    },
    /// Not known yet. What was reserved stays so; [`super::Client::resolve`] asks again.
    Unknown,
}

/// A payment, ready to be sent: what is written down before the first byte goes out.
///
/// It holds the order in clear and is to be kept like the rest of the wallet's rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// The signed request, which is sent again as it is.
    pub event: Event,
    /// Its plaintext, for a new request where the wallet refused the first as too many.
    pub(super) body: String,
    /// The encryption of the event.
    pub(super) encryption: oa_nips::nwc::Encryption,
    /// What is paid.
    #[serde(with = "crate::nwc::message::hash")]
    pub payment_hash: PaymentHash,
    /// How much, without fees.
    pub amount: Msat,
    /// From then on a wallet that has never heard of the hash never will pay it, in seconds since 1970.
    pub final_at: u64,
}

/// What a look-up said.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found {
    /// This is known of the hash.
    Known(Box<Transaction>),
    /// Nothing is.
    Nothing,
    /// The invoice of the other side, in a wallet that both have, and no payment of it among the latest.
    OnlyInvoice,
    /// The wallet has no look-up, for this connection.
    Unable,
    /// No answer, or one that makes no sense.
    Silence,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// After so long, look up.
    LookUp { after_ms: u64 },
    /// After so long, send the order in a new request; `renegotiate` the encryption first.
    Anew { after_ms: u64, renegotiate: bool },
    /// It is over.
    Done(Outcome),
}

/// What was ordered, and when; all times in seconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ordered {
    pub(super) hash: PaymentHash,
    /// How much, without fees.
    pub(super) amount: Msat,
    /// When the request was written.
    pub(super) at: u64,
    /// After which a wallet does not begin with it.
    pub(super) void_at: u64,
    /// As [`Prepared::final_at`].
    pub(super) final_at: u64,
}

/// A payment under way.
#[derive(Debug)]
pub(super) struct Attempt {
    ordered: Ordered,
    /// When to be content with [`Outcome::Unknown`], in milliseconds since 1970.
    deadline_ms: u64,
    /// Between the first looks; doubled each time.
    look_after_ms: u64,
    /// What the wallet said, without our believing it.
    said: Option<Error>,
    looks: u32,
    refusals: u32,
    has_renegotiated: bool,
}

impl Attempt {
    pub(super) fn new(ordered: Ordered, deadline_ms: u64, look_after_ms: u64) -> Self {
        let (looks, refusals) = (0, 0);
        Self { ordered, deadline_ms, look_after_ms, said: None, looks, refusals, has_renegotiated: false }
    }

    /// The order went out in another request, which is void later.
    pub(super) fn is_ordered_until(&mut self, void_at: u64) {
        self.ordered.void_at = self.ordered.void_at.max(void_at);
    }

    /// The wallet answered; late answers count too.
    pub(super) fn answered(&mut self, response: Response, now_ms: u64) -> Next {
        match response.result {
            Ok(result) => match serde_json::from_value::<Paid>(result) {
                Ok(paid) if paid.preimage.hash() == self.ordered.hash => {
                    Next::Done(self.settled(paid.preimage, paid.fees_paid))
                }
                // It claims to have paid and does not prove it. Looking up decides.
                _ => self.look(now_ms),
            },
            Err(error) => self.refused(error, now_ms),
        }
    }

    fn refused(&mut self, error: Error, now_ms: u64) -> Next {
        let done = |error: Error| Next::Done(Outcome::Failed { code: error.code, message: error.message });
        match error.code {
            ErrorCode::RateLimited => {
                let after_ms = self.pause(self.refusals);
                self.refusals += 1;
                if now_ms.saturating_add(after_ms) >= self.deadline_ms {
                    return done(error);
                }
                Next::Anew { after_ms, renegotiate: false }
            }
            ErrorCode::UnsupportedEncryption if !self.has_renegotiated => {
                self.has_renegotiated = true;
                Next::Anew { after_ms: 0, renegotiate: true }
            }
            code if code.is_refusal() => done(error),
            _ => {
                self.said = Some(error);
                self.look(now_ms)
            }
        }
    }

    /// No answer came in time.
    pub(super) fn timed_out(&mut self, now_ms: u64) -> Next {
        self.look(now_ms)
    }

    fn pause(&self, times: u32) -> u64 {
        self.look_after_ms.saturating_mul(1 << times.min(20)).min(PAUSE_LAST_MS)
    }

    fn look(&mut self, now_ms: u64) -> Next {
        let after_ms = if self.looks == 0 { 0 } else { self.pause(self.looks - 1) };
        self.looks += 1;
        if self.looks > 1 && now_ms.saturating_add(after_ms) >= self.deadline_ms {
            return Next::Done(Outcome::Unknown);
        }
        Next::LookUp { after_ms }
    }

    /// A look-up came back.
    pub(super) fn found(&mut self, found: Found, now_ms: u64) -> Next {
        match found {
            Found::Known(known) if known.payment_hash == self.ordered.hash => self.known(&known, now_ms),
            Found::Known(_) | Found::Silence => self.look(now_ms),
            Found::OnlyInvoice => match self.said.take() {
                Some(error) => Next::Done(Outcome::Failed { code: error.code, message: error.message }),
                // Without its refusal it may be an older one.
                None => self.look(now_ms),
            },
            Found::Nothing => match self.said.take() {
                // It took the request, said no, and knows nothing of a payment.
                Some(error) => Next::Done(Outcome::Failed { code: error.code, message: error.message }),
                None if now_ms / 1000 >= self.ordered.final_at => {
                    failed(ErrorCode::NotFound, "the wallet never took it")
                }
                None => self.look(now_ms),
            },
            Found::Unable => match self.said.take() {
                Some(error) if error.code == ErrorCode::PaymentFailed => {
                    Next::Done(Outcome::Failed { code: error.code, message: error.message })
                }
                _ => Next::Done(Outcome::Unknown),
            },
        }
    }

    /// Paid; for a fee that no route costs, if the wallet says so.
    fn settled(&self, preimage: Preimage, fee: Option<Msat>) -> Outcome {
        let Ordered { hash, amount, .. } = self.ordered;
        let reserves = fee_reserve(amount).get().saturating_mul(FEE_RESERVES_MAX);
        let fee_max = amount.saturating_add(Msat::new(reserves)).min(Msat::SUPPLY);
        if let Some(fee) = fee.filter(|fee| *fee > fee_max) {
            tracing::warn!(%hash, %amount, %fee, "the wallet names a fee that nobody pays: it is not believed");
        }
        Outcome::Settled { preimage, fee: fee.filter(|fee| *fee <= fee_max) }
    }

    /// Whether what failed began before our request was written, and the wallet has not answered that, and may yet
    /// begin with it.
    fn may_begin(&self, began_at: u64, now_ms: u64) -> bool {
        let void_at = self.ordered.void_at.saturating_add(CLOCKS_S);
        self.said.is_none() && began_at < self.ordered.at && now_ms / 1000 < void_at
    }

    fn known(&mut self, known: &Transaction, now_ms: u64) -> Next {
        if known.direction == Direction::Incoming {
            return self.knows_the_invoice(known.state, now_ms);
        }
        match (known.state, known.proof()) {
            (State::Settled, Some(preimage)) => Next::Done(self.settled(*preimage, known.fees_paid)),
            // An earlier attempt at the same hash. Ours may still wait for its turn.
            (State::Failed, _) if self.may_begin(known.created_at, now_ms) => self.look(now_ms),
            (State::Failed, _) => {
                let said =
                    self.said.take().unwrap_or_else(|| Error::new(ErrorCode::PaymentFailed, "it failed"));
                Next::Done(Outcome::Failed { code: said.code, message: said.message })
            }
            // Settled without a proof is not settled; expired says nothing of a payment.
            _ => self.look(now_ms),
        }
    }
}

impl Attempt {
    /// The wallet has the invoice of the other side, and shows that instead of a payment. By itself it says nothing;
    /// but what the wallet refused to pay, and has not been paid, is not paid. Once it is settled nobody can say by
    /// whom, until our request is void and the invoice has expired: a payment of ours would be shown by then.
    fn knows_the_invoice(&mut self, invoice: State, now_ms: u64) -> Next {
        let is_final = now_ms / 1000 >= self.ordered.final_at;
        match self.said.take() {
            Some(error) if is_final || !matches!(invoice, State::Settled | State::Accepted) => {
                Next::Done(Outcome::Failed { code: error.code, message: error.message })
            }
            None if is_final => {
                failed(ErrorCode::NotFound, "the wallet knows the invoice and no payment of it")
            }
            said => {
                self.said = said;
                self.look(now_ms)
            }
        }
    }
}

fn failed(code: ErrorCode, message: &str) -> Next {
    Next::Done(Outcome::Failed { code, message: message.to_owned() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PREIMAGE: Preimage = Preimage([7; 32]);

    fn attempt() -> Attempt {
        Attempt::new(ordered(), 60_000, 1_000)
    }

    fn ordered() -> Ordered {
        Ordered { hash: PREIMAGE.hash(), amount: Msat::new(5), at: 0, void_at: 60, final_at: 1_000 }
    }

    fn ok(preimage: Preimage) -> Response {
        Response::ok("pay_invoice", json!({ "preimage": preimage.reveal(), "fees_paid": 3 }))
    }

    fn no(code: ErrorCode) -> Response {
        Response::error("pay_invoice", Error::new(code, "no"))
    }

    fn known(state: State, preimage: Option<Preimage>, hash: PaymentHash) -> Found {
        let text = json!({ "type": "outgoing", "state": state, "payment_hash": hash, "amount": 5,
            "preimage": preimage.map(|preimage| preimage.reveal()), "fees_paid": 2 });
        Found::Known(Box::new(serde_json::from_value(text).unwrap()))
    }

    fn settled(fee: u64) -> Next {
        Next::Done(Outcome::Settled { preimage: PREIMAGE, fee: Some(Msat::new(fee)) })
    }

    fn failed(code: ErrorCode) -> Next {
        Next::Done(Outcome::Failed { code, message: "no".to_owned() })
    }

    #[test]
    fn a_preimage_settles_and_a_wrong_one_is_looked_up() {
        assert_eq!(attempt().answered(ok(PREIMAGE), 0), settled(3));
        let mut payment = attempt();
        assert_eq!(payment.answered(ok(Preimage([8; 32])), 0), Next::LookUp { after_ms: 0 });
        let unproven = known(State::Settled, Some(Preimage([8; 32])), PREIMAGE.hash());
        assert_eq!(payment.found(unproven, 0), Next::LookUp { after_ms: 1_000 });
        let other = known(State::Settled, Some(Preimage([8; 32])), Preimage([8; 32]).hash());
        assert_eq!(payment.found(other, 0), Next::LookUp { after_ms: 2_000 }, "another payment");
        assert_eq!(payment.found(known(State::Settled, Some(PREIMAGE), PREIMAGE.hash()), 0), settled(2));
    }

    #[test]
    fn a_fee_that_no_route_costs_is_not_believed() {
        let amount = Msat::from_sat(1_000);
        // Twice the amount would be dear, and ten times what is held back for fees is above one per cent ten times.
        let most = 1_000_000 + 10 * 10_000;
        for (fee, believed) in [(0, true), (most, true), (most + 1, false), (Msat::SUPPLY.get(), false)] {
            let mut payment = Attempt::new(Ordered { amount, ..ordered() }, 60_000, 1_000);
            let answer = json!({ "preimage": PREIMAGE.reveal(), "fees_paid": fee });
            let fee = believed.then_some(Msat::new(fee));
            let told = payment.answered(Response::ok("pay_invoice", answer), 0);
            assert_eq!(told, Next::Done(Outcome::Settled { preimage: PREIMAGE, fee }), "paid all the same");
        }
    }

    #[test]
    fn a_refusal_is_believed_and_a_failure_is_looked_up() {
        for code in [ErrorCode::InsufficientBalance, ErrorCode::QuotaExceeded, ErrorCode::Restricted] {
            assert_eq!(attempt().answered(no(code), 0), failed(code));
        }
        for code in [ErrorCode::PaymentFailed, ErrorCode::Internal, ErrorCode::Other] {
            let mut payment = attempt();
            assert_eq!(payment.answered(no(code), 0), Next::LookUp { after_ms: 0 });
            assert_eq!(
                payment.found(known(State::Pending, None, PREIMAGE.hash()), 0),
                Next::LookUp { after_ms: 1000 }
            );
            assert_eq!(payment.found(Found::Nothing, 0), failed(code));
        }
        let mut payment = attempt();
        payment.answered(no(ErrorCode::PaymentFailed), 0);
        let paid = payment.found(known(State::Settled, Some(PREIMAGE), PREIMAGE.hash()), 0);
        assert_eq!(paid, settled(2), "whatever it said");
    }

    #[test]
    fn a_lost_answer_is_unknown_until_the_wallet_cannot_pay_any_more() {
        let mut payment = attempt();
        assert_eq!(payment.timed_out(0), Next::LookUp { after_ms: 0 });
        assert_eq!(payment.found(Found::Nothing, 999_000), Next::Done(Outcome::Unknown), "before its end");
        let mut payment = attempt();
        payment.timed_out(0);
        let over = payment.found(Found::Nothing, 1_000_000);
        assert!(matches!(over, Next::Done(Outcome::Failed { code: ErrorCode::NotFound, .. })), "{over:?}");
        let mut payment = attempt();
        payment.timed_out(0);
        assert_eq!(payment.found(Found::Unable, 1_000_000), Next::Done(Outcome::Unknown));
    }

    #[test]
    fn a_failure_before_the_request_was_written_is_not_its_own() {
        let failed_at = |created_at| {
            let Found::Known(mut failed) = known(State::Failed, None, PREIMAGE.hash()) else { panic!() };
            failed.created_at = created_at;
            Found::Known(failed)
        };
        let attempt = || Attempt::new(Ordered { at: 500, void_at: 560, ..ordered() }, u64::MAX, 1_000);
        let is_over = |next: &Next| matches!(next, Next::Done(Outcome::Failed { .. }));
        let mut payment = attempt();
        payment.timed_out(560_000);
        let early = payment.found(failed_at(499), 679_999);
        assert!(matches!(early, Next::LookUp { .. }), "it may wait for its turn: {early:?}");
        assert!(is_over(&payment.found(failed_at(499), 680_000)), "it is void, whatever the clocks say");
        payment = attempt();
        payment.timed_out(560_000);
        payment.is_ordered_until(600);
        assert!(!is_over(&payment.found(failed_at(499), 680_000)), "it went out anew");
        assert!(is_over(&payment.found(failed_at(500), 680_000)), "its own");
        payment = attempt();
        payment.answered(no(ErrorCode::Internal), 510_000);
        assert!(is_over(&payment.found(failed_at(499), 510_000)), "the wallet is done with it");
    }

    #[test]
    fn looks_get_rarer_and_end() {
        let mut payment = attempt();
        let mut now_ms = 0;
        let mut next = payment.timed_out(now_ms);
        let mut pauses = Vec::new();
        while let Next::LookUp { after_ms } = next {
            pauses.push(after_ms);
            now_ms += after_ms;
            next = payment.found(Found::Silence, now_ms);
        }
        assert_eq!(pauses, [0, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000]);
        assert_eq!(next, Next::Done(Outcome::Unknown));
    }

    #[test]
    fn a_busy_wallet_is_asked_anew_and_an_old_one_in_its_own_way() {
        let mut payment = attempt();
        let busy = |payment: &mut Attempt, now_ms| payment.answered(no(ErrorCode::RateLimited), now_ms);
        assert_eq!(busy(&mut payment, 0), Next::Anew { after_ms: 1_000, renegotiate: false });
        assert_eq!(busy(&mut payment, 1_000), Next::Anew { after_ms: 2_000, renegotiate: false });
        assert_eq!(busy(&mut payment, 59_999), failed(ErrorCode::RateLimited));
        let mut payment = attempt();
        let old = payment.answered(no(ErrorCode::UnsupportedEncryption), 0);
        assert_eq!(old, Next::Anew { after_ms: 0, renegotiate: true });
        let old = payment.answered(no(ErrorCode::UnsupportedEncryption), 0);
        assert_eq!(old, failed(ErrorCode::UnsupportedEncryption));
    }

    #[test]
    fn ones_own_invoice_is_no_payment() {
        let mut payment = attempt();
        payment.timed_out(0);
        let Found::Known(mut invoice) = known(State::Settled, Some(PREIMAGE), PREIMAGE.hash()) else {
            panic!()
        };
        invoice.direction = Direction::Incoming;
        assert_eq!(payment.found(Found::Known(invoice.clone()), 0), Next::LookUp { after_ms: 1_000 });
        // Refused in words that any failure may have: told at once, unless somebody has paid it.
        let mut payment = attempt();
        payment.answered(no(ErrorCode::Other), 0);
        assert_eq!(payment.found(Found::Known(invoice.clone()), 0), Next::LookUp { after_ms: 1_000 });
        // Whoever paid it: a payment of ours would be shown by then.
        assert_eq!(payment.found(Found::Known(invoice.clone()), 1_000_000), failed(ErrorCode::Other));
        let mut payment = attempt();
        payment.answered(no(ErrorCode::Other), 0);
        invoice.state = State::Pending;
        assert_eq!(payment.found(Found::Known(invoice), 0), failed(ErrorCode::Other));
        // Paid by somebody; and this refusal paid nothing.
        let mut payment = attempt();
        assert_eq!(payment.found(Found::OnlyInvoice, 0), Next::LookUp { after_ms: 0 }, "nobody refused");
        payment.answered(no(ErrorCode::Other), 0);
        assert_eq!(payment.found(Found::OnlyInvoice, 0), failed(ErrorCode::Other));
    }

    #[test]
    fn a_lost_answer_about_ones_own_invoice_ends_when_it_cannot_be_paid_any_more() {
        for state in [State::Pending, State::Expired, State::Failed, State::Accepted, State::Settled] {
            let Found::Known(mut invoice) = known(state, Some(PREIMAGE), PREIMAGE.hash()) else { panic!() };
            invoice.direction = Direction::Incoming;
            let mut payment = Attempt::new(ordered(), u64::MAX, 1_000);
            payment.timed_out(0);
            let before = payment.found(Found::Known(invoice.clone()), 999_999);
            assert!(matches!(before, Next::LookUp { .. }), "{state:?} {before:?}");
            let over = payment.found(Found::Known(invoice), 1_000_000);
            assert!(matches!(over, Next::Done(Outcome::Failed { .. })), "{state:?} {over:?}");
        }
    }
}
