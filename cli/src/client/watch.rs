//! A file that is read as it grows: the reader's machine, driven by a task of its own.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use oa_nips::files::reader::{Action, News, WatchReader};
use oa_nips::files::watch::Feed;
use oa_nips::files::{Assembler, Code, Frame, Request};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::router::{Heard, Route};
use super::{Client, Inner, fresh};
use crate::error::{Error, Result};

/// Bytes that may be on their way ahead of whoever reads. 512 KiB: 10 MB/s at 50 ms a round trip.
const WINDOW_BYTES: u64 = 512 * 1024;
/// Pieces that wait for whoever reads, beside those that the window bounds.
const PIECES: usize = 4;

/// What comes of a file, in order; each time a value changes, all of it from offset 0. Dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Watch {
    news: mpsc::Receiver<Result<News>>,
    task: JoinHandle<()>,
}

impl Watch {
    /// The next piece; an error is the last thing.
    pub(crate) async fn next(&mut self) -> Option<Result<News>> {
        self.news.recv().await
    }

    /// Ends it, and waits until the node has been told.
    pub(crate) async fn stop(mut self) {
        self.news.close();
        let _ = self.task.await;
    }
}

impl Stream for Watch {
    type Item = Result<News>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.news.poll_recv(cx)
    }
}

impl Client {
    /// Watches a file from a byte on. It goes on through lost connections and restarts of the node, until it is
    /// dropped or the node refuses.
    pub(crate) fn watch(&self, path: &str, offset: u64) -> Watch {
        let (news, receiver) = mpsc::channel(PIECES);
        let (reader, ask) = WatchReader::new(fresh(), offset, WINDOW_BYTES, 0);
        let driver = Driver {
            route: self.inner.routes.open(reader.op()),
            inner: self.inner.clone(),
            path: path.to_owned(),
            reader,
            since: Instant::now(),
            waiting: VecDeque::new(),
            is_over: false,
        };
        Watch { news: receiver, task: tokio::spawn(driver.run(ask, news)) }
    }
}

struct Driver {
    inner: Arc<Inner>,
    path: String,
    reader: WatchReader,
    route: Route,
    /// What the machine's clock counts from.
    since: Instant,
    /// What came and was not handed over yet: never more than the window.
    waiting: VecDeque<Result<News>>,
    is_over: bool,
}

impl Driver {
    async fn run(mut self, ask: Action, news: mpsc::Sender<Result<News>>) {
        self.perform(ask);
        while !(self.is_over && self.waiting.is_empty()) {
            let due = self.since + Duration::from_millis(self.reader.due_ms());
            tokio::select! {
                biased;
                () = news.closed() => break,
                permit = news.reserve(), if !self.waiting.is_empty() => {
                    let (Ok(permit), Some(next)) = (permit, self.waiting.pop_front()) else { break };
                    let bytes = next.as_ref().map_or(0, |news| news.piece.bytes.len() as u64);
                    permit.send(next);
                    let action = self.reader.taken(bytes, self.now_ms());
                    action.into_iter().for_each(|action| self.perform(action));
                }
                heard = self.route.next(), if !self.is_over => match heard {
                    Some(heard) => self.heard(heard),
                    None => break,
                },
                () = sleep_until(due), if !self.is_over => {
                    let action = self.reader.tick(fresh(), self.now_ms());
                    action.into_iter().for_each(|action| self.perform(action));
                }
            }
        }
        if !self.is_over {
            let _ = self.inner.say(&self.reader.stop().to_json()).await;
        }
    }

    fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Stream(frame) => {
                let actions = self.reader.frame(frame, fresh(), self.now_ms());
                actions.into_iter().for_each(|action| self.perform(action));
            }
            // A reply to a watch is a refusal.
            Heard::Reply(frame, node_s) => self.refused(frame, node_s),
        }
    }

    fn refused(&mut self, frame: Frame, node_s: u64) {
        let Ok(Some(message)) = Assembler::default().push(frame) else { return };
        let Err(error) = message.into_reply() else { return };
        match error.code {
            Code::Stale => {
                self.inner.follow_clock(node_s);
                let ask = self.reader.again(fresh(), self.now_ms());
                self.perform(ask);
            }
            // The machine asks again, ever more slowly.
            Code::RateLimited => tracing::debug!(error.message, "a watch is put off"),
            _ => self.end(error.into()),
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Ask { op, offset, credit } => {
                if self.route.op() != op {
                    self.route = self.inner.routes.open(op);
                }
                let request = Request::watch(op, self.path.as_str(), offset, credit);
                request.frames().iter().map(Frame::to_json).for_each(|json| self.say(json));
            }
            Action::Feed(feed) => self.say(Feed::to_json(&feed)),
            Action::Piece(news) => self.waiting.push_back(Ok(news)),
            Action::End(error) => self.end(error.into()),
        }
    }

    fn end(&mut self, error: Error) {
        self.waiting.push_back(Err(error));
        self.is_over = true;
    }

    /// Says something without waiting; what is lost is said again in time.
    fn say(&self, json: String) {
        let inner = self.inner.clone();
        tokio::spawn(async move {
            match inner.say(&json).await {
                Ok(ack) => tracing::trace!(?ack, "said"),
                Err(error) => tracing::warn!(%error, "nothing could be said"),
            }
        });
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
