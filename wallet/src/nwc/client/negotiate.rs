//! What the wallet can do: its info event, fetched and remembered, and the encryption that follows from it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use oa_nips::kind;
use oa_nips::nostr::{Event, Filter, Timestamp};
use oa_nips::nwc::{Encryption, Info};
use tokio::time::{Instant, timeout_at};

use super::{Config, Ports};

/// An info event is good for so long.
const FRESH_MS: u64 = 3_600_000;
/// A wallet without one is looked at again after so long.
const ABSENT_MS: u64 = 60_000;

/// Once one relay has shown an info event, the others have so much time left to show a newer one.
const GRACE: Duration = Duration::from_millis(300);

/// What is known of the wallet.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<State>);

#[derive(Debug, Default, Clone)]
struct State {
    info: Option<(Timestamp, Info)>,
    asked_at_ms: Option<u64>,
    /// A wallet said that it does not understand this one.
    unsupported: Option<Encryption>,
}

impl State {
    /// Takes the newest. An older one that another relay still has changes nothing, so that none can bring back an
    /// encryption that was given up.
    fn take(&mut self, events: Vec<Event>, now_ms: u64) {
        self.asked_at_ms = Some(now_ms);
        for event in events {
            let is_newer = self.info.as_ref().is_none_or(|(at, _)| event.created_at > *at);
            if let (true, Ok(info)) = (is_newer, Info::read(&event)) {
                self.info = Some((event.created_at, info));
            }
        }
    }

    fn is_fresh(&self, now_ms: u64) -> bool {
        let good_for = if self.info.is_some() { FRESH_MS } else { ABSENT_MS };
        self.asked_at_ms.is_some_and(|at| now_ms < at.saturating_add(good_for))
    }

    /// NIP-44 for a wallet that says nothing at all: relays drop info events, and the encryption is required today.
    fn encryption(&self) -> Option<Encryption> {
        let best = match &self.info {
            Some((_, info)) => info.best()?,
            None => Encryption::Nip44,
        };
        match self.unsupported {
            Some(Encryption::Nip44) => Some(Encryption::Nip04),
            Some(Encryption::Nip04) => Some(Encryption::Nip44),
            None => Some(best),
        }
    }
}

impl Known {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Whatever a panic left behind is a whole state.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the wallet announced, as far as it is known by now.
    pub(super) fn info(&self) -> Option<Info> {
        self.lock().info.as_ref().map(|(_, info)| info.clone())
    }

    /// The encryption to use; nothing when the wallet only knows others.
    pub(super) async fn encryption(&self, config: &Config, ports: &Ports) -> Option<Encryption> {
        let now_ms = (ports.clock)();
        if !self.lock().is_fresh(now_ms) {
            self.fetch(config, ports, now_ms).await;
        }
        self.lock().encryption()
    }

    /// The wallet refused an encryption: look again at what it says, and use the other if that is all one can do.
    pub(super) async fn refused(&self, encryption: Encryption, config: &Config, ports: &Ports) {
        self.fetch(config, ports, (ports.clock)()).await;
        let mut state = self.lock();
        if state.encryption() == Some(encryption) {
            state.unsupported = Some(encryption);
        }
    }

    async fn fetch(&self, config: &Config, ports: &Ports, now_ms: u64) {
        let filter = Filter::new().kind(kind::WALLET_INFO).author(config.wallet).limit(1);
        let asked = config.relays.iter().map(|relay| {
            let filter = filter.clone();
            async move { ports.subscribe.fetch(relay, filter, config.info_deadline).await.unwrap_or_default() }
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let (mut events, mut until) = (Vec::new(), Instant::now() + config.info_deadline);
        while let Ok(Some(found)) = timeout_at(until, asked.next()).await {
            let theirs = |event: &Event| event.pubkey == config.wallet && event.verify().is_ok();
            events.extend(found.into_iter().filter(theirs));
            if !events.is_empty() {
                until = until.min(Instant::now() + GRACE);
            }
        }
        self.lock().take(events, now_ms);
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::Keys;

    use super::*;

    fn info(keys: &Keys, at: u64, encryptions: &[Encryption]) -> Event {
        let info = Info { encryptions: encryptions.to_vec(), ..Info::default() };
        info.event(keys.public_key(), Timestamp::from_secs(at)).sign_with_keys(keys).unwrap()
    }

    #[test]
    fn the_newest_word_counts_and_silence_is_nip44() {
        let (keys, mut state) = (Keys::generate(), State::default());
        assert_eq!(state.encryption(), Some(Encryption::Nip44));
        state.take(vec![info(&keys, 5, &[Encryption::Nip04])], 0);
        assert_eq!(state.encryption(), Some(Encryption::Nip04));
        let newer = info(&keys, 7, &[Encryption::Nip04, Encryption::Nip44]);
        state.take(vec![info(&keys, 6, &[]), newer, info(&keys, 4, &[Encryption::Nip04])], 0);
        assert_eq!(
            state.encryption(),
            Some(Encryption::Nip44),
            "an old event does not bring back the old encryption"
        );
        state.take(vec![info(&keys, 8, &[])], 0);
        assert_eq!(state.encryption(), None, "the wallet only names others");
    }

    #[test]
    fn what_is_absent_is_looked_for_sooner() {
        let (keys, mut state) = (Keys::generate(), State::default());
        assert!(!state.is_fresh(0));
        state.take(vec![], 0);
        assert_eq!((state.is_fresh(ABSENT_MS - 1), state.is_fresh(ABSENT_MS)), (true, false));
        state.take(vec![info(&keys, 5, &[])], 0);
        assert_eq!((state.is_fresh(FRESH_MS - 1), state.is_fresh(FRESH_MS)), (true, false));
    }
}
