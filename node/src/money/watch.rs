//! The driver: takes payments up again after a start, looks at invoices, hears the wallet, compares balances.
//!
//! It acts while the node holds the lease of its key, and ends with the node: payments that are under way then are
//! taken up by the next start.

use std::sync::Arc;
use std::time::Duration;

use oa_nips::hex::Hash;
use oa_wallet::account::open_payments;
use oa_wallet::nwc::message::{Notification, Topic};
use oa_wallet::store::Draft;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::income::OPEN_ALL_MAX;
use super::opening::Compared;
use super::{Money, item, lock};
use crate::engine::shared::Shared;
use crate::namespace::Error;

/// How often it is looked for invoices whose turn it is.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Invoices that the wallet is asked about at once.
const LOOKING: usize = 8;
/// Payments read at once when a node starts.
const PAGE: usize = 256;
/// Between comparisons of the balance where nothing asks for one.
const COMPARE_EVERY: Duration = Duration::from_secs(300);
/// After a comparison that found something under way, or the wallet away.
const COMPARE_AGAIN: Duration = Duration::from_secs(5);

/// An invoice that waits, and when it is looked at next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watched {
    made_ms: u64,
    pub(super) expires_ms: u64,
    next_ms: u64,
    is_looked_at: bool,
}

impl Watched {
    /// How long to the next look: a young invoice is likely to be paid soon, and a wallet that notifies tells itself.
    fn pause_ms(&self, now_ms: u64, notifies: bool) -> u64 {
        let age_ms = now_ms.saturating_sub(self.made_ms);
        let pause_ms = (age_ms / 4).clamp(3_000, 60_000);
        if notifies { pause_ms * 10 } else { pause_ms }
    }
}

/// Starts the driver; it ends with `cancel`, and with it the tasks of payments.
pub(crate) fn start(money: Money, shared: &Arc<Shared>, cancel: CancellationToken) -> JoinHandle<()> {
    money.inner.book.set(shared);
    let mut tenure = shared.tenure.clone();
    tokio::spawn(async move {
        let driven = async {
            tenure.begins().await;
            while let Err(error) = money.take_up() {
                tracing::error!(%error, "payments that were under way cannot be read");
                tokio::time::sleep(COMPARE_AGAIN).await;
            }
            tokio::select! {
                biased;
                () = Box::pin(money.drive()) => {}
                () = Box::pin(money.follow_rate()) => {}
            }
        };
        cancel.run_until_cancelled(driven).await;
        money.inner.cancel.cancel();
        money.inner.tasks.close();
        money.inner.tasks.wait().await;
    })
}

impl Money {
    /// Takes up what was under way when the node last ended.
    pub(super) fn take_up(&self) -> Result<(), Error> {
        let rows = self.inner.book.rows();
        let mut after: Option<Hash> = None;
        loop {
            let page = open_payments(&rows, after.as_ref(), PAGE)?;
            for (_, payment) in &page {
                let call = payment.request.parse().ok();
                let place =
                    call.map(|call| item::of_call(&mut Draft::new(&rows), &call)).transpose()?.flatten();
                let Some(place) = place else {
                    tracing::error!(request = payment.request, "a payment that no call began");
                    continue;
                };
                let payment = self.payment(&place)?;
                self.course(&place, &payment);
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = Some(*last),
                _ => break,
            }
        }
        for (hash, waiting) in item::waiting(&rows, OPEN_ALL_MAX)? {
            self.watch(hash, waiting.made_ms, waiting.expires_ms);
        }
        Ok(())
    }

    /// Looks at an invoice from now on, beginning at once.
    pub(super) fn watch(&self, hash: Hash, made_ms: u64, expires_ms: u64) {
        // One that was just made is not paid yet.
        let next_ms = if made_ms.saturating_add(1_000) > self.now_ms() { made_ms + 3_000 } else { 0 };
        let watched = Watched { made_ms, expires_ms, next_ms, is_looked_at: false };
        lock(&self.inner.watched).entry(hash).or_insert(watched);
    }

    async fn drive(&self) {
        let mut notifications = self.inner.bank.notifications();
        let mut looks: JoinSet<Hash> = JoinSet::new();
        let mut compared: JoinSet<Duration> = JoinSet::new();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut listening = self.inner.bank.listening();
        let _ = listening.wait_for(|stands| *stands).await;
        let mut compare_at = Instant::now();
        loop {
            tokio::select! {
                biased;
                heard = notifications.recv() => match heard {
                    Ok(notification) => self.heard(&notification),
                    Err(RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "notifications of the wallet were missed: all invoices are looked at");
                        self.hurry();
                    }
                    Err(RecvError::Closed) => return,
                },
                Some(looked) = looks.join_next(), if !looks.is_empty() => {
                    if let Ok(hash) = looked {
                        self.looked_at(&hash);
                    }
                }
                () = self.inner.kick.notified() => compare_at = compare_at.min(Instant::now() + LOOK_EVERY),
                Some(again) = compared.join_next(), if !compared.is_empty() => {
                    compare_at = Instant::now() + again.unwrap_or(COMPARE_AGAIN);
                }
                () = tokio::time::sleep_until(compare_at), if compared.is_empty() => {
                    let money = self.clone();
                    compared.spawn(async move { money.compare_now().await });
                }
                _ = ticks.tick() => {}
            }
            self.look_at_some(&mut looks);
        }
    }

    /// Compares, and says when to do so next.
    async fn compare_now(&self) -> Duration {
        if self.known().network.is_none()
            && let Ok(info) = self.inner.bank.info().await
        {
            self.known().network = info.network;
        }
        match self.compare().await {
            Ok(Compared::Equal | Compared::Adjusted) => {
                self.known().trouble = None;
                COMPARE_EVERY
            }
            Ok(Compared::Busy) => COMPARE_AGAIN,
            Err(error) => {
                tracing::warn!(%error, "the wallet's balance is not known");
                self.known().trouble = Some(error.to_string());
                COMPARE_AGAIN
            }
        }
    }

    /// The wallet says that something came in: it is asked about it at once.
    pub(super) fn heard(&self, notification: &Notification) {
        if notification.topic != Topic::PaymentReceived {
            return;
        }
        let hash = notification.transaction.payment_hash.0;
        if let Some(watched) = lock(&self.inner.watched).get_mut(&hash) {
            watched.next_ms = 0;
            return;
        }
        // Too late for its invoice, or for none of ours: then the balance tells, if it is true.
        if self.is_ours(&hash).unwrap_or(false) {
            self.watch(hash, 0, self.now_ms());
        } else {
            self.inner.kick.notify_one();
        }
    }

    fn hurry(&self) {
        lock(&self.inner.watched).values_mut().for_each(|watched| watched.next_ms = 0);
    }

    fn looked_at(&self, hash: &Hash) {
        if let Some(watched) = lock(&self.inner.watched).get_mut(hash) {
            watched.is_looked_at = false;
        }
    }

    /// Begins to look at invoices whose turn it is, as many as may be at once.
    fn look_at_some(&self, looks: &mut JoinSet<Hash>) {
        let (now_ms, notifies) = (self.now_ms(), self.inner.bank.notifies());
        let mut due: Vec<Hash> = Vec::new();
        for (hash, watched) in lock(&self.inner.watched).iter_mut() {
            if looks.len() + due.len() >= LOOKING {
                break;
            }
            if !watched.is_looked_at && watched.next_ms <= now_ms {
                watched.is_looked_at = true;
                watched.next_ms = now_ms + watched.pause_ms(now_ms, notifies);
                due.push(*hash);
            }
        }
        for hash in due {
            let money = self.clone();
            looks.spawn(async move {
                if let Err(error) = money.look(hash).await {
                    tracing::debug!(%hash, %error, "an invoice could not be looked up");
                }
                hash
            });
        }
    }

    /// Has the balance compared soon, and waits for it a little: for an operator who looks.
    pub(crate) async fn refresh(&self) {
        /// What somebody at a terminal waits for.
        const WITHIN: Duration = Duration::from_secs(3);
        if !*self.inner.bank.listening().borrow() {
            return;
        }
        // What is not known in time is shown as it was.
        let _ = tokio::time::timeout(WITHIN, self.compare()).await;
    }

    /// What the wallet last said of itself.
    pub(crate) fn wallet(&self) -> serde_json::Value {
        let known = self.known().clone();
        serde_json::json!({
            "network": known.network,
            "connected": *self.inner.bank.listening().borrow(),
            "balance_msat": known.balance.map(|(balance, _)| balance),
            "at": known.balance.map(|(_, at_ms)| at_ms / 1000),
            "trouble": known.trouble,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invoices_are_looked_at_ever_rarer_and_rarer_still_where_the_wallet_tells() {
        let watched = Watched { made_ms: 1000, expires_ms: 3_601_000, next_ms: 0, is_looked_at: false };
        let pauses = |notifies| [1000, 41_000, 3_601_000].map(|now_ms| watched.pause_ms(now_ms, notifies));
        assert_eq!(pauses(false), [3_000, 10_000, 60_000]);
        assert_eq!(pauses(true), [30_000, 100_000, 600_000]);
    }
}
