//! Connections of the daemon to other HTTPS servers, whose certificates are checked.

use std::{io, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::Error::NoItemsFound},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::pem;

/// Makes the handshake with a server of this name whose certificate is of one of the CAs in a file, or of the system. The
/// file is read for each connection, so one that was renewed is used by the next.
///
/// # Errors
/// The file cannot be used, or the handshake failed.
pub async fn connect_checked(
    stream: TcpStream,
    host: &str,
    ca: Option<&Path>,
) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots(ca)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn roots(ca: Option<&Path>) -> io::Result<RootCertStore> {
    let Some(path) = ca else {
        return pem::system_roots().map_err(|_| io::Error::other("this machine has no CAs; give the CA with ca"));
    };
    let mut roots = RootCertStore::empty();
    let unusable = |cause: &dyn std::fmt::Display| io::Error::other(format!("{}: {cause}", path.display()));
    let certificates = pem::of_file::<CertificateDer<'static>>(path).map_err(|cause| match cause {
        NoItemsFound => unusable(&"it has no certificate"),
        other => unusable(&other),
    })?;
    for certificate in certificates {
        roots.add(certificate).map_err(|cause| unusable(&cause))?;
    }
    Ok(roots)
}
