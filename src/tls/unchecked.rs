//! A server's certificate that is not checked: for PostgreSQL with `sslmode=prefer` or `require`, and for the daemon beside a
//! probe.
//!
//! That the server holds the key of the certificate it shows is checked in every case. Without that, a third party between
//! the two could show the real server's certificate, and the channel binding of SCRAM, which is made from it, would prove
//! nothing.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// Accepts every certificate whose key the server holds.
#[derive(Debug)]
pub struct Unchecked {
    algorithms: WebPkiSupportedAlgorithms,
}

impl Unchecked {
    /// By the algorithms of a provider.
    #[must_use]
    pub fn new(provider: &CryptoProvider) -> Self {
        Self { algorithms: provider.signature_verification_algorithms }
    }

    /// The algorithms of signatures that are accepted.
    #[must_use]
    pub const fn algorithms(&self) -> WebPkiSupportedAlgorithms {
        self.algorithms
    }
}

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Makes the handshake with the HTTP port of a daemon on this machine, whose certificate may be for any name.
///
/// # Errors
/// The handshake failed.
pub async fn connect_unchecked(stream: TcpStream) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Unchecked::new(&provider));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}
