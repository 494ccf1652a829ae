//! Where Prometheus and promtool are, and one running Prometheus.
//!
//! Debian's package would start a service; `deploy/prerequisites.sh` therefore only unpacks it, below `target/`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{daemon::DAEMON_BOUND, scratch::Scratch, wait::wait_until};

const UNPACKED: &str = "target/prometheus/usr/bin";

/// The programs of Prometheus.
#[derive(Debug)]
pub(super) struct Tools {
    directory: PathBuf,
}

impl Tools {
    /// Finds them; `None` where they are not wanted.
    pub(super) fn find() -> Option<Self> {
        if std::env::var_os("MUSTERD_SKIP_PROMETHEUS").is_some_and(|value| value == "1") {
            #[expect(clippy::print_stderr, reason = "a test that checks nothing must say so")]
            {
                eprintln!("SKIPPED: MUSTERD_SKIP_PROMETHEUS is 1, so nothing is tested with a real Prometheus");
            }
            return None;
        }
        let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join(UNPACKED);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = std::env::split_paths(&path).chain([unpacked]);
        let has_both =
            |directory: &PathBuf| ["prometheus", "promtool"].iter().all(|program| directory.join(program).is_file());
        let found = directories.into_iter().find(has_both);
        assert!(
            found.is_some(),
            "prometheus and promtool are missing: run tests/run.sh, which gets them on Debian and Ubuntu, or install \
             Prometheus, or set MUSTERD_SKIP_PROMETHEUS=1 to leave out what needs them"
        );
        found.map(|directory| Self { directory })
    }

    pub(super) fn promtool(&self) -> Command {
        Command::new(self.directory.join("promtool"))
    }
}

/// A running Prometheus on a free port of the loopback; killed when dropped.
#[derive(Debug)]
pub(super) struct Prometheus {
    child: Child,
    log: PathBuf,
    address: String,
    _scratch: Scratch,
}

impl Prometheus {
    /// Starts one with a configuration beside these other files, and waits until it listens.
    pub(super) async fn start(tools: &Tools, configuration: &str, files: &[(&str, String)]) -> Self {
        let scratch = Scratch::in_memory();
        let (config, log) = (scratch.path().join("prometheus.yaml"), scratch.path().join("prometheus.log"));
        fs::write(&config, configuration).unwrap();
        for (name, text) in files {
            fs::write(scratch.path().join(name), text).unwrap();
        }
        let child = Command::new(tools.directory.join("prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", scratch.path().join("data").display()))
            .args(["--web.listen-address=127.0.0.1:0", "--log.format=json"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let address = wait_until("prometheus listens", DAEMON_BOUND, async || {
            let text = fs::read_to_string(&log).unwrap();
            let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let listening = lines.find(|line| line["msg"] == "Listening on");
            listening.and_then(|line| line["address"].as_str().map(str::to_owned)).ok_or(text)
        })
        .await;
        let started = Self { child, log, address, _scratch: scratch };
        wait_until("prometheus is ready", DAEMON_BOUND, async || match started.get("/-/ready").await {
            Ok((200, _)) => Ok(()),
            other => Err(other),
        })
        .await;
        started
    }

    async fn get(&self, path: &str) -> Result<(u16, String), String> {
        let asking = async {
            let mut stream = TcpStream::connect(&self.address).await?;
            // HTTP/1.0, so that the answer comes in one piece.
            stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address).as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = asking.await.map_err(|error| error.to_string())?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        Ok((status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
    }

    /// The data that a path of its API answers with.
    pub(super) async fn api(&self, path: &str) -> Value {
        let (status, body) = self.get(&format!("/api/v1/{path}")).await.unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str::<Value>(&body).unwrap()["data"].clone()
    }

    /// The result of an instant query.
    pub(super) async fn query(&self, query: &str) -> Vec<Value> {
        let encoded = percent_encoding::utf8_percent_encode(query, percent_encoding::NON_ALPHANUMERIC);
        self.api(&format!("query?query={encoded}")).await["result"].as_array().cloned().unwrap_or_default()
    }

    /// The value of one of its own metrics.
    pub(super) async fn own_metric(&self, name: &str) -> f64 {
        let (_, body) = self.get("/metrics").await.unwrap();
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        body.lines().find_map(value).unwrap_or_else(|| panic!("prometheus has no {name}"))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "shown by the test runner for a failed test only")]
            {
                eprintln!("--- log of prometheus ---\n{}", fs::read_to_string(&self.log).unwrap_or_default());
            }
        }
    }
}
