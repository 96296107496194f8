//! Hold invoices, and waiting for money: what is asked again until it is certain.

use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};

use super::{CallError, Client, Untrue, check};
use crate::backend::{PaymentHash, Preimage};
use crate::nwc::message::{HoldOrder, InvoiceOrder, Request, State, Topic, Transaction};

/// How much rarer an invoice is looked at where the wallet notifies.
const NOTIFIED_FACTOR: u32 = 10;

impl Client {
    /// Makes an invoice on a hash whose preimage stays here, for exactly that amount and hash.
    ///
    /// # Errors
    /// [`CallError`]; after a lost answer the wallet is asked for what it made.
    pub async fn make_hold_invoice(&self, order: HoldOrder) -> Result<Transaction, CallError> {
        let hash = order.payment_hash;
        let made: Transaction = match self.call(&Request::MakeHoldInvoice(order.clone())).await {
            Err(CallError::TimedOut) => self.look_up(hash).await?.ok_or(CallError::TimedOut)?,
            made => made?,
        };
        let HoldOrder { amount, description, description_hash, expiry, .. } = order;
        let order = InvoiceOrder { amount, description, description_hash, expiry, metadata: None };
        check::made(&order, Some(hash), &made, self.now_s())?;
        Ok(made)
    }

    /// Takes the money that is held.
    ///
    /// # Errors
    /// [`CallError`]; after a lost answer the wallet is asked whether it is settled.
    pub async fn settle_hold_invoice(&self, preimage: Preimage) -> Result<(), CallError> {
        let settled = [State::Settled];
        self.certainly(&Request::SettleHoldInvoice(preimage), preimage.hash(), &settled).await
    }

    /// Sends it back.
    ///
    /// # Errors
    /// [`CallError`]; after a lost answer the wallet is asked whether it is gone.
    pub async fn cancel_hold_invoice(&self, hash: PaymentHash) -> Result<(), CallError> {
        let gone = [State::Failed, State::Expired];
        self.certainly(&Request::CancelHoldInvoice(hash), hash, &gone).await
    }

    async fn certainly(
        &self,
        request: &Request,
        hash: PaymentHash,
        goals: &[State],
    ) -> Result<(), CallError> {
        match self.call::<serde_json::Value>(request).await {
            Ok(_) => Ok(()),
            Err(CallError::TimedOut) => match self.look_up(hash).await? {
                Some(found) if goals.contains(&found.state) => Ok(()),
                _ => Err(CallError::TimedOut),
            },
            Err(error) => Err(error),
        }
    }

    /// Waits until an invoice of ours is settled, held, expired or failed, for as long as `within`; gives it as it is
    /// then. Notifications only make it look sooner: what counts is what look-up says.
    ///
    /// # Errors
    /// [`CallError::TimedOut`] where no look-up succeeded; the wallet's refusal.
    pub async fn wait_for(&self, hash: PaymentHash, within: Duration) -> Result<Transaction, CallError> {
        let deadline = Instant::now() + within;
        let mut hints = self.notifications();
        let mut last = None;
        loop {
            match self.look_up(hash).await {
                Ok(Some(found)) => {
                    let proves = found.preimage.is_none_or(|preimage| preimage.hash() == hash);
                    if (found.state.is_terminal() || found.state == State::Accepted) && proves {
                        return Ok(found);
                    }
                    last = Some(found);
                }
                Ok(None) => {}
                Err(
                    CallError::TimedOut | CallError::NotListening | CallError::Untrue(Untrue::Hash { .. }),
                ) => {}
                Err(error) => return Err(error),
            }
            let next = Instant::now() + self.poll_every();
            let hinted = async {
                loop {
                    match hints.recv().await {
                        Ok(told)
                            if told.transaction.payment_hash == hash && told.topic != Topic::PaymentSent =>
                        {
                            return;
                        }
                        // Some were missed: this may have been one.
                        Err(RecvError::Lagged(_)) => return,
                        Ok(_) => {}
                        Err(RecvError::Closed) => std::future::pending().await,
                    }
                }
            };
            let _ = timeout_at(next.min(deadline), hinted).await;
            if Instant::now() >= deadline {
                return last.ok_or(CallError::TimedOut);
            }
        }
    }

    /// Between looks: rarer where the wallet says that it notifies.
    fn poll_every(&self) -> Duration {
        let notifies = self.announced().is_some_and(|info| {
            info.notifications.iter().any(|topic| topic == Topic::PaymentReceived.as_str())
        });
        let every = self.shared.config.poll_every;
        if notifies { every * NOTIFIED_FACTOR } else { every }
    }
}
