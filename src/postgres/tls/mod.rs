//! TLS to PostgreSQL: from what a database URL says about it to a connector for the driver.
//!
//! Certificates are read for each connection, as libpq does: a CA or a client certificate that was renewed on disk is
//! used by the next connection, without a restart. Daemons connect rarely, so this costs nothing that can be noticed.
//!
//! The protocol is rustls with ring. What is checked of the server is in [`verify`]; what may be wrong, said for
//! people, in [`error`]. The channel binding of SCRAM (`tls-server-end-point`) is made by `tokio-postgres-rustls`.

mod error;
mod verify;

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::danger::ServerCertVerifier,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio_postgres::{Socket, tls::MakeTlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

pub(super) use self::error::{TlsError, explain};
use self::verify::ChainOnly;
use crate::{
    database_url::{ClientIdentity, Roots, SslMode, TlsOptions, Verification},
    tls::{Unchecked, pem},
};

/// What PostgreSQL calls its protocol where the handshake comes first.
const ALPN: &[u8] = b"postgresql";

/// A connection's bytes, after the handshake.
pub(super) type Stream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// Makes handshakes as a database URL asks for them.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    options: Arc<TlsOptions>,
}

impl Connector {
    pub(super) fn new(options: TlsOptions) -> Self {
        Self { options: Arc::new(options) }
    }

    pub(super) fn options(&self) -> &TlsOptions {
        &self.options
    }

    /// Whether everything is there that a handshake needs.
    pub(super) fn check(&self) -> Result<(), TlsError> {
        client_config(&self.options).map(drop)
    }
}

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Stream;
    type TlsConnect = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;
    type Error = TlsError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Self::TlsConnect, TlsError> {
        let mut connector = MakeRustlsConnect::new(client_config(&self.options)?);
        let Ok(connect) = MakeTlsConnect::<Socket>::make_tls_connect(&mut connector, host);
        Ok(connect)
    }
}

fn client_config(options: &TlsOptions) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?;
    let builder = match options.verification() {
        Verification::ChainAndName(roots) => builder.with_root_certificates(load_roots(roots)?),
        Verification::Chain(roots) => {
            let verifier = ChainOnly::new(load_roots(roots)?, &provider);
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
        Verification::None => {
            let verifier: Arc<dyn ServerCertVerifier> = Arc::new(Unchecked::new(&provider));
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
    };
    let identity = options.identity.as_ref().filter(|_| options.mode > SslMode::Disable);
    let mut config = match identity {
        Some(identity) => {
            let (chain, key) = load_identity(identity, &provider)?;
            builder.with_client_auth_cert(chain, key).map_err(|cause| TlsError::identity(identity, &cause))?
        }
        None => builder.with_no_client_auth(),
    };
    if options.direct {
        config.alpn_protocols = vec![ALPN.to_vec()];
    }
    Ok(config)
}

fn load_roots(roots: &Roots) -> Result<RootCertStore, TlsError> {
    let path = match roots {
        Roots::System => return pem::system_roots().map_err(TlsError::NoSystemRoots),
        Roots::File(path) => path,
    };
    let mut store = RootCertStore::empty();
    for certificate in load_certificates("sslrootcert", path)? {
        let unusable = |cause: rustls::Error| TlsError::unusable("sslrootcert", path, &cause);
        store.add(certificate).map_err(unusable)?;
    }
    Ok(store)
}

fn load_certificates(option: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    pem::of_file(path).map_err(|cause| TlsError::pem(option, path, cause))
}

fn load_identity(
    identity: &ClientIdentity,
    provider: &CryptoProvider,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = load_certificates("sslcert", &identity.certificate)?;
    let key =
        PrivateKeyDer::from_pem_file(&identity.key).map_err(|cause| TlsError::pem("sslkey", &identity.key, cause))?;
    pem::check_key(&key, provider).map_err(|cause| TlsError::unusable("sslkey", &identity.key, &cause))?;
    Ok((chain, key))
}
