//! Tells the service manager that started the daemon how it is: systemd with `Type=notify`, or another that gives it a
//! socket in `NOTIFY_SOCKET`. Ready once callers may come; what is missing while they may not; that it is leaving; and,
//! if a watchdog is asked for, that it is alive.
//!
//! The sign of life comes from a task of the runtime, so a runtime that no longer turns gives none and the service
//! manager restarts the daemon. It is withheld too once an essential task has ended for another reason than a
//! shutdown. PostgreSQL being away withholds nothing: a daemon that answers from memory must not be killed for it.
//!
//! Written here rather than taken from a library because nothing may block: the socket is one that never waits, and a
//! message that does not fit is repeated at the next tick.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::{ffi::OsStrExt as _, net::SocketAddr, net::UnixDatagram},
    process,
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    readiness::{Readiness, Snapshot},
    tasks::Lifecycle,
};

/// How often the service manager hears from us at least, if there is something to say.
const PERIOD: Duration = Duration::from_secs(2);

/// The service manager that started this process.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    period: Duration,
    wants_signs_of_life: bool,
}

/// What the service manager has been told.
#[derive(Debug, Default)]
struct Told {
    ready: bool,
    stopping: bool,
    status: String,
}

impl ServiceManager {
    /// Finds the service manager by what it left in the environment; `None` if there is none, or none that listens:
    /// a container or a shell may pass on a socket that is not meant for us.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        let name = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        let watchdog = watchdog(env::var_os("WATCHDOG_USEC"), env::var_os("WATCHDOG_PID"), process::id());
        match connect(&name) {
            Ok(socket) => Some(Self {
                socket,
                // At least twice within what is allowed, so that one late sign of life is not the end.
                period: watchdog.map_or(PERIOD, |limit| (limit / 2).min(PERIOD)),
                wants_signs_of_life: watchdog.is_some(),
            }),
            Err(error) => {
                tracing::warn!(socket = %name.display(), %error, "NOTIFY_SOCKET unavailable, continuing without it");
                None
            }
        }
    }

    /// Keeps the service manager informed until `stop`.
    pub async fn keep_informed(self, readiness: Readiness, lifecycle: Lifecycle, stop: CancellationToken) {
        let mut told = Told::default();
        let mut changes = readiness.subscribe();
        let stopping = lifecycle.stopping();
        let mut ticks = interval(self.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let leaving = lifecycle.asked();
            let is_well = leaving.as_ref().is_none_or(|reason| reason.exit_code() == 0);
            let leaving = leaving.map(|reason| reason.to_string());
            let (next, mut message) = news(&told, &readiness.snapshot(), leaving.as_deref());
            if self.wants_signs_of_life && is_well {
                message.push_str("WATCHDOG=1\n");
            }
            match self.send(&message) {
                Ok(()) => told = next,
                Err(error) => tracing::debug!(%error, "the service manager could not be told, trying again"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = stopping.cancelled(), if !told.stopping => {}
                _ = ticks.tick() => {}
                Ok(()) = changes.changed() => {}
            }
        }
    }

    fn send(&self, message: &str) -> io::Result<()> {
        if message.is_empty() {
            return Ok(());
        }
        self.socket.send(message.as_bytes()).map(drop)
    }
}

/// What the service manager does not know yet, one assignment to a line; empty if it knows everything.
fn news(told: &Told, now: &Snapshot, leaving: Option<&str>) -> (Told, String) {
    let mut message = String::new();
    let mut next = Told { ready: told.ready, stopping: told.stopping, status: status(now, leaving) };
    if now.ready && !told.ready {
        next.ready = true;
        message.push_str("READY=1\n");
    }
    if leaving.is_some() && !told.stopping {
        next.stopping = true;
        message.push_str("STOPPING=1\n");
    }
    if next.status != told.status {
        message.push_str(&format!("STATUS={}\n", next.status));
    }
    (next, message)
}

/// The one line that `systemctl status` shows.
fn status(now: &Snapshot, leaving: Option<&str>) -> String {
    let text = match leaving {
        Some(reason) => format!("leaving: {reason}"),
        None if now.ready => "ready".to_owned(),
        None => {
            let missing = now.conditions.iter().filter(|state| !state.ok);
            let missing: Vec<_> =
                missing.map(|state| format!("{} ({})", state.condition.name(), state.detail)).collect();
            format!("not ready: {}", missing.join(", "))
        }
    };
    text.replace(['\n', '\r'], " ")
}

fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address(name)?)?;
    Ok(socket)
}

/// A path, or, after `@`, a name that is in no file system.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => {
            use std::os::linux::net::SocketAddrExt as _;
            SocketAddr::from_abstract_name(name)
        }
        _ => SocketAddr::from_pathname(name),
    }
}

/// Within which time the service manager wants a sign of life; `None` if it does not, or from another process.
fn watchdog(limit_us: Option<OsString>, of_pid: Option<OsString>, own_pid: u32) -> Option<Duration> {
    let number = |text: OsString| text.to_str()?.parse::<u64>().ok();
    if of_pid.is_some_and(|pid| number(pid) != Some(u64::from(own_pid))) {
        return None;
    }
    limit_us.and_then(number).filter(|limit| *limit > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::{Condition, Stage};

    #[tokio::test]
    async fn no_sign_of_life_once_an_essential_task_has_ended() {
        let (socket, manager) = UnixDatagram::pair().unwrap();
        manager.set_nonblocking(true).unwrap();
        let manager = tokio::net::UnixDatagram::from_std(manager).unwrap();
        let lifecycle = Lifecycle::new();
        let stop = CancellationToken::new();
        let informer = ServiceManager { socket, period: Duration::from_secs(60), wants_signs_of_life: true };
        let informing = tokio::spawn(informer.keep_informed(Readiness::new(), lifecycle.clone(), stop.clone()));
        let hear = async || {
            let mut message = [0; 4096];
            let length = manager.recv(&mut message).await.unwrap();
            String::from_utf8(message[..length].to_vec()).unwrap()
        };
        assert!(hear().await.ends_with("WATCHDOG=1\n"));

        lifecycle.spawn_essential(Stage::Engine, "feed", async { Err(io::Error::other("gone")) });
        let mut last = hear().await;
        while !last.contains("STOPPING=1") {
            last = hear().await;
        }
        assert_eq!(last, "STOPPING=1\nSTATUS=leaving: feed failed: gone\n");
        stop.cancel();
        informing.await.unwrap();
        assert!(manager.try_recv(&mut [0; 4096]).is_err(), "nothing after that");
    }

    #[test]
    fn each_problem_is_reported_once_and_in_lines() {
        let readiness = Readiness::new();
        let (told, message) = news(&Told::default(), &readiness.snapshot(), None);
        assert!(message.starts_with("STATUS=not ready: database (not yet), schema (not yet)"), "{message}");
        assert_eq!(news(&told, &readiness.snapshot(), None).1, "");

        for condition in Condition::ALL {
            readiness.set(condition, true, "");
        }
        let (told, message) = news(&told, &readiness.snapshot(), None);
        assert_eq!(message, "READY=1\nSTATUS=ready\n");

        readiness.set(Condition::Flush, false, "late\nby 4 s");
        let (told, message) = news(&told, &readiness.snapshot(), None);
        assert_eq!(message, "STATUS=not ready: flush (late by 4 s)\n");

        readiness.set(Condition::Flush, true, "");
        let (told, message) = news(&told, &readiness.snapshot(), None);
        assert_eq!(message, "STATUS=ready\n", "ready is said once");

        let (told, message) = news(&told, &readiness.snapshot(), Some("received SIGTERM"));
        assert_eq!(message, "STOPPING=1\nSTATUS=leaving: received SIGTERM\n");
        assert_eq!(news(&told, &readiness.snapshot(), Some("received SIGTERM")).1, "");
    }

    #[test]
    fn a_watchdog_of_another_process_is_none_of_ours() {
        let text = |text: &str| Some(OsString::from(text));
        assert_eq!(watchdog(text("30000000"), text("7"), 7), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(text("30000000"), None, 7), Some(Duration::from_secs(30)));
        for (limit, pid) in [(text("30000000"), text("8")), (text("0"), None), (text("x"), None), (None, text("7"))] {
            assert_eq!(watchdog(limit, pid, 7), None);
        }
    }

    #[test]
    fn a_socket_is_a_path_or_a_name() {
        let path = address(OsStr::new("/run/notify")).unwrap();
        assert_eq!(path.as_pathname(), Some(std::path::Path::new("/run/notify")));
        #[cfg(target_os = "linux")]
        {
            use std::os::linux::net::SocketAddrExt as _;
            assert_eq!(address(OsStr::new("@notify")).unwrap().as_abstract_name(), Some(&b"notify"[..]));
        }
    }
}
