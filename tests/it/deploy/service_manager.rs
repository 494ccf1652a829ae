//! The daemon under systemd: what it tells the service manager, and the unit.

use std::{
    collections::BTreeMap,
    fs,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

use musterd::command::exit;
use nix::sys::signal::Signal;

use super::{
    misunderstood, text,
    tools::{content, tool},
};
use crate::harness::{
    daemon::{DAEMON_BOUND, Daemon},
    postgres::TestDatabase,
    scratch::Scratch,
};

/// The socket of a service manager, and what has been heard on it.
struct Manager {
    socket: UnixDatagram,
    heard: String,
}

impl Manager {
    fn at(address: &SocketAddr) -> Self {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(DAEMON_BOUND)).unwrap();
        Self { socket, heard: String::new() }
    }

    /// Listens until something is said that has not been said before now.
    fn wait_for(&mut self, line: &str) {
        let before = self.heard.len();
        let mut message = [0; 4096];
        while !self.heard[before..].lines().any(|heard| heard.starts_with(line)) {
            let length = self.socket.recv(&mut message).unwrap_or_else(|error| {
                panic!("{line} is not said ({error}); heard:\n{}", self.heard);
            });
            self.heard.push_str(std::str::from_utf8(&message[..length]).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn service_manager_is_notified_of_ready_watchdog_and_stopping() {
    let database = TestDatabase::create().await;
    let scratch = Scratch::in_memory();
    let socket = scratch.path().join("notify");
    let mut manager = Manager::at(&SocketAddr::from_pathname(&socket).unwrap());
    let environment = [("NOTIFY_SOCKET", socket.to_str().unwrap()), ("WATCHDOG_USEC", "1000000")];
    let mut daemon = Daemon::spawn_in(&environment, &["--database-url", database.url()]).await;

    manager.wait_for("READY=1");
    assert!(manager.heard.starts_with("STATUS=not ready: "), "what is missing comes first: {}", manager.heard);
    assert_eq!(daemon.http_get("/readyz").await.unwrap().0, 200);
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("WATCHDOG=1");

    daemon.signal(Signal::SIGTERM);
    manager.wait_for("STOPPING=1");
    assert!(manager.heard.ends_with("STATUS=leaving: received SIGTERM\nWATCHDOG=1\n"), "{}", manager.heard);
    assert!(daemon.wait_exit().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn abstract_socket_is_notified_too_and_none_without_a_watchdog() {
    let database = TestDatabase::create().await;
    let name = format!("musterd-{}", uuid::Uuid::new_v4().simple());
    let mut manager = Manager::at(&SocketAddr::from_abstract_name(&name).unwrap());
    let name = format!("@{name}");
    let daemon = Daemon::spawn_in(&[("NOTIFY_SOCKET", &name)], &["--database-url", database.url()]).await;
    manager.wait_for("READY=1");
    daemon.signal(Signal::SIGTERM);
    manager.wait_for("STOPPING=1");
    assert!(!manager.heard.contains("WATCHDOG"), "without a watchdog none is notified: {}", manager.heard);
}

#[tokio::test(flavor = "multi_thread")]
async fn notify_socket_without_listener_does_not_stop_the_daemon() {
    let database = TestDatabase::create().await;
    let flags = ["--database-url", database.url()];
    let daemon = Daemon::spawn_in(&[("NOTIFY_SOCKET", "/nowhere/notify")], &flags).await;
    daemon.wait_ready().await;
    assert!(daemon.log().contains("NOTIFY_SOCKET unavailable"));
}

/// The values of a directive of the unit.
fn directive<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    let values = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.flat_map(str::split_whitespace).collect()
}

#[test]
fn the_unit_is_one_that_systemd_understands() {
    let Some(mut analyze) = tool(&["systemd-analyze"]) else { return };
    let scratch = Scratch::in_memory();
    let unit = scratch.path().join("musterd.service");
    let installed = text("deploy/systemd/musterd.service").replace("/usr/bin/musterd", env!("CARGO_BIN_EXE_musterd"));
    fs::write(&unit, &installed).unwrap();
    let output = analyze.args(["verify", "--man=no"]).arg(&unit).output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    // It warns of what it does not know without failing.
    assert!(output.status.success() && !complaints.contains("musterd.service"), "{complaints}");

    fs::write(&unit, installed.replace("WatchdogSec=30", "WatchDogSec=30")).unwrap();
    let output = tool(&["systemd-analyze"]).unwrap().args(["verify", "--man=no"]).arg(&unit).output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("WatchDogSec"),
        "a wrong word would be noticed: {output:?}"
    );
}

#[test]
fn the_unit_fits_the_program() {
    let unit = text("deploy/systemd/musterd.service");
    assert_eq!(directive(&unit, "Type"), ["notify"]);
    assert_eq!(directive(&unit, "ExecStart"), ["/usr/bin/musterd", "serve"]);
    let given_up = directive(&unit, "RestartPreventExitStatus");
    assert_eq!(given_up, [exit::USAGE.to_string(), exit::CONFIG.to_string()]);
    let stop: u64 = directive(&unit, "TimeoutStopSec")[0].parse().unwrap();
    assert!(stop > musterd::lifecycle::WATCHDOG_LIMIT.as_secs(), "a daemon has 10 s to leave");
    assert_eq!(directive(&unit, "KillMode"), ["mixed"], "the private PostgreSQL is stopped by the daemon");
    assert_eq!(directive(&unit, "User"), directive(&unit, "Group"));
    assert!(text("deploy/systemd/musterd.sysusers").starts_with(&format!("u {} ", directive(&unit, "User")[0])));
}

#[test]
fn every_setting_in_the_environment_file_is_one_of_the_program() {
    let file = text("deploy/systemd/musterd.env");
    let settings = file.lines().filter_map(|line| line.trim_start_matches('#').split_once('='));
    let settings: BTreeMap<_, _> = settings
        .filter(|(name, _)| name.starts_with("MUSTERD_"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert!(settings.len() >= 5, "{settings:?}");
    assert_eq!(misunderstood(&["serve"], &settings), None);
}

#[test]
fn the_scripts_pass_shellcheck() {
    let Some(mut shellcheck) = tool(&["shellcheck"]) else { return };
    let scripts = [
        "deploy/init-db.sh",
        "deploy/verify-db.sh",
        "deploy/psql.sh",
        "deploy/debian/postinst",
        "deploy/debian/postrm",
        "deploy/quickstart.sh",
        "tests/run.sh",
        "tests/timed.sh",
        "tests/slowest.sh",
        "tests/protocol.sh",
        "tests/tools.sh",
        "clients/python/build.sh",
        "clients/python/test.sh",
        "deploy/prerequisites.sh",
        ".ci/run",
    ];
    content(shellcheck.current_dir(super::path("")).arg("-x").args(scripts));
}
