//! From files to the configurations of both ports, all or nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use sha2::{Digest as _, Sha256};

use super::{
    error::{Error, Part},
    pem,
    validity::{Validity, next_update},
};

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate of the daemon in PEM form, followed by those between it and the CA.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The CAs of client certificates. `None`: clients are not asked for one.
    pub client_ca: Option<PathBuf>,
    /// The client certificates that were revoked.
    pub client_crl: Option<PathBuf>,
    /// Whether a gRPC client may come without a certificate, because it may show a token instead.
    pub client_optional: bool,
}

/// A port of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// gRPC.
    Grpc,
    /// Status page, metrics, probes.
    Http,
}

/// The contents of the files, as read together.
pub(super) struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
    client_crl: Option<Vec<u8>>,
}

impl Contents {
    pub(super) fn read(files: &Files) -> Result<Self, Error> {
        let read = |part, path: &PathBuf| {
            let uid = nix::unistd::geteuid().as_raw();
            fs::read(path).map_err(|cause| Error::Unreadable { part, path: path.clone(), uid, cause })
        };
        Ok(Self {
            certificate: read(Part::Certificate, &files.certificate)?,
            key: read(Part::Key, &files.key)?,
            client_ca: files.client_ca.as_ref().map(|path| read(Part::ClientCa, path)).transpose()?,
            client_crl: files.client_crl.as_ref().map(|path| read(Part::ClientCrl, path)).transpose()?,
        })
    }

    /// Differs if any of the contents does.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut all = Sha256::new();
        for part in [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref(), self.client_crl.as_ref()] {
            all.update(part.map_or([0; 32], |part| Sha256::digest(part).into()));
        }
        all.finalize().into()
    }
}

/// What the ports work with.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) grpc: Arc<ServerConfig>,
    pub(super) http: Arc<ServerConfig>,
    /// Of the daemon's own certificate.
    pub(super) server: Validity,
    /// Of the CA of client certificates that ends first.
    pub(super) client_ca: Option<Validity>,
    /// When the first of the lists of revoked certificates is to be replaced.
    pub(super) next_list: Option<DateTime<Utc>>,
    pub(super) digest: [u8; 32],
}

impl Loaded {
    /// Checks everything that can be checked without a client.
    pub(super) fn new(files: &Files, contents: &Contents, now: DateTime<Utc>) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let chain: Vec<CertificateDer<'static>> = parse(Part::Certificate, &files.certificate, &contents.certificate)?;
        let server = validity(Part::Certificate, &files.certificate, &chain)?
            .ok_or_else(|| Error::NotPem { part: Part::Certificate, path: files.certificate.clone() })?;
        if server.not_after <= now {
            return Err(Error::Expired { path: files.certificate.clone(), at: server.not_after });
        }
        if server.not_before > now {
            return Err(Error::NotYetValid { path: files.certificate.clone(), from: server.not_before });
        }
        let key = key(files, contents, &provider)?;
        let clients = Clients::new(files, contents)?;
        let config = |port| config(files, &provider, (chain.clone(), key.clone_key()), clients.as_ref(), port);
        Ok(Self {
            grpc: Arc::new(config(Port::Grpc)?),
            http: Arc::new(config(Port::Http)?),
            server,
            next_list: clients.as_ref().and_then(|clients| clients.next_list),
            client_ca: clients.map(|clients| clients.validity),
            digest: contents.digest(),
        })
    }
}

/// Reads all parts of a kind; one at least.
fn parse<T: PemObject>(part: Part, path: &Path, text: &[u8]) -> Result<Vec<T>, Error> {
    pem::of_text(text).map_err(|cause| Error::pem(part, path, text, &cause))
}

/// That of the first certificate.
fn validity(part: Part, path: &Path, chain: &[CertificateDer<'_>]) -> Result<Option<Validity>, Error> {
    let of = |certificate| Validity::of(certificate).map_err(|cause| Error::unusable(part, path, &cause));
    chain.first().map(|first| of(first)).transpose()
}

fn key(files: &Files, contents: &Contents, provider: &CryptoProvider) -> Result<PrivateKeyDer<'static>, Error> {
    let read = PrivateKeyDer::from_pem_slice(&contents.key);
    let key = read.map_err(|cause| Error::pem(Part::Key, &files.key, &contents.key, &cause))?;
    pem::check_key(&key, provider).map_err(|cause| Error::unusable(Part::Key, &files.key, &cause))?;
    Ok(key)
}

/// How client certificates are checked.
struct Clients {
    roots: Arc<RootCertStore>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    validity: Validity,
    next_list: Option<DateTime<Utc>>,
}

impl Clients {
    fn new(files: &Files, contents: &Contents) -> Result<Option<Self>, Error> {
        let Some((path, text)) = files.client_ca.as_ref().zip(contents.client_ca.as_ref()) else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        let mut first_to_end: Option<Validity> = None;
        for certificate in parse::<CertificateDer<'static>>(Part::ClientCa, path, text)? {
            let unusable = |cause: String| Error::unusable(Part::ClientCa, path, &cause);
            let validity = Validity::of(&certificate).map_err(unusable)?;
            if first_to_end.is_none_or(|first| validity.not_after < first.not_after) {
                first_to_end = Some(validity);
            }
            roots.add(certificate).map_err(|cause| Error::unusable(Part::ClientCa, path, &cause))?;
        }
        let validity = first_to_end.ok_or_else(|| Error::NotPem { part: Part::ClientCa, path: path.clone() })?;
        let revoked: Vec<CertificateRevocationListDer<'static>> =
            match files.client_crl.as_ref().zip(contents.client_crl.as_ref()) {
                Some((path, text)) => parse(Part::ClientCrl, path, text)?,
                None => Vec::new(),
            };
        let next_list = revoked.iter().filter_map(|list| next_update(list)).min();
        Ok(Some(Self { roots: Arc::new(roots), revoked, validity, next_list }))
    }

    fn verifier(
        &self,
        files: &Files,
        provider: &Arc<CryptoProvider>,
        port: Port,
    ) -> Result<Arc<dyn ClientCertVerifier>, Error> {
        let roots = Arc::clone(&self.roots);
        let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
        let builder = builder.with_crls(self.revoked.iter().cloned());
        let builder = match port {
            Port::Grpc if !files.client_optional => builder,
            Port::Grpc | Port::Http => builder.allow_unauthenticated(),
        };
        // The roots are not empty, so what is refused here is the list.
        let path = files.client_crl.as_ref().or(files.client_ca.as_ref()).unwrap_or(&files.certificate);
        builder.build().map_err(|cause| Error::unusable(Part::ClientCrl, path, &cause))
    }
}

fn config(
    files: &Files,
    provider: &Arc<CryptoProvider>,
    (chain, key): (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
    clients: Option<&Clients>,
    port: Port,
) -> Result<ServerConfig, Error> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider)).with_safe_default_protocol_versions()?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients.verifier(files, provider, port)?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|cause| match cause {
        rustls::Error::InconsistentKeys(_) => {
            Error::Mismatch { key: files.key.clone(), certificate: files.certificate.clone() }
        }
        other => Error::unusable(Part::Certificate, &files.certificate, &other),
    })?;
    config.alpn_protocols = match port {
        Port::Grpc => vec![b"h2".to_vec()],
        Port::Http => vec![b"http/1.1".to_vec()],
    };
    // Early data can be replayed.
    config.max_early_data_size = 0;
    if clients.is_some() {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}
