//! Connections of the daemon to other HTTPS servers, whose certificates are checked.

use std::{io, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

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
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() {
            Err(io::Error::other("this machine has no CAs; give the CA with ca"))
        } else {
            Ok(roots)
        };
    };
    let unusable = |cause: &dyn std::fmt::Display| io::Error::other(format!("{}: {cause}", path.display()));
    for certificate in CertificateDer::pem_file_iter(path).map_err(|cause| unusable(&cause))? {
        let certificate = certificate.map_err(|cause| unusable(&cause))?;
        roots.add(certificate).map_err(|cause| unusable(&cause))?;
    }
    if roots.is_empty() { Err(unusable(&"it has no certificate")) } else { Ok(roots) }
}
