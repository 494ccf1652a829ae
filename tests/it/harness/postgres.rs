//! Databases for tests.
//!
//! All tests of a run share one private cluster with fast settings, in memory where there is room; each test gets a
//! database of its own. Tests that disrupt PostgreSQL itself start an [`OwnCluster`], which is durable and which
//! only its test starts again.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use musterd::local::{Durability, LocalServer, Options};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use tokio::{runtime, sync::Mutex};
use tokio_postgres::{Client, NoTls, error::SqlState};

use super::{scratch::Scratch, wait::wait_until};

/// How long a server may take to do what it is told, on a loaded machine.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

/// How many migrations there are.
pub(crate) const MIGRATIONS: usize = 14;

/// Options of a private PostgreSQL for tests. `MUSTERD_TEST_POSTGRES_BIN` names the server programs to use.
pub(crate) fn options(data_dir: &Path, durability: Durability) -> Options {
    let bin_dir = std::env::var_os("MUSTERD_TEST_POSTGRES_BIN").map(PathBuf::from);
    Options { data_dir: data_dir.to_path_buf(), bin_dir, run_as: None, durability }
}

/// Connects; the connection lives as long as the client.
pub(crate) async fn connect(url: &str) -> Client {
    try_connect(url).await.unwrap()
}

/// As [`connect`], for servers that may be away.
pub(crate) async fn try_connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The cluster that all tests share.
struct Shared {
    server: LocalServer,
    /// The runtime of the cluster: those of the tests end with them.
    runtime: runtime::Handle,
    /// PostgreSQL refuses to copy a template that is being copied.
    creating: Mutex<()>,
    _scratch: Scratch,
}

impl Shared {
    fn get() -> &'static Self {
        static SHARED: OnceLock<Shared> = OnceLock::new();
        // Started on a thread of its own, as the caller is on a runtime.
        SHARED.get_or_init(|| std::thread::spawn(Self::start).join().unwrap())
    }

    fn start() -> Self {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let scratch = Scratch::in_memory();
        let server = runtime.block_on(LocalServer::start(options(scratch.path(), Durability::Fast))).unwrap();
        let handle = runtime.handle().clone();
        // It serves until the process ends.
        std::mem::forget(runtime);
        Self { server, runtime: handle, creating: Mutex::new(()), _scratch: scratch }
    }

    async fn admin(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        try_connect(&self.server.url_of("postgres")).await?.batch_execute(sql).await
    }
}

/// A database of its own for one test, dropped at its end.
#[derive(Debug)]
pub(crate) struct TestDatabase {
    name: String,
    url: String,
}

impl TestDatabase {
    /// Makes an empty database.
    pub(crate) async fn create() -> Self {
        Self::create_from_template("template1").await
    }

    /// Makes a copy of another database, whose connections must be closed or about to be.
    pub(crate) async fn create_from_template(template: &str) -> Self {
        let shared = Shared::get();
        let name = format!("t_{}", uuid::Uuid::new_v4().simple());
        let _turn = shared.creating.lock().await;
        wait_until("a copy of the template", BOUND, async || {
            match shared.admin(&format!("CREATE DATABASE {name} TEMPLATE {template}")).await {
                Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) => Err(error),
                result => {
                    result.unwrap();
                    Ok(())
                }
            }
        })
        .await;
        let url = shared.server.url_of(&name);
        Self { name, url }
    }

    /// Its name, as a template of others.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its address, as for `--database-url`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        // In the background and without a result: the whole cluster is removed at the end.
        let shared = Shared::get();
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        shared.runtime.spawn(async move {
            let _ = shared.admin(&sql).await;
        });
    }
}

/// A durable cluster for one test, to be killed and started at will.
#[derive(Debug)]
pub(crate) struct OwnCluster {
    url: String,
    program: PathBuf,
    data_dir: PathBuf,
    child: Option<Child>,
    _scratch: Scratch,
}

impl OwnCluster {
    /// Creates a cluster and starts it.
    pub(crate) async fn create() -> Self {
        let scratch = Scratch::on_disk();
        let data_dir = scratch.path().to_path_buf();
        Self::create_in(scratch, data_dir).await
    }

    /// As [`OwnCluster::create`], in a directory that is there, in or below a scratch directory.
    pub(crate) async fn create_in(scratch: Scratch, data_dir: PathBuf) -> Self {
        let server = LocalServer::start(options(&data_dir, Durability::Full)).await.unwrap();
        let url = server.database_url().to_owned();
        let program = program_of(&data_dir);
        server.stop().await;
        let mut cluster = Self { url, program, data_dir, child: None, _scratch: scratch };
        cluster.start().await;
        cluster
    }

    /// A cluster that follows this one, through whatever leads to it at `address`, and takes no changes until it is
    /// promoted.
    pub(crate) async fn standby(&self, address: &str) -> Self {
        let scratch = Scratch::on_disk();
        let data_dir = scratch.path().to_path_buf();
        let owner = fs::metadata(self.data_dir.join("postgres")).unwrap();
        let run = data_dir.join("run");
        fs::create_dir(&run).unwrap();
        for directory in [&data_dir, &run] {
            chown(directory, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        let mut command = Command::new(self.program.with_file_name("pg_basebackup"));
        command.args(["--checkpoint=fast", "--no-sync", "--write-recovery-conf", "--username=musterd", "-D"]);
        command.arg(data_dir.join("postgres")).arg("-h").arg(self.data_dir.join("run"));
        if geteuid().is_root() {
            command.uid(owner.uid()).gid(owner.gid());
        }
        let copied = command.current_dir(&data_dir).stdin(Stdio::null()).output().unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let (host, port) = address.split_once(':').unwrap();
        // The last of two settings counts, and the copy has those of its original.
        let follow = format!(
            "primary_conninfo = 'host={host} port={port} user=musterd sslmode=disable gssencmode=disable'
             wal_retrieve_retry_interval = '200ms'\nsynchronous_standby_names = ''\n"
        );
        let settings = data_dir.join("postgres/postgresql.auto.conf");
        File::options().append(true).open(settings).unwrap().write_all(follow.as_bytes()).unwrap();
        let encoded = |path: &Path| path.to_str().unwrap().replace('/', "%2F");
        let url = self.url.replace(&encoded(&self.data_dir), &encoded(&data_dir));
        let mut standby = Self { url, program: self.program.clone(), data_dir, child: None, _scratch: scratch };
        standby.start().await;
        standby
    }

    /// Lets a standby take over.
    pub(crate) async fn promote(&self) {
        let promoted = connect(&self.url).await.query_one("SELECT pg_promote(true, 30)", &[]).await.unwrap();
        assert!(promoted.get::<_, bool>(0), "the standby did not take over");
    }

    /// Changes a setting that needs no restart; `None`: back to its default.
    pub(crate) async fn set(&self, setting: &str, value: Option<&str>) {
        let client = connect(&self.url).await;
        let sql = match value {
            Some(value) => format!("ALTER SYSTEM SET {setting} = '{value}'"),
            None => format!("ALTER SYSTEM RESET {setting}"),
        };
        client.batch_execute(&sql).await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    }

    /// Makes commits wait for standbys of this name, and waits until they do: each process of the server takes a changed
    /// setting over when it comes to it.
    pub(crate) async fn require_standby(&self, name: &str) {
        let probe = connect(&self.url).await;
        probe.batch_execute("CREATE TABLE probe (n int)").await.unwrap();
        self.set("synchronous_standby_names", Some(name)).await;
        let hanging =
            tokio::spawn(async move { while probe.batch_execute("INSERT INTO probe VALUES (1)").await.is_ok() {} });
        let watcher = connect(&self.url).await;
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        wait_until("a commit waits for a standby", BOUND, async || {
            match watcher.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) {
                0 => Err("none does"),
                _ => Ok(()),
            }
        })
        .await;
        hanging.abort();
    }

    /// Where its files are.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Where its socket is.
    pub(crate) fn socket(&self) -> PathBuf {
        self.data_dir.join("run/.s.PGSQL.5432")
    }

    /// The address of its database; the same after every start.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Starts it and waits until it answers. Does nothing if it runs.
    pub(crate) async fn start(&mut self) {
        let url = self.url.clone();
        wait_until("a started cluster", BOUND, async || {
            // After a crash it refuses to start until the last backend has noticed.
            if !matches!(self.child.as_mut().map(Child::try_wait), Some(Ok(None))) {
                self.child = Some(spawn_server(&self.program, &self.data_dir));
            }
            try_connect(&url).await.map_err(|error| error.to_string())
        })
        .await;
    }

    /// Starts it again by another command, with further settings, as [`spawn_server_within`].
    pub(crate) async fn restart_within(&mut self, within: &[String], settings: &[String]) {
        self.end(Signal::SIGINT);
        self.child = Some(spawn_server_within(within, &self.program, &self.data_dir, settings));
        self.start().await;
    }

    /// Kills the postmaster; its backends follow by themselves.
    pub(crate) fn kill9(&mut self) {
        self.end(Signal::SIGKILL);
    }

    /// Ends it at once, without a checkpoint, as a crash of the machine would.
    pub(crate) fn stop_immediate(&mut self) {
        self.end(Signal::SIGQUIT);
    }

    /// Sends a signal to every process of it. Returns to how many.
    pub(crate) fn signal_all(&self, signal: Signal) -> usize {
        let Some(postmaster) = self.child.as_ref().map(Child::id) else { return 0 };
        let processes = std::iter::once(postmaster).chain(children(postmaster));
        processes.filter(|pid| kill(Pid::from_raw((*pid).try_into().unwrap()), signal).is_ok()).count()
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut child) = self.child.take() {
            kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for OwnCluster {
    fn drop(&mut self) {
        // One that was frozen could not end.
        self.signal_all(Signal::SIGCONT);
        self.stop_immediate();
    }
}

/// The processes that a process has started and that still run.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name in parentheses may hold anything; state and parent follow it.
        let parent_of = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        parent_of == Some(parent)
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

/// The pid of the postmaster of a data directory, if one runs or ran.
pub(crate) fn postmaster_pid(data_dir: &Path) -> Option<Pid> {
    let text = fs::read_to_string(data_dir.join("postgres/postmaster.pid")).ok()?;
    text.lines().next()?.parse().ok().map(Pid::from_raw)
}

/// Starts a server on the cluster of a data directory, as its owner, without a supervisor.
pub(crate) fn spawn_server(program: &Path, data_dir: &Path) -> Child {
    spawn_server_with(program, data_dir, &[])
}

/// As [`spawn_server`], with further settings, each as `NAME=VALUE`, that win over its own.
pub(crate) fn spawn_server_with(program: &Path, data_dir: &Path, settings: &[String]) -> Child {
    spawn_server_within(&[], program, data_dir, settings)
}

/// As [`spawn_server_with`], by another command that becomes the server. It must be started as root.
pub(crate) fn spawn_server_within(within: &[String], program: &Path, data_dir: &Path, settings: &[String]) -> Child {
    let cluster = data_dir.join("postgres");
    let owner = fs::metadata(&cluster).unwrap();
    let log = File::options().append(true).create(true).open(data_dir.join("postgres.log")).unwrap();
    let mut command = match within.split_first() {
        None => Command::new(program),
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg("setpriv").arg(format!("--reuid={}", owner.uid()));
            command.arg(format!("--regid={}", owner.gid())).arg("--clear-groups").arg(program);
            command
        }
    };
    command.arg("-D").arg(&cluster).args(["-c", "listen_addresses=", "-c", "port=5432", "-c"]);
    command.arg(format!("unix_socket_directories={}", data_dir.join("run").display()));
    for setting in settings {
        command.args(["-c", setting]);
    }
    command.current_dir(&cluster).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
    if geteuid().is_root() && within.is_empty() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    command.spawn().unwrap()
}

/// The server program that made or runs the cluster: its first start notes it.
pub(crate) fn program_of(data_dir: &Path) -> PathBuf {
    let noted = fs::read_to_string(data_dir.join("postgres/postmaster.opts")).unwrap();
    PathBuf::from(noted.split(' ').next().unwrap())
}
