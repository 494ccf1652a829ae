//! Accepts HTTP connections within fixed limits, and cuts off those that only hold a place.
//!
//! [`super::places`] says how many there may be. What a connection may do with its place is limited here:
//!
//! - it completes the head of a request within [`HEAD_LIMIT`] of its first byte, and sends the first one within that
//!   time after it was accepted, so that a client that drips bytes is no better off than one that sends none;
//! - with TLS, the handshake counts into that time;
//! - nothing moves on it for at most [`IDLE_LIMIT`];
//! - it takes what is written to it within [`STALL_LIMIT`].

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{extract::connect_info::Connected, serve::IncomingStream};
use metrics::Counter;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, Sleep, sleep, sleep_until},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::places::{Admission, MAX_CONNECTIONS, MAX_PER_ADDRESS, Place, Places};
use crate::{
    access::{Callers, Certificate},
    metrics::RefusedMetrics,
    tls::{self, Stream},
};

/// How long the head of a request may take.
pub const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// How long nothing may move on a connection; longer than the usual scrape interval of one minute.
pub const IDLE_LIMIT: Duration = Duration::from_secs(120);

/// How long a client may leave unread what is written to it: a browser that is stopped while it is sent events.
pub const STALL_LIMIT: Duration = Duration::from_secs(15);

/// How long to wait after a failed accept, which mostly means that the process has no file descriptor left: trying
/// again at once would turn that into a busy loop.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// A TCP listener with limits on its connections.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    tls: Option<tls::Acceptor>,
    /// Each ends with its connection, or with nothing if it failed. Dropping the set ends them.
    handshakes: JoinSet<Option<(Connection, SocketAddr)>>,
    places: Places,
    head_limit: Duration,
    stall_limit: Duration,
    refused: RefusedMetrics,
}

impl Listener {
    /// Accepts from `tcp`; with `tls`, encrypted connections only.
    #[must_use]
    pub fn new(tcp: TcpListener, tls: Option<tls::Acceptor>, refused: RefusedMetrics) -> Self {
        let places = Places::new(MAX_CONNECTIONS, MAX_PER_ADDRESS);
        Self { tcp, tls, handshakes: JoinSet::new(), places, head_limit: HEAD_LIMIT, stall_limit: STALL_LIMIT, refused }
    }

    /// Gives a connection its place. Returns it if it is ready to be served; with TLS its handshake begins.
    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) -> Option<Connection> {
        let place = self.places.take(peer.ip());
        match place.admission {
            Admission::Full => {}
            Admission::ProbesOfAddress => self.refused.http_connections_of_address.increment(1),
            Admission::ProbesOfAll => self.refused.http_connections.increment(1),
        }
        let due = Instant::now() + self.head_limit;
        let (head_limit, stall_limit) = (self.head_limit, self.stall_limit);
        let slow_heads = self.refused.http_slow_head.clone();
        let connection = move |stream, place: Place| Connection {
            stream,
            idle: Box::pin(sleep(IDLE_LIMIT)),
            head: Head::default(),
            head_limit,
            head_due: Some(Box::pin(sleep_until(due))),
            slow_heads,
            stall_limit,
            stalled: None,
            evicted: Box::pin(place.evicted.clone().cancelled_owned()),
            place,
        };
        let Some(tls) = self.tls.clone() else { return Some(connection(stream.into(), place)) };
        self.handshakes.spawn(async move {
            let evicted = place.evicted.clone();
            // The acceptor has counted and logged a failure.
            let stream = evicted.run_until_cancelled(tls.accept(stream, peer.ip(), due)).await?.ok()?;
            Some((connection(stream, place), peer))
        });
        None
    }
}

/// A connection whose handshake is complete. Waits for ever while there is none.
async fn handshake(handshakes: &mut JoinSet<Option<(Connection, SocketAddr)>>) -> (Connection, SocketAddr) {
    loop {
        match handshakes.join_next().await {
            Some(Ok(Some(ready))) => return ready,
            Some(_) => {}
            None => std::future::pending::<()>().await,
        }
    }
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let accepted = tokio::select! {
                ready = handshake(&mut self.handshakes) => return ready,
                accepted = self.tcp.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    if let Some(connection) = self.admit(stream, peer) {
                        return (connection, peer);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept an http connection");
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// What a route may know of the connection that a request came by.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What the connection is for.
    pub admission: Admission,
    /// Its address.
    pub address: IpAddr,
    /// What the certificate of the client says of it, if it has shown one.
    pub certificate: Option<Arc<Certificate>>,
    /// Its address, as a number.
    pub origin: u32,
    /// The identities that call over it.
    pub(crate) callers: Callers,
}

impl Connected<IncomingStream<'_, Listener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        let (connection, address) = (stream.io(), stream.remote_addr().ip().to_canonical());
        let (admission, origin) = (connection.place.admission, connection.place.origin());
        let certificate = connection.stream.certificate().map(Arc::new);
        Self { admission, address, certificate, origin, callers: Callers::default() }
    }
}

/// How far the head of a request has come: everything to the first empty line. What follows it is taken for the next
/// head; a body, which no request here needs, has the same time to end.
#[derive(Debug)]
struct Head {
    begun: bool,
    line_is_empty: bool,
}

impl Default for Head {
    fn default() -> Self {
        Self { begun: false, line_is_empty: true }
    }
}

impl Head {
    /// Reads on; returns whether the bytes end with a complete head, rather than within one.
    fn ends_with(&mut self, bytes: &[u8]) -> bool {
        let mut is_complete = false;
        for byte in bytes {
            match byte {
                b'\r' => {}
                // Empty lines before the first one are allowed, and are no head.
                b'\n' => {
                    is_complete = self.begun && self.line_is_empty;
                    (self.begun, self.line_is_empty) = (self.begun && !is_complete, true);
                }
                _ => (self.begun, self.line_is_empty, is_complete) = (true, false, false),
            }
        }
        is_complete
    }
}

/// An accepted connection; gives its place back when dropped.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    idle: Pin<Box<Sleep>>,
    head: Head,
    head_limit: Duration,
    /// Set while the head of a request is not complete.
    head_due: Option<Pin<Box<Sleep>>>,
    slow_heads: Counter,
    stall_limit: Duration,
    /// Set while something waits to be written.
    stalled: Option<Pin<Box<Sleep>>>,
    evicted: Pin<Box<WaitForCancellationFutureOwned>>,
    place: Place,
}

impl Connection {
    fn moved<T>(&mut self, moved: Poll<T>) -> Poll<T> {
        if moved.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE_LIMIT);
        }
        moved
    }

    fn read(&mut self, bytes: &[u8]) {
        if self.head.ends_with(bytes) {
            self.head_due = None;
        } else if !bytes.is_empty() && self.head_due.is_none() {
            self.head_due = Some(Box::pin(sleep(self.head_limit)));
        }
    }

    /// Whether the connection has to end, because it holds its place for nothing or because the place is needed.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.head_due.as_mut().is_some_and(|due| due.as_mut().poll(cx).is_ready()) {
            self.slow_heads.increment(1);
            return Poll::Ready(());
        }
        if self.evicted.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.read(buf.filled().get(before..).unwrap_or_default());
        // The server reads whenever it waits, also while it writes, so this is the one place that has to watch the time.
        let read = self.moved(read);
        let is_overdue = self.poll_overdue(cx).is_ready();
        if is_overdue || read.is_pending() && self.idle.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if written.is_ready() {
            self.stalled = None;
            return self.moved(written);
        }
        let limit = self.stall_limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::serve::Listener as _;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpSocket,
    };

    use super::*;

    #[tokio::test]
    async fn a_client_that_does_not_read_is_closed() {
        let socket = TcpSocket::new_v4().unwrap();
        // Small, and inherited by what is accepted: otherwise the kernel takes megabytes before it says no.
        socket.set_send_buffer_size(4_096).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut listener = Listener::new(socket.listen(1).unwrap(), None, RefusedMetrics::new());
        listener.stall_limit = Duration::from_millis(50);
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(4_096).unwrap();
        let _client = client.connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut connection, _) = listener.accept().await;
        let error = loop {
            if let Err(error) = connection.write_all(&[0; 65_536]).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    /// A limit that a test can wait for.
    const SHORT: Duration = Duration::from_millis(100);

    async fn connected(head_limit: Duration) -> (TcpStream, Connection) {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(tcp.local_addr().unwrap()).await.unwrap();
        let mut listener = Listener::new(tcp, None, RefusedMetrics::new());
        listener.head_limit = head_limit;
        (client, listener.accept().await.0)
    }

    #[tokio::test]
    async fn a_head_that_is_not_complete_in_time_ends_the_connection() {
        for sent in [&b""[..], b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\nGET"] {
            let (mut client, mut connection) = connected(SHORT).await;
            client.write_all(sent).await.unwrap();
            let error = connection.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{sent:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_between_two_requests_may_be_silent_for_longer() {
        let (mut client, mut connection) = connected(SHORT).await;
        let request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
        for _ in 0..2 {
            client.write_all(request).await.unwrap();
            let mut read = vec![0; request.len()];
            connection.read_exact(&mut read).await.unwrap();
            let silent = tokio::time::timeout(SHORT * 3, connection.read_u8()).await;
            assert!(silent.is_err(), "{silent:?}");
        }
    }

    #[test]
    fn a_head_ends_with_its_first_empty_line() {
        for (bytes, is_complete) in [
            ("GET / HTTP/1.1\r\n\r\n", true),
            ("\r\nGET / HTTP/1.1\nHost: x\n\n", true),
            ("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", true),
            ("GET / HTTP/1.1\r\n\r\nGET /", false),
            ("GET / HTTP/1.1\r\n", false),
            ("\r\n\r\n", false),
            ("", false),
        ] {
            assert_eq!(Head::default().ends_with(bytes.as_bytes()), is_complete, "{bytes:?}");
            let mut head = Head::default();
            let mut at_last = false;
            for byte in bytes.bytes() {
                at_last = head.ends_with(&[byte]);
            }
            assert_eq!(at_last, is_complete, "{bytes:?}, byte by byte");
        }
    }
}
