//! PgBouncer between a daemon and PostgreSQL: the real program, in each of its modes.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt as _},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::unistd::geteuid;

use crate::{
    cli::musterd,
    harness::{
        actor::{Caller, alive},
        daemon::Daemon,
        postgres::{BOUND, OwnCluster, connect, try_connect},
        registry::get,
        scratch::Scratch,
        wait::wait_until,
    },
};

/// A running PgBouncer; ends when dropped.
struct PgBouncer {
    child: Child,
    port: u16,
    _scratch: Scratch,
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl PgBouncer {
    /// Starts one before a cluster; `settings` go to its configuration.
    async fn start(cluster: &OwnCluster, settings: &str) -> Self {
        let scratch = Scratch::on_disk();
        let directory = scratch.path();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let users = directory.join("users");
        fs::write(&users, "\"musterd\" \"x\"\n").unwrap();
        let socket = cluster.data_dir().join("run");
        let text = format!(
            "[databases]\nmusterd = host={} user=musterd dbname=musterd\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nauth_type = trust\nauth_file = {}\nunix_socket_dir =\nlogfile = {}\n{settings}\n",
            socket.display(),
            users.display(),
            directory.join("log").display(),
        );
        let file = directory.join("pgbouncer.ini");
        fs::write(&file, text).unwrap();
        let mut command = Command::new("pgbouncer");
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Debian keeps it where only root looks.
        command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
        if geteuid().is_root() {
            use std::os::unix::fs::MetadataExt as _;
            let owner = fs::metadata(cluster.data_dir().join("postgres")).unwrap();
            for path in [directory, users.as_path(), file.as_path()] {
                chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
            }
            command.uid(owner.uid()).gid(owner.gid());
        }
        let child =
            command.spawn().unwrap_or_else(|error| panic!("pgbouncer (deploy/prerequisites.sh installs it): {error}"));
        let pooler = Self { child, port, _scratch: scratch };
        wait_until("PgBouncer answers", BOUND, async || {
            try_connect(&pooler.url()).await.map(drop).map_err(|error| format!("{error:?}"))
        })
        .await;
        pooler
    }

    fn url(&self) -> String {
        format!("host=127.0.0.1 port={} user=musterd dbname=musterd", self.port)
    }
}

async fn refused(settings: &str) {
    let cluster = OwnCluster::create().await;
    let pooler = PgBouncer::start(&cluster, settings).await;
    let url = pooler.url();
    let at = ["--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"];
    let serve = [&["serve"][..], &at, &["--database-url", &url]].concat();
    for words in
        [&serve[..], &["migrate", "up", "--database-url", &url], &["migrate", "status", "--database-url", &url]]
    {
        let ended = musterd(words).await;
        assert_eq!(ended.code, Some(78), "{settings}: {ended:?}");
        let complaint = ended.complaint();
        assert!(complaint.contains("behind a pooler in transaction or statement mode"), "{complaint}");
        assert!(complaint.contains("; connect to PostgreSQL directly, or use session mode"), "{complaint}");
    }
    let checked = musterd(&["--addr", "127.0.0.1:1", "check", "--database-url", &url]).await;
    assert!(checked.code == Some(1) && checked.stdout.contains("transaction or statement mode"), "{checked:?}");
    let made = "SELECT count(*) FROM pg_class WHERE relname ~ 'muster|registry'";
    assert_eq!(get::<i64>(&connect(cluster.url()).await, made).await, 0, "{settings}: nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_mode_is_refused_before_anything_is_made() {
    refused("pool_mode = transaction").await;
    refused("pool_mode = transaction\nserver_round_robin = 1").await;
    refused("pool_mode = transaction\nserver_reset_query_always = 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statement_mode_is_refused_before_anything_is_made() {
    refused("pool_mode = statement").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_behind_session_mode_work_as_without_a_pooler() {
    let cluster = OwnCluster::create().await;
    let pooler = PgBouncer::start(&cluster, "pool_mode = session\nserver_reset_query = DISCARD ALL").await;
    let first = Daemon::start(&pooler.url()).await;
    let second = Daemon::start(&pooler.url()).await;
    let callers = [Caller::of(&first), Caller::of(&second)];
    for number in 0..20 {
        let (one, other) = (&callers[number % 2], &callers[(number + 1) % 2]);
        let lease = one.register(alive("organ", Duration::from_secs(300))).await.unwrap();
        wait_until("the other daemon knows it", BOUND, async || other.instance(&lease.instance_id).await).await;
    }
    // Server processes of sessions that have ended are used again.
    second.terminate().await;
    let third = Daemon::start(&pooler.url()).await;
    Caller::of(&third).register(alive("organ", Duration::from_secs(300))).await.unwrap();
    for daemon in [&first, &third] {
        assert!(!daemon.log().contains("prepared statement"), "{}", daemon.log());
    }
}
