//! The handshake of one connection: in a task of its own, within the time that the connection has from its accept.
//!
//! A slot ([`super::slots`]) is needed only from the ClientHello on: a client that sends nothing costs a place among the
//! connections of the port and nothing else, so stalled clients delay no other handshake.

use std::{
    fmt, io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{AlertDescription, CertificateError, InvalidMessage};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::LazyConfigAcceptor;

use super::{credentials::Credentials, load::Port, slots::Slots, stream::Stream};
use crate::{metrics::HandshakeMetrics, telemetry::Throttle};

/// How long a client that is refused may take to read why.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// Makes the handshakes of a port. Clones share its slots.
#[derive(Clone, Debug)]
pub struct Acceptor {
    credentials: Arc<Credentials>,
    port: Port,
    slots: Slots,
    metrics: HandshakeMetrics,
    /// A std mutex: never held across an await.
    failures: Arc<Mutex<Throttle>>,
}

/// Why a handshake came to nothing.
#[derive(Debug)]
pub enum Failure {
    /// The client did not complete it in time.
    TimedOut,
    /// It failed.
    Failed(io::Error),
}

impl Acceptor {
    /// For a port, with the files as they are at each handshake.
    #[must_use]
    pub fn new(credentials: Arc<Credentials>, port: Port) -> Self {
        let metrics = match port {
            Port::Grpc => HandshakeMetrics::grpc(),
            Port::Http => HandshakeMetrics::http(),
        };
        Self { credentials, port, slots: Slots::new(), metrics, failures: Arc::default() }
    }

    /// Makes the handshake with a client that has until `due` for it. A failure is counted and logged here.
    ///
    /// # Errors
    /// [`Failure`]; the connection is closed then.
    pub async fn accept(&self, stream: TcpStream, address: IpAddr, due: Instant) -> Result<Stream, Failure> {
        let outcome = timeout_at(due, self.handshake(stream, address)).await;
        let outcome = outcome.map_or(Err(Failure::TimedOut), |outcome| outcome.map_err(Failure::Failed));
        match &outcome {
            Ok(_) => self.metrics.ok.increment(1),
            Err(failure) => self.failed(address, failure),
        }
        outcome
    }

    async fn handshake(&self, stream: TcpStream, address: IpAddr) -> io::Result<Stream> {
        let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let slot = self.slots.take(address).await;
        let accepting = hello.into_stream(self.credentials.config(self.port));
        match accepting.into_fallible().await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err((error, stream)) => {
                drop(slot);
                say_goodbye(stream).await;
                Err(error)
            }
        }
    }

    fn failed(&self, address: IpAddr, failure: &Failure) {
        match failure {
            Failure::TimedOut => self.metrics.timed_out.increment(1),
            Failure::Failed(_) => self.metrics.failed.increment(1),
        }
        let due = self.failures.lock().unwrap_or_else(PoisonError::into_inner).due();
        if let Some(suppressed) = due {
            tracing::warn!(%address, port = ?self.port, cause = %failure, suppressed, "TLS handshake failed");
        }
    }
}

/// Lets the client read the alert that says why it is refused. With TLS 1.3 the client sends requests before it can know, and a
/// socket that is closed with unread bytes is reset, which discards the alert on its way.
async fn say_goodbye(mut stream: TcpStream) {
    // Best effort: the client may be gone.
    let _ = stream.shutdown().await;
    let mut discarded = [0; 1_024];
    let drain = async { while stream.read(&mut discarded).await.is_ok_and(|count| count > 0) {} };
    let _ = timeout(GOODBYE_LIMIT, drain).await;
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("the client did not complete the handshake in time"),
            Self::Failed(error) => f.write_str(&explain(error)),
        }
    }
}

/// The cause in words, with what an operator can do about it.
fn explain(error: &io::Error) -> String {
    use rustls::Error;
    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) else {
        return format!("the client closed the connection ({error})");
    };
    match cause {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the client does not speak TLS; give it an https:// address".to_owned()
        }
        Error::NoCertificatesPresented => "the client showed no certificate; give it one of --tls-client-ca".to_owned(),
        Error::InvalidCertificate(cause) => certificate(cause),
        Error::NoApplicationProtocol => "the client speaks none of the protocols of this port".to_owned(),
        Error::AlertReceived(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown),
        ) => format!("the client refuses the certificate of this daemon ({alert:?}); compare --tls-cert with its CA"),
        other => other.to_string(),
    }
}

fn certificate(cause: &CertificateError) -> String {
    match cause {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the client's certificate has expired; renew it".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the client's certificate is not valid yet; check the clocks of both machines".to_owned()
        }
        CertificateError::Revoked => "the client's certificate is revoked".to_owned(),
        CertificateError::UnknownRevocationStatus => {
            "--tls-client-crl holds no list of the CA that signed the client's certificate; add it".to_owned()
        }
        CertificateError::UnknownIssuer => {
            "no CA in --tls-client-ca has signed the client's certificate; add its CA, or give the client another one"
                .to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the client's certificate is not made for clients (extended key usage clientAuth)".to_owned()
        }
        other => format!("the client's certificate is refused: {other}"),
    }
}
