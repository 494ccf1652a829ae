//! What one connection and one call may take, and what a call over a limit is told.
//!
//! HTTP/2 has a limit of its own for the streams of a connection, and a client that reaches it is told nothing: its next
//! call, a beat perhaps, waits in the client until a stream ends. So the streams without an end (Watch, BeatStream, health
//! watch, reflection) have a lower limit ([`STREAMS_MAX`]) and are refused beyond it with a reason, and the difference to
//! [`HTTP2_STREAMS_MAX`](crate::wire::bounds::HTTP2_STREAMS_MAX) is always there for calls that end.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use tonic::Status;

use crate::{
    access::{Callers, Certificate, Memory},
    model::Origin,
    wire::{bounds::STREAMS_MAX, failure::Failure},
};

/// How long a call may take to its answer in all, or a stream to its begin. Writes end by themselves before.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The header with a call's own deadline.
pub(crate) const TIMEOUT_HEADER: &str = "grpc-timeout";

/// The streams without an end of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams(Arc<AtomicU32>);

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerAddress {
    /// A network, or the loopback.
    Ip(IpAddr),
    /// The admin socket: the user of the daemon or root is at its other end.
    AdminSocket,
}

impl PeerAddress {
    /// The address, if it has one.
    pub(crate) const fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(ip),
            Self::AdminSocket => None,
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::AdminSocket => f.write_str("unix"),
        }
    }
}

/// Where the calls of a connection come from, and the streams it has open.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address, as far as changes are concerned that come from it.
    pub(crate) origin: Origin,
    /// Its address.
    pub(crate) address: PeerAddress,
    /// Its streams.
    pub(crate) streams: Streams,
    /// The identities that call over it.
    pub(crate) callers: Callers,
    /// The client certificate it has shown, read once for all calls.
    pub(crate) certificate: Option<Arc<Certificate>>,
    /// The credential of its latest call.
    pub(crate) memory: Memory,
}

/// One of them, until dropped.
#[derive(Debug)]
pub(crate) struct OpenStream(Streams);

impl Streams {
    /// Opens one, if there is a place left.
    pub(crate) fn open(&self) -> Result<OpenStream, Failure> {
        // Counted first: of several at once not one too many gets a place.
        let open = OpenStream(self.clone());
        if self.0.fetch_add(1, Ordering::Relaxed) < STREAMS_MAX { Ok(open) } else { Err(Failure::TooManyStreams) }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a call may take by what its client says of it, as `5S` or `100m`; `None`: it says nothing, or nonsense.
pub(crate) fn own_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, number) = value.split_last()?;
    if number.is_empty() || number.len() > 8 || !number.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(number).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3_600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// An error that no handler has made: of the transport, of the generated code, or of a standard service. Returns what it
/// means to the client; `None`: a handler made it, or there is nothing to add. `unknown_path`: no method has this path.
pub(crate) fn explain(headers: &HeaderMap, unknown_path: Option<&str>) -> Option<Failure> {
    use tonic::Code;
    if headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        return None;
    }
    let status = Status::from_header_map(headers)?;
    let said = status.message().to_owned();
    match (status.code(), unknown_path) {
        (Code::Ok | Code::Cancelled, _) => None,
        (Code::Unimplemented, Some(path)) => Some(Failure::UnknownMethod(path.to_owned())),
        (Code::Unimplemented, None) => Some(Failure::Compressed(said)),
        (Code::OutOfRange, _) => Some(Failure::RequestTooLarge),
        (Code::NotFound, _) => Some(Failure::UnknownService(said)),
        // What is internal to the daemon carries its reason already: this is a message that could not be read.
        (Code::Internal | Code::InvalidArgument, _) => Some(Failure::Malformed(said)),
        _ => Some(Failure::INTERNAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_over_the_limit_are_refused_until_one_ends() {
        let streams = Streams::default();
        let mut open: Vec<_> = (0..STREAMS_MAX).map(|_| streams.open().unwrap()).collect();
        assert_eq!(streams.open().unwrap_err(), Failure::TooManyStreams);
        assert_eq!(streams.open().unwrap_err(), Failure::TooManyStreams, "a refusal takes no place");
        open.pop();
        open.push(streams.open().unwrap());
        assert!(streams.open().is_err());
    }

    #[test]
    fn timeouts_of_clients_are_read_in_every_unit() {
        for (value, millis) in [("2H", 7_200_000), ("3M", 180_000), ("5S", 5_000), ("100m", 100), ("5000u", 5)] {
            assert_eq!(own_timeout(value.as_bytes()), Some(Duration::from_millis(millis)), "{value}");
        }
        assert_eq!(own_timeout(b"99999999n"), Some(Duration::from_nanos(99_999_999)));
        for nonsense in ["", "S", "5", "5s", "-5S", "123456789S", "\u{e4}S"] {
            assert_eq!(own_timeout(nonsense.as_bytes()), None, "{nonsense}");
        }
    }
}
