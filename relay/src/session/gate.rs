//! The socket as relay-builder sees it: incoming frames one at a time and only when told, outgoing bytes with a
//! deadline. Owns the socket for the life of a connection; [`Signals`] tell its driver what the session is at.

use std::io;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::End;
use super::frame::{Frames, HEADER_BYTES_MAX, Next};
use crate::http::HEAD_BYTES_MAX;

/// How long a socket may take no byte of what is written to it. Longer than any pause of a network that works.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);

/// Bytes read from a socket at once; holds the longest request head and a frame header.
const INBOX_BYTES: usize = 16 * 1024;
const _: () = assert!(INBOX_BYTES >= HEAD_BYTES_MAX + HEADER_BYTES_MAX);

/// What the gate and the driver of a session tell each other. Both run in one task, so no order is needed.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// The session asked for input and has to wait.
    pub(super) waiting: AtomicBool,
    /// It waits although a frame is there.
    pub(super) withheld: AtomicBool,
    /// The next frame may go in.
    pub(super) pass: AtomicBool,
    /// The socket did not take all that was written.
    pub(super) writing: AtomicBool,
    /// Why the session has to end; the first reason stands.
    end: Mutex<Option<End>>,
}

impl Signals {
    pub(super) fn end(&self, end: End) {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(end);
    }

    pub(super) fn take_end(&self) -> Option<End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn is_ending(&self) -> bool {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn wait<T>(&self) -> Poll<T> {
        self.waiting.store(true, Relaxed);
        Poll::Pending
    }
}

/// Bytes that came and were not handed over yet.
#[derive(Debug)]
pub(crate) struct Inbox {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(crate) fn new() -> Inbox {
        Inbox { bytes: vec![0; INBOX_BYTES].into_boxed_slice(), start: 0, end: 0 }
    }

    /// The bytes that are there.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Drops the first `count` bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
    }

    /// Reads more behind what is there; 0 means the end of the stream. Must not be full.
    pub(crate) fn poll_fill(
        &mut self,
        socket: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let mut free = ReadBuf::new(self.bytes.get_mut(self.end..).unwrap_or_default());
        ready!(Pin::new(socket).poll_read(cx, &mut free))?;
        let count = free.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }
}

/// A socket whose input comes frame by frame.
#[derive(Debug)]
pub(crate) struct Gate {
    socket: TcpStream,
    inbox: Inbox,
    frames: Frames,
    signals: Arc<Signals>,
    stall: Option<Pin<Box<Sleep>>>,
}

impl Gate {
    /// A gate before an upgraded socket; `inbox` holds what came after the request head.
    pub(crate) fn new(socket: TcpStream, inbox: Inbox, message_bytes_max: u64) -> Gate {
        let frames = Frames::new(message_bytes_max);
        Gate { socket, inbox, frames, signals: Arc::new(Signals::default()), stall: None }
    }

    pub(crate) fn signals(&self) -> Arc<Signals> {
        Arc::clone(&self.signals)
    }

    /// Gives the socket back when the session is over.
    pub(crate) fn into_socket(self) -> TcpStream {
        self.socket
    }

    /// Waits for more bytes; an end of the stream ends the session without a word, for it needs none.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.inbox.poll_fill(&mut self.socket, cx) {
            Poll::Ready(Ok(1..)) => Poll::Ready(()),
            Poll::Ready(Ok(0) | Err(_)) => {
                self.signals.end(End::Gone);
                self.signals.wait()
            }
            Poll::Pending => self.signals.wait(),
        }
    }
}

impl AsyncRead for Gate {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.signals.is_ending() {
                return this.signals.wait();
            }
            match this.frames.next(this.inbox.bytes()) {
                Next::Inside if this.inbox.bytes().is_empty() => ready!(this.poll_more(cx)),
                Next::Inside => {
                    let count = this.frames.within(this.inbox.bytes().len()).min(out.remaining());
                    out.put_slice(this.inbox.bytes().get(..count).unwrap_or_default());
                    this.inbox.consume(count);
                    this.frames.advance(count);
                    this.signals.waiting.store(false, Relaxed);
                    return Poll::Ready(Ok(()));
                }
                Next::Begins(begin) => {
                    if !this.signals.pass.swap(false, Relaxed) {
                        this.signals.withheld.store(true, Relaxed);
                        return this.signals.wait();
                    }
                    this.frames.admit(&begin);
                }
                Next::TooLarge => this.signals.end(End::TooLarge),
                Next::Incomplete => ready!(this.poll_more(cx)),
            }
        }
    }
}

impl AsyncWrite for Gate {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Poll::Ready(result) = Pin::new(&mut this.socket).poll_write(cx, bytes) {
            this.signals.writing.store(false, Relaxed);
            this.stall = None;
            if result.is_err() {
                this.signals.end(End::Gone);
            }
            return Poll::Ready(result);
        }
        this.signals.writing.store(true, Relaxed);
        let stall = this.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL_MAX)));
        ready!(stall.as_mut().poll(cx));
        this.signals.end(End::Gone);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
