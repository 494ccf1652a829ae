//! What is measured: a private PostgreSQL, two daemons on it, the echo server; all on the loopback, all gone at the end.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use musterd::{
    local::{Durability, LocalServer, Options},
    migrate,
    proto::v1::{
        self, InstanceStatus, cluster_service_client::ClusterServiceClient,
        discovery_service_client::DiscoveryServiceClient, registry_service_client::RegistryServiceClient,
    },
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::echo::{ANSWERS, Answers};

const PROGRAM: &str = env!("CARGO_BIN_EXE_musterd");
/// How long a server may take to start.
const BOUND: Duration = Duration::from_secs(60);

pub(crate) struct World {
    postgres: LocalServer,
    daemons: Vec<Server>,
    echo: Server,
    directory: Directory,
}

/// A process with an address; killed when dropped.
struct Server {
    child: Child,
    addr: String,
    /// The echo has none.
    http_addr: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A fleet that is kept alive by a process of its own.
pub(crate) struct Fleet(tokio::process::Child);

impl Fleet {
    /// Lets it deregister and waits for that.
    pub(crate) async fn end(mut self) {
        let pid = Pid::from_raw(self.0.id().unwrap().cast_signed());
        kill(pid, Signal::SIGINT).unwrap();
        self.0.wait().await.unwrap();
    }
}

/// Removed when dropped.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        let path = env::temp_dir().join(format!("musterd-wire-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        // PostgreSQL runs as another user if this runs as root.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let directory = Directory(path);
        let options = Options {
            data_dir: directory.0.join("data"),
            bin_dir: env::var_os("MUSTERD_TEST_POSTGRES_BIN").map(PathBuf::from),
            run_as: None,
            durability: Durability::Full,
        };
        let postgres = LocalServer::start(options).await.unwrap();
        let (admin, connection) =
            tokio_postgres::connect(&postgres.url_of("postgres"), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        for (database, version) in [("seed", 12), ("sql", i32::MAX)] {
            admin.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
            migrate::up_to(&postgres.url_of(database), version).await.unwrap();
        }
        let daemons =
            (0..2).map(|number| daemon(number, postgres.database_url(), &directory.0, &[])).collect::<Vec<_>>();
        let answers = answers(&daemons[0].addr).await;
        let echo = echo(&answers);
        Self { postgres, daemons, echo, directory }
    }

    pub(crate) fn daemon_addr(&self, number: usize) -> &str {
        &self.daemons[number].addr
    }

    pub(crate) fn echo_addr(&self) -> &str {
        &self.echo.addr
    }

    /// The address of a database without a daemon: `seed` or `sql`.
    pub(crate) fn url_of(&self, database: &str) -> String {
        self.postgres.url_of(database)
    }

    /// Processor time that the server at an address has used so far, in seconds.
    pub(crate) fn cpu_seconds(&self, addr: &str) -> f64 {
        let stat = self.proc_file(addr, "stat");
        // After the name, which may contain anything: utime and stime are the 12th and 13th.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        let ticks: u32 = fields.filter_map(|ticks| ticks.parse::<u32>().ok()).sum();
        // USER_HZ, which is 100 on every Linux.
        f64::from(ticks) / 100.0
    }

    /// What the server at an address occupies, in megabytes.
    pub(crate) fn memory_mb(&self, addr: &str) -> f64 {
        let status = self.proc_file(addr, "status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap() * 1_024.0 / 1e6
    }

    /// The value of a metric of a daemon.
    pub(crate) async fn metric(&self, number: usize, name: &str) -> f64 {
        let addr = &self.daemons[number].http_addr;
        let mut connection = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name}: {text}")).trim().parse().unwrap()
    }

    fn proc_file(&self, addr: &str, name: &str) -> String {
        let server = self.daemons.iter().chain([&self.echo]).find(|server| addr.ends_with(&server.addr)).unwrap();
        fs::read_to_string(format!("/proc/{}/{name}", server.child.id())).unwrap()
    }

    /// Ends all daemons and starts two with these flags. Returns once both serve, with how long that took.
    pub(crate) async fn restart_daemons(&mut self, flags: &[&str]) -> Duration {
        for server in &self.daemons {
            kill(Pid::from_raw(server.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        }
        for server in &mut self.daemons {
            server.child.wait().unwrap();
        }
        let began = Instant::now();
        let (url, directory) = (self.postgres.database_url(), &self.directory.0);
        self.daemons = (0..2).map(|number| daemon(number, url, directory, flags)).collect();
        for server in &self.daemons {
            answers(&server.addr).await;
        }
        began.elapsed()
    }

    /// Starts one more daemon on the database, with these flags. Returns its address.
    pub(crate) fn add_daemon(&mut self, flags: &[&str]) -> String {
        let number = u32::try_from(self.daemons.len()).unwrap();
        let server = daemon(number, self.postgres.database_url(), &self.directory.0, flags);
        let addr = server.addr.clone();
        self.daemons.push(server);
        addr
    }

    /// Kills the daemon at an address and starts it there again.
    pub(crate) fn kill_and_restart(&mut self, addr: &str, flags: &[&str]) {
        let at = self.daemons.iter().position(|server| server.addr == addr).unwrap();
        // Dropped, and so killed, before the next one binds its address.
        drop(self.daemons.remove(at));
        let (number, at_addr) = (u32::try_from(self.daemons.len() + 100).unwrap(), ["--grpc-addr", addr]);
        let server = daemon(number, self.postgres.database_url(), &self.directory.0, &[&at_addr, flags].concat());
        self.daemons.push(server);
    }

    /// The number that a statement gives.
    pub(crate) async fn count(&self, statement: &str) -> i64 {
        let url = self.postgres.database_url();
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.query_one(statement, &[]).await.unwrap().get(0)
    }

    /// A directory that goes with the world.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory.0
    }

    /// Runs a command of the program to its end.
    #[expect(clippy::unused_self, reason = "it belongs to the world that its files are in")]
    pub(crate) fn run(&self, arguments: &[&str]) {
        let output = program().args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Waits until a daemon answers a client with these flags.
    pub(crate) async fn wait_for(&self, addr: &str, client: &[&str]) {
        let began = Instant::now();
        loop {
            let output = program().args(["whoami", "--addr", addr]).args(client).output().unwrap();
            if output.status.success() {
                return;
            }
            assert!(began.elapsed() < BOUND, "{addr}: {}", String::from_utf8_lossy(&output.stderr));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends all daemons but the first, so that they take no time from what is measured.
    pub(crate) fn keep_one_daemon(&mut self) {
        self.daemons.truncate(1);
    }

    /// Registers a fleet under a prefix at the first daemon; it lives as long as the result.
    ///
    /// Its beats are as rare as may be, because they are not what is measured.
    pub(crate) async fn fleet(&self, prefix: &str, instances: u32) -> Fleet {
        let mut cluster = ClusterServiceClient::connect(format!("http://{}", self.daemon_addr(0))).await.unwrap();
        let mut alive = async || {
            let cluster = cluster.get_cluster(v1::GetClusterRequest::default()).await.unwrap().into_inner();
            cluster.counts.unwrap_or_default().alive
        };
        let wanted = alive().await + u64::from(instances);
        let mut command = tokio::process::Command::from(program());
        command.args(["bench", "fleet", "--yes", "--prefix", prefix, "--instances", &instances.to_string()]);
        command.args(["--ttl", "300s", "--interval", "60s", "--duration", "10m", "--resolve-rate", "0"]);
        command.args(["--addr", self.daemon_addr(0)]).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let fleet = Fleet(command.spawn().unwrap());
        let began = Instant::now();
        while alive().await < wanted {
            assert!(began.elapsed() < 10 * BOUND, "the fleet does not register");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        fleet
    }

    /// Runs a benchmark of the program and returns its report.
    pub(crate) async fn bench(&self, addr: &str, flags: &[&str]) -> Value {
        let mut command = tokio::process::Command::from(program());
        let output = command.args(flags).args(["--addr", addr]).kill_on_drop(true).output().await.unwrap();
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{flags:?}: {}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(report["errorCount"], 0, "{flags:?}: {report}");
        report
    }

    pub(crate) async fn stop(self) {
        let Self { postgres, daemons, echo, directory } = self;
        drop((daemons, echo));
        postgres.stop().await;
        drop(directory);
    }
}

/// The program, without settings of the developer's own environment.
fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("MUSTERD_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

fn daemon(number: u32, database_url: &str, directory: &Path, flags: &[&str]) -> Server {
    let log = directory.join(format!("daemon-{number}.log"));
    let mut command = program();
    command.args(["serve", "--log-format", "json", "--http-addr", "127.0.0.1:0"]);
    if !flags.contains(&"--grpc-addr") {
        command.args(["--grpc-addr", "127.0.0.1:0"]);
    }
    command.args(["--database-url", database_url]).args(flags);
    let child = command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
    let began = Instant::now();
    let mut server = Server { child, addr: String::new(), http_addr: String::new() };
    loop {
        let text = fs::read_to_string(&log).unwrap();
        let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        if let Some(started) = lines.find(|line| line["grpc.addr"].is_string()) {
            let addr = |name: &str| started[name].as_str().unwrap_or_else(|| panic!("no {name}: {started}")).to_owned();
            (server.addr, server.http_addr) = (addr("grpc.addr"), addr("http.addr"));
            return server;
        }
        assert!(began.elapsed() < BOUND, "the daemon does not start: {text}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn echo(answers: &Answers) -> Server {
    let mut command = Command::new(env::current_exe().unwrap());
    command.env(ANSWERS, answers.to_text()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut addr = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut addr).unwrap();
    Server { child, addr: addr.trim().to_owned(), http_addr: String::new() }
}

/// What a daemon answers, for the echo to repeat.
async fn answers(addr: &str) -> Answers {
    let began = Instant::now();
    loop {
        match try_answers(addr).await {
            Ok(answers) => return answers,
            Err(error) => assert!(began.elapsed() < BOUND, "the daemon does not answer: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn try_answers(addr: &str) -> Result<Answers, Box<dyn std::error::Error>> {
    let mut registry = RegistryServiceClient::connect(format!("http://{addr}")).await?;
    let mut discovery = DiscoveryServiceClient::connect(format!("http://{addr}")).await?;
    // As `musterd bench` registers.
    let request = v1::RegisterRequest {
        logical_id: "bench-0123456789ab-500".into(),
        node_id: "bench-node-7".into(),
        ip_address: "127.0.0.1".into(),
        port: 12_345,
        pid: 12_345,
        ttl: Some(prost_types::Duration { seconds: 300, nanos: 0 }),
        initial_status: InstanceStatus::Alive.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..Default::default()
    };
    let logical_id = request.logical_id.clone();
    let register = registry.register(request).await?.into_inner();
    let beat = v1::BeatRequest { lease_id: register.lease_id, ..Default::default() };
    let beat = registry.beat(beat).await?.into_inner();
    let resolve = v1::ResolveRequest { logical_id, min_revision: register.revision, choice: None };
    let resolve = discovery.resolve(resolve).await?.into_inner();
    Ok(Answers { resolve, beat, register })
}
