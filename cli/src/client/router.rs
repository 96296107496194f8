//! What comes in finds who waits for it: replies and stream frames by their operation, mail to all who listen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt as _;
use oa_nips::files::watch::StreamFrame;
use oa_nips::files::{FRAMES_MAX, Frame, OpId};
use oa_nips::kind;
use oa_nips::nostr::{Event, PublicKey};
use oa_nips::port::Signer;
use oa_node::drivers::nostr::Incoming;
use tokio::sync::{broadcast, mpsc};

/// Events being opened at once, in their order.
const OPENING: usize = 16;
/// Frames that wait for one operation: the longest reply's, and some that come twice.
const FRAMES: usize = FRAMES_MAX as usize + 64;
/// Mail that waits for a listener. 256: who listens for one answer in a flood of mail may miss it, and is told so.
const MAIL: usize = 256;

/// Who waits for what.
#[derive(Debug)]
pub(super) struct Routes {
    ops: Mutex<HashMap<OpId, mpsc::Sender<Heard>>>,
    mail: broadcast::Sender<Arc<Event>>,
}

/// Something for an operation.
#[derive(Debug)]
pub(super) enum Heard {
    /// A piece of a reply, and the node's time when it was sent, in seconds since 1970.
    Reply(Frame, u64),
    /// A piece of a watched file.
    Stream(StreamFrame),
}

impl Heard {
    fn op(&self) -> OpId {
        match self {
            Self::Reply(frame, _) => frame.op,
            Self::Stream(frame) => frame.op,
        }
    }
}

/// One operation's place; dropped, what comes for it finds nobody.
#[derive(Debug)]
pub(super) struct Route {
    routes: Arc<Routes>,
    op: OpId,
    heard: mpsc::Receiver<Heard>,
}

impl Route {
    /// Whose place it is.
    pub(super) fn op(&self) -> OpId {
        self.op
    }

    /// The next thing that comes.
    pub(super) async fn next(&mut self) -> Option<Heard> {
        self.heard.recv().await
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        self.routes.ops().remove(&self.op);
    }
}

impl Default for Routes {
    fn default() -> Self {
        Self { ops: Mutex::default(), mail: broadcast::Sender::new(MAIL) }
    }
}

impl Routes {
    /// Waits for an operation from now on; one that nobody waits for yet.
    pub(super) fn open(self: &Arc<Self>, op: OpId) -> Route {
        let (sender, heard) = mpsc::channel(FRAMES);
        self.ops().insert(op, sender);
        Route { routes: self.clone(), op, heard }
    }

    /// Listens for mail from now on.
    pub(super) fn mail(&self) -> broadcast::Receiver<Arc<Event>> {
        self.mail.subscribe()
    }

    fn ops(&self) -> MutexGuard<'_, HashMap<OpId, mpsc::Sender<Heard>>> {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_over(&self, heard: Heard) {
        let sender = self.ops().get(&heard.op()).cloned();
        // Whoever reads too slowly asks again.
        if let Some(sender) = sender
            && sender.try_send(heard).is_err()
        {
            tracing::debug!("a frame found no room");
        }
    }
}

/// Opens and hands over what comes, until nothing can.
pub(super) async fn run(
    incoming: mpsc::Receiver<Incoming>,
    routes: Arc<Routes>,
    signer: Arc<dyn Signer>,
    node: PublicKey,
) {
    let events = futures_util::stream::unfold(incoming, |mut incoming| async {
        incoming.recv().await.map(|next| (next, incoming))
    });
    let opened = events
        .filter_map(|next| async {
            if let Incoming::Event { event, .. } = next { Some(event) } else { None }
        })
        .map(|event| {
            let (routes, signer) = (routes.clone(), signer.clone());
            // Tasks, so that a long reply is opened on all of the machine.
            async move { tokio::spawn(open(event, routes, signer, node)).await }
        })
        .buffered(OPENING);
    opened
        .for_each(|heard| async {
            if let Ok(Some(heard)) = heard {
                routes.hand_over(heard);
            }
        })
        .await;
}

async fn open(
    event: Box<Event>,
    routes: Arc<Routes>,
    signer: Arc<dyn Signer>,
    node: PublicKey,
) -> Option<Heard> {
    if event.kind != kind::FILES_REPLY && event.kind != kind::FILES_STREAM {
        // Nobody may be listening.
        let _ = routes.mail.send(Arc::new(*event));
        return None;
    }
    if event.pubkey != node || event.verify().is_err() {
        return None;
    }
    let json = signer.nip44_decrypt(&node, &event.content).await.ok()?;
    let heard = if event.kind == kind::FILES_REPLY {
        Frame::parse(&json).map(|frame| Heard::Reply(frame, event.created_at.as_secs()))
    } else {
        StreamFrame::parse(&json).map(Heard::Stream)
    };
    heard.inspect_err(|error| tracing::debug!(%error, "no frame")).ok()
}
