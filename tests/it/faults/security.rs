//! Daemons that know every caller: TLS on each connection, a policy, and a client certificate for each client.
//!
//! The links between them pass bytes that they do not understand, and cut and lose them as ever.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use musterd_client::{Client, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use tonic::transport::{Channel, Endpoint};

use crate::{
    cli::musterd,
    harness::{
        daemon::{DAEMON_BOUND, Daemon, is_tls_asked_for},
        scratch::Scratch,
        secured::connector,
        wait::wait_until,
    },
};

/// How long a connection may take: a build for tests is not optimized.
const HANDSHAKE: Duration = Duration::from_secs(5);

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
    /// That of all worlds if `MUSTERD_FAULTS_TLS=1` asks for it, with a certificate for these further names of daemons.
    pub(crate) async fn if_asked_for(names: &[&str]) -> Option<Arc<Self>> {
        if is_tls_asked_for() { Some(Arc::new(Self::new(names).await)) } else { None }
    }

    /// Makes the files that daemons are started with.
    pub(crate) async fn new(names: &[&str]) -> Self {
        let files = Scratch::in_memory();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "the CA of the clients");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let clients = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let security = Self { files, clients };
        let directory = security.directory();
        let mut command = vec!["security", "init", &directory];
        names.iter().for_each(|name| command.extend(["--name", name]));
        let made = musterd(&command).await;
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
        // A call gives up after half a second as ever. A connection does not: of handshakes that are given up and begun again, a
        // loaded machine completes none.
        endpoint.clone().connect_timeout(HANDSHAKE).connect_with_connector_lazy(connector(&self.tls(client), address))
    }
}
