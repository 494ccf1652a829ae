//! The daemon as a process: signals that are no reason to end, a log that cannot be written, and the private PostgreSQL,
//! which never outlives a daemon that could still stop it.

use std::{
    fs::OpenOptions,
    net::TcpListener,
    process::{Child, ChildStderr, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use musterd::proto::v1::GetClusterRequest;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tonic::transport::Endpoint;

use crate::harness::{
    daemon::{DAEMON_BOUND, Daemon, http_get, program},
    postgres::{TestDatabase, connect, postmaster_pid},
    scratch::Scratch,
    wait::wait_until,
    wire::Wire,
};

/// How long a daemon may take to leave (promise 12).
const LEAVING: Duration = Duration::from_secs(10);

/// As if a newer release had migrated the database.
const NEWER: &str = "INSERT INTO muster_migration (version, name, checksum, applied_by, duration_ms)
    VALUES (9999, 'from_the_future', 'x', 'a test', 0)";

/// A daemon whose log is not a file; killed when dropped.
struct Unread {
    child: Child,
    grpc: String,
    http: String,
}

impl Unread {
    /// Starts it with this standard error, and with a log so loud that a pipe is full after a few calls.
    async fn start(url: &str, log: Stdio) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (grpc, http) = (free(), free());
        let mut command = program();
        command.args(["serve", "--log-level", "trace", "--database-url", url]);
        command.args(["--grpc-addr", &grpc, "--http-addr", &http]);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut daemon = Self { child, grpc, http };
        wait_until("the daemon is ready", DAEMON_BOUND, async || {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("it has ended: {status}");
            }
            match http_get(&daemon.http, "/readyz").await {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        daemon
    }

    fn stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().unwrap()
    }

    /// Asks until this many lines were dropped, each time with an answer.
    async fn dropped(&self, lines: f64) {
        let channel = Endpoint::try_from(format!("http://{}", self.grpc)).unwrap().connect().await.unwrap();
        let cluster = Wire::over(channel).cluster;
        wait_until("lines are dropped", DAEMON_BOUND, async || {
            // Each frame of these is logged at this level.
            for _ in 0..50 {
                cluster.clone().get_cluster(GetClusterRequest::default()).await.unwrap();
            }
            let (_, metrics) = http_get(&self.http, "/metrics").await.map_err(|error| error.to_string())?;
            let name = "musterd_log_lines_dropped_total ";
            let dropped = metrics.lines().find_map(|line| line.strip_prefix(name)?.parse::<f64>().ok());
            if dropped >= Some(lines) { Ok(()) } else { Err(format!("{dropped:?}")) }
        })
        .await;
    }

    async fn terminated(mut self) -> ExitStatus {
        kill(pid(&self.child), Signal::SIGTERM).unwrap();
        let asked = Instant::now();
        let status =
            wait_until("it ends", DAEMON_BOUND, async || self.child.try_wait().unwrap().ok_or("it runs")).await;
        assert!(asked.elapsed() < LEAVING, "{:?}", asked.elapsed());
        status
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn log_whose_reader_stalls_delays_no_call_and_no_exit() {
    let database = TestDatabase::create().await;
    let mut daemon = Unread::start(database.url(), Stdio::piped()).await;
    let _never_read = daemon.stderr();
    daemon.dropped(1.0).await;
    assert_eq!(daemon.terminated().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_whose_log_reader_is_gone_continues() {
    let database = TestDatabase::create().await;
    let mut daemon = Unread::start(database.url(), Stdio::piped()).await;
    drop(daemon.stderr());
    daemon.dropped(100.0).await;
    assert_eq!(daemon.terminated().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn log_on_a_full_disk_is_no_reason_not_to_start() {
    let database = TestDatabase::create().await;
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let daemon = Unread::start(database.url(), full.into()).await;
    daemon.dropped(100.0).await;
    assert_eq!(daemon.terminated().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_ask_for_nothing_leave_the_daemon_serving() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    for (signal, told) in [
        (Signal::SIGUSR1, r#""signal":"SIGUSR1""#),
        (Signal::SIGUSR2, r#""signal":"SIGUSR2""#),
        (Signal::SIGALRM, r#""signal":"SIGALRM""#),
        (Signal::SIGHUP, "received SIGHUP"),
    ] {
        daemon.signal(signal);
        wait_until(
            "the signal is logged",
            DAEMON_BOUND,
            async || {
                if daemon.log().contains(told) { Ok(()) } else { Err(told) }
            },
        )
        .await;
    }
    assert_eq!(daemon.http_get("/readyz").await.unwrap().0, 200);
    assert_eq!(daemon.terminate().await.code(), Some(0));
}

/// Starts a daemon with a private PostgreSQL in `scratch`, and says which.
async fn with_private_postgres(scratch: &Scratch) -> (Daemon, Pid) {
    let data_dir = scratch.path().join("data");
    let daemon = Daemon::start_with(&["--data-dir", data_dir.to_str().unwrap()]).await;
    let postmaster = postmaster_pid(&data_dir).unwrap();
    (daemon, postmaster)
}

async fn gone(postmaster: Pid) {
    wait_until("the private PostgreSQL is gone", DAEMON_BOUND, async || match kill(postmaster, None) {
        Err(_) => Ok(()),
        Ok(()) => Err(postmaster),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_exit_stops_the_private_postgresql() {
    let scratch = Scratch::in_memory();
    for signals in [&[Signal::SIGQUIT][..], &[Signal::SIGTERM, Signal::SIGINT]] {
        let (mut daemon, postmaster) = with_private_postgres(&scratch).await;
        daemon.signal(Signal::SIGHUP);
        for signal in signals {
            daemon.signal(*signal);
        }
        daemon.wait_exit().await;
        gone(postmaster).await;
    }
    // A start that fails once the private server runs.
    let data_dir = scratch.path().join("data");
    let (daemon, _) = with_private_postgres(&scratch).await;
    let url = format!("host={} user=musterd dbname=musterd", data_dir.join("run").display());
    connect(&url).await.batch_execute(NEWER).await.unwrap();
    daemon.terminate().await;
    let mut failing = program();
    failing.args(["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--data-dir"]).arg(&data_dir);
    let mut failing = failing.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = wait_until("it ends", DAEMON_BOUND, async || failing.try_wait().unwrap().ok_or("it runs")).await;
    assert_eq!(status.code(), Some(78));
    assert_eq!(postmaster_pid(&data_dir), None);
}
