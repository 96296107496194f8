//! What goes on by itself: recovery at the start, the backend's events, and the comparison with its balance.

use std::sync::atomic::Ordering;
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
/// The same for coins on the chain while a payment is under way, which may be so for days.
const SURE_BESIDE_AFTER: Duration = Duration::from_secs(10);
/// How long payments may keep the ledger from being compared before the log says so, each time.
const TOLD_EVERY_MS: u64 = 3_600_000;
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

/// A difference, and since when. It counts when it stays.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// The ledger's length and what the backend had; while payments are under way, the coins in both.
    what: (u64, Has),
    since: Instant,
    /// How long it has to stay.
    sure_after: Duration,
}

impl Seen {
    fn is_real(&self) -> bool {
        self.since.elapsed() >= self.sure_after
    }
}

/// What a comparison came to.
#[derive(Debug)]
enum Compared {
    /// The ledger has what the backend has, or was given it.
    Agrees,
    /// It does not, and that may pass.
    Differs(Seen),
    /// Payments are under way, so that only the coins on the chain can be compared.
    Waits(Option<Seen>),
    /// The backend does not say.
    Away,
}

/// What the ledger has.
struct Kept {
    length: u64,
    has: Has,
    /// By payments that are under way; nothing where there are none.
    held: Option<Msat>,
}

/// What is certain while payments of `held` are under way: coins on the chain, where those payments explain all that
/// is missing in channels. Else coins may be on their way between the two.
fn certain(kept: Has, has: Has, held: Msat) -> Option<Has> {
    let missing = kept.lightning.checked_sub(has.lightning)?;
    (missing <= held).then_some(Has { lightning: kept.lightning, ..has })
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
        let (mut seen, mut channel_changed, mut told_ms) = (None, false, 0);
        // Kept over the comparisons: a reader that is dropped in the midst might pass an event over.
        let mut next = self.first_event();
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                delivery = &mut next => delivery,
                _ = compare.tick() => {
                    match self.compare(seen, channel_changed).await {
                        Ok(Compared::Agrees) => {
                            (seen, channel_changed) = (None, false);
                            self.compared_ms.store(self.now_ms(), Ordering::Relaxed);
                        }
                        Ok(Compared::Differs(now)) => seen = Some(now),
                        Ok(Compared::Waits(now)) => {
                            seen = now;
                            self.tell_uncompared(&mut told_ms);
                        }
                        Ok(Compared::Away) => seen = None,
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

    /// Says once in a while that payments keep the ledger from being compared.
    fn tell_uncompared(&self, told_ms: &mut u64) {
        let since_ms = self.compared_ms.load(Ordering::Relaxed);
        if self.now_ms().saturating_sub(since_ms.max(*told_ms)) >= TOLD_EVERY_MS {
            *told_ms = self.now_ms();
            let since_s = since_ms / 1000;
            tracing::warn!(
                since_s,
                "the ledger is not compared with the channels while a payment is under way"
            );
        }
    }

    async fn kept(&self) -> Result<Kept, PurseError> {
        let read = self.book.read(move |store| {
            let (mut held, mut after) = (None::<Msat>, None);
            loop {
                let page = open_payments(store, after.as_ref(), PAGE)?;
                let Some((last, _)) = page.last() else { break };
                after = Some(*last);
                let sum = page.iter().fold(Msat::ZERO, |sum, (_, row)| sum.saturating_add(row.held()));
                held = Some(held.unwrap_or_default().saturating_add(sum));
            }
            let mut draft = Draft::new(store);
            let mut ledger = Ledger::new(&mut draft);
            let book = ledger.book()?;
            let has = Has { lightning: book.lightning, onchain: book.onchain };
            Ok(Kept { length: ledger.length()?, has, held })
        });
        read.await
    }

    /// Compares. A difference that stays, with no posting between, is real: coins that came or went on the chain, fees
    /// of channels, routing earned. What is in channels is compared when nothing is under way.
    async fn compare(&self, before: Option<Seen>, channel_changed: bool) -> Result<Compared, PurseError> {
        let has = match self.backend.balance().await {
            Ok(balance) => Has::from(balance),
            Err(BackendError::Unavailable(_)) => return Ok(Compared::Away),
            Err(error) => return Err(refusal(error)),
        };
        let Kept { length, has: kept, held } = self.kept().await?;
        let (has, sure_after) = match held {
            None if channel_changed || kept.lightning == has.lightning => (has, SURE_SOON_AFTER),
            None => (has, SURE_AFTER),
            Some(held) => match certain(kept, has, held).filter(|_| !channel_changed) {
                Some(certain) => (certain, SURE_BESIDE_AFTER),
                None => return Ok(Compared::Waits(None)),
            },
        };
        let is_whole = held.is_none();
        if kept == has {
            return Ok(if is_whole { Compared::Agrees } else { Compared::Waits(None) });
        }
        // Other payments may come and go beside the one that hangs, and change nothing about coins.
        let what = if is_whole { (length, has) } else { (0, Has { lightning: kept.onchain, ..has }) };
        let since =
            before.filter(|before| before.what == what).map_or_else(Instant::now, |before| before.since);
        let seen = Seen { what, since, sure_after };
        if seen.is_real() {
            self.post_difference(length, has).await?;
            return Ok(if is_whole { Compared::Agrees } else { Compared::Waits(None) });
        }
        Ok(if is_whole { Compared::Differs(seen) } else { Compared::Waits(Some(seen)) })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_coins_are_certain_while_payments_are_under_way() {
        let has = |lightning, onchain| Has { lightning: Msat::new(lightning), onchain: Msat::new(onchain) };
        let (kept, held) = (has(1_000, 50), Msat::new(100));
        assert_eq!(certain(kept, has(1_000, 70), held), Some(has(1_000, 70)));
        assert_eq!(certain(kept, has(900, 30), held), Some(has(1_000, 30)), "it is on its way");
        assert_eq!(certain(kept, has(899, 151), held), None, "a channel may be closing");
        assert_eq!(certain(kept, has(1_001, 30), held), None, "or opening");
    }
}
