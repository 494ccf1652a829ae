//! `musterd run`: a command of any language takes part, and its registration follows its life.

use std::{
    process::{Child, ExitStatus, Stdio},
    time::Duration,
};

use musterd::proto::v1::{self, DeathReason, InstanceStatus};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{BOUND, musterd};
use crate::harness::{
    actor::Caller,
    daemon::{Daemon, program},
    postgres::TestDatabase,
    scratch::Scratch,
    wait::wait_until,
};

/// `musterd run` in the background; killed when dropped.
struct Run {
    child: Child,
}

impl Run {
    fn start(daemon: &Daemon, flags: &[&str], command: &[&str]) -> Self {
        let mut run = program();
        run.args(["--addr", &daemon.grpc_addr, "run", "--logical-id", "job"]).args(flags).arg("--").args(command);
        Self { child: run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap() }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    async fn ended(&mut self) -> ExitStatus {
        wait_until("run ends", BOUND, async || self.child.try_wait().unwrap().ok_or("it runs")).await
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn resolved(caller: &Caller) -> v1::Instance {
    wait_until("the command is registered and alive", BOUND, async || {
        caller.resolve("job").await.map(|resolved| resolved.instance.unwrap())
    })
    .await
}

async fn dead(caller: &Caller, instance_id: &str) -> v1::Death {
    wait_until("its instance is dead", BOUND, async || {
        let instance = caller.instance(instance_id).await?;
        if instance.status() == InstanceStatus::Dead {
            Ok(instance.death.unwrap())
        } else {
            Err(format!("{instance:?}"))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_is_passed_on_and_the_command_knows_its_registration() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    let script = "echo $MUSTERD_INSTANCE_ID $MUSTERD_LOGICAL_ID $MUSTERD_EPOCH $MUSTERD_LEASE_ID; exit 7";
    let ended = musterd(&[
        "--addr",
        &daemon.grpc_addr,
        "run",
        "--logical-id",
        "job",
        "--ip",
        "none",
        "--",
        "/bin/sh",
        "-c",
        script,
    ])
    .await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(7), ""));
    let words: Vec<&str> = ended.stdout.split_whitespace().collect();
    let instance = caller.instance(words[0]).await.unwrap();
    assert_eq!(words[1..], ["job", instance.cluster_epoch.as_str(), instance.lease_id.to_string().as_str()]);
    assert_eq!(instance.status(), InstanceStatus::Dead, "deregistered at the end, before it ends itself");
    assert_eq!(instance.death.unwrap().reason(), DeathReason::Deregistered);

    let missing =
        ["--addr", &daemon.grpc_addr, "run", "--logical-id", "missing", "--ip", "none", "--", "/no/such/command"];
    let ended = musterd(&missing).await;
    assert_eq!(ended.code, Some(127));
    assert!(ended.complaint().starts_with("cannot run /no/such/command: "), "{ended:?}");
    assert_eq!(caller.best("missing").await, "NO_LIVE_INSTANCE");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_the_command_is_not_started() {
    let scratch = Scratch::on_disk();
    let trace = scratch.path().join("trace");
    let arguments =
        ["--addr", "127.0.0.1:1", "run", "--logical-id", "job", "--", "/bin/touch", trace.to_str().unwrap()];
    let ended = musterd(&arguments).await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.complaint().starts_with("cannot reach the registry at http://127.0.0.1:1"), "{ended:?}");
    assert!(!trace.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_termination_is_forwarded_and_ends_the_registration() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    let ready = daemon.directory().join("ready");
    let script = format!("trap 'exit 42' TERM; : > {}; while :; do sleep 0.05; done", ready.display());
    let mut run = Run::start(&daemon, &[], &["/bin/sh", "-c", &script]);
    let instance = resolved(&caller).await;
    assert_eq!(instance.pid, i64::from(run.pid().as_raw()));
    wait_until("the trap is set", BOUND, async || if ready.exists() { Ok(()) } else { Err("no") }).await;
    kill(run.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(run.ended().await.code(), Some(42), "what the command made of the signal");
    assert_eq!(dead(&caller, &instance.instance_id).await.reason(), DeathReason::Deregistered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_killed_ends_as_in_a_shell() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let ended =
        musterd(&["--addr", &daemon.grpc_addr, "run", "--logical-id", "job", "--", "/bin/sh", "-c", "kill -9 $$"])
            .await;
    assert_eq!(ended.code, Some(128 + 9), "{ended:?}");
    assert_eq!(Caller::of(&daemon).best("job").await, "NO_LIVE_INSTANCE");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_run_itself_is_killed_its_instance_is_suspected_and_dies() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    // The command outlives its supervisor, but not this test.
    let mut run = Run::start(&daemon, &["--ttl", "4s"], &["/bin/sleep", "60"]);
    let instance = resolved(&caller).await;
    let renewed = wait_until("it beats", BOUND, async || {
        let now = caller.instance(&instance.instance_id).await?;
        if now.last_beat.map(|at| at.seconds) > instance.started_at.map(|at| at.seconds + 5) {
            Ok(now)
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await;
    assert!(renewed.status() == InstanceStatus::Alive && renewed.lease_id == instance.lease_id, "longer than its TTL");
    kill(run.pid(), Signal::SIGKILL).unwrap();
    run.ended().await;
    wait_until("it is suspect", Duration::from_secs(20), async || {
        let now = caller.instance(&instance.instance_id).await?;
        if now.suspect { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    assert_eq!(dead(&caller, &instance.instance_id).await.reason(), DeathReason::Stale);
    assert_eq!(caller.best("job").await, "NO_LIVE_INSTANCE");
}
