//! `musterd run`: a command of any language takes part, and its registration follows its life.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use musterd_client::{Death, DeathReason, Instance, Status};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use uuid::Uuid;

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
        Self::start_at(&daemon.grpc_addr, flags, command)
    }

    fn start_at(addr: &str, flags: &[&str], command: &[&str]) -> Self {
        let mut run = program();
        run.args(["--addr", addr, "run", "--logical-id", "job"]).args(flags).arg("--").args(command);
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

async fn resolved(caller: &Caller) -> Instance {
    wait_until("the command is registered and alive", BOUND, async || {
        caller.resolve("job").await.map(|resolved| resolved.instance)
    })
    .await
}

/// The text of a file, once it has a whole line.
async fn line_of(file: &Path) -> String {
    wait_until("the command writes", BOUND, async || {
        let text = fs::read_to_string(file).unwrap_or_default();
        if text.ends_with('\n') { Ok(text.trim_end().to_owned()) } else { Err(text) }
    })
    .await
}

async fn gone(pid: Pid) {
    wait_until("the process is gone", BOUND, async || match kill(pid, None) {
        Err(_) => Ok(()),
        Ok(()) => Err(pid),
    })
    .await;
}

async fn dead(caller: &Caller, instance_id: Uuid) -> Death {
    wait_until("its instance is dead", BOUND, async || {
        let instance = caller.instance(instance_id).await?;
        if instance.status == Status::Dead { Ok(instance.death.unwrap()) } else { Err(format!("{instance:?}")) }
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
    assert_eq!(
        words[1..],
        ["job", instance.cluster_epoch.to_string().as_str(), instance.lease_id.to_string().as_str()]
    );
    assert_eq!(instance.status, Status::Dead, "deregistered at the end, before it ends itself");
    assert_eq!(instance.death.unwrap().reason, DeathReason::Deregistered);

    let missing =
        ["--addr", &daemon.grpc_addr, "run", "--logical-id", "missing", "--ip", "none", "--", "/no/such/command"];
    let ended = musterd(&missing).await;
    assert_eq!(ended.code, Some(127));
    assert!(ended.complaint().starts_with("cannot run /no/such/command: "), "{ended:?}");
    assert_eq!(caller.best("missing").await, "NO_LIVE_INSTANCE");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_starts_without_a_daemon_and_is_registered_once_there_is_one() {
    let database = TestDatabase::create().await;
    let scratch = Scratch::on_disk();
    let trace = scratch.path().join("trace");
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let script = format!("echo $MUSTERD_LOGICAL_ID ${{MUSTERD_LEASE_ID-none}} > {}; exec sleep 60", trace.display());
    let _run = Run::start_at(&addr, &["--timeout", "300ms"], &["/bin/sh", "-c", &script]);
    assert_eq!(line_of(&trace).await, "job none");
    let daemon = Daemon::start_with(&["--database-url", database.url(), "--grpc-addr", &addr]).await;
    let instance = resolved(&Caller::of(&daemon)).await;
    assert_eq!(instance.status, Status::Alive);
    assert_eq!(instance.ip, "127.0.0.1".parse().ok(), "learnt from the connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_that_is_refused_does_not_start_the_command() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let trace = daemon.directory().join("trace");
    let other_epoch = "00000000-0000-4000-8000-000000000001";
    let arguments = ["--addr", &daemon.grpc_addr, "run", "--logical-id", "job", "--epoch", other_epoch, "--"];
    let ended = musterd(&[&arguments[..], &["/bin/touch", trace.to_str().unwrap()]].concat()).await;
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(!trace.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn command_has_the_descriptors_it_would_have_without_run() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let script = ["/bin/sh", "-c", "cd /proc/$$/fd && echo *"];
    let alone = Command::new(script[0]).args(&script[1..]).stdin(Stdio::null()).output().unwrap();
    let arguments = [&["--addr", &daemon.grpc_addr, "run", "--logical-id", "job", "--"][..], &script].concat();
    let ended = musterd(&arguments).await;
    assert_eq!(ended.stdout, String::from_utf8(alone.stdout).unwrap(), "{ended:?}");
}

/// Leaves orphans, and prints how many of them stay as zombies once all have ended.
const ORPHANS: &str = r#"
for i in 1 2 3 4 5; do (sh -c "(sleep 0.2; : > $0/orphan-$i) & exit 0" &); done
while [ "$(ls "$0" | grep -c orphan)" -lt 5 ]; do sleep 0.05; done
tries=0
while [ "$tries" -lt 40 ]; do
    sleep 0.1
    zombies=$(cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z 1 ')
    [ "$zombies" = 0 ] && break
    tries=$((tries + 1))
done
echo "$zombies"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn first_process_of_a_container_leaves_no_zombies() {
    // A process id namespace of one's own needs the right to make one.
    if !geteuid().is_root() {
        return;
    }
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let run = program();
    let mut inside = Command::new("unshare");
    inside.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(run.get_program());
    inside.args(["--addr", &daemon.grpc_addr, "run", "--logical-id", "job", "--", "/bin/sh", "-c", ORPHANS]);
    let inside = inside.arg(daemon.directory()).env("MUSTERD_CONFIG", "/dev/null").stdin(Stdio::null());
    let ended = tokio::task::block_in_place(|| inside.output().unwrap());
    assert_eq!(String::from_utf8(ended.stdout).unwrap(), "0\n", "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_termination_is_forwarded_and_ends_the_registration() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    let ready = daemon.directory().join("ready");
    let script = format!("trap 'exit 42' TERM; echo $$ > {}; while :; do sleep 0.05; done", ready.display());
    let mut run = Run::start(&daemon, &[], &["/bin/sh", "-c", &script]);
    let instance = resolved(&caller).await;
    assert_eq!(line_of(&ready).await, instance.pid.unwrap().to_string(), "the process of the command is on record");
    kill(run.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(run.ended().await.code(), Some(42), "what the command made of the signal");
    assert_eq!(dead(&caller, instance.instance_id).await.reason, DeathReason::Deregistered);
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
async fn when_run_itself_is_killed_its_command_and_its_instance_die() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    let mut run = Run::start(&daemon, &["--ttl", "4s"], &["/bin/sleep", "60"]);
    let instance = resolved(&caller).await;
    let renewed = wait_until("it beats", BOUND, async || {
        let now = caller.instance(instance.instance_id).await?;
        if now.last_beat > instance.started_at.map(|at| at + Duration::from_secs(5)) {
            Ok(now)
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await;
    assert!(renewed.status == Status::Alive && renewed.lease_id == instance.lease_id, "longer than its TTL");
    kill(run.pid(), Signal::SIGKILL).unwrap();
    run.ended().await;
    gone(Pid::from_raw(i32::try_from(instance.pid.unwrap()).unwrap())).await;
    wait_until("it is suspect", Duration::from_secs(20), async || {
        let now = caller.instance(instance.instance_id).await?;
        if now.suspect { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    assert_eq!(dead(&caller, instance.instance_id).await.reason, DeathReason::Stale);
    assert_eq!(caller.best("job").await, "NO_LIVE_INSTANCE");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_that_may_outlive_run_goes_on_when_run_is_killed() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let trace = daemon.directory().join("trace");
    // It ends by itself: a process of a test must not stay.
    let script = format!("while kill -0 $PPID; do sleep 0.05; done; echo orphan > {}", trace.display());
    let mut run = Run::start(&daemon, &["--outlive"], &["/bin/sh", "-c", &script]);
    resolved(&Caller::of(&daemon)).await;
    kill(run.pid(), Signal::SIGKILL).unwrap();
    run.ended().await;
    assert_eq!(line_of(&trace).await, "orphan");
}
