//! What goes on by itself: recovery at the start, the backend's events, and the comparison with its balance.

use std::time::Duration;

use tokio::time::Instant;

use super::Inner;
use super::receive::unposted;
use super::{PurseError, StartError, refusal};
use crate::account::{Against, Asset, Change, Holder, Ledger, open_payments, verify};
use crate::backend::{Answer, Balance, Delivery, Error as BackendError, Event, PaymentHash};
use crate::msat::Msat;
use crate::store::Draft;

/// Between two comparisons of the backend's balance with the ledger.
const COMPARE_EVERY: Duration = Duration::from_millis(500);
/// How long the same difference has to be there until it is real: money that has just arrived in a channel is told of
/// a moment later.
const SURE_AFTER: Duration = Duration::from_secs(5);
/// The same where no payment explains it: coins on the chain, or a channel that has just come or gone.
const SURE_SOON_AFTER: Duration = Duration::from_secs(1);
/// Before something that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Open payments of one read.
const PAGE: usize = 256;

/// What the wallet has, as the backend says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Has {
    lightning: Msat,
    onchain: Msat,
}

impl From<Balance> for Has {
    fn from(balance: Balance) -> Self {
        let sats = [balance.onchain, balance.onchain_reserved, balance.pending];
        let sats = sats.iter().fold(0_u64, |sum, sat| sum.saturating_add(sat.0));
        let onchain = Msat::checked_from_sat(sats).unwrap_or(Msat::SUPPLY);
        Self { lightning: balance.in_channels, onchain }
    }
}

/// A difference: the ledger's length, what the backend had, and since when. It counts when it stays.
#[derive(Debug, Clone, Copy)]
struct Seen {
    length: u64,
    has: Has,
    since: Instant,
    /// No payment explains it.
    is_of_chain: bool,
}

impl Seen {
    fn is_real(&self) -> bool {
        let after = if self.is_of_chain { SURE_SOON_AFTER } else { SURE_AFTER };
        self.since.elapsed() >= after
    }
}

impl Inner {
    /// Brings the ledger up to what the backend knows.
    pub(super) async fn recover(&self) -> Result<(), StartError> {
        let verified = self.book.read(|store| verify(store)).await?;
        let mut after = None;
        loop {
            let page = self.book.read(move |store| open_payments(store, after.as_ref(), PAGE)).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (hash, _) in page {
                self.resolve(PaymentHash(hash)).await?;
            }
        }
        let has = Has::from(self.backend.balance().await?);
        if verified.postings == 0 {
            self.post_difference(0, has).await?;
        }
        Ok(())
    }

    /// Until the purse is stopped.
    pub(super) async fn keep(&self) {
        let mut compare = tokio::time::interval(COMPARE_EVERY);
        compare.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut seen, mut channel_changed) = (None, false);
        // Kept over the comparisons: a reader that is dropped in the midst might pass an event over.
        let mut next = self.first_event();
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                delivery = &mut next => delivery,
                _ = compare.tick() => {
                    match self.compare(seen, channel_changed).await {
                        Ok(now) => {
                            channel_changed &= now.is_some();
                            seen = now;
                        }
                        Err(error) => tracing::warn!(%error, "the ledger is not compared"),
                    }
                    continue;
                }
            };
            match delivery {
                Ok(delivery) => {
                    channel_changed |=
                        matches!(delivery.event, Event::ChannelReady { .. } | Event::ChannelClosed { .. });
                    match self.happened(delivery.event).await {
                        Ok(()) => self.acknowledge(delivery.id).await,
                        Err(error) => {
                            tracing::warn!(%error, "an event is not dealt with yet");
                            self.pause().await;
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the wallet behind the ledger does not tell what happens");
                    self.pause().await;
                }
            }
            next = self.backend.next_event();
        }
    }

    /// The oldest event, once the backend has caught up with the chain: what it tells of may be over by now.
    fn first_event(&self) -> Answer<'_, Delivery> {
        Box::pin(async move {
            while let Err(error) = self.backend.sync().await {
                tracing::warn!(%error, "the chain is not there yet: what has happened is not read before it is");
                self.pause().await;
                if self.cancel.is_cancelled() {
                    return Err(error);
                }
            }
            self.backend.next_event().await
        })
    }

    async fn pause(&self) {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = tokio::time::sleep(TRY_AGAIN) => {}
        }
    }

    async fn acknowledge(&self, id: crate::backend::EventId) {
        // It comes again, and changes nothing then.
        if let Err(error) = self.backend.acknowledge(id).await {
            tracing::warn!(%error, "an event is not acknowledged");
        }
    }

    /// Writes down what an event means. The same event again changes nothing.
    async fn happened(&self, event: Event) -> Result<(), PurseError> {
        match event {
            Event::Received { hash, amount, .. } => self.received(hash, amount).await,
            Event::Held { hash, amount, deadline } => self.held(hash, amount, deadline).await,
            Event::Sent { id, preimage, fee, .. } => match self.sent(id, fee, preimage).await {
                // Settled before with other figures: told in the log, and nothing to be done again.
                Err(PurseError::Refused(_)) => Ok(()),
                done => done,
            },
            // It may be of an earlier attempt at the same hash: only a look-up says what became of the last.
            Event::Failed { id, .. } => self.resolve(id).await,
            // Not told under a name that would be the same again: the comparison finds it.
            Event::Forwarded { earned } => {
                tracing::info!(%earned, "a payment of others was forwarded");
                Ok(())
            }
            Event::ChannelReady { id, .. } => {
                tracing::info!(%id, "a channel is ready");
                Ok(())
            }
            Event::ChannelClosed { id, forced, reason, .. } => {
                if forced {
                    tracing::warn!(%id, reason, "a channel was closed by force");
                } else {
                    tracing::info!(%id, reason, "a channel is closed");
                }
                Ok(())
            }
        }
    }

    /// Compares when nothing is under way. A difference that stays, with no posting between, is real: coins that came
    /// or went on the chain, fees of channels, routing earned.
    async fn compare(&self, before: Option<Seen>, channel_changed: bool) -> Result<Option<Seen>, PurseError> {
        let has = match self.backend.balance().await {
            Ok(balance) => Has::from(balance),
            Err(BackendError::Unavailable(_)) => return Ok(None),
            Err(error) => return Err(refusal(error)),
        };
        let kept = self
            .book
            .read(move |store| -> Result<_, PurseError> {
                if !open_payments(store, None, 1)?.is_empty() {
                    return Ok(None);
                }
                let mut draft = Draft::new(store);
                let mut ledger = Ledger::new(&mut draft);
                let book = ledger.book()?;
                Ok(Some((ledger.length()?, Has { lightning: book.lightning, onchain: book.onchain })))
            })
            .await?;
        let Some((length, kept)) = kept.filter(|(_, kept)| *kept != has) else { return Ok(None) };
        let is_of_chain = channel_changed || kept.lightning == has.lightning;
        let before = before.filter(|before| (before.length, before.has) == (length, has));
        let seen =
            Seen { length, has, since: before.map_or_else(Instant::now, |before| before.since), is_of_chain };
        if !seen.is_real() {
            return Ok(Some(seen));
        }
        self.post_difference(length, has).await?;
        Ok(None)
    }

    /// Adjusts the assets to what the backend has; what the house gains or loses by it is the operator's, as far as
    /// the operator has it. Only while the ledger is `length` long.
    async fn post_difference(&self, length: u64, has: Has) -> Result<(), PurseError> {
        let at_ms = self.now_ms();
        self.book
            .write(move |draft| {
                let mut ledger = Ledger::new(draft);
                if ledger.length()? != length {
                    return Ok(());
                }
                let book = ledger.book()?;
                for (asset, kept, found) in [
                    (Asset::Lightning, book.lightning, has.lightning),
                    (Asset::Onchain, book.onchain, has.onchain),
                ] {
                    let (change, amount) = match found.checked_sub(kept) {
                        Some(more) => (Change::Up, more),
                        None => (Change::Down, kept.saturating_sub(found)),
                    };
                    if !amount.is_zero() {
                        let id = format!("compared {length} {asset:?}");
                        let posted = ledger.adjust(&id, asset, change, Against::Equity, amount, at_ms);
                        let _ = posted.map_err(unposted)?;
                    }
                }
                let (house, operator) = (ledger.book()?.equity.get(), Holder::operator());
                let id = format!("compared {length}");
                if house > 0 {
                    let gained = Msat::new(house.unsigned_abs());
                    let _ = ledger.allot(&id, &operator, gained, at_ms).map_err(unposted)?;
                } else if house < 0 {
                    let lost = Msat::new(house.unsigned_abs()).min(ledger.standing(&operator)?.available);
                    if !lost.is_zero() {
                        let _ = ledger.withdraw(&id, &operator, lost, at_ms).map_err(unposted)?;
                    }
                }
                Ok(())
            })
            .await
    }
}
