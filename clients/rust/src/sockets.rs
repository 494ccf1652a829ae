//! The sockets of connections, for processes that fork.
//!
//! A child has copies of all sockets of its parent. While one of them is open, the daemon does not see that the parent was
//! killed: its leases are then suspect only when their beats are overdue. So a child closes its copies.

use std::{
    collections::BTreeSet,
    io,
    os::fd::RawFd,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use nix::unistd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

static OPEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// A fork that is about to happen, or has happened. While this exists, no connection is opened or closed, so that the child
/// knows each socket of its parent.
#[derive(Debug)]
#[must_use]
pub struct Fork(MutexGuard<'static, BTreeSet<RawFd>>);

impl Fork {
    /// To be called right before a fork. The parent drops it right after.
    pub fn prepare() -> Self {
        Self(open())
    }

    /// In the child: closes its copies of the sockets that its parent's clients use. What it has inherited of clients and
    /// registrations must be neither used nor dropped.
    pub fn close_inherited_sockets(mut self) {
        for socket in std::mem::take(&mut *self.0) {
            let _ = unistd::close(socket);
        }
    }
}

fn open() -> MutexGuard<'static, BTreeSet<RawFd>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An entry of the list. It goes before its socket is closed, so that no number on the list is used for another file.
#[derive(Debug)]
struct Listed(RawFd);

impl Drop for Listed {
    fn drop(&mut self) {
        open().remove(&self.0);
    }
}

/// A connection whose socket is on the list.
#[derive(Debug)]
pub(crate) struct Tracked<S> {
    _listed: Listed,
    stream: S,
}

impl<S> Tracked<S> {
    /// Puts a socket on the list for as long as the connection over it exists.
    pub(crate) fn new(socket: RawFd, stream: S) -> Self {
        open().insert(socket);
        Self { _listed: Listed(socket), stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tracked<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tracked<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, from)
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
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::{
            fd::{AsRawFd as _, IntoRawFd as _},
            unix::net::UnixStream,
        },
    };

    use super::*;

    #[test]
    fn only_sockets_of_connections_that_exist_are_closed() {
        let (kept, mut peer_of_kept) = UnixStream::pair().unwrap();
        let (inherited, mut peer) = UnixStream::pair().unwrap();
        drop(Tracked::new(kept.as_raw_fd(), ()));
        let tracked = Tracked::new(inherited.into_raw_fd(), ());
        Fork::prepare().close_inherited_sockets();
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        (&kept).write_all(&[1]).unwrap();
        assert_eq!(peer_of_kept.read(&mut [0]).unwrap(), 1);
        drop(tracked);
    }
}
