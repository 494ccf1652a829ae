//! Daemons that know every caller: TLS on each connection, a policy, and a client certificate for each client.
//!
//! The links between them pass bytes that they do not understand, and cut and lose them as ever.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use musterd_client::{Client, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use crate::{
    cli::musterd,
    harness::{
        daemon::{DAEMON_BOUND, Daemon},
        scratch::Scratch,
        wait::wait_until,
    },
};

/// What the clients of a world may do. None may change what another one owns.
const RULES: &str = r#"
[[rule]]
who = ["cert/client-{number}"]
may = ["register", "resolve", "read", "cluster"]
on = ["*"]
"#;

/// The files of the daemons, and the CA of the clients.
pub(crate) struct Security {
    files: Scratch,
    clients: CertifiedIssuer<'static, KeyPair>,
}

impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Security").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Security {
    /// Makes the files that daemons are started with.
    pub(crate) async fn new() -> Self {
        let files = Scratch::in_memory();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "the CA of the clients");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let clients = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let security = Self { files, clients };
        let made = musterd(&["security", "init", &security.directory()]).await;
        assert_eq!(made.code, Some(0), "{made:?}");
        for (file, more) in [("policy.toml", RULES), ("ca.pem", &security.clients.pem())] {
            let text = fs::read_to_string(security.path(file)).unwrap();
            fs::write(security.path(file), format!("{text}\n{more}")).unwrap();
        }
        security
    }

    fn directory(&self) -> String {
        self.files.path().join("tls").to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join("tls").join(name)
    }

    /// The flags of a daemon.
    pub(crate) fn flags(&self) -> Vec<String> {
        vec!["--security-dir".to_owned(), self.directory()]
    }

    /// Waits until a daemon takes calls.
    pub(crate) async fn wait_ready(&self, daemon: &Daemon) {
        let tls = Tls::new().ca(self.path("ca.pem")).identity(self.path("operator.pem"), self.path("operator.key"));
        let address = format!("https://{}", daemon.grpc_addr);
        let client = Client::builder().daemons([address]).tls(tls).retry_for(Duration::ZERO).build().unwrap();
        wait_until("the secured daemon is ready", DAEMON_BOUND, async || {
            client.ready(Duration::from_secs(2)).await.map_err(|error| format!("{error}\n{}", daemon.log()))
        })
        .await;
    }

    /// The files of a client, `cert/client-ID` to the daemons.
    pub(crate) fn tls(&self, client: u32) -> Tls {
        let (certificate, key) =
            (self.path(&format!("client-{client}.pem")), self.path(&format!("client-{client}.key")));
        if !certificate.exists() {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, format!("client-{client}"));
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let pair = KeyPair::generate().unwrap();
            fs::write(&key, pair.serialize_pem()).unwrap();
            fs::write(&certificate, params.signed_by(&pair, &self.clients).unwrap().pem()).unwrap();
        }
        Tls::new().ca(self.path("ca.pem")).identity(certificate, key)
    }

    /// A connection of a client with its certificate.
    pub(crate) fn connect(&self, endpoint: &Endpoint, address: &str, client: u32) -> Channel {
        let (tls, address): (Tls, SocketAddr) = (self.tls(client), address.parse().unwrap());
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            let tls = tls.clone();
            async move {
                let stream = TcpStream::connect(address).await?;
                let stream = tls.connect(stream, "127.0.0.1", "h2").await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        }))
    }
}
