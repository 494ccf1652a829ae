//! TLS on the daemon's own ports: set up by the program itself, used by its commands and by the client library, replaced
//! while calls go on, and attacked.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use musterd_client::{Choice, Client, Tls};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::{
    cli::musterd,
    harness::{
        daemon::{DAEMON_BOUND, Daemon},
        postgres::TestDatabase,
        scratch::Scratch,
        secured::Secured,
        tls::Authority,
        wait::wait_until,
    },
};

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| !output.stdout.is_empty())
        || Command::new(program).arg("version").output().is_ok_and(|output| output.status.success())
}

fn said(command: &mut Command) -> (bool, String) {
    let output = command.stdin(std::process::Stdio::null()).output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_reach_a_secured_daemon_or_explain_the_refusal() {
    let secured = Secured::start(true, &[]).await;
    let status = secured.operator(&["status"]).await;
    assert_eq!(status.code, Some(0), "{status:?}");
    let checked = secured.operator(&["check"]).await;
    assert!(checked.code == Some(0) && checked.stdout.contains("HTTP/2 over TLS"), "{checked:?}");
    assert!(
        checked.stdout.lines().any(|line| line.contains("http ") && line.contains("says it is ready")),
        "{checked:?}"
    );

    let (address, ca) = (secured.address(), secured.path("ca.pem"));
    let foreign = secured.files.path().join("foreign.pem");
    fs::write(&foreign, Authority::new("another CA").pem()).unwrap();
    let plain = format!("http://{}", secured.daemon.grpc_addr);
    for (flags, part) in [
        (vec!["--addr", &address, "--ca", &ca], "asks for a client certificate"),
        (vec!["--addr", &address, "--ca", foreign.to_str().unwrap()], "no CA in "),
        (vec!["--addr", &address, "--ca", "/nonexistent.pem"], "cannot read the CA /nonexistent.pem: "),
        (vec!["--addr", &address, "--ca", &ca, "--cert", &ca], "holds no key in PEM form"),
        (vec!["--addr", &plain], ""),
    ] {
        let refused = musterd(&[&["epoch", "show", "--timeout", "2s"], &flags[..]].concat()).await;
        assert_eq!(refused.code, Some(3), "{flags:?}: {refused:?}");
        assert!(refused.complaint().contains(part), "{flags:?}: {refused:?}");
    }
    let (http, certificate) = (secured.daemon.http_addr.clone(), secured.path("server.pem"));
    let healthy = musterd(&["healthcheck", "--http-addr", &http, "--tls-cert", &certificate]).await;
    assert_eq!(healthy.code, Some(0), "{healthy:?}");
    assert_eq!(musterd(&["healthcheck", "--http-addr", &http, "--timeout", "1s"]).await.code, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_and_curl_find_modern_tls_without_resumption_only() {
    if !is_there("openssl") || !is_there("curl") {
        return;
    }
    let secured = Secured::start(true, &[]).await;
    let openssl = |more: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &secured.daemon.grpc_addr, "-CAfile", &secured.path("ca.pem")]);
        command.args(["-verify_return_error", "-ign_eof", "-alpn", "h2"]).args(more);
        said(Command::new("timeout").arg("5").arg(command.get_program()).args(command.get_args()))
    };
    let (certificate, key) = (secured.path("operator.pem"), secured.path("operator.key"));
    let identity = ["-cert", certificate.as_str(), "-key", key.as_str()];
    for (version, word) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
        let (_, text) = openssl(&[&[version], &identity[..]].concat());
        assert!(text.contains("Verify return code: 0 (ok)") && text.contains(word), "{text}");
        assert!(text.contains("ALPN protocol: h2") && !text.contains("TLS session ticket"), "{text}");
        assert!(text.contains("Compression: NONE") && !text.contains("Early data was accepted"), "{text}");
    }
    let (_, old) = openssl(&[&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], &identity[..]].concat());
    assert!(old.contains("alert protocol version") || old.contains("alert handshake failure"), "{old}");
    let (_, weak) = openssl(&[&["-tls1_2", "-cipher", "AES128-SHA"], &identity[..]].concat());
    assert!(weak.contains("handshake failure"), "{weak}");

    // Probes of the HTTP port have no certificate.
    let url = format!("https://{}/readyz", secured.daemon.http_addr);
    let (ok, text) = said(Command::new("curl").args(["-sS", "--cacert", &secured.path("ca.pem"), &url]));
    assert!(ok && text.starts_with("ready"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_replaced_under_load_is_shown_on_both_ports_without_a_failed_call() {
    let secured = Secured::start(true, &[]).await;
    let registered = secured.client();
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    // Half of them keep their connection, half make one for each call.
    let callers: Vec<_> = (0..16_u32)
        .map(|caller| {
            let (stop, calls, kept) = (Arc::clone(&stop), Arc::clone(&calls), secured.client());
            let (address, tls) = (secured.address(), secured.tls());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let fresh = || Client::builder().daemons([address.clone()]).tls(tls.clone()).build().unwrap();
                    let client = if caller % 2 == 0 { kept.clone() } else { fresh() };
                    let error = client.resolve("absent", &Choice::default()).await.unwrap_err();
                    assert_eq!(error.reason().name(), "UNKNOWN_LOGICAL_ID", "{error}");
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let directory = secured.files.path().join("tls");
    for round in 0..2 {
        let before = secured.shown(&secured.daemon.grpc_addr, b"h2").await;
        let begun = calls.load(Ordering::Relaxed);
        let renewed = musterd(&["cert", "server", directory.to_str().unwrap(), "localhost", "127.0.0.1"]).await;
        assert_eq!(renewed.code, Some(0), "{renewed:?}");
        for (port, protocol) in [(&secured.daemon.grpc_addr, &b"h2"[..]), (&secured.daemon.http_addr, b"http/1.1")] {
            wait_until("the port shows the new certificate", DAEMON_BOUND, async || {
                if secured.shown(port, protocol).await == before { Err(round) } else { Ok(()) }
            })
            .await;
        }
        wait_until("calls go on", DAEMON_BOUND, async || {
            let made = calls.load(Ordering::Relaxed) - begun;
            if made > 50 { Ok(()) } else { Err(made) }
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(registered.ready(Duration::from_secs(5)).await.is_ok());
    assert_eq!(secured.metric("musterd_security_reloads_total{what=\"tls\",outcome=\"changed\"}").await, Some(2.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_leave_the_previous_ones_in_use_and_are_a_problem() {
    let secured = Secured::start(false, &[]).await;
    let problem = async |text: &str| {
        let status = secured.operator(&["status", "-o", "json"]).await;
        status.stdout.contains("security_not_reloaded") && status.stdout.contains(text)
    };
    let good = fs::read(secured.path("server.pem")).unwrap();
    let (foreign, _) = Authority::new("another CA").sign(&["localhost"], "x", false);
    for (bad, text) in [
        (&b"garbage"[..], "holds no certificate in PEM form"),
        (b"", "holds no certificate in PEM form"),
        (foreign.as_bytes(), "is not the key of the certificate"),
    ] {
        fs::write(secured.path("server.pem"), bad).unwrap();
        wait_until(
            "the problem is reported",
            DAEMON_BOUND,
            async || if problem(text).await { Ok(()) } else { Err(()) },
        )
        .await;
        assert!(secured.client().ready(Duration::from_secs(5)).await.is_ok(), "new connections use the previous files");
    }
    fs::write(secured.path("server.pem"), &good).unwrap();
    wait_until("the problem is gone", DAEMON_BOUND, async || if problem("").await { Err(()) } else { Ok(()) }).await;
    let log = secured.daemon.log();
    let lines = log.lines().filter(|line| line.contains("TLS files not reloaded")).count();
    assert_eq!(lines, 2, "each failure is logged once: {log}");
    assert!(secured.metric("musterd_security_reloads_total{what=\"tls\",outcome=\"failed\"}").await.unwrap() >= 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_that_are_revoked_expired_or_foreign_are_refused() {
    let secured = Secured::start(true, &[]).await;
    let authority = Authority::new("the CA of clients");
    let (ca, crl) = (secured.path("clients.pem"), secured.path("clients.crl"));
    let good = authority.sign(&["actor"], "actor", false);
    let revoked = authority.sign(&["thief"], "thief", false);
    fs::write(&ca, authority.pem()).unwrap();
    fs::write(&crl, authority.revoke(&revoked.0)).unwrap();
    let (certificate, key) = (secured.path("server.pem"), secured.path("server.key"));
    let database = TestDatabase::create().await;
    let daemon = Daemon::spawn(&[
        "--database-url",
        database.url(),
        "--tls-cert",
        &certificate,
        "--tls-key",
        &key,
        "--tls-client-ca",
        &ca,
        "--tls-client-crl",
        &crl,
    ])
    .await;
    let client = |(certificate, key): &(String, String)| {
        let (at, key_at) = (secured.path("client.pem"), secured.path("client.key"));
        fs::write(&at, certificate).unwrap();
        fs::write(&key_at, key).unwrap();
        let tls = Tls::new().ca(secured.path("ca.pem")).identity(at, key_at);
        Client::builder().daemons([format!("https://{}", daemon.grpc_addr)]).tls(tls).build().unwrap()
    };
    let accepted = client(&good);
    wait_until("the daemon is ready", DAEMON_BOUND, async || accepted.ready(Duration::from_secs(2)).await).await;
    for (what, refused) in [
        ("revoked", revoked),
        ("expired", authority.sign(&["late"], "late", true)),
        ("foreign", Authority::new("another CA").sign(&["stranger"], "stranger", false)),
    ] {
        let error = client(&refused).ready(Duration::from_secs(2)).await.unwrap_err();
        assert!(error.to_string().contains("refuses the certificate"), "{what}: {error}");
    }
    let log = daemon.log();
    assert!(log.contains("TLS handshake failed") && log.contains("revoked"), "{log}");
}

/// Connections from an address of this machine that stay in the handshake.
async fn stalled(daemon: &Daemon, from: &str, count: usize, sent: &[u8]) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(from.parse().unwrap()).unwrap();
        let mut stream = socket.connect(daemon.grpc_addr.parse().unwrap()).await.unwrap();
        stream.write_all(sent).await.unwrap();
        held.push(stream);
    }
    held
}

/// A ClientHello as a client sends it.
fn client_hello() -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_handshakes_keep_no_other_client_out_and_end_in_time() {
    let secured = Secured::start(false, &[]).await;
    let hello = client_hello();
    // Silent, within a record, and after a ClientHello, which takes a slot; more of these than there are slots.
    let mut held = stalled(&secured.daemon, "127.0.0.2:0", 300, b"").await;
    held.extend(stalled(&secured.daemon, "127.0.0.3:0", 100, &hello[..20]).await);
    held.extend(stalled(&secured.daemon, "127.0.0.4:0", 200, &hello).await);
    for _ in 0..20 {
        secured.client().ready(Duration::from_secs(2)).await.unwrap();
    }
    let garbage = stalled(&secured.daemon, "127.0.0.5:0", 20, b"GET / HTTP/1.1\r\n\r\n").await;
    for mut stream in held.into_iter().chain(garbage) {
        let mut received = Vec::new();
        let ended = tokio::time::timeout(DAEMON_BOUND, stream.read_to_end(&mut received)).await;
        assert!(ended.is_ok(), "a stalled connection is kept");
    }
    // A client sees its connection end a moment before the daemon counts it.
    let count = async |outcome| {
        let name = format!("musterd_tls_handshakes_total{{port=\"grpc\",outcome=\"{outcome}\"}}");
        secured.metric(&name).await.unwrap_or_default()
    };
    wait_until("each stalled handshake is counted", DAEMON_BOUND, async || {
        let counted = (count("timed_out").await, count("failed").await);
        if counted.0 >= 600.0 && counted.1 >= 20.0 { Ok(()) } else { Err(counted) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_address_is_served_only_with_what_is_missing_waived() {
    let serve = async |flags: &[&str]| musterd(&[&["serve", "--http-addr", "127.0.0.1:0"], flags].concat()).await;
    let open = ["--grpc-addr", "0.0.0.0:0"];
    for (flags, end) in [
        (&[][..], "accept the risk with --insecure-no-tls --insecure-no-auth"),
        (&["--insecure-no-tls"], "accept the risk with --insecure-no-auth"),
        (&["--insecure-no-auth"], "accept the risk with --insecure-no-tls"),
    ] {
        let refused = serve(&[&open[..], flags].concat()).await;
        assert_eq!(refused.code, Some(78), "{refused:?}");
        assert!(refused.complaint().ends_with(end), "{refused:?}");
    }
    let database = TestDatabase::create().await;
    let waived = [&open[..], &["--insecure-no-tls", "--insecure-no-auth", "--database-url", database.url()]].concat();
    let daemon = Daemon::start_with(&waived).await;
    assert_eq!(daemon.metric("musterd_insecure{what=\"tls\"}").await, Some(1.0));
    assert_eq!(daemon.metric("musterd_insecure{what=\"auth\"}").await, Some(1.0));
    assert!(daemon.log().contains("other machines can reach this daemon without protection"));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_at_the_start_are_named_with_the_fix() {
    let files = Scratch::in_memory();
    let directory = files.path().join("tls");
    assert_eq!(musterd(&["security", "init", directory.to_str().unwrap()]).await.code, Some(0));
    let again = musterd(&["security", "init", directory.to_str().unwrap()]).await;
    assert!(again.code == Some(2) && again.complaint().contains("exists, and is not replaced"), "{again:?}");
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let authority = Authority::new("a CA");
    let (expired, expired_key) = authority.sign(&["localhost"], "x", true);
    fs::write(path("old.pem"), expired).unwrap();
    fs::write(path("old.key"), expired_key).unwrap();
    for (certificate, key, part) in [
        ("missing.pem", "server.key", "--tls-cert: cannot read "),
        ("server.key", "server.key", "holds no certificate in PEM form; give a file with a line"),
        ("server.pem", "server.pem", "--tls-key: "),
        ("server.pem", "operator.key", "is not the key of the certificate"),
        ("old.pem", "old.key", "has expired at 2002-02-02T00:00:00Z; renew it"),
    ] {
        let flags = ["--tls-cert", &path(certificate), "--tls-key", &path(key)];
        let checked = musterd(&[&["config", "check"], &flags[..]].concat()).await;
        assert_eq!(checked.code, Some(78), "{checked:?}");
        assert!(checked.complaint().contains(part), "{checked:?}");
    }
    let half = musterd(&["config", "check", "--tls-cert", &path("server.pem")]).await;
    assert_eq!(half.complaint(), "--tls-cert is given without --tls-key; give both");
    let shown = musterd(&["cert", "show", &path("server.pem"), "-o", "json"]).await;
    assert!(shown.stdout.contains("localhost") && shown.stdout.contains("musterd CA"), "{shown:?}");
    assert_keys_are_private(&directory);
}

fn assert_keys_are_private(directory: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    for key in ["ca.key", "server.key", "operator.key"].map(|name| directory.join(name)) {
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600, "{}", key.display());
    }
}
