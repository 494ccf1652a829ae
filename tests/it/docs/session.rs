//! A shell that a page's commands are typed into.
//!
//! One shell for a page, so that `export`, `cd` and `$?` mean what they mean to a reader. It stands in a directory that
//! looks like the repository, finds the program under test on its `PATH`, and is led to the ports and the database of
//! the test wherever a page names the usual ones.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::harness::{
    daemon::{DAEMON_BOUND, http_get, program},
    scratch::Scratch,
    wait::wait_until,
};

/// How long a command may take: one of them builds an example.
const BOUND: Duration = Duration::from_secs(600);
/// Ends what a command prints.
const END: &str = "--- end of command, exit code";
/// What pages call the database.
const DATABASE: &str = "postgres://musterd:secret@db/registry";
/// What pages call the machine.
const MACHINE: &str = "laptop";

/// Where a page's commands find what they name.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) grpc_addr: String,
    pub(crate) http_addr: String,
    /// gRPC and HTTP of the second daemon of a page, which listens at 7727 and 7728.
    pub(crate) second: (String, String),
    pub(crate) database_url: String,
}

/// A shell.
#[derive(Debug)]
pub(crate) struct Session {
    world: World,
    shell: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    background: PathBuf,
    /// Whether commands follow each other as in a paste, without waiting for what they started.
    pasted: bool,
    _scratch: Scratch,
}

impl Session {
    /// Starts one.
    pub(crate) fn start(world: World, pasted: bool) -> Self {
        let scratch = Scratch::on_disk();
        let directory = scratch.path().join("musterd");
        prepare(&directory, &world);
        let background = scratch.path().join("background.log");
        let mut command = Command::new("bash");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MUSTERD_")) {
            command.env_remove(name);
        }
        let path = std::env::var("PATH").unwrap();
        let bin = directory.join("target/docs/bin");
        command
            .args(["--noprofile", "--norc"])
            .current_dir(&directory)
            .env("PATH", format!("{}:{}:{path}", bin.display(), node_tools().display()))
            .env("MUSTERD_ADDR", &world.grpc_addr)
            // A loaded machine may need long to start what a page starts.
            .env("MUSTERD_WAIT", "60s")
            .envs([("LC_ALL", "C.UTF-8"), ("PSQLRC", "/dev/null"), ("PAGER", "cat"), ("NO_COLOR", "1")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        let mut shell = command.spawn().unwrap();
        let (stdin, stdout) = (shell.stdin.take().unwrap(), BufReader::new(shell.stdout.take().unwrap()));
        Self { world, shell, stdin, stdout, background, pasted, _scratch: scratch }
    }

    /// Types a command and returns what it printed and its exit code. One that stays goes to the background.
    pub(crate) async fn run(&mut self, command: &str) -> (String, i32) {
        let command = self.led_here(command);
        let stays = command.trim_end().ends_with('&') || is_a_daemon(&command);
        let registers = !self.pasted && stays && (command.contains("musterd run ") || command.contains("actor"));
        let live_before = if registers { self.live().await } else { 0 };
        let script = if stays {
            let command = command.trim_end().trim_end_matches('&');
            format!("{{\n{command} &\n}} >>'{}' 2>&1\ndisown -a\n", self.background.display())
        } else {
            format!("{{\n{command}\n}} 2>&1\n")
        };
        // What follows must see the exit code of the command, not that of our own lines.
        let script = format!("{script}last=$?\nprintf '\\n%s %d\\n' '{END}' \"$last\"\n(exit \"$last\")\n");
        self.stdin.write_all(script.as_bytes()).await.unwrap();
        let answer = timeout(BOUND, self.answer()).await;
        let (output, code) = answer.unwrap_or_else(|_| panic!("not ended within {BOUND:?}: {command}"));
        if !self.pasted && stays && command.contains("musterd serve") {
            let (_, second) = &self.world.second;
            self.wait_ready(if command.contains(second.as_str()) { second } else { &self.world.http_addr }).await;
        } else if registers {
            wait_until("the actor is registered", BOUND, async || match self.live().await {
                live if live > live_before => Ok(()),
                live => Err(format!("{live} live; {}", self.background())),
            })
            .await;
        }
        (output, code)
    }

    /// What ran in the background has said.
    pub(crate) fn background(&self) -> String {
        fs::read_to_string(&self.background).unwrap_or_default()
    }

    async fn answer(&mut self) -> (String, i32) {
        let mut output = String::new();
        loop {
            let mut line = String::new();
            assert!(self.stdout.read_line(&mut line).await.unwrap() > 0, "the shell has ended after: {output}");
            if let Some(code) = line.strip_prefix(END) {
                // The line break before the mark is ours.
                output.pop();
                return (self.as_shown(&output), code.trim().parse().unwrap());
            }
            output.push_str(&line);
        }
    }

    fn led_here(&self, command: &str) -> String {
        if command.starts_with("musterd config") {
            return command.to_owned();
        }
        let mut command = command.replace(DATABASE, &self.world.database_url);
        // Made once, and only looked at from then on: what it needs comes from far away.
        command = command.replace("target/venv", &cache().join("docs-venv").display().to_string());
        for host in ["127.0.0.1", "0.0.0.0", "localhost"] {
            command = command.replace(&format!("{host}:7717"), &self.world.grpc_addr);
            command = command.replace(&format!("{host}:7718"), &self.world.http_addr);
            command = command.replace(&format!("{host}:7727"), &self.world.second.0);
            command = command.replace(&format!("{host}:7728"), &self.world.second.1);
        }
        command
    }

    fn as_shown(&self, output: &str) -> String {
        let name = nix::unistd::gethostname().unwrap().into_string().unwrap();
        let output = output.replace(&self.world.grpc_addr, "127.0.0.1:7717");
        output.replace(&self.world.http_addr, "127.0.0.1:7718").replace(&name, MACHINE)
    }

    async fn live(&self) -> usize {
        let mut command = Command::from(program());
        let output = command.args(["list", "-o", "jsonl", "--addr", &self.world.grpc_addr]).output().await.unwrap();
        String::from_utf8_lossy(&output.stdout).lines().count()
    }

    async fn wait_ready(&self, http_addr: &str) {
        wait_until("the daemon is ready", DAEMON_BOUND, async || match http_get(http_addr, "/readyz").await {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}\n{}", self.background())),
        })
        .await;
    }

    /// Ends everything that was started here.
    pub(crate) async fn end(mut self) {
        let group = Pid::from_raw(i32::try_from(self.shell.id().unwrap()).unwrap());
        let _ = killpg(group, Signal::SIGTERM);
        let _ = self.stdin.write_all(b"exit\n").await;
        // A daemon stops its PostgreSQL before it ends.
        let gone = async || if killpg(group, None).is_err() { Ok(()) } else { Err("still there") };
        let _ = timeout(Duration::from_secs(15), async {
            let _ = self.shell.wait().await;
            wait_until("the end of what the page started", Duration::from_secs(60), gone).await;
        })
        .await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(group) = self.shell.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

fn is_a_daemon(command: &str) -> bool {
    command.lines().any(|line| line.trim_start().starts_with("musterd serve"))
}

/// Makes a directory that looks like the repository, where nothing that is written reaches the real one.
fn prepare(directory: &Path, world: &World) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bin = directory.join("target/docs/bin");
    fs::create_dir_all(&bin).unwrap();
    for name in ["deploy", "docs", "migrations", "proto", "tests"] {
        symlink(root.join(name), directory.join(name)).unwrap();
    }
    // Its defaults are the ports and the folder of the machine. What it says of its settings has to be the truth.
    let (grpc_addr, http_addr) = (&world.grpc_addr, &world.http_addr);
    let data_dir = directory.with_file_name("data");
    let led_here = format!(
        "[ \"$1\" = config ] || export MUSTERD_GRPC_ADDR={grpc_addr} MUSTERD_HTTP_ADDR={http_addr} MUSTERD_DATA_DIR={}",
        data_dir.display()
    );
    script(&bin.join("musterd"), &format!("{led_here}\nexec '{}' \"$@\"", env!("CARGO_BIN_EXE_musterd")));
    // Cargo knows its packages by their paths, so it is called in the real place. RUSTC_BOOTSTRAP is meant for the test
    // binary alone (tests/timed.sh): cargo would build everything again.
    let real = format!("cd '{}' && unset RUSTC_BOOTSTRAP && exec '{}' \"$@\"", root.display(), env!("CARGO"));
    script(&bin.join("cargo"), &real);
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Where tools for tests are kept, as `deploy/prerequisites.sh` has it.
pub(crate) fn cache() -> PathBuf {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    cache.unwrap_or_else(std::env::temp_dir).join("musterd-ci")
}

fn node_tools() -> PathBuf {
    cache().join("node_modules/.bin")
}
