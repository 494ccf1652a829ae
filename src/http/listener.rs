//! Accepts HTTP connections within fixed limits.
//!
//! The HTTP port serves a scraper, some probes and a few browsers, so a small cap costs nothing and keeps a client that
//! opens connections and forgets them from eating the file descriptors that actors need. Over the cap, connections wait in
//! the kernel's backlog; a connection on which nothing moves for [`IDLE_LIMIT`] is closed and makes room, and so is one
//! that does not take what is written to it for [`STALL_LIMIT`]. (A client that drips bytes on purpose can hold its
//! place for longer. The port is for operators and on loopback by default.)

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};

/// Most HTTP connections that are open at once.
pub const MAX_CONNECTIONS: usize = 128;

/// How long nothing may move on a connection; longer than the usual scrape interval of one minute.
pub const IDLE_LIMIT: Duration = Duration::from_secs(120);

/// How long a client may leave unread what is written to it: a browser that is stopped while it is sent events.
pub const STALL_LIMIT: Duration = Duration::from_secs(15);

/// How long to wait after a failed accept, which mostly means that the process has no file descriptor left: trying
/// again at once would turn that into a busy loop.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// A TCP listener with a cap on open connections.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    places: Arc<Semaphore>,
    stall_limit: Duration,
}

impl Listener {
    /// Accepts from `tcp`, at most `max_connections` at a time.
    #[must_use]
    pub fn new(tcp: TcpListener, max_connections: usize) -> Self {
        Self { tcp, places: Arc::new(Semaphore::new(max_connections)), stall_limit: STALL_LIMIT }
    }
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            // Closed never, so an error is impossible; treating it as "no place yet" keeps this total.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                sleep(ACCEPT_BACKOFF).await;
                continue;
            };
            match self.tcp.accept().await {
                Ok((stream, peer)) => {
                    let idle = Box::pin(sleep(IDLE_LIMIT));
                    let stall_limit = self.stall_limit;
                    return (Connection { stream, idle, stall_limit, stalled: None, _place: place }, peer);
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

/// An accepted connection; gives its place back when dropped.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    stall_limit: Duration,
    /// Set while something waits to be written.
    stalled: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn moved<T>(&mut self, moved: Poll<T>) -> Poll<T> {
        if moved.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE_LIMIT);
        }
        moved
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        // The server reads whenever it waits, also while it writes, so this is the one place that has to watch the time.
        let read = self.moved(read);
        if read.is_pending() && self.idle.as_mut().poll(cx).is_ready() {
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
    use tokio::{io::AsyncWriteExt, net::TcpSocket};

    use super::*;

    #[tokio::test]
    async fn a_client_that_does_not_read_is_closed() {
        let socket = TcpSocket::new_v4().unwrap();
        // Small, and inherited by what is accepted: otherwise the kernel takes megabytes before it says no.
        socket.set_send_buffer_size(4_096).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut listener = Listener::new(socket.listen(1).unwrap(), 1);
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
}
