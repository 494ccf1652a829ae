//! A soak: a fleet that lives and dies for as long as it is told to, while something is disturbed every half a minute;
//! in the end, what has grown, and by how much an hour.
//!
//! ```text
//! MUSTERD_SOAK_SECONDS=21600 cargo test --locked --test it faults::soak -- --ignored --nocapture
//! ```
//!
//! A line of figures is printed about forty times in all, and the slopes of the second half at the end: the first half is
//! for what fills up once.

use std::{
    fs,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use musterd::proto::v1;
use nix::sys::signal::Signal;
use tokio::{task::JoinSet, time::sleep};

use crate::harness::{
    actor::{Actor, Caller, alive},
    daemon::Daemon,
    registry::{Registry, get},
};

const TTL: Duration = Duration::from_secs(6);
/// How long the dead are kept on record: short, so that the table can be seen to stop growing.
const KEEP_DEAD: &str = "60s";
const ACTORS: usize = 100;
const CHURNERS: usize = 8;

/// One line of figures.
const COLUMNS: [&str; 8] =
    ["memory_kib", "threads", "files", "connections", "table_kib", "rows", "register_p50_us", "register_p99_us"];
type Sample = (f64, [f64; COLUMNS.len()]);

/// The slope of the best straight line through points.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>() / spread.max(f64::MIN_POSITIVE)
}

#[test]
fn a_slope_is_that_of_the_line_through_the_points() {
    assert!((slope(&[(0.0, 5.0), (1.0, 7.0), (2.0, 9.0)]) - 2.0).abs() < 1e-9);
    assert!(slope(&[(0.0, 5.0), (1.0, 4.0), (2.0, 5.0)]).abs() < 1e-9);
}

struct World {
    sql: Registry,
    daemons: Vec<Daemon>,
    /// How long registrations took since they were last looked at, in microseconds.
    latencies: Arc<Mutex<Vec<u64>>>,
}

impl World {
    async fn start() -> Self {
        let sql = Registry::head().await;
        let mut daemons = Vec::new();
        for _ in 0..3 {
            let flags = ["--database-url", sql.database.url(), "--keep-dead", KEEP_DEAD];
            daemons.push(Daemon::start_with(&flags).await);
        }
        Self { sql, daemons, latencies: Arc::default() }
    }

    fn callers(&self, first: usize) -> Vec<Caller> {
        let mut callers: Vec<_> = self.daemons.iter().map(Caller::of).collect();
        let count = callers.len();
        callers.rotate_left(first % count);
        callers
    }

    async fn sample(&self, began: Instant) -> Sample {
        let status = |daemon: &Daemon, field: &str| -> f64 {
            let text = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
            let line = text.lines().find(|line| line.starts_with(field)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let most = |figure: &dyn Fn(&Daemon) -> f64| self.daemons.iter().map(figure).fold(0.0, f64::max);
        let files = |daemon: &Daemon| fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count() as f64;
        let sql = async |sql: &str| get::<i64>(&self.sql.client, sql).await as f64;
        let mut latencies = std::mem::take(&mut *self.latencies.lock().unwrap());
        latencies.sort_unstable();
        let percentile = |percent: usize| latencies.get(latencies.len() * percent / 100).map_or(0.0, |us| *us as f64);
        let connections = "SELECT count(*) FROM pg_stat_activity
                           WHERE datname = current_database() AND application_name = 'musterd'";
        let figures = [
            most(&|daemon| status(daemon, "VmRSS:")),
            most(&|daemon| status(daemon, "Threads:")),
            most(&files),
            sql(connections).await,
            sql("SELECT pg_total_relation_size('registry_instance') / 1024").await,
            sql("SELECT count(*) FROM registry_instance").await,
            percentile(50),
            percentile(99),
        ];
        (began.elapsed().as_secs_f64(), figures)
    }

    /// Something that passes by itself; another one each time.
    async fn disturb(&self, turn: usize) {
        let daemon = &self.daemons[turn % self.daemons.len()];
        match turn % 3 {
            0 => {
                daemon.signal(Signal::SIGSTOP);
                sleep(Duration::from_secs(1)).await;
                daemon.signal(Signal::SIGCONT);
            }
            1 => {
                let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                           WHERE datname = current_database() AND application_name = 'musterd'";
                get::<i64>(&self.sql.client, cut).await;
            }
            _ => drop(Caller::of(daemon).rotate("a rotation of the soak").await),
        }
    }
}

/// Registers, looks, watches a little, and deregisters or just leaves, again and again.
async fn churn(callers: Vec<Caller>, latencies: Arc<Mutex<Vec<u64>>>) {
    for turn in 0_usize.. {
        let caller = &callers[turn % callers.len()];
        let asked = Instant::now();
        if let Ok(lease) = caller.register(alive(&format!("churn-{}", turn % 50), Duration::from_secs(2))).await {
            latencies.lock().unwrap().push(u64::try_from(asked.elapsed().as_micros()).unwrap());
            let _ = caller.resolve_at(&format!("churn-{}", turn % 50), lease.revision).await;
            let watching = caller.wire.discovery.clone().watch(v1::WatchRequest::default()).await;
            if let Ok(mut watch) = watching.map(tonic::Response::into_inner) {
                let _ = watch.message().await;
            }
            if turn % 4 != 0 {
                let request = v1::DeregisterRequest { lease_id: lease.lease_id, ..Default::default() };
                let _ = caller.wire.registry.clone().deregister(request).await;
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// An actor that registers again when a rotation has ended its lease; any other end is one too many.
async fn live(callers: Vec<Caller>) {
    loop {
        let actor = match callers[0].register(alive("kept", TTL)).await {
            Ok(lease) => Actor::resume(&callers, lease),
            Err(_) => {
                sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        while !actor.told().refused.iter().any(|reason| reason == "EPOCH_FENCED") {
            let over = ["LEASE_EXPIRED", "UNKNOWN_LEASE", "LEASE_REPLACED"];
            let told = actor.told();
            assert!(!told.refused.iter().any(|reason| over.contains(&reason.as_str())), "{told:?}");
            sleep(Duration::from_millis(500)).await;
        }
    }
}

#[expect(clippy::print_stdout, reason = "figures are what it is for")]
fn report(sample: &Sample) {
    let figures: Vec<_> = COLUMNS.iter().zip(&sample.1).map(|(name, figure)| format!("{name}={figure:.0}")).collect();
    println!("{:7.0} s  {}", sample.0, figures.join(" "));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs for as long as MUSTERD_SOAK_SECONDS says"]
async fn nothing_grows_for_ever() {
    let seconds = std::env::var("MUSTERD_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    let world = World::start().await;
    let mut crowd = JoinSet::new();
    for number in 0..ACTORS {
        crowd.spawn(live(world.callers(number)));
    }
    for number in 0..CHURNERS {
        crowd.spawn(churn(world.callers(number), Arc::clone(&world.latencies)));
    }
    let (began, mut samples, mut turn) = (Instant::now(), Vec::new(), 0);
    let (pause, mut disturbed) = (Duration::from_secs((seconds / 40).max(2)), Instant::now());
    while began.elapsed() < Duration::from_secs(seconds) {
        sleep(pause).await;
        if disturbed.elapsed() > Duration::from_secs(30) {
            world.disturb(turn).await;
            (turn, disturbed) = (turn + 1, Instant::now());
        }
        samples.push(world.sample(began).await);
        report(&samples[samples.len() - 1]);
        // A task that ended has failed: its assertion is this test's.
        if let Some(ended) = crowd.try_join_next() {
            ended.unwrap();
        }
    }
    judge(&samples[samples.len() / 2..]);
    for daemon in &world.daemons {
        assert!(!daemon.log().contains("panicked"));
    }
}

/// Prints the slopes. What may not grow at all is held to that; memory may settle for a while yet.
#[expect(clippy::print_stdout, reason = "figures are what it is for")]
fn judge(samples: &[Sample]) {
    println!("slopes of the second half, for an hour each:");
    for (column, name) in COLUMNS.iter().enumerate() {
        let points: Vec<_> = samples.iter().map(|(at, figures)| (at / 3_600.0, figures[column])).collect();
        let highest = points.iter().map(|point| point.1).fold(0.0, f64::max);
        println!("{name:>16}: {:+.1} (highest {highest:.0})", slope(&points));
    }
    let (first, last) = (samples.first().unwrap(), samples.last().unwrap());
    for (column, room) in [(0, 64.0 * 1_024.0), (1, 4.0), (2, 32.0), (3, 6.0)] {
        let (before, after) = (first.1[column], last.1[column]);
        assert!(after <= before + room, "{} has grown from {before} to {after}", COLUMNS[column]);
    }
}
