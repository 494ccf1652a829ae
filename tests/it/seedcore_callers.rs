//! SeedCore's organs and manager on the database of a registry, while it is migrated, redeployed, repaired, and restarted.
//!
//! With `MUSTERD_TEST_SEEDCORE`, the git directory of a clone of SeedCore, the callers are those of its tag hackathon-2025-11,
//! unmodified. Otherwise they are written after their behaviour. `MUSTERD_TEST_CALLERS_SECONDS` makes the last part longer.

use std::{env, process::Stdio, time::Duration};

use musterd::migrate;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::mpsc::{Receiver, channel},
    time::{Instant, sleep},
};
use tokio_postgres::Client;

use crate::{
    cli::musterd,
    deploy::tools::python,
    harness::{
        daemon::Daemon,
        postgres::{BOUND, OwnCluster, connect},
        registry::{column, get, run},
        scratch::Scratch,
        wait::wait_until,
    },
};

const CALLERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/seedcore/callers.py");
const TABLES: &str = include_str!("../../migrations/011_add_runtime_registry.sql");
const FUNCTIONS: &str = include_str!("../../migrations/012_runtime_registry_functions.sql");
const TAG: &str = "hackathon-2025-11";
const ORGANS: usize = 4;
/// How long the database is away: less than a TTL, more than a pause of a caller after an error.
const OUTAGE: Duration = Duration::from_secs(8);
const LIVE: &str =
    "SELECT replace(instance_id::text, '-', '') FROM registry_instance WHERE status = 'alive' ORDER BY 1";
/// How many organs have beaten within the last 6 s.
const FRESH: &str = "SELECT count(*) FROM registry_instance
                     WHERE status = 'alive' AND last_heartbeat > clock_timestamp() - interval '6 s'";

struct Callers {
    child: Child,
    lines: Receiver<String>,
    warnings: Vec<String>,
    started: Vec<String>,
    _source: Option<Scratch>,
}

impl Callers {
    /// Starts them on a database of SeedCore.
    async fn start(client: &Client) -> Option<Self> {
        let place = "SELECT 'postgresql://' || current_user || '@/' || current_database() || '?host='
                     || trim(split_part(current_setting('unix_socket_directories'), ',', 1), '\" ')";
        let url: String = get(client, place).await;
        let mut command = Command::new(python("alembic")?);
        command.arg(CALLERS).arg(url).arg(ORGANS.to_string());
        let source = env::var("MUSTERD_TEST_SEEDCORE").ok().map(|directory| unpack(&directory));
        if let Some(source) = &source {
            command.env("SEEDCORE_SRC", source.path().join("src"));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, lines) = channel(10_000);
        tokio::spawn(async move {
            while let Ok(Some(line)) = output.next_line().await {
                let _ = sender.send(line).await;
            }
        });
        let mut callers = Self { child, lines, warnings: Vec::new(), started: Vec::new(), _source: source };
        wait_until("all organs have started", 4 * BOUND, async || {
            callers.read();
            if callers.started.len() == ORGANS {
                Ok(())
            } else {
                Err(format!("{:?} {:?}", callers.started, callers.warnings))
            }
        })
        .await;
        callers.started.sort();
        Some(callers)
    }

    fn read(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            match line.split_once(' ') {
                Some(("started", instance)) => self.started.push(instance.to_owned()),
                Some(("warning", warning)) => self.warnings.push(warning.to_owned()),
                _ => {}
            }
        }
    }

    /// All that have started live, under the ids that they started with, and beat.
    async fn live(&mut self, client: &Client, when: &str) {
        wait_until(when, BOUND, async || match get::<i64>(client, FRESH).await {
            fresh if usize::try_from(fresh).unwrap() == ORGANS => Ok(()),
            fresh => Err(fresh),
        })
        .await;
        self.read();
        assert_eq!(column::<String>(client, LIVE).await, self.started, "{when}: {:?}", self.warnings);
    }
}

/// The source of SeedCore's tag, from a clone.
fn unpack(directory: &str) -> Scratch {
    let scratch = Scratch::on_disk();
    let script = "git --git-dir=\"$1\" archive \"$2\" src | tar -x -C \"$3\"";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script, "sh", directory, TAG]).arg(scratch.path());
    assert!(command.status().unwrap().success(), "no {TAG} in {directory}");
    scratch
}

async fn says_that_callers_beat(url: &str) {
    let ended = musterd(&["check", "--database-url", url, "-o", "json"]).await;
    let json: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
    let finding = json["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == "sql callers");
    let found = finding.and_then(|finding| finding["found"].as_str()).unwrap_or_else(|| panic!("{ended:?}"));
    assert!(found.starts_with("SQL callers beat, last "), "{found}");
    assert!(found.contains(&format!("; {ORGANS} of their instances live, beside a daemon")), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn organs_and_manager_of_seedcore_live_through_migration_redeployment_and_restarts() {
    let mut cluster = OwnCluster::create().await;
    let url = cluster.url().to_owned();
    let client = connect(&url).await;
    run(&client, TABLES).await;
    run(&client, FUNCTIONS).await;
    let Some(mut callers) = Callers::start(&client).await else { return };
    callers.live(&client, "on SeedCore's own functions").await;

    migrate::up(&url, "test").await.unwrap();
    callers.live(&client, "after the migration").await;
    let daemon = Daemon::start(&url).await;
    run(&client, TABLES).await;
    run(&client, FUNCTIONS).await;
    callers.live(&client, "on redeployed functions").await;
    wait_until("the daemon restores its functions", BOUND, async || match migrate::verify(&url).await {
        Ok(found) if found.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    says_that_callers_beat(&url).await;
    daemon.kill9();
    let daemon = Daemon::start(&url).await;
    callers.live(&client, "after another daemon has taken over").await;
    assert_eq!(callers.warnings, [""; 0], "no call has failed yet");

    cluster.stop_immediate();
    sleep(OUTAGE).await;
    cluster.start().await;
    let client = connect(&url).await;
    callers.live(&client, "after a restart of the database").await;
    // Calls on connections that the restart has broken may fail a little later.
    let seconds = env::var("MUSTERD_TEST_CALLERS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let (until, mut quiet) = (Instant::now() + Duration::from_secs(seconds), None);
    while Instant::now() < until {
        sleep(Duration::from_secs(5)).await;
        callers.live(&client, "for as long as it lasts").await;
        assert!(
            callers.warnings.iter().all(|line| !line.contains("MU0") && !line.contains("is dead")),
            "{:?}",
            callers.warnings
        );
        quiet = Some(callers.warnings.len());
    }
    assert!(quiet.is_some_and(|warnings| warnings > 0), "the outage was noticed");
    says_that_callers_beat(&url).await;
    assert_eq!(get::<i64>(&client, "SELECT count(*) FROM registry_death").await, 0);

    drop(callers.child.stdin.take());
    wait_until("each organ has closed", BOUND, async || {
        let dead = "SELECT count(*) FROM registry_instance WHERE status = 'dead'";
        match get::<i64>(&client, dead).await {
            dead if usize::try_from(dead).unwrap() == ORGANS => Ok(()),
            dead => Err(dead),
        }
    })
    .await;
    assert!(daemon.terminate().await.success());
}
