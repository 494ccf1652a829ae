//! `musterd status`: how healthy is the registry, and if it is not, what is wrong? In one screen.
//!
//! Renders the answer of one daemon, which judges itself and the cluster; the exit code follows the severity. The path to
//! the daemon, and the database itself, are the concern of `check`.

use std::time::Duration;

use musterd_client::{Client, Cluster, Epoch, Expiry};

use super::epoch;
use crate::{
    check::finding::{self, Finding},
    command::{
        client::ClientArgs,
        exit::{self, Error},
        instances::{age_text, ago, moment, seconds},
        redraw::{self, Frame, RepeatArgs},
    },
    json::messages,
    status::Severity,
    terminal::{
        output::{self, DocumentArgs, Format, Table, escape},
        paint,
        words::millis,
    },
};

/// Names without an instance that the screen has room for.
const UNSERVED_SHOWN: u32 = 10;
/// Where the second column begins.
const COLUMN: usize = 11;

pub(super) const HELP: &str = "\
Exits with 1 if a problem is critical; a warning does not change the exit code.
musterd check looks closer.

Examples:
  musterd status
  musterd status --watch
  musterd status -o json | jq .problems";

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    repeat: RepeatArgs,

    #[command(flatten)]
    output: DocumentArgs,
}

impl StatusArgs {
    /// Whether it goes on after the first answer.
    pub(super) fn repeats(&self) -> bool {
        self.repeat.is_wanted()
    }
}

/// All that the screen shows.
struct Seen {
    addr: String,
    cluster: Cluster,
    epoch: Option<Epoch>,
}

pub(super) async fn run(args: StatusArgs, client: &ClientArgs) -> Result<u8, Error> {
    let client = client.connect().await?;
    let format = args.output.output;
    redraw::show(args.repeat, format, async || frame(&look(&client).await?, format)).await
}

async fn look(client: &Client) -> Result<Seen, Error> {
    let cluster = client.cluster(UNSERVED_SHOWN).await?;
    // Only the history knows when it began, and that is in the database, which may be away.
    let epoch = match cluster.expiry {
        Expiry::Unknown => None,
        _ => client.latest_epoch().await.ok().flatten(),
    };
    let epoch = epoch.filter(|epoch| epoch.epoch_number == cluster.epoch_number);
    Ok(Seen { addr: client.daemon().to_string(), cluster, epoch })
}

fn frame(seen: &Seen, format: Format) -> Result<Frame, Error> {
    let cluster = &seen.cluster;
    let text = output::answer(format, || messages::cluster(cluster), Vec::new, || screen(seen))?;
    let code = if finding::severity(cluster.severity) == Severity::Critical { exit::NEGATIVE } else { exit::OK };
    Ok(Frame { text, notes: Vec::new(), code })
}

fn screen(seen: &Seen) -> String {
    let Seen { addr, cluster, epoch } = seen;
    let counts = cluster.counts;
    let mut text = headline(addr, cluster.severity);
    cluster.problems.iter().for_each(|problem| text.push_str(&Finding::problem(problem).lines()));
    text.push('\n');
    let mut line = |key: &str, value: String| text.push_str(&format!("{key:<COLUMN$}{}\n", escape(&value)));
    line("EPOCH", epoch_text(cluster, epoch.as_ref()));
    line("REVISION", cluster.revision.to_string());
    line("DATABASE", database(cluster));
    line(
        "INSTANCES",
        format!(
            "{} alive, {} starting, {} draining ({} of them suspect), {} dead on record",
            counts.alive, counts.starting, counts.draining, counts.suspect, counts.dead
        ),
    );
    line("NAMES", names(cluster, &counts));
    line("EXPIRY", expiry(cluster));
    line("REAPER", reaper(cluster));
    if let Some(health) = cluster.health.as_ref().filter(|health| !health.ports_summary.is_empty()) {
        line("PORTS", health.ports_summary.clone());
    }
    text.push('\n');
    text.push_str(&daemons(cluster).text());
    text
}

fn headline(addr: &str, severity: musterd_client::Severity) -> String {
    let word = match severity {
        musterd_client::Severity::Ok => "healthy",
        musterd_client::Severity::Warning => "WARNING",
        musterd_client::Severity::Critical => "CRITICAL",
        _ => "UNKNOWN: the daemon does not report problems; upgrade it",
    };
    let style = finding::style(finding::severity(severity));
    let word = if paint::is_on() { paint::paint(word, style) } else { word.to_owned() };
    format!("The registry at {addr} is {word}.\n")
}

fn epoch_text(cluster: &Cluster, epoch: Option<&Epoch>) -> String {
    let mut text = format!("{} ({})", cluster.epoch_number, cluster.cluster_epoch);
    let started = epoch.and_then(|epoch| moment(epoch.started_at));
    if let (Some(started), Some(now)) = (started, moment(cluster.database_time)) {
        text.push_str(&format!(", begun {}", ago((now - started).to_std().unwrap_or_default())));
    }
    text
}

fn database(cluster: &Cluster) -> String {
    let health = cluster.health.as_ref();
    let mut text = format!("confirmed {}", ago(cluster.stale_for));
    if let Some(latency) = health.and_then(|health| health.database_latency) {
        text.push_str(&format!(", a save takes {}", millis(latency)));
    }
    match health.and_then(|health| health.flush_lag) {
        None | Some(Duration::ZERO) => {}
        Some(lag) => text.push_str(&format!(", saving is {} late", age_text(lag))),
    }
    text
}

fn names(cluster: &Cluster, counts: &musterd_client::Counts) -> String {
    let mut text = format!("{} live, {} unserved", counts.logical_ids_live, counts.logical_ids_unserved);
    let shown = &cluster.unserved_logical_ids;
    if !shown.is_empty() {
        let is_all = u64::try_from(shown.len()).is_ok_and(|count| count >= counts.logical_ids_unserved);
        text.push_str(&format!(" ({}{})", shown.join(", "), if is_all { "" } else { ", ..." }));
    }
    text.push_str(&format!(", {} left", counts.logical_ids_left));
    text
}

fn expiry(cluster: &Cluster) -> String {
    let brake = || cluster.brake.as_ref().map(epoch::brake).unwrap_or_default();
    match (cluster.expiry, &cluster.hold) {
        (Expiry::Unknown, _) => "unknown while PostgreSQL is away".to_owned(),
        (Expiry::Held, Some(hold)) => {
            format!("on hold for {}: {}", hold.remaining.map(seconds).unwrap_or_default(), hold.reason)
        }
        (Expiry::Held, None) => "on hold".to_owned(),
        (Expiry::Paced | Expiry::Protected, _) => format!("braked: {}", brake()),
        (Expiry::Running, _) => "running".to_owned(),
        _ => "not reported".to_owned(),
    }
}

fn reaper(cluster: &Cluster) -> String {
    let age = cluster.health.as_ref().and_then(|health| health.last_reap_age);
    age.map_or_else(|| "has not run yet".to_owned(), |age| format!("last succeeded {}", ago(age)))
}

fn daemons(cluster: &Cluster) -> Table<4> {
    let mut table = Table::new(["DAEMON", "VERSION", "UP FOR", "LAST SAVED"]);
    let now = moment(cluster.database_time);
    for daemon in &cluster.daemons {
        let started = moment(daemon.started_at);
        let up = now.zip(started).and_then(|(now, started)| (now - started).to_std().ok());
        let saved = daemon.last_flush_age;
        let mark = if daemon.daemon_id == cluster.daemon_id { " (answers)" } else { "" };
        table.row([
            format!("{}{mark}", daemon.address),
            daemon.version.clone(),
            up.map(age_text).unwrap_or_default(),
            saved.map(ago).unwrap_or_default(),
        ]);
    }
    for lost in &cluster.lost_daemons {
        table.row([
            format!("{} (lost {})", lost.daemon.address, ago(lost.lost_for.unwrap_or_default())),
            lost.daemon.version.clone(),
            String::new(),
            String::new(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        let at = |seconds| Some(std::time::UNIX_EPOCH + Duration::from_secs(seconds));
        let daemon = |id: &str, address: &str| {
            let mut one = musterd_client::Daemon::default();
            (one.daemon_id, one.address, one.version) = (id.into(), address.into(), "0.1.0".into());
            (one.started_at, one.last_flush_age) = (at(1_000), Some(Duration::ZERO));
            one
        };
        let mut cluster = Cluster::default();
        cluster.epoch_number = 3;
        cluster.counts.logical_ids_live = 4;
        cluster.counts.logical_ids_unserved = 11;
        cluster.counts.logical_ids_left = 2;
        cluster.daemons = vec![daemon("a", "10.0.0.1:7717"), daemon("b", "10.0.0.2:7717")];
        let mut lost = musterd_client::LostDaemon::default();
        (lost.daemon, lost.lost_for) = (daemon("c", "10.0.0.3:7717"), Some(Duration::from_secs(40)));
        cluster.lost_daemons.push(lost);
        (cluster.daemon_id, cluster.database_time) = ("b".into(), at(4_600));
        cluster.unserved_logical_ids = vec!["organ_3".into(), "organ\u{1b}_7".into()];
        (cluster.severity, cluster.expiry) = (musterd_client::Severity::Ok, Expiry::Running);
        let mut epoch = Epoch::default();
        (epoch.epoch_number, epoch.started_at) = (3, at(4_000));
        Seen { addr: "http://h:1".into(), cluster, epoch: Some(epoch) }
    }

    /// With one problem, which another one follows from.
    fn with_problem(severity: musterd_client::Severity) -> Seen {
        let problem = |code: &str, cause: &str| {
            let mut one = musterd_client::Problem::default();
            (one.code, one.severity, one.cause) = (code.into(), severity, cause.into());
            (one.summary, one.action) = ("It is so".into(), "Look.".into());
            one
        };
        let mut seen = seen();
        seen.cluster.severity = severity;
        seen.cluster.problems = vec![problem("database_away", ""), problem("beats_not_saved", "database_away")];
        seen
    }

    #[test]
    fn screen_begins_with_the_severity() {
        let text = screen(&seen());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "The registry at http://h:1 is healthy.");
        for line in [
            "EPOCH      3 (00000000-0000-0000-0000-000000000000), begun 10m ago",
            "NAMES      4 live, 11 unserved (organ_3, organ\\u{1b}_7, ...), 2 left",
            "EXPIRY     running",
            "10.0.0.2:7717 (answers)       0.1.0    1h      0.0s ago",
            "10.0.0.3:7717 (lost 40s ago)  0.1.0    -       -",
        ] {
            assert!(lines.iter().any(|shown| shown.trim_end() == line), "{line:?} in\n{text}");
        }
        assert!(lines.len() <= 24, "one screen");
    }

    #[test]
    fn problems_come_next_with_their_fix_and_decide_the_exit_code() {
        let critical = frame(&with_problem(musterd_client::Severity::Critical), Format::Table).expect("a frame");
        assert_eq!(critical.code, exit::NEGATIVE);
        let lines: Vec<&str> = critical.text.lines().collect();
        assert_eq!(lines[0], "The registry at http://h:1 is CRITICAL.");
        assert_eq!(lines[1], "critical  database_away    It is so");
        assert_eq!(lines[2].trim_start(), "fix: Look.");
        assert_eq!(lines[3], "  critical  beats_not_saved  It is so");
        let warning = frame(&with_problem(musterd_client::Severity::Warning), Format::Json).expect("a frame");
        assert_eq!(warning.code, exit::OK, "a warning does not change the exit code");
        assert!(warning.text.contains("\"severity\": \"warning\""), "{}", warning.text);
    }

    #[test]
    fn expiry_is_unknown_while_the_database_is_away() {
        let mut seen = seen();
        (seen.cluster.expiry, seen.cluster.hold) = (Expiry::Unknown, Some(musterd_client::Hold::default()));
        assert!(screen(&seen).contains("EXPIRY     unknown while PostgreSQL is away\n"));
    }
}
