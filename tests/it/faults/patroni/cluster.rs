//! Three nodes of Patroni on loopback, with etcd: real programs, which `tests/patroni.sh` gets.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, geteuid},
};
use serde_json::Value;

use crate::harness::{
    daemon::http_get,
    postgres::{children, connect},
    registry::get,
    scratch::Scratch,
    wait::wait_until,
};

/// How long an election may take: Patroni waits for the lock of the leader to run out (`ttl`), on a loaded machine.
pub(super) const ELECTION_BOUND: Duration = Duration::from_secs(90);
/// The shortest `ttl` that Patroni takes.
const TTL_SECONDS: u64 = 20;

/// The programs.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    patroni: PathBuf,
    etcd: PathBuf,
}

impl Tools {
    /// Finds them; `None` where they are not wanted.
    pub(super) fn find() -> Option<Self> {
        if std::env::var_os("MUSTERD_SKIP_PATRONI").is_some_and(|value| value == "1") {
            #[expect(clippy::print_stderr, reason = "a test that checks nothing must say so")]
            {
                eprintln!("SKIPPED: MUSTERD_SKIP_PATRONI is 1, so nothing is tested with a real Patroni");
            }
            return None;
        }
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let installed = std::env::split_paths(&path).map(|directory| directory.join("etcd"));
        let etcd = installed.chain([target.join("etcd/usr/bin/etcd")]).find(|etcd| etcd.is_file());
        let patroni = target.join("patroni/bin/patroni");
        let missing = "run tests/patroni.sh, or tests/run.sh, which does, or set MUSTERD_SKIP_PATRONI=1 to leave out what \
                       needs them";
        assert!(patroni.is_file() && etcd.is_some(), "Patroni and etcd are missing: {missing}");
        Some(Self { patroni, etcd: etcd? })
    }
}

/// One node: Patroni and its PostgreSQL.
#[derive(Debug)]
struct Member {
    name: String,
    port: u16,
    rest: String,
    config: PathBuf,
    data: PathBuf,
    patroni: Option<Child>,
}

impl Member {
    fn patroni_pid(&self) -> Option<u32> {
        self.patroni.as_ref().map(Child::id)
    }

    /// A server that was killed leaves its pid in the file, and another process may get it.
    fn postmaster(&self) -> Option<u32> {
        let pid = fs::read_to_string(self.data.join("postmaster.pid")).ok()?.lines().next()?.parse().ok()?;
        (fs::read_link(format!("/proc/{pid}/cwd")).ok()? == self.data).then_some(pid)
    }
}

/// What of a node is hurt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Patroni and every process of PostgreSQL.
    Node,
    Postmaster,
    Patroni,
}

/// The cluster. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    tools: Tools,
    etcd: Child,
    members: Vec<Member>,
    is_synchronous: bool,
    user: Option<User>,
    scratch: Scratch,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn signal(pids: impl IntoIterator<Item = u32>, what: Signal) -> usize {
    pids.into_iter().filter(|pid| kill(Pid::from_raw((*pid).try_into().unwrap()), what).is_ok()).count()
}

impl Cluster {
    /// Starts etcd and three nodes, and waits until two of them follow the third.
    pub(super) async fn start(tools: Tools, is_synchronous: bool) -> Self {
        let scratch = Scratch::on_disk();
        let user = geteuid().is_root().then(|| User::from_name("postgres").unwrap().unwrap());
        let directory = scratch.path().to_path_buf();
        if let Some(user) = &user {
            chown(&directory, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        let (client, peer) = (format!("http://127.0.0.1:{}", free_port()), format!("http://127.0.0.1:{}", free_port()));
        let etcd = Command::new(&tools.etcd)
            .arg("--data-dir")
            .arg(directory.join("etcd"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join("etcd.log")).unwrap())
            .spawn()
            .unwrap();
        let members = (1..=3).map(|number| member(&directory, number)).collect();
        let mut cluster = Self { tools, etcd, members, is_synchronous, user, scratch };
        let etcd = client.trim_start_matches("http://").to_owned();
        for member in &cluster.members {
            fs::write(&member.config, cluster.configuration(member, &etcd)).unwrap();
        }
        cluster.spawn(0);
        cluster.leader_beside(None).await;
        cluster.spawn(1);
        cluster.spawn(2);
        cluster.healthy().await;
        cluster
    }

    fn configuration(&self, member: &Member, etcd: &str) -> String {
        let (directory, programs) = (self.scratch.path().display(), programs());
        let Member { name, port, rest, data, .. } = member;
        let (data, programs, synchronous) = (data.display(), programs.display(), self.is_synchronous);
        format!(
            "scope: registry
name: {name}
restapi: {{listen: '{rest}', connect_address: '{rest}'}}
etcd3: {{host: '{etcd}'}}
bootstrap:
  dcs:
    ttl: {TTL_SECONDS}
    loop_wait: 3
    retry_timeout: 3
    maximum_lag_on_failover: 1048576
    synchronous_mode: {synchronous}
    postgresql: {{use_pg_rewind: true, use_slots: true, parameters: {{wal_log_hints: 'on', max_connections: 80}}}}
  initdb: [{{encoding: UTF8}}, {{locale: C}}, data-checksums]
  pg_hba: ['host all all 127.0.0.1/32 trust', 'host replication all 127.0.0.1/32 trust', 'local all all trust']
postgresql:
  listen: 127.0.0.1:{port}
  connect_address: 127.0.0.1:{port}
  data_dir: {data}
  bin_dir: {programs}
  pgpass: {directory}/pgpass-{name}
  authentication:
    superuser: {{username: musterd, password: x}}
    replication: {{username: replicator, password: x}}
    rewind: {{username: rewinder, password: x}}
  parameters: {{unix_socket_directories: '{directory}'}}
"
        )
    }

    fn spawn(&mut self, number: usize) {
        let log = fs::File::options().create(true).append(true).open(self.log(number)).unwrap();
        let member = &mut self.members[number];
        let mut command = Command::new(&self.tools.patroni);
        command.arg(&member.config).current_dir(self.scratch.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log).process_group(0).env("LC_ALL", "C");
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        member.patroni = Some(command.spawn().unwrap());
    }

    fn log(&self, number: usize) -> PathBuf {
        self.scratch.path().join(format!("{}.log", self.members[number].name))
    }

    fn logs(&self) -> String {
        let tail = |number| {
            let text = fs::read_to_string(self.log(number)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(12).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        (0..self.members.len()).map(tail).collect::<Vec<_>>().join("\n---\n")
    }

    /// Role, state and timeline of a node, as Patroni tells them.
    async fn role(&self, number: usize) -> Option<(String, String, u64)> {
        let answer =
            tokio::time::timeout(Duration::from_secs(1), http_get(&self.members[number].rest, "/patroni")).await;
        let (_, body) = answer.ok()?.ok()?;
        let told: Value = serde_json::from_str(&body).ok()?;
        let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
        Some((text("role"), text("state"), told["timeline"].as_u64().unwrap_or_default()))
    }

    /// Waits for a leader that is not this node, and returns it.
    pub(super) async fn leader_beside(&self, former: Option<usize>) -> usize {
        wait_until("a leader", ELECTION_BOUND, async || {
            for number in (0..self.members.len()).filter(|number| Some(*number) != former) {
                let role = self.role(number).await;
                if role.is_some_and(|(role, state, _)| is_leader(&role) && state == "running") {
                    return Ok(number);
                }
            }
            Err(self.logs())
        })
        .await
    }

    /// Waits until one node leads and the others follow it, one of them synchronously if that is asked for.
    pub(super) async fn healthy(&self) -> usize {
        wait_until("a healthy cluster", ELECTION_BOUND, async || {
            let mut roles = Vec::new();
            for number in 0..self.members.len() {
                roles.push(self.role(number).await.ok_or_else(|| self.logs())?);
            }
            let leaders: Vec<usize> = (0..roles.len()).filter(|number| is_leader(&roles[*number].0)).collect();
            let run = roles.iter().all(|(_, state, _)| ["running", "streaming"].contains(&state.as_str()));
            let [leader] = leaders[..] else { return Err(format!("{roles:?}\n{}", self.logs())) };
            if !run || roles.iter().any(|(_, _, timeline)| *timeline != roles[leader].2) {
                return Err(format!("{roles:?}\n{}", self.logs()));
            }
            let sql = connect(&self.url_of(leader)).await;
            let following = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
            let synchronous = format!("{following} AND sync_state IN ('sync', 'quorum')");
            let (following, synchronous) = (get::<i64>(&sql, following).await, get::<i64>(&sql, &synchronous).await);
            if following == 2 && (synchronous > 0 || !self.is_synchronous) { Ok(leader) } else { Err(self.logs()) }
        })
        .await
    }

    pub(super) fn nodes(&self) -> usize {
        self.members.len()
    }

    pub(super) fn url_of(&self, number: usize) -> String {
        format!("postgres://musterd@127.0.0.1:{}/postgres?connect_timeout=2", self.members[number].port)
    }

    /// All hosts, in this or in the opposite order.
    pub(crate) fn url(&self, is_reversed: bool) -> String {
        let mut hosts: Vec<String> = self.members.iter().map(|member| format!("127.0.0.1:{}", member.port)).collect();
        if is_reversed {
            hosts.reverse();
        }
        format!("postgres://musterd@{}/postgres?target_session_attrs=read-write&sslmode=disable", hosts.join(","))
    }

    fn pids(&self, number: usize, part: Part) -> Vec<u32> {
        let member = &self.members[number];
        let patroni = (part != Part::Postmaster).then(|| member.patroni_pid()).flatten();
        let postmaster = (part != Part::Patroni).then(|| member.postmaster()).flatten();
        let backends = postmaster.filter(|_| part == Part::Node).map(children).unwrap_or_default();
        patroni.into_iter().chain(postmaster).chain(backends).collect()
    }

    /// Sends a signal to a part of a node. Returns to how many processes.
    pub(super) fn signal(&self, number: usize, part: Part, what: Signal) -> usize {
        signal(self.pids(number, part), what)
    }

    /// Starts the Patroni of a node again, after it was killed.
    pub(super) fn restart(&mut self, number: usize) {
        if let Some(mut ended) = self.members[number].patroni.take() {
            let _ = ended.kill();
            ended.wait().unwrap();
        }
        self.spawn(number);
    }

    /// Hands the lead over to another node, in order.
    pub(super) async fn switch_over(&self, leader: usize) -> usize {
        let control = self.tools.patroni.with_file_name("patronictl");
        let leader_name = self.members[leader].name.clone();
        let mut command = tokio::process::Command::new(control);
        command.arg("-c").arg(&self.members[leader].config);
        command.args(["switchover", "registry", "--leader", &leader_name, "--force"]).stdin(Stdio::null());
        let output = tokio::time::timeout(ELECTION_BOUND, command.output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        self.leader_beside(Some(leader)).await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for number in 0..self.members.len() {
            self.signal(number, Part::Node, Signal::SIGCONT);
        }
        for member in &mut self.members {
            let postmaster = member.postmaster();
            if let Some(mut patroni) = member.patroni.take() {
                let _ = patroni.kill();
                let _ = patroni.wait();
            }
            signal(postmaster, Signal::SIGQUIT);
        }
        let _ = self.etcd.kill();
        let _ = self.etcd.wait();
    }
}

fn is_leader(role: &str) -> bool {
    ["primary", "master", "leader"].contains(&role)
}

fn member(directory: &Path, number: usize) -> Member {
    let name = format!("n{number}");
    Member {
        port: free_port(),
        rest: format!("127.0.0.1:{}", free_port()),
        config: directory.join(format!("{name}.yml")),
        data: directory.join(format!("data-{name}")),
        patroni: None,
        name,
    }
}

/// The installed server programs: Patroni needs `pg_basebackup` and `pg_rewind` beside `postgres`.
fn programs() -> PathBuf {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut directories: Vec<PathBuf> = installed.map(|version| version.path().join("bin")).collect();
    directories.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    directories.extend(std::env::split_paths(&path));
    let has_all = |directory: &PathBuf| {
        ["postgres", "pg_basebackup", "pg_rewind"].iter().all(|program| directory.join(program).is_file())
    };
    let found = directories.into_iter().find(has_all);
    found.unwrap_or_else(|| panic!("postgres, pg_basebackup and pg_rewind are in no directory together"))
}
