//! TLS of the daemon's own ports: the files, the handshakes, and the bytes after them.
//!
//! Both ports use the same certificate and the same rules ([`load`]), so that neither can lag behind the other. The files are
//! read again while the daemon runs ([`credentials`]); a connection keeps what it was opened with. A handshake
//! ([`handshake`]) never runs inside `accept`, and only so many do work at once.
//!
//! | | gRPC | HTTP |
//! |---|---|---|
//! | protocol (ALPN) | `h2` | `http/1.1` |
//! | client certificate, with `--tls-client-ca` | required; with tokens as with HTTP | checked if the client shows one: probes have none |
//!
//! TLS 1.2 and 1.3 by rustls with ring, which offers ECDHE with AEAD only, and neither renegotiation nor compression. Early
//! data is off. A client that is asked for its certificate cannot resume a session: rustls restores the certificate of a
//! resumed session without checking it again, and it may have expired or been revoked.
//!
//! tonic's own TLS is not used: it reads the files once, puts no limit on the time and the number of handshakes, and logs
//! failures at debug level only.

mod credentials;
mod describe;
mod error;
mod handshake;
mod issue;
mod load;
mod outgoing;
pub mod pem;
mod slots;
mod stream;
mod unchecked;
mod validity;

pub use credentials::{Condition, Credentials};
pub use describe::{Described, describe, is_pair};
pub use error::Error;
pub use handshake::{Acceptor, Failure};
pub use issue::{Authority, IssueError, Issued, Subject};
pub use load::{Files, Port};
pub use outgoing::connect_checked;
pub use stream::Stream;
pub use unchecked::{Unchecked, connect_unchecked};
pub use validity::Validity;
