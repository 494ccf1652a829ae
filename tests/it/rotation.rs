//! Certificates and CAs that are replaced as Kubernetes replaces a Secret, while 200 connections make every kind of call. No
//! call of a client that reads its files again fails.

use std::{
    fs,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::TryStreamExt as _;
use musterd_client::{Choice, Client, Filter, Kind, Register, State, Step, Tls};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::time::{sleep, timeout};

use crate::harness::{
    calls::Calls,
    daemon::{DAEMON_BOUND, Daemon},
    postgres::TestDatabase,
    secured::shown,
    tls::Authority,
    volume::{Content, Volume},
    wait::wait_until,
};

/// Connections under load.
const CONNECTIONS: usize = 200;
/// How long a connection rests between two calls: the machine has other work.
const REST: Duration = Duration::from_millis(200);

/// The files of daemon and clients: certificates of one authority, and the CAs that both sides accept.
fn secret(signer: &Authority, accepted: &[&Authority]) -> Content {
    let server = signer.sign(&["localhost", "127.0.0.1"], "musterd", false);
    let client = signer.sign(&["client"], "client", false);
    let cas = accepted.iter().map(|authority| authority.pem()).collect::<String>();
    vec![
        ("ca.pem", cas),
        ("server.pem", server.0),
        ("server.key", server.1),
        ("client.pem", client.0),
        ("client.key", client.1),
    ]
}

/// The certificate of the daemon in these files.
fn of_server(content: &Content) -> Vec<u8> {
    CertificateDer::from_pem_slice(content[1].1.as_bytes()).unwrap().to_vec()
}

/// A daemon with these files, and its clients.
#[derive(Clone)]
struct Scene {
    grpc: String,
    http: String,
    files: [String; 3],
}

impl Scene {
    fn client(&self) -> Client {
        let [ca, certificate, key] = &self.files;
        let tls = Tls::new().ca(ca).identity(certificate, key);
        let builder = Client::builder().daemons([format!("https://{}", self.grpc)]).tls(tls);
        builder.timeout(Duration::from_secs(30)).build().unwrap()
    }

    /// Waits until both ports show a certificate.
    async fn until_shown(&self, expected: &[u8]) {
        let [ca, certificate, key] = &self.files;
        for (port, protocol) in [(&self.grpc, &b"h2"[..]), (&self.http, b"http/1.1")] {
            wait_until("the port shows the new certificate", DAEMON_BOUND, async || {
                if shown(port, protocol, ca, certificate, key).await == expected { Ok(()) } else { Err(port) }
            })
            .await;
        }
    }
}

async fn daemon(volume: &Volume, database: &TestDatabase) -> (Daemon, Scene) {
    let [certificate, key, ca] = ["server.pem", "server.key", "ca.pem"].map(|name| volume.path(name));
    let flags = ["--tls-cert", &certificate, "--tls-key", &key, "--tls-client-ca", &ca];
    let daemon = Daemon::spawn(&[&["--database-url", database.url()], &flags[..]].concat()).await;
    let files = ["ca.pem", "client.pem", "client.key"].map(|name| volume.path(name));
    let scene = Scene { grpc: daemon.grpc_addr.clone(), http: daemon.http_addr.clone(), files };
    let client = scene.client();
    wait_until("the daemon is ready", DAEMON_BOUND, async || client.ready(Duration::from_secs(2)).await).await;
    (daemon, scene)
}

/// Makes calls of the kind of this number until told to stop: some on one connection, some on a new one for each call.
async fn call(number: usize, scene: Scene, seen: Arc<Calls>) {
    let kept = scene.client();
    let name = format!("svc-{number}");
    if number.is_multiple_of(6) {
        return hold(&kept, &name, &seen).await;
    }
    if number % 6 == 1 {
        return watch(&kept, &seen).await;
    }
    // A handshake costs what hundreds of calls cost.
    let (is_fresh, rest) = if number.is_multiple_of(4) { (true, 5 * REST) } else { (false, REST) };
    while !seen.stop.load(Ordering::Relaxed) {
        let client = if is_fresh { scene.client() } else { kept.clone() };
        match number % 6 {
            2 => seen.note("resolve", client.resolve("anchor", &Choice::default()).await),
            3 => seen.note("list", client.list(Filter::logical_id("anchor")).try_collect::<Vec<_>>().await),
            4 => seen.note("who_am_i", client.who_am_i().await),
            _ => {
                let registered = client.register(Register::new(&*name)).await;
                let closed = match registered {
                    // On a loaded machine the database may take longer than a client waits; the lease ends by itself then.
                    Ok(registered) => match registered.close(Duration::ZERO).await {
                        Err(slow) if matches!(slow.kind(), Kind::Silent | Kind::Unavailable) => Ok(()),
                        closed => closed,
                    },
                    Err(error) => Err(error),
                };
                seen.note("register and close", closed);
            }
        }
        sleep(rest).await;
    }
}

/// Keeps a lease, which must never be lost.
async fn hold(client: &Client, name: &str, seen: &Calls) {
    let registered = client.register(Register::new(name).ttl(Duration::from_secs(15))).await;
    let Ok(registered) = registered else { return seen.note("register", registered.map(drop)) };
    let lease = registered.lease();
    while !seen.stop.load(Ordering::Relaxed) {
        sleep(REST).await;
        let state = *registered.states().borrow();
        if !matches!(&state, State::Held(_) | State::Doubtful(_)) || registered.lease() != lease {
            seen.failures.lock().unwrap().push(format!("lease: {state:?}"));
        }
        seen.made.fetch_add(1, Ordering::Relaxed);
    }
}

/// Keeps a watch, which must never be interrupted.
async fn watch(client: &Client, seen: &Calls) {
    let mut watch = client.watch(&Filter::logical_id("anchor"));
    while !seen.stop.load(Ordering::Relaxed) {
        // A bookmark comes every few seconds.
        match timeout(DAEMON_BOUND, watch.next()).await {
            Ok(Ok(Step::Interrupted(error)) | Err(error)) => {
                seen.failures.lock().unwrap().push(format!("watch: {error}"));
            }
            Ok(Ok(_)) => drop(seen.made.fetch_add(1, Ordering::Relaxed)),
            Err(_) => seen.failures.lock().unwrap().push("watch: silence".to_owned()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_while_certificate_key_and_ca_are_rotated() {
    let (first, second) = (Authority::new("the first CA"), Authority::new("the second CA"));
    let mut volume = Volume::new(&secret(&first, &[&first]));
    let database = TestDatabase::create().await;
    let (daemon, scene) = daemon(&volume, &database).await;
    let _anchor = scene.client().register(Register::new("anchor")).await.unwrap();
    let seen = Arc::new(Calls::default());
    let callers = (0..CONNECTIONS).map(|number| tokio::spawn(call(number, scene.clone(), Arc::clone(&seen))));
    let callers: Vec<_> = callers.collect();
    // All of them connect at once, and some give up in the middle of a handshake: that is not what is tried here.
    wait_until("every connection makes calls", 3 * DAEMON_BOUND, async || {
        let made = seen.made.load(Ordering::Relaxed);
        if made > 6 * CONNECTIONS as u64 { Ok(()) } else { Err(made) }
    })
    .await;
    seen.failures.lock().unwrap().clear();
    for content in [
        secret(&first, &[&first]),
        secret(&first, &[&first, &second]),
        secret(&second, &[&first, &second]),
        secret(&second, &[&second]),
        secret(&second, &[&second]),
    ] {
        let begun = seen.made.load(Ordering::Relaxed);
        volume.swap(&content);
        scene.until_shown(&of_server(&content)).await;
        wait_until("every connection makes calls", DAEMON_BOUND, async || {
            let made = seen.made.load(Ordering::Relaxed) - begun;
            if made > 2 * CONNECTIONS as u64 { Ok(()) } else { Err(made) }
        })
        .await;
    }
    seen.stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let failures = seen.failures.lock().unwrap().clone();
    assert!(failures.is_empty(), "{} failures: {:?}", failures.len(), failures.iter().take(5).collect::<Vec<_>>());
    // A client of the first CA has come too late.
    let late = secret(&first, &[&second]);
    for (name, text) in &late[3..] {
        fs::write(volume.at(&format!("late-{name}")), text).unwrap();
    }
    let files = [volume.path("ca.pem"), volume.path("late-client.pem"), volume.path("late-client.key")];
    let error = Scene { files, ..scene }.client().ready(Duration::from_secs(2)).await.unwrap_err();
    assert!(error.to_string().contains("refuses the certificate"), "{error}");
    assert!(timeout(DAEMON_BOUND, daemon.terminate()).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_volume_that_cannot_be_used_is_logged_once_and_changes_nothing() {
    let authority = Authority::new("the CA");
    let good = secret(&authority, &[&authority]);
    let mut volume = Volume::new(&good);
    let database = TestDatabase::create().await;
    let (daemon, scene) = daemon(&volume, &database).await;
    let with = |name: &str, text: &str| {
        let mut content = good.clone();
        content.iter_mut().find(|(at, _)| *at == name).unwrap().1 = text.to_owned();
        content
    };
    let (expired, key) = authority.sign(&["localhost", "127.0.0.1"], "musterd", true);
    let mut late = with("server.pem", &expired);
    late[2].1 = key;
    let other = secret(&authority, &[&authority]);
    for (content, part) in [
        (with("server.key", &other[2].1), "is not the key of the certificate"),
        (with("server.pem", "garbage"), "holds no certificate in PEM form"),
        (with("server.key", ""), "server.key"),
        (with("ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "ca.pem"),
        (late, "expired"),
    ] {
        let lines = |part: &str| {
            let log = daemon.log();
            log.lines().filter(|line| line.contains("TLS files not reloaded") && line.contains(part)).count()
        };
        let before = lines(part);
        volume.swap(&content);
        wait_until("the failure is logged", DAEMON_BOUND, async || {
            if lines(part) > before { Ok(()) } else { Err(daemon.log()) }
        })
        .await;
        // The client has files of its own: the daemon is what is tried here.
        volume.swap(&good);
        assert_eq!(
            shown(&scene.grpc, b"h2", &scene.files[0], &scene.files[1], &scene.files[2]).await,
            of_server(&good)
        );
    }
    // What is right is taken again, and is no change.
    let other = secret(&authority, &[&authority]);
    volume.swap(&other);
    scene.until_shown(&of_server(&other)).await;
}
