//! Real daemons: the built binary on free ports of the loopback, and real gRPC clients for it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use musterd::proto::v1::{
    cluster_service_client::ClusterServiceClient, discovery_service_client::DiscoveryServiceClient,
    registry_service_client::RegistryServiceClient,
};
use musterd_client::Tls;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tonic::transport::{Channel, Endpoint};

use super::{scratch::Scratch, secured::connector, wait::wait_until, wire::Wire};

/// How long a daemon may take to start or to end on a loaded machine.
pub(crate) const DAEMON_BOUND: Duration = Duration::from_secs(30);

/// The program under test.
pub(crate) fn program() -> Command {
    build_at(Path::new(env!("CARGO_BIN_EXE_musterd")))
}

/// The program of another build, in the same environment as the one under test.
pub(crate) fn build_at(path: &Path) -> Command {
    let mut command = Command::new(path);
    // Nothing of the developer's own environment may configure it.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MUSTERD_") {
            command.env_remove(name);
        }
    }
    // A daemon that is not there is the end of a command, unless a test is about waiting for one.
    command.env("MUSTERD_WAIT", "0s");
    // Nor a file of this machine.
    command.env("MUSTERD_CONFIG", "/dev/null");
    command.stdin(Stdio::null());
    command
}

/// The program under test, started by another command, such as `ip netns exec NAME`.
fn program_within(within: &[String]) -> Command {
    let plain = program();
    let Some((first, rest)) = within.split_first() else { return plain };
    let mut command = Command::new(first);
    command.args(rest).arg(plain.get_program()).stdin(Stdio::null());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// Gets a path from an address: status and body.
pub(crate) async fn http_get(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    exchange(TcpStream::connect(address).await?, address, path).await
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: &str,
    path: &str,
) -> std::io::Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((status, body))
}

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
    scratch: Scratch,
    /// Where gRPC is served, as `127.0.0.1:port`.
    pub(crate) grpc_addr: String,
    /// Where metrics and probes are served.
    pub(crate) http_addr: String,
    /// What its callers show, if it asks for it; and where that is.
    tls: Option<Tls>,
    files: Option<Scratch>,
}

/// Whether daemons of the fault suite ask each caller for a certificate.
pub(crate) fn is_tls_asked_for() -> bool {
    std::env::var("MUSTERD_FAULTS_TLS").is_ok_and(|value| value == "1")
}

impl Daemon {
    /// Starts a daemon on a database and waits until it is ready.
    pub(crate) async fn start(database_url: &str) -> Self {
        Self::start_with(&["--database-url", database_url]).await
    }

    /// Starts a daemon that leaves the schema as the test has changed it. The database must be migrated.
    pub(crate) async fn start_without_migrating(database_url: &str) -> Self {
        Self::start_with(&["--database-url", database_url, "--no-migrate"]).await
    }

    /// Starts a daemon with these flags of `serve` and waits until it is ready.
    pub(crate) async fn start_with(flags: &[&str]) -> Self {
        let daemon = Self::spawn(flags).await;
        daemon.wait_ready().await;
        daemon
    }

    /// As [`Self::start_with`]; with TLS and a policy if `MUSTERD_FAULTS_TLS=1` asks for them. Its callers are its operator then.
    pub(crate) async fn start_as_asked(flags: &[&str]) -> Self {
        if !is_tls_asked_for() {
            return Self::start_with(flags).await;
        }
        let files = Scratch::in_memory();
        let directory = files.path().join("tls");
        let made = crate::cli::musterd(&["security", "init", directory.to_str().unwrap()]).await;
        assert_eq!(made.code, Some(0), "{made:?}");
        let mut daemon = Self::spawn(&[flags, &["--security-dir", directory.to_str().unwrap()]].concat()).await;
        let path = |name: &str| directory.join(name);
        daemon.tls = Some(Tls::new().ca(path("ca.pem")).identity(path("operator.pem"), path("operator.key")));
        daemon.files = Some(files);
        daemon.wait_ready().await;
        daemon
    }

    /// What its callers show, if it asks for it.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Starts a daemon and waits until it listens, ready or not.
    pub(crate) async fn spawn(flags: &[&str]) -> Self {
        Self::spawn_in(&[], flags).await
    }

    /// As [`Self::spawn`], with more in its environment.
    pub(crate) async fn spawn_in(environment: &[(&str, &str)], flags: &[&str]) -> Self {
        Self::spawn_within(&[], environment, flags).await
    }

    /// As [`Self::spawn_in`], by another command that becomes the daemon.
    pub(crate) async fn spawn_within(within: &[String], environment: &[(&str, &str)], flags: &[&str]) -> Self {
        let mut command = program_within(within);
        command.envs(environment.iter().copied());
        Self::launch(command, flags).await
    }

    /// Starts the daemon of another build with these flags of `serve` and waits until it is ready.
    pub(crate) async fn start_build(program: &Path, flags: &[&str]) -> Self {
        let daemon = Self::launch(build_at(program), flags).await;
        daemon.wait_ready().await;
        daemon
    }

    async fn launch(mut command: Command, flags: &[&str]) -> Self {
        let scratch = Scratch::in_memory();
        let log = scratch.path().join("daemon.log");
        command.args(["serve", "--log-format", "json"]);
        if !flags.contains(&"--log-level") {
            // Without a line for each query: suites that drive a daemon hard would log little else.
            command.args(["--log-level", "info,musterd=debug,musterd::store=info"]);
        }
        if !flags.contains(&"--grpc-addr") {
            command.args(["--grpc-addr", "127.0.0.1:0"]);
        }
        if !flags.contains(&"--http-addr") {
            command.args(["--http-addr", "127.0.0.1:0"]);
        }
        if !flags.contains(&"--admin-socket") && !flags.contains(&"--data-dir") {
            // Not as a flag: the previous release has none.
            command.env("MUSTERD_ADMIN_SOCKET", scratch.path().join("admin.sock"));
        }
        let child = command.args(flags).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
        let (grpc_addr, http_addr) = wait_until("the daemon listens", DAEMON_BOUND, async || {
            let text = fs::read_to_string(&log).unwrap();
            let line = text.lines().find(|line| line.contains("musterd is starting")).ok_or(text.clone())?;
            let line: serde_json::Value = serde_json::from_str(line).map_err(|_| text.clone())?;
            let field = |name: &str| line.get(name).and_then(|value| value.as_str()).map(str::to_owned);
            field("grpc.addr").zip(field("http.addr")).ok_or(text)
        })
        .await;
        Self { child, log, scratch, grpc_addr, http_addr, tls: None, files: None }
    }

    /// Starts a daemon with the registries of a configuration file, and waits until all of them listen. Returns their gRPC and
    /// HTTP addresses by name; [`Self::choose`] chooses one.
    pub(crate) async fn several(config: &str) -> (Self, BTreeMap<String, (String, String)>) {
        let scratch = Scratch::in_memory();
        let (log, file) = (scratch.path().join("daemon.log"), scratch.path().join("musterd.toml"));
        fs::write(&file, config).unwrap();
        let mut command = program();
        command.args(["serve", "--log-format", "json", "--admin-socket", "none", "--config"]).arg(&file);
        let child = command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
        let count = config.matches("[[registry]]").count();
        let ports = wait_until("the registries listen", DAEMON_BOUND, async || {
            let text = fs::read_to_string(&log).unwrap();
            let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            let field = |line: &serde_json::Value, name: &str| line[name].as_str().map(str::to_owned);
            let ports: BTreeMap<_, _> = lines
                .filter_map(|line| {
                    let name = field(&line["span"], "registry")?;
                    Some((name, (field(&line, "grpc.addr")?, field(&line, "http.addr")?)))
                })
                .collect();
            if ports.len() == count { Ok(ports) } else { Err(text) }
        })
        .await;
        let (grpc_addr, http_addr) = ports.values().next().unwrap().clone();
        (Self { child, log, scratch, grpc_addr, http_addr, tls: None, files: None }, ports)
    }

    /// Turns to the registry at these addresses.
    pub(crate) fn choose(&mut self, (grpc_addr, http_addr): &(String, String)) {
        (self.grpc_addr, self.http_addr) = (grpc_addr.clone(), http_addr.clone());
    }

    /// Waits until `/readyz` says so.
    pub(crate) async fn wait_ready(&self) {
        wait_until("the daemon is ready", DAEMON_BOUND, async || match self.http_get("/readyz").await {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}\n{}", self.log())),
        })
        .await;
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The address of its admin socket.
    pub(crate) fn admin(&self) -> String {
        format!("unix:{}/admin.sock", self.scratch.path().display())
    }

    /// A directory that goes when this daemon does.
    pub(crate) fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Kills it as hard as can be, and waits until it is gone.
    pub(crate) fn kill9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to leave, and waits until it has.
    pub(crate) async fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_exit().await
    }

    /// Waits until it has ended.
    pub(crate) async fn wait_exit(&mut self) -> ExitStatus {
        let log = self.log.clone();
        wait_until("the daemon ends", DAEMON_BOUND, async || {
            self.child.try_wait().unwrap().ok_or_else(|| fs::read_to_string(&log).unwrap())
        })
        .await
    }

    /// A connection to it.
    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc_addr)).unwrap();
        let endpoint = endpoint.connect_timeout(Duration::from_secs(5)).timeout(Duration::from_secs(10));
        match &self.tls {
            Some(tls) => endpoint.connect_with_connector(connector(tls, &self.grpc_addr)).await.unwrap(),
            None => endpoint.connect().await.unwrap(),
        }
    }

    /// A client for actors.
    pub(crate) async fn registry(&self) -> RegistryServiceClient<Channel> {
        Wire::of(self).await.registry
    }

    /// A client for routers.
    pub(crate) async fn discovery(&self) -> DiscoveryServiceClient<Channel> {
        Wire::of(self).await.discovery
    }

    /// A client for operators.
    pub(crate) async fn cluster(&self) -> ClusterServiceClient<Channel> {
        Wire::of(self).await.cluster
    }

    /// Gets a path of the HTTP port: status and body.
    pub(crate) async fn http_get(&self, path: &str) -> std::io::Result<(u16, String)> {
        let Some(tls) = &self.tls else { return http_get(&self.http_addr, path).await };
        let stream = TcpStream::connect(&self.http_addr).await?;
        let stream = tls.connect(stream, "127.0.0.1", "http/1.1").await.map_err(std::io::Error::other)?;
        exchange(stream, &self.http_addr, path).await
    }

    /// The value of one metric, named as it stands in the exposition with its labels.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let (_, body) = self.http_get("/metrics").await.unwrap();
        body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            // The log tells why; only a failed test shows it.
            #[expect(clippy::print_stderr, reason = "shown by the test runner for a failed test only")]
            {
                eprintln!("--- log of {} ---\n{}", self.grpc_addr, fs::read_to_string(&self.log).unwrap_or_default());
            }
        }
    }
}
