//! A daemon with TLS on both ports, set up by the program itself.

use std::{fs, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use musterd_client::{Client, Tls, Token};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint, Uri},
};
use tower::Service;

use super::{
    daemon::{DAEMON_BOUND, Daemon},
    postgres::TestDatabase,
    scratch::Scratch,
    wait::wait_until,
};
use crate::cli::{Ended, musterd};

/// A daemon with TLS on both ports, and the files that `security init` made for it.
pub(crate) struct Secured {
    /// The daemon.
    pub(crate) daemon: Daemon,
    _database: TestDatabase,
    /// Where the files are, in the directory `tls`.
    pub(crate) files: Scratch,
}

impl Secured {
    /// With client certificates required, or not asked for.
    pub(crate) async fn start(is_mutual: bool, more: &[&str]) -> Self {
        let (database, files) = (TestDatabase::create().await, Scratch::in_memory());
        let made = musterd(&["security", "init", files.path().join("tls").to_str().unwrap()]).await;
        assert_eq!((made.code, made.stdout.lines().count()), (Some(0), 9), "{made:?}");
        let path = |name: &str| files.path().join("tls").join(name).to_str().unwrap().to_owned();
        let (certificate, key, ca) = (path("server.pem"), path("server.key"), path("ca.pem"));
        let mut flags = vec!["--database-url", database.url(), "--tls-cert", &certificate, "--tls-key", &key];
        if is_mutual {
            flags.extend(["--tls-client-ca", &ca]);
        }
        flags.extend(more);
        let daemon = Daemon::spawn(&flags).await;
        let secured = Self { daemon, _database: database, files };
        let client = secured.client();
        wait_until("the daemon is ready", DAEMON_BOUND, async || client.ready(Duration::from_secs(2)).await).await;
        secured
    }

    /// With a policy: that of `security init`, and these rules; and a token for each of these names.
    pub(crate) async fn enforced(rules: &str, tokens: &[&str]) -> Self {
        let (database, files) = (TestDatabase::create().await, Scratch::in_memory());
        let directory = files.path().join("tls").to_str().unwrap().to_owned();
        let made = musterd(&["security", "init", &directory]).await;
        assert_eq!(made.code, Some(0), "{made:?}");
        for name in tokens {
            let made = musterd(&["token", "create", &directory, name]).await;
            assert_eq!((made.code, made.stdout), (Some(0), format!("{directory}/{name}.token\n")));
        }
        let policy = files.path().join("tls/policy.toml");
        let text = fs::read_to_string(&policy).unwrap();
        fs::write(&policy, format!("{text}\n{rules}")).unwrap();
        let daemon = Daemon::spawn(&["--database-url", database.url(), "--security-dir", &directory]).await;
        let secured = Self { daemon, _database: database, files };
        let client = secured.client();
        wait_until("the daemon is ready", DAEMON_BOUND, async || client.ready(Duration::from_secs(2)).await).await;
        secured
    }

    /// The token of a name.
    pub(crate) fn token(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.token"))).unwrap().trim().to_owned()
    }

    /// Asks the HTTP port for a path, with these lines of a head and perhaps the certificate of the operator. Returns the
    /// head and the body of the answer.
    pub(crate) async fn ask(&self, path: &str, lines: &[&str], is_operator: bool) -> (String, String) {
        let mut stream = self.http(is_operator).await;
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.to_owned())
    }

    /// A connection to the HTTP port.
    pub(crate) async fn http(&self, is_operator: bool) -> impl AsyncRead + AsyncWrite + Unpin + use<> {
        let address: SocketAddr = self.daemon.http_addr.parse().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let tls = if is_operator { self.tls() } else { Tls::new().ca(self.path("ca.pem")) };
        tls.connect(stream, "127.0.0.1", "http/1.1").await.unwrap()
    }

    /// The path of one of the files.
    pub(crate) fn path(&self, name: &str) -> String {
        self.files.path().join("tls").join(name).to_str().unwrap().to_owned()
    }

    /// Its address for gRPC.
    pub(crate) fn address(&self) -> String {
        format!("https://{}", self.daemon.grpc_addr)
    }

    /// The files of the operator.
    pub(crate) fn tls(&self) -> Tls {
        Tls::new().ca(self.path("ca.pem")).identity(self.path("operator.pem"), self.path("operator.key"))
    }

    /// A client of the operator.
    pub(crate) fn client(&self) -> Client {
        Client::builder().daemons([self.address()]).tls(self.tls()).build().unwrap()
    }

    /// A connection for the services themselves, on which every call shows a token, or the operator's certificate if it is empty.
    pub(crate) async fn channel(&self, token: &str) -> InterceptedService<Channel, Token> {
        let (tls, token) = match token {
            "" => (self.tls(), Token::default()),
            token => (Tls::new().ca(self.path("ca.pem")), Token::text(token)),
        };
        InterceptedService::new(self.with_certificate(tls).await, token)
    }

    /// A connection for the services themselves, with these files.
    pub(crate) async fn with_certificate(&self, tls: Tls) -> Channel {
        let connector = connector(&tls, &self.daemon.grpc_addr);
        let endpoint = Endpoint::from_shared(format!("http://{}", self.daemon.grpc_addr)).unwrap();
        endpoint.connect_with_connector(connector).await.unwrap()
    }

    /// A command of the operator.
    pub(crate) async fn operator(&self, command: &[&str]) -> Ended {
        let (address, ca) = (self.address(), self.path("ca.pem"));
        let (certificate, key) = (self.path("operator.pem"), self.path("operator.key"));
        let flags = ["--addr", &address, "--ca", &ca, "--cert", &certificate, "--cert-key", &key];
        musterd(&[command, &flags].concat()).await
    }

    /// The certificate that a port shows.
    pub(crate) async fn shown(&self, port: &str, protocol: &[u8]) -> Vec<u8> {
        shown(port, protocol, &self.path("ca.pem"), &self.path("operator.pem"), &self.path("operator.key")).await
    }

    /// The value of a metric, by way of a command of the operator.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let (_, answer) = self.ask("/metrics", &[], true).await;
        answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }
}

/// Connects to a daemon with these files, whatever address an endpoint names.
pub(crate) fn connector(
    tls: &Tls,
    address: &str,
) -> impl Service<Uri, Response = impl Read + Write + Unpin + Send + 'static, Error = io::Error, Future: Send> + Send + 'static
{
    let (tls, address) = (tls.clone(), address.to_owned());
    tower::service_fn(move |_: Uri| {
        let (tls, address) = (tls.clone(), address.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            let stream = tls.connect(stream, "127.0.0.1", "h2").await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    })
}

/// The certificate that a port shows to a client with these files.
pub(crate) async fn shown(port: &str, protocol: &[u8], ca: &str, certificate: &str, key: &str) -> Vec<u8> {
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_file_iter(ca).unwrap() {
        roots.add(ca.unwrap()).unwrap();
    }
    let chain = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(port).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}
