//! A connection from its accept to its end: its place, its deadline for the preface, its streams.
//!
//! Put around the outermost layer of what carries the bytes: the preface that is waited for is the one of HTTP/2. Below it
//! there may be TLS, whose handshake counts into the same deadline, which runs from the accept.

use std::{
    fmt, io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use metrics::Gauge;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep_until},
};
use tonic::transport::server::Connected;

use super::{
    addresses::AddressPlace,
    limits::{Peer, PeerAddress, Streams},
};
use crate::{
    access::{Callers, Certificate, Memory},
    model::Origin,
    tls::Stream,
};

/// Length of the HTTP/2 preface, `PRI * HTTP/2.0 ... SM ...`, in bytes.
pub(crate) const PREFACE_BYTES: usize = 24;

/// The places that a connection takes, until dropped.
#[derive(Debug)]
pub(crate) struct Places {
    _all: OwnedSemaphorePermit,
    /// `None`: of the admin socket.
    _of_address: Option<AddressPlace>,
    address: PeerAddress,
    origin: Origin,
}

impl Places {
    /// One among all connections, and one among those of its address.
    pub(crate) fn new(all: OwnedSemaphorePermit, address: IpAddr, of_address: AddressPlace) -> Self {
        let origin = of_address.origin();
        let address = PeerAddress::Ip(address.to_canonical());
        Self { _all: all, _of_address: Some(of_address), address, origin }
    }

    /// One among those of the admin socket.
    pub(crate) fn of_machine(all: OwnedSemaphorePermit, origin: Origin) -> Self {
        Self { _all: all, _of_address: None, address: PeerAddress::AdminSocket, origin }
    }
}

/// An accepted connection. Gives its places back when dropped.
pub struct Connection<S = Stream> {
    stream: S,
    /// Until the client has sent its preface: what is missing of it, and by when it must be here.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    peer: Peer,
    open: Gauge,
    _places: Places,
}

impl<S: fmt::Debug> fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl<S> Connection<S> {
    /// A connection whose client has shown this certificate, and whose preface is due at `due`.
    pub(crate) fn new(stream: S, certificate: Option<Certificate>, places: Places, due: Instant, open: &Gauge) -> Self {
        open.increment(1.0);
        let preface = Some((PREFACE_BYTES, Box::pin(sleep_until(due))));
        let certificate = certificate.map(Arc::new);
        let (origin, address) = (places.origin, places.address);
        let (streams, callers, memory) = (Streams::default(), Callers::default(), Memory::default());
        let peer = Peer { origin, address, streams, callers, certificate, memory };
        Self { stream, preface, peer, open: open.clone(), _places: places }
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

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        self.open.decrement(1.0);
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.preface.is_some() && self.poll_overdue(buf.filled().len() - before, cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
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
impl Connection {
    pub(crate) fn sends_at_once(&self) -> bool {
        matches!(&self.stream, Stream::Plain(stream) if stream.nodelay().unwrap_or_default())
    }
}
