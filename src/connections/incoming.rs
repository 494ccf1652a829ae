//! Accepts gRPC connections within fixed limits, and never stops accepting.
//!
//! The server takes a stream of connections, and what comes with it is not fit for a daemon: an accept that fails for
//! want of file descriptors is tried again at once and logged nowhere, which is a silent busy loop; nothing caps the
//! number of connections; and a connection on which the client never speaks is kept for ever, also by a graceful
//! shutdown. Here instead
//!
//! - a failed accept is counted, logged at most once a minute, and followed by a pause;
//! - at most so many connections are open; over the cap new ones wait in the kernel's backlog, which is a slower
//!   answer and not a refused one;
//! - at most so many of one address are; over that cap a new one is refused, with an HTTP/2 GOAWAY that says so, because
//!   to wait would keep the clients of all other addresses waiting behind it;
//! - a client has [`PREFACE_LIMIT`] from its accept to send the HTTP/2 preface; with TLS, for its handshake and the preface.
//!   Each handshake is a task of its own, so that none keeps another client waiting.
//!
//! What happens to a connection after its preface (pings to dead peers, streams per connection) is the server's to limit.

use std::{
    convert::Infallible,
    fmt,
    io::{self, Write as _},
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::PollSemaphore;
use tonic::transport::server::TcpIncoming;

use super::{
    addresses::Addresses,
    admin::AdminSocket,
    connection::{Connection, Places},
};
use crate::{
    metrics::{IncomingMetrics, RefusedMetrics},
    telemetry::{Repeated, Throttle},
    tls,
};

/// Most connections that are open at once, if not configured otherwise.
pub const DEFAULT_MAX_CONNECTIONS: usize = 10_000;

/// Most connections of one address, if not configured otherwise.
pub const DEFAULT_MAX_PER_ADDRESS: usize = 1_000;

/// How many connections may be open.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// In all.
    pub connections: usize,
    /// From one address.
    pub per_address: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: DEFAULT_MAX_CONNECTIONS, per_address: DEFAULT_MAX_PER_ADDRESS }
    }
}

/// How long a client may take to send the HTTP/2 preface.
pub const PREFACE_LIMIT: Duration = Duration::from_secs(5);

/// How long to wait after a failed accept.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// TCP keep-alive, for what HTTP/2 pings do not cover: a peer that vanished is found out after 60 s + 3 * 10 s.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// The stream of accepted connections. Never ends and never yields an error.
pub struct Incoming {
    tcp: TcpIncoming,
    admin: Option<AdminSocket>,
    places: PollSemaphore,
    /// The place of the next connection, taken before it is accepted.
    place: Option<OwnedSemaphorePermit>,
    pause: Option<Pin<Box<Sleep>>>,
    addresses: Addresses,
    preface_limit: Duration,
    tls: Option<tls::Acceptor>,
    /// Each ends with its connection, or with nothing if it failed. Dropping the set ends them.
    handshakes: JoinSet<Option<Connection>>,
    trouble: Repeated,
    refusals: Throttle,
    metrics: IncomingMetrics,
    refused: RefusedMetrics,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("places", &self.places.available_permits()).finish_non_exhaustive()
    }
}

impl Incoming {
    /// Accepts from `listener`, within these limits; with `tls`, encrypted connections only.
    ///
    /// Keep `connections` well below the limit of open files of the process: PostgreSQL connections, the HTTP port
    /// and the log need some too.
    #[must_use]
    pub fn new(listener: TcpListener, tls: Option<tls::Acceptor>, limits: Limits, metrics: IncomingMetrics) -> Self {
        let tcp = TcpIncoming::from(listener)
            .with_nodelay(Some(true))
            .with_keepalive(Some(KEEPALIVE_AFTER))
            .with_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .with_keepalive_retries(Some(KEEPALIVE_PROBES));
        let places = PollSemaphore::new(Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))));
        Self {
            tcp,
            admin: None,
            places,
            place: None,
            pause: None,
            addresses: Addresses::new(limits.per_address),
            preface_limit: PREFACE_LIMIT,
            tls,
            handshakes: JoinSet::new(),
            trouble: Repeated::default(),
            refusals: Throttle::default(),
            metrics,
            refused: RefusedMetrics::new(),
        }
    }

    /// Accepts from the admin socket too, whose connections count apart.
    #[must_use]
    pub fn with_admin(mut self, admin: Option<AdminSocket>) -> Self {
        self.admin = admin;
        self
    }

    /// A connection of the admin socket.
    fn poll_admin(&mut self, cx: &mut Context<'_>) -> Option<Connection> {
        match self.admin.as_mut()?.poll_accept(cx) {
            Poll::Ready(Ok((stream, places))) => {
                let due = Instant::now() + self.preface_limit;
                Some(Connection::new(tls::Stream::Unix(stream), None, places, due, &self.metrics.connections))
            }
            Poll::Ready(Err(error)) => {
                self.failed(&error);
                None
            }
            Poll::Pending => None,
        }
    }

    /// Near the limit of file descriptors accepts fail and succeed by turns, so that one success is not the end of it.
    fn accepted(&mut self) {
        if let Some(over) = self.trouble.quiet() {
            tracing::info!(failures = over.failures, lasting_ms = over.lasting_ms(), "connections are accepted again");
        }
    }

    fn failed(&mut self, error: &io::Error) {
        self.metrics.accept_errors.increment(1);
        if let Some(told) = self.trouble.failed() {
            tracing::error!(%error, failures = told.failures, lasting_ms = told.lasting_ms(), "cannot accept connections");
        }
        self.pause = Some(Box::pin(sleep(ACCEPT_BACKOFF)));
    }

    /// Gives a connection its places, or refuses it. Returns it if it is ready to be served; with TLS its handshake begins.
    fn admit(&mut self, stream: TcpStream) -> Option<Connection> {
        let due = Instant::now() + self.preface_limit;
        // Gone again already.
        let address = stream.peer_addr().ok()?.ip();
        let Some(of_address) = self.addresses.take(address) else {
            self.refuse(stream, address);
            return None;
        };
        let places = Places::new(self.place.take()?, address, of_address);
        let open = self.metrics.connections.clone();
        let Some(tls) = self.tls.clone() else { return Some(Connection::new(stream.into(), None, places, due, &open)) };
        self.handshakes.spawn(async move {
            // The acceptor has counted and logged the failure.
            let stream = tls.accept(stream, address, due).await.ok()?;
            let certificate = stream.certificate();
            Some(Connection::new(stream, certificate, places, due, &open))
        });
        None
    }

    /// A connection whose handshake is complete.
    fn poll_handshakes(&mut self, cx: &mut Context<'_>) -> Option<Connection> {
        while let Poll::Ready(Some(ended)) = self.handshakes.poll_join_next(cx) {
            if let Ok(Some(connection)) = ended {
                return Some(connection);
            }
        }
        None
    }

    fn refuse(&mut self, stream: TcpStream, address: IpAddr) {
        self.refused.connections_of_address.increment(1);
        let limit = self.addresses.limit();
        if let Some(suppressed) = self.refusals.due() {
            tracing::warn!(%address, limit, suppressed, "connection refused, too many from its address");
        }
        if self.tls.is_some() {
            // A client that speaks TLS would take the reason for garbage.
            return;
        }
        // Best effort: the buffer of a new connection is empty, and a client that is gone needs no reason.
        let _ = stream.into_std().and_then(|mut stream| stream.write_all(&goaway(limit)));
    }
}

impl Stream for Incoming {
    type Item = Result<Connection, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(connection) = this.poll_handshakes(cx) {
                return Poll::Ready(Some(Ok(connection)));
            }
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            // Before a place is waited for: an operator gets in when clients have taken them all.
            if let Some(connection) = this.poll_admin(cx) {
                return Poll::Ready(Some(Ok(connection)));
            }
            if this.pause.is_some() {
                continue;
            }
            if this.place.is_none() {
                this.place = ready!(this.places.poll_acquire(cx));
            }
            match ready!(Pin::new(&mut this.tcp).poll_next(cx)) {
                Some(Ok(stream)) => {
                    this.accepted();
                    if let Some(connection) = this.admit(stream) {
                        return Poll::Ready(Some(Ok(connection)));
                    }
                }
                Some(Err(error)) => this.failed(&error),
                // The listener never ends; were it to, a pause is better than a server that quietly stops accepting.
                None => this.failed(&io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

/// What a refused client is sent: empty SETTINGS, as every HTTP/2 server begins, and a GOAWAY with ENHANCE_YOUR_CALM and
/// a reason for people.
fn goaway(limit: usize) -> Vec<u8> {
    const ENHANCE_YOUR_CALM: u32 = 11;
    let reason = format!(
        "too many connections from this address, the limit is {limit}; share connections, or raise \
         --grpc-connections-per-address"
    );
    let length = u32::try_from(8 + reason.len()).unwrap_or_default().to_be_bytes();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let mut frames = settings.to_vec();
    frames.extend_from_slice(&length[1..]);
    // GOAWAY on the connection; no stream was processed.
    frames.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    frames.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
    frames.extend_from_slice(reason.as_bytes());
    frames
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use futures_util::{FutureExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{super::connection::PREFACE_BYTES, *};

    async fn incoming(max_connections: usize) -> (Incoming, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits { connections: max_connections, per_address: 3 };
        let mut incoming = Incoming::new(listener, None, limits, IncomingMetrics::new());
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
        assert!(first.sends_at_once());
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
    async fn failed_accept_is_logged_and_never_ends_the_stream() {
        let (mut incoming, address) = incoming(2).await;
        incoming.failed(&io::Error::other("too many open files"));
        assert!(incoming.trouble.is_failing());

        let _client = TcpStream::connect(address).await.unwrap();
        assert!(incoming.next().await.is_some());
    }

    #[tokio::test]
    async fn connection_over_the_limit_of_its_address_is_refused_and_closed() {
        let (mut incoming, address) = incoming(10).await;
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push((TcpStream::connect(address).await.unwrap(), incoming.next().await));
        }
        let mut refused = TcpStream::connect(address).await.unwrap();
        assert!(incoming.next().now_or_never().is_none(), "a fourth connection was served");
        let mut answer = Vec::new();
        refused.read_to_end(&mut answer).await.unwrap();
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("limit is 3; share connections"), "{text}");
        held.pop();
        let _next = TcpStream::connect(address).await.unwrap();
        assert!(incoming.next().await.is_some());
    }
}
