//! The end of a run: everything comes to rest, is compared, and is judged.

use std::{fs, time::Duration};

use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::{
    audit,
    checker::{self, Demands, Evidence, Figures, Final, Verdict, seconds},
    history::{self, Answer, Call, Disruption, Dump, Micros, Outcome, Row},
    world::World,
};
use crate::harness::registry::get;

/// Within this all daemons have to show what PostgreSQL has, once everything is healed.
const CONVERGENCE: Duration = Duration::from_secs(5);
/// Within this what is no longer needed has to be gone. A session whose daemon was cut off from PostgreSQL is noticed there by
/// the probes of TCP, the first of them after 5 s.
const LEFTOVERS: Duration = Duration::from_secs(15);
/// How long routers may take for the answers that a run needs.
const READS_BOUND: Duration = Duration::from_secs(30);

/// Threads and open files of a process.
fn footprint(pid: Pid) -> Option<(usize, usize)> {
    let count = |what: &str| Some(fs::read_dir(format!("/proc/{pid}/{what}")).ok()?.count());
    Some((count("task")?, count("fd")?))
}

impl World {
    /// Remembers how much of the machine each daemon takes while all is well.
    pub(crate) fn note_footprints(&mut self) {
        for node in &mut self.nodes {
            node.baseline = node.pid().and_then(footprint);
        }
    }

    /// Lets everything come to rest and judges it; writes the history to a file if anything is wrong.
    pub(crate) async fn finish(mut self, name: &str, seed: u64, demands: Demands) -> (Verdict, Evidence) {
        self.read_enough(&demands).await;
        self.quiet.cancel();
        let finals = self.converge().await;
        self.end_crowd().await;
        self.look_for_leftovers().await;
        self.look_for_panics();
        let sql = self.sql().await;
        let rows = audit::rows(&sql).await.1;
        let mut evidence = Evidence {
            calls: self.history.calls(),
            seen: self.history.seen(),
            changes: audit::changes(&sql, self.clock).await,
            epochs: audit::epochs(&sql).await,
            protections: audit::protections(&sql, self.clock).await,
            kept: self.kept.all(),
            disruptions: self.disruptions.clone(),
            finals,
            rows,
            complaints: self.complaints.clone(),
            are_daemons_left_alone: self.are_daemons_left_alone,
            ttl: Micros::try_from(self.ttl.as_micros()).unwrap(),
            clock_error: self.clock.error,
            demands,
        };
        settle_rows(&mut evidence);
        let mut verdict = checker::check(&evidence);
        verdict.history = report(name, seed, &verdict, &evidence);
        (verdict, evidence)
    }

    /// Lets the routers go on until there are as many answers as are demanded: a slow machine needs longer for them.
    async fn read_enough(&self, demands: &Demands) {
        let began = Instant::now();
        while began.elapsed() < READS_BOUND {
            let calls = self.history.calls();
            let answers = || calls.iter().filter_map(Call::answer);
            let reads = answers().filter(|it| matches!(it, Answer::Resolved { .. } | Answer::Listed { .. })).count();
            let picks = answers().filter(|it| matches!(it, Answer::Picked { .. })).count();
            if reads >= demands.reads_answered && picks >= demands.picks {
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// What PostgreSQL has, and each daemon; as soon as they agree, or after the time they have for it.
    async fn converge(&mut self) -> Vec<Final> {
        let client = self.client();
        let sql = self.sql().await;
        let began = Instant::now();
        loop {
            let (revision, rows) = audit::rows(&sql).await;
            let epoch: i64 = get(&sql, "SELECT epoch_number FROM cluster_metadata").await;
            let alive = |row: &Row| row.status != "dead" && row.epoch == epoch.cast_unsigned();
            let rows = rows.into_iter().filter(alive).collect();
            let mut finals = vec![Final { who: "PostgreSQL".to_owned(), revision, rows }];
            for daemon in 0..self.nodes.len() {
                let who = format!("daemon {daemon}");
                finals.push(match client.list(daemon, 0).await {
                    Outcome::Ok(Answer::Listed { revision, mut rows }) => {
                        rows.sort_by_key(|row| row.instance);
                        Final { who, revision, rows }
                    }
                    other => Final { who: format!("{who}, which says {other:?},"), revision: 0, rows: Vec::new() },
                });
            }
            let agreed = finals.iter().all(|last| (last.revision, &last.rows) == (finals[0].revision, &finals[0].rows));
            if agreed || began.elapsed() > CONVERGENCE {
                return finals;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Connections, threads and files that are no longer needed.
    async fn look_for_leftovers(&mut self) {
        let sql = self.sql().await;
        let limit = i64::try_from(8 * self.nodes.len()).unwrap();
        let backends = "SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND application_name = 'musterd'";
        let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
        match get::<i64>(&sql, deadlocks).await {
            0 => {}
            count => self.complaints.push(format!("PostgreSQL had to break {count} deadlocks")),
        }
        let began = Instant::now();
        loop {
            let mut left = Vec::new();
            let connected = get::<i64>(&sql, backends).await;
            if connected > limit {
                left.push(format!("{connected} connections to PostgreSQL, {limit} are enough"));
            }
            for (number, node) in self.nodes.iter().enumerate() {
                let now = node.pid().and_then(footprint);
                if let (Some((threads, files)), Some((threads_now, files_now))) = (node.baseline, now)
                    && (threads_now > threads + 8 || files_now > files + 16)
                {
                    left.push(format!(
                        "daemon {number} has {threads_now} threads and {files_now} files, it had {threads} and {files}"
                    ));
                }
            }
            if left.is_empty() || began.elapsed() > LEFTOVERS {
                self.complaints.extend(left);
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn look_for_panics(&mut self) {
        for (number, node) in self.nodes.iter().enumerate() {
            let log =
                node.daemon.as_ref().map(crate::harness::daemon::Daemon::log).unwrap_or_default() + &node.old_logs;
            if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
                self.complaints.push(format!("daemon {number} panicked: {line}"));
            }
        }
    }
}

/// The rows were read after the changes could still grow by a death: judge both as of the earlier one.
fn settle_rows(evidence: &mut Evidence) {
    let last = evidence.rows.iter().map(|row| row.revision).max().unwrap_or_default();
    let later: Vec<_> =
        evidence.changes.iter().filter(|change| change.row.revision > last).map(|change| change.row.instance).collect();
    evidence.rows.retain(|row| !later.contains(&row.instance));
    for change in evidence.changes.iter().filter(|change| later.contains(&change.row.instance)) {
        evidence.rows.retain(|row| row.instance != change.row.instance);
        evidence.rows.push(change.row.clone());
    }
}

/// Prints what was found; shown for a failed test, and for all with `--nocapture`. Returns the history if anything is wrong.
#[expect(clippy::print_stdout, reason = "figures and the seed belong to the output of a test")]
fn report(name: &str, seed: u64, verdict: &Verdict, evidence: &Evidence) -> Option<Dump> {
    let Figures { detections, margin, .. } = &verdict.figures;
    let at = |percent: usize| detections.get((detections.len() * percent / 100).min(detections.len().max(1) - 1));
    let shown = |micros: Option<&Micros>| micros.map_or("-".to_owned(), |micros| seconds(*micros));
    println!("== {name}, MUSTERD_FAULTS_SEED={seed}");
    println!("   {:?}", Figures { detections: Vec::new(), ..verdict.figures.clone() });
    println!(
        "   detection p50 {} p99 {} max {}, smallest margin {}",
        shown(at(50)),
        shown(at(99)),
        shown(detections.last()),
        shown(margin.as_ref())
    );
    for (from, until, why) in &evidence.protections {
        println!("   protected from {} to {}: {why}", seconds(*from), seconds(*until));
    }
    for Disruption { fault, from, until, effect, recovery } in &evidence.disruptions {
        println!("   {fault} for {}, {effect}; recovered in {}", seconds(until - from), seconds(*recovery));
    }
    if verdict.violations.is_empty() {
        return None;
    }
    let dump = history::dump(
        name,
        &[
            ("violation", serde_lines(&verdict.violations)),
            ("disruption", serde_lines(&evidence.disruptions)),
            ("change", serde_lines(&evidence.changes)),
            ("call", serde_lines(&evidence.calls)),
            ("seen", serde_lines(&evidence.seen)),
        ],
    );
    println!("   {} violations; the history is in {}", verdict.violations.len(), dump.path().display());
    for violation in verdict.violations.iter().take(12) {
        println!("   {:?}: {}", violation.rule, violation.what);
    }
    Some(dump)
}

fn serde_lines<T: serde::Serialize>(lines: &[T]) -> Vec<serde_json::Value> {
    lines.iter().map(|line| serde_json::to_value(line).unwrap()).collect()
}
