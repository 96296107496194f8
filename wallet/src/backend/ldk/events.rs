//! What LDK tells, one at a time, until its reader says that it is safe.

use ldk_node::Event as LdkEvent;
use ldk_node::payment::PaymentStatus;
use tokio::task::spawn_blocking;

use super::outcome::Outcome;
use super::{Ldk, convert, lock, stopped};
use crate::backend::{ChannelId, Delivery, Error, Event, EventId, PaymentHash, Record};
use crate::msat::Msat;

/// Which event is being read.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// Given out and not acknowledged.
    current: Option<EventId>,
    last: u64,
}

impl Cursor {
    fn current(&mut self) -> EventId {
        *self.current.get_or_insert_with(|| {
            self.last = self.last.saturating_add(1);
            EventId(self.last)
        })
    }
}

impl Ldk {
    pub(super) async fn oldest_event(&self) -> Result<Delivery, Error> {
        loop {
            let event = {
                let running = self.running()?;
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return Err(stopped()),
                    event = running.node.next_event_async() => event,
                }
            };
            if let Some(event) = self.translate(event).await? {
                return Ok(Delivery { id: lock(&self.cursor).current(), event });
            }
            self.handled().await?;
        }
    }

    pub(super) async fn event_is_safe(&self, id: EventId) -> Result<(), Error> {
        if lock(&self.cursor).current != Some(id) {
            return Ok(());
        }
        self.handled().await?;
        lock(&self.cursor).current = None;
        Ok(())
    }

    async fn handled(&self) -> Result<(), Error> {
        let running = self.running()?;
        let handled = spawn_blocking(move || running.node.event_handled()).await;
        match handled {
            Ok(handled) => handled.map_err(|error| convert::error(error, Msat::ZERO)),
            Err(error) => Err(Error::Other(format!("the node failed: {error}"))),
        }
    }

    /// What an event means to a wallet, if anything.
    async fn translate(&self, event: LdkEvent) -> Result<Option<Event>, Error> {
        Ok(match event {
            LdkEvent::PaymentSuccessful { payment_id, payment_hash, payment_preimage, fee_paid_msat } => {
                let hash = convert::hash(payment_hash);
                let id = payment_id.map_or(hash, convert::id);
                let (preimage, fee) =
                    (payment_preimage.map(convert::preimage), Msat::new(fee_paid_msat.unwrap_or(0)));
                self.note_end(id, Outcome::Sent { hash, preimage, fee }).await?;
                Some(Event::Sent { id, hash, preimage, fee })
            }
            LdkEvent::PaymentFailed { payment_id, payment_hash, reason } => {
                let id = payment_id.map(convert::id).or(payment_hash.map(convert::hash));
                let why = convert::why(reason);
                match id {
                    Some(id) if self.note_end(id, Outcome::Failed { why }).await? => {
                        Some(Event::Failed { id, why })
                    }
                    _ => None,
                }
            }
            LdkEvent::PaymentReceived { payment_hash, amount_msat, custom_records, .. } => {
                let hash = convert::hash(payment_hash);
                lock(&self.held).remove(&hash);
                let records = custom_records.into_iter();
                let records =
                    records.map(|record| Record { kind: record.type_num, value: record.value }).collect();
                Some(Event::Received { hash, amount: Msat::new(amount_msat), records })
            }
            LdkEvent::PaymentClaimable { payment_hash, claimable_amount_msat, claim_deadline, .. } => {
                self.arrived(convert::hash(payment_hash), Msat::new(claimable_amount_msat), claim_deadline)
                    .await?
            }
            LdkEvent::PaymentForwarded { total_fee_earned_msat, .. } => {
                total_fee_earned_msat.map(|earned| Event::Forwarded { earned: Msat::new(earned) })
            }
            LdkEvent::ChannelReady { user_channel_id, counterparty_node_id, .. } => {
                Some(Event::ChannelReady {
                    id: ChannelId(user_channel_id.0),
                    peer: counterparty_node_id.map(Into::into),
                })
            }
            LdkEvent::ChannelClosed { user_channel_id, counterparty_node_id, reason, .. } => {
                let (forced, reason) = convert::closure(reason.as_ref());
                let peer = counterparty_node_id.map(Into::into);
                Some(Event::ChannelClosed { id: ChannelId(user_channel_id.0), peer, forced, reason })
            }
            LdkEvent::ChannelPending { .. }
            | LdkEvent::SplicePending { .. }
            | LdkEvent::SpliceFailed { .. } => None,
        })
    }

    /// Money for a hold invoice. What comes for one that was cancelled goes back, though LDK would keep it.
    async fn arrived(
        &self,
        hash: PaymentHash,
        amount: Msat,
        deadline: Option<u32>,
    ) -> Result<Option<Event>, Error> {
        let cancelled = self
            .ask(move |node| {
                let status = node.payment(&convert::payment_id(hash)).map(|details| details.status);
                if status != Some(PaymentStatus::Failed) {
                    return Ok(false);
                }
                let failed = node.bolt11_payment().fail_for_hash(convert::ldk_hash(hash));
                failed.map(|()| true).map_err(|error| convert::error(error, Msat::ZERO))
            })
            .await?;
        if cancelled {
            return Ok(None);
        }
        lock(&self.held).insert(hash, deadline);
        Ok(Some(Event::Held { hash, amount, deadline }))
    }
}
