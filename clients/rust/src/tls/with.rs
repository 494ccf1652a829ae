//! The handshake, by rustls with ring: TLS 1.2 and 1.3.

use std::{
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem, pem::PemObject as _},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    explain::{Peer, explain},
    failure::TlsFailure,
    settings::Tls,
};

/// How long the first bytes of an HTTP/2 server may take before a connection is used without them.
const FIRST_BYTES_LIMIT: Duration = Duration::from_secs(1);

/// An encrypted connection. A refusal by the daemon may come only after the handshake, so reading explains as well.
#[derive(Debug)]
pub(crate) struct Encrypted {
    stream: Box<tokio_rustls::client::TlsStream<TcpStream>>,
    peer: Peer,
}

/// Makes the handshake on a connection to `host`.
pub(crate) async fn open(tls: &Tls, stream: TcpStream, host: &str, protocol: &str) -> Result<Encrypted, TlsFailure> {
    let mut config = config(tls)?;
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let host = host.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host.clone())
        .map_err(|_| TlsFailure(format!("{host} is neither a DNS name nor an address, as TLS needs it; correct it")))?;
    let identity = tls.identity.as_ref().map(|(certificate, _)| certificate.clone());
    let peer = Peer { host, ca: tls.ca.clone(), identity };
    match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(mut stream) => match heard(&mut stream, protocol).await {
            Ok(()) => Ok(Encrypted { stream: Box::new(stream), peer }),
            Err(error) => Err(explain(&error, &peer)),
        },
        Err(error) => Err(explain(&error, &peer)),
    }
}

/// Waits for the first bytes of a daemon that begins to speak, without taking them. With TLS 1.3 a refusal of the client's
/// certificate comes only after the handshake, and a call that is sent before is told no more than that the connection closed.
async fn heard(stream: &mut tokio_rustls::client::TlsStream<TcpStream>, protocol: &str) -> io::Result<()> {
    if protocol != "h2" {
        return Ok(());
    }
    // A peer that waits for the client is heard later.
    timeout(FIRST_BYTES_LIMIT, stream.fill_buf()).await.map_or(Ok(()), |heard| heard.map(drop))
}

fn config(tls: &Tls) -> Result<ClientConfig, TlsFailure> {
    let setup = |cause| TlsFailure(format!("TLS cannot be set up: {cause}"));
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(setup)?
        .with_root_certificates(roots(tls.ca.as_deref())?);
    let Some((certificate, key)) = &tls.identity else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates("certificate", certificate)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|cause| unusable("key", key, &cause))?;
    builder.with_client_auth_cert(chain, secret).map_err(|cause| match cause {
        rustls::Error::InconsistentKeys(_) => TlsFailure(format!(
            "{} is not the key of the certificate {}; give the two that belong together",
            key.display(),
            certificate.display()
        )),
        other => TlsFailure(format!("the certificate {} cannot be used: {other}; replace it", certificate.display())),
    })
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, TlsFailure> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates("CA", path)? {
                roots.add(certificate).map_err(|cause| {
                    TlsFailure(format!("the CA {} cannot be used: {cause}; replace the file", path.display()))
                })?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            if roots.add_parsable_certificates(found.certs).0 == 0 {
                return Err(TlsFailure(
                    "this system trusts no CA; give the CA of the daemons (--ca, MUSTERD_CA)".to_owned(),
                ));
            }
        }
    }
    Ok(roots)
}

fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFailure> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, pem::Error>>);
    match read {
        Ok(certificates) if certificates.is_empty() => Err(unusable(what, path, &pem::Error::NoItemsFound)),
        Ok(certificates) => Ok(certificates),
        Err(cause) => Err(unusable(what, path, &cause)),
    }
}

fn unusable(what: &str, path: &Path, cause: &pem::Error) -> TlsFailure {
    let path = path.display();
    TlsFailure(match cause {
        pem::Error::Io(cause) => format!("cannot read the {what} {path}: {cause}; correct the path or its rights"),
        pem::Error::NoItemsFound if what == "key" => {
            format!(
                "{path} holds no key in PEM form, or an encrypted one; decrypt it with openssl pkey -in OLD -out NEW"
            )
        }
        pem::Error::NoItemsFound => {
            format!("{path} holds no certificate in PEM form; give a file with a line -----BEGIN CERTIFICATE-----")
        }
        other => format!("the {what} {path} cannot be used: {other:?}; replace the file"),
    })
}

impl AsyncRead for Encrypted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut *self.stream).poll_read(cx, buf);
        read.map_err(|error| match error.get_ref().is_some_and(|cause| cause.is::<rustls::Error>()) {
            true => io::Error::other(explain(&error, &self.peer)),
            false => error,
        })
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
