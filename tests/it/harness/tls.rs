//! A PostgreSQL that speaks TLS, and the certificates for it, made for each run.
//!
//! The server listens on 127.0.0.1; its certificate is for `localhost` alone, so that the address is a wrong name for
//! it. The user decides whether and how a session may log in (see [`RULES`]).

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Child,
};

use musterd::local::{Durability, LocalServer};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio_postgres::Client;
use x509_cert::der::Decode as _;

use super::{
    postgres::{BOUND, options, program_of, spawn_server_with, try_connect},
    registry::run,
    scratch::Scratch,
    wait::wait_until,
};

/// The password of [`SCRAM`], with what a URL has to escape.
pub(crate) const PASSWORD: &str = "s3cret@/?";
/// A user with a password, through TLS only.
pub(crate) const SCRAM: &str = "scram";
/// A user with a certificate, through TLS only.
pub(crate) const CERTIFIED: &str = "certified";
/// A user without a password, with TLS or without.
pub(crate) const OPEN: &str = "open";

const RULES: &str = "\
local   all musterd                trust
hostssl all scram     127.0.0.1/32 scram-sha-256
hostssl all certified 127.0.0.1/32 cert
host    all open      127.0.0.1/32 trust
";

/// An authority, which signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// The key of its own certificate.
    pub(crate) fn key_pem(&self) -> String {
        self.0.key().serialize_pem()
    }

    /// A list that revokes one certificate of this authority, as PEM text.
    pub(crate) fn revoke(&self, certificate: &str) -> String {
        self.revoke_until(certificate, (2050, 1, 1))
    }

    /// The same, to be replaced at this time.
    pub(crate) fn revoke_until(&self, certificate: &str, (year, month, day): (i32, u8, u8)) -> String {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let serial = x509_cert::Certificate::from_der(&der).unwrap().tbs_certificate.serial_number;
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial.as_bytes()),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(year, month, day),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }

    /// A certificate with its key, as two texts, for these names and this common name.
    pub(crate) fn sign(&self, names: &[&str], common_name: &str, is_expired: bool) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        if is_expired {
            (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 2, 2));
        }
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

/// The server and its files; killed when dropped.
pub(crate) struct TlsPostgres {
    child: Child,
    port: u16,
    socket_url: String,
    data_dir: PathBuf,
    pub(crate) authority: Authority,
    _scratch: Scratch,
}

impl TlsPostgres {
    /// Starts a server with a good certificate.
    pub(crate) async fn start() -> Self {
        let scratch = Scratch::in_memory();
        let data_dir = scratch.path().to_path_buf();
        let server = LocalServer::start(options(&data_dir, Durability::Fast)).await.unwrap();
        let url = server.database_url().to_owned();
        let program = program_of(&data_dir);
        server.stop().await;

        let cluster = data_dir.join("postgres");
        fs::write(cluster.join("pg_hba.conf"), RULES).unwrap();
        let authority = Authority::new("the CA of the test");
        let (certificate, key) = authority.sign(&["localhost"], "localhost", false);
        write(&cluster, "server.crt", &certificate);
        write(&cluster, "server.key", &key);
        write(&cluster, "clients.crt", &authority.pem());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            "password_encryption=scram-sha-256".to_owned(),
        ];
        let child = spawn_server_with(&program, &data_dir, &settings);
        let socket_url = url.replace(":5432/", &format!(":{port}/"));
        let server = Self { child, port, socket_url, data_dir, authority, _scratch: scratch };
        let admin = server.admin().await;
        // Not on the command line, so that it can be changed while the server runs.
        for setting in ["ssl = on", "ssl_ca_file = 'clients.crt'"] {
            run(&admin, &format!("ALTER SYSTEM SET {setting}")).await;
        }
        for user in [SCRAM, CERTIFIED, OPEN] {
            run(&admin, &format!("CREATE ROLE {user} SUPERUSER LOGIN PASSWORD '{PASSWORD}'")).await;
        }
        server.reload("ssl", "on").await;
        server
    }

    /// A superuser, through the socket.
    pub(crate) async fn admin(&self) -> Client {
        wait_until("the server answers", BOUND, async || {
            try_connect(&self.socket_url).await.map_err(|error| error.to_string())
        })
        .await
    }

    /// Changes a setting of the running server, and waits until new connections are treated so.
    pub(crate) async fn set(&self, name: &str, value: &str) {
        run(&self.admin().await, &format!("ALTER SYSTEM SET {name} = '{value}'")).await;
        self.reload(name, value).await;
    }

    async fn reload(&self, name: &str, value: &str) {
        run(&self.admin().await, "SELECT pg_reload_conf()").await;
        // A new session starts from what the postmaster has taken over.
        wait_until("the server has read its settings", BOUND, async || {
            let row = self.admin().await.query_one(&format!("SHOW {name}"), &[]).await.unwrap();
            let shown: String = row.get(0);
            if shown == value { Ok(()) } else { Err(shown) }
        })
        .await;
    }

    /// Gives the running server another certificate, under a name of its own.
    pub(crate) async fn set_certificate(&self, name: &str, (certificate, key): (String, String)) {
        let (certificate_file, key_file) = (format!("{name}.crt"), format!("{name}.key"));
        write(&self.data_dir.join("postgres"), &certificate_file, &certificate);
        write(&self.data_dir.join("postgres"), &key_file, &key);
        run(&self.admin().await, &format!("ALTER SYSTEM SET ssl_key_file = '{key_file}'")).await;
        self.set("ssl_cert_file", &certificate_file).await;
    }

    /// Writes a file for clients, and returns where it is.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.data_dir.join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The address of its database for a user, by a host and with options.
    pub(crate) fn url(&self, user: &str, host: &str, options: &str) -> String {
        let password = if user == SCRAM { ":s3cret%40%2F%3F" } else { "" };
        format!("postgres://{user}{password}@{host}:{}/musterd?{options}", self.port)
    }
}

impl Drop for TlsPostgres {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGQUIT);
        let _ = self.child.wait();
    }
}

/// Writes a file as PostgreSQL requires: readable by its owner only.
fn write(cluster: &Path, name: &str, content: &str) {
    let path = cluster.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    let owner = fs::metadata(cluster).unwrap();
    chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
}
