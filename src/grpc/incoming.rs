//! Accepts gRPC connections within fixed limits, and never stops accepting.
//!
//! The server takes a stream of connections, and what comes with it is not fit for a daemon: an accept that fails for
//! want of file descriptors is tried again at once and logged nowhere, which is a silent busy loop; nothing caps the
//! number of connections; and a connection on which the client never speaks is kept for ever, also by a graceful
//! shutdown. Here instead
//!
//! - a failed accept is counted, logged at most every 10 s, and followed by a pause;
//! - at most so many connections are open; over the cap new ones wait in the kernel's backlog, which is a slower
//!   answer and not a refused one;
//! - a client has [`PREFACE_LIMIT`] to send the HTTP/2 preface.
//!
//! What happens to a connection after its preface (pings to dead peers, streams per connection) is the server's to limit.

use std::{
    convert::Infallible,
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use metrics::Gauge;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::PollSemaphore;
use tonic::transport::server::{Connected, TcpConnectInfo, TcpIncoming};

use crate::metrics::IncomingMetrics;

/// Most connections that are open at once, if not configured otherwise.
pub const DEFAULT_MAX_CONNECTIONS: usize = 10_000;

/// How long a client may take to send the HTTP/2 preface.
pub const PREFACE_LIMIT: Duration = Duration::from_secs(5);

/// Length of the HTTP/2 preface, `PRI * HTTP/2.0 ... SM ...`, in bytes.
const PREFACE_BYTES: usize = 24;

/// How long to wait after a failed accept.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// How often failed accepts are logged at most.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// TCP keep-alive, for what HTTP/2 pings do not cover: a peer that vanished is found out after 60 s + 3 * 10 s.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// The stream of accepted connections. Never ends and never yields an error.
pub struct Incoming {
    tcp: TcpIncoming,
    places: PollSemaphore,
    /// The place of the next connection, taken before it is accepted.
    place: Option<OwnedSemaphorePermit>,
    pause: Option<Pin<Box<Sleep>>>,
    preface_limit: Duration,
    errors: ErrorLog,
    metrics: IncomingMetrics,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("places", &self.places.available_permits()).finish_non_exhaustive()
    }
}

impl Incoming {
    /// Accepts from `listener`, with at most `max_connections` open at a time.
    ///
    /// Keep `max_connections` well below the limit of open files of the process: PostgreSQL connections, the HTTP port
    /// and the log need some too.
    #[must_use]
    pub fn new(listener: TcpListener, max_connections: usize, metrics: IncomingMetrics) -> Self {
        let tcp = TcpIncoming::from(listener)
            .with_nodelay(Some(true))
            .with_keepalive(Some(KEEPALIVE_AFTER))
            .with_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .with_keepalive_retries(Some(KEEPALIVE_PROBES));
        let places = PollSemaphore::new(Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS))));
        Self {
            tcp,
            places,
            place: None,
            pause: None,
            preface_limit: PREFACE_LIMIT,
            errors: ErrorLog::default(),
            metrics,
        }
    }

    fn failed(&mut self, error: &io::Error) {
        self.metrics.accept_errors.increment(1);
        self.errors.report(error, Instant::now());
        self.pause = Some(Box::pin(sleep(ACCEPT_BACKOFF)));
    }
}

impl Stream for Incoming {
    type Item = Result<Connection, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            if this.place.is_none() {
                this.place = ready!(this.places.poll_acquire(cx));
            }
            match ready!(Pin::new(&mut this.tcp).poll_next(cx)) {
                Some(Ok(stream)) => {
                    // Always present here: the semaphore is never closed.
                    let Some(place) = this.place.take() else { continue };
                    let overdue = Box::pin(sleep(this.preface_limit));
                    return Poll::Ready(Some(Ok(Connection::new(stream, place, overdue, &this.metrics.connections))));
                }
                Some(Err(error)) => this.failed(&error),
                // The listener never ends; were it to, a pause is better than a server that quietly stops accepting.
                None => this.failed(&io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

/// Logs the first failure, then at most one in [`LOG_INTERVAL`] with the number of those not logged.
#[derive(Debug, Default)]
struct ErrorLog {
    last: Option<Instant>,
    suppressed: u64,
}

impl ErrorLog {
    fn report(&mut self, error: &io::Error, now: Instant) -> bool {
        let due = self.last.is_none_or(|last| now.duration_since(last) >= LOG_INTERVAL);
        if due {
            tracing::error!(%error, suppressed = self.suppressed, "cannot accept connections");
            *self = Self { last: Some(now), suppressed: 0 };
        } else {
            self.suppressed += 1;
        }
        due
    }
}

/// An accepted connection. Gives its place back when dropped.
pub struct Connection {
    stream: TcpStream,
    /// Until the client has sent its preface: what is missing of it, and by when it must be here.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    open: Gauge,
    _place: OwnedSemaphorePermit,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Connection {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit, overdue: Pin<Box<Sleep>>, open: &Gauge) -> Self {
        open.increment(1.0);
        Self { stream, preface: Some((PREFACE_BYTES, overdue)), open: open.clone(), _place: place }
    }

    /// Returns ready when the preface is overdue.
    fn poll_overdue(&mut self, received: usize, cx: &mut Context<'_>) -> Poll<()> {
        let Some((missing, deadline)) = &mut self.preface else { return Poll::Pending };
        *missing = missing.saturating_sub(received);
        if *missing == 0 {
            // The timer is of no more use; ten thousand of them would be.
            self.preface = None;
            return Poll::Pending;
        }
        deadline.as_mut().poll(cx)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.decrement(1.0);
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.preface.is_some() && self.poll_overdue(buf.filled().len() - before, cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use futures_util::{FutureExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn incoming(max_connections: usize) -> (Incoming, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = Incoming::new(listener, max_connections, IncomingMetrics::new());
        incoming.preface_limit = Duration::from_millis(30);
        (incoming, address)
    }

    #[tokio::test]
    async fn over_the_cap_a_connection_waits_until_another_one_ends() {
        let (mut incoming, address) = incoming(2).await;
        let clients = [
            TcpStream::connect(address).await.unwrap(),
            TcpStream::connect(address).await.unwrap(),
            TcpStream::connect(address).await.unwrap(),
        ];
        let Some(Ok(first)) = incoming.next().await else { unreachable!() };
        let Some(Ok(_second)) = incoming.next().await else { unreachable!() };
        assert!(first.stream.nodelay().unwrap());
        assert!(incoming.next().now_or_never().is_none(), "a third connection was accepted");
        drop(first);
        assert!(incoming.next().await.is_some());
        drop(clients);
    }

    #[tokio::test]
    async fn a_client_that_does_not_send_its_preface_in_time_is_cut_off() {
        let (mut incoming, address) = incoming(2).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let Some(Ok(mut connection)) = incoming.next().await else { unreachable!() };
        client.write_all(b"PRI * HTTP/2.0").await.unwrap();
        let mut received = Vec::new();
        let error = connection.read_to_end(&mut received).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_has_sent_its_preface_may_be_silent() {
        let (mut incoming, address) = incoming(2).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let Some(Ok(mut connection)) = incoming.next().await else { unreachable!() };
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut preface = [0; PREFACE_BYTES];
        connection.read_exact(&mut preface).await.unwrap();
        let silent = tokio::time::timeout(incoming.preface_limit * 3, connection.read_u8()).await;
        assert!(silent.is_err(), "{silent:?}");
    }

    #[tokio::test]
    async fn failed_accepts_are_logged_once_in_ten_seconds_and_never_end_the_stream() {
        let (mut incoming, address) = incoming(2).await;
        let error = io::Error::other("too many open files");
        incoming.failed(&error);
        let now = Instant::now();
        assert!(!incoming.errors.report(&error, now));
        assert_eq!(incoming.errors.suppressed, 1);
        assert!(incoming.errors.report(&error, now + LOG_INTERVAL));

        let _client = TcpStream::connect(address).await.unwrap();
        assert!(incoming.next().await.is_some());
    }
}
