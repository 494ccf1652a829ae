//! `musterd status`: is the registry well, and if not, what is it? In one screen.
//!
//! The answer of one daemon, judged as `check` judges it. What it says of itself and the others is enough for "well"; the
//! way there, and the database itself, are the doctor's to look at.

use std::time::{Duration, Instant};

use super::{
    check::{
        cluster::{self, Here, millis},
        finding::{Finding, Level, worst},
    },
    client::{Client, ClientArgs},
    epoch,
    exit::{self, Error},
    instances::{age_text, ago, moment, seconds},
    json,
    output::{self, DocumentArgs, Format, Table, escape},
    paint,
    redraw::{self, Frame, RepeatArgs},
};
use crate::{
    clock::Clock,
    proto::{std_duration, v1},
};

/// Names without an instance that the screen has room for.
const UNSERVED_SHOWN: i32 = 10;
/// Where the second column begins.
const COLUMN: usize = 11;

pub(super) const HELP: &str = "\
Exits with 0 if the registry is well, with 1 if it is not. A hold or a name
without an instance is no illness. musterd check looks closer.

Examples:
  musterd status
  musterd status --watch
  musterd status -o json | jq .findings";

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
    cluster: v1::GetClusterResponse,
    epoch: Option<v1::Epoch>,
    findings: Vec<Finding>,
}

pub(super) async fn run(args: StatusArgs, client: &ClientArgs) -> Result<u8, Error> {
    let client = Client::connect(client).await?;
    let format = args.output.output;
    redraw::show(args.repeat, format, async || frame(&look(&client).await?, format)).await
}

async fn look(client: &Client) -> Result<Seen, Error> {
    let request = v1::GetClusterRequest { min_revision: 0, unserved_limit: UNSERVED_SHOWN };
    let began = Instant::now();
    let cluster = client.call(client.cluster().get_cluster(request)).await?;
    let round_trip = began.elapsed();
    let here = Here { now: Clock::new().wall() - round_trip / 2, round_trip, host: client.host().to_owned() };
    let findings = cluster::judge(&cluster, &here);
    // Only the history knows when it began, and that is in the database, which may be away.
    let newest = v1::ListEpochsRequest { page_size: 1, page_token: String::new() };
    let epoch = match worst(&findings) {
        Level::Fail => None,
        _ => {
            client.call(client.cluster().list_epochs(newest)).await.ok().and_then(|list| list.epochs.into_iter().next())
        }
    };
    let epoch = epoch.filter(|epoch| epoch.epoch_number == cluster.epoch_number);
    Ok(Seen { addr: client.addr(), cluster, epoch, findings })
}

fn frame(seen: &Seen, format: Format) -> Result<Frame, Error> {
    let is_well = worst(&seen.findings) != Level::Fail;
    let text = output::answer(
        format,
        || {
            let mut value = json::cluster(&seen.cluster);
            value["well"] = is_well.into();
            value["findings"] = seen.findings.iter().map(Finding::json).collect();
            value
        },
        Vec::new,
        || screen(seen, is_well),
    )?;
    Ok(Frame { text, notes: Vec::new(), code: if is_well { exit::OK } else { exit::NEGATIVE } })
}

fn screen(seen: &Seen, is_well: bool) -> String {
    let Seen { addr, cluster, epoch, findings } = seen;
    let counts = cluster.counts.unwrap_or_default();
    let mut text = verdict(addr, is_well);
    let trouble: Vec<_> = findings.iter().filter(|finding| finding.level != Level::Ok).collect();
    trouble.iter().for_each(|finding| text.push_str(&finding.lines()));
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
    text.push('\n');
    text.push_str(&daemons(cluster).text());
    text
}

fn verdict(addr: &str, is_well: bool) -> String {
    let (word, style) = if is_well { ("well", paint::GOOD) } else { ("NOT WELL", paint::BAD) };
    let word = if paint::is_on() { paint::paint(word, style) } else { word.to_owned() };
    format!("The registry at {addr} is {word}.\n")
}

fn epoch_text(cluster: &v1::GetClusterResponse, epoch: Option<&v1::Epoch>) -> String {
    let mut text = format!("{} ({})", cluster.epoch_number, cluster.cluster_epoch);
    let started = epoch.and_then(|epoch| moment(epoch.started_at.as_ref()));
    if let (Some(started), Some(now)) = (started, moment(cluster.database_time.as_ref())) {
        text.push_str(&format!(", begun {}", ago((now - started).to_std().unwrap_or_default())));
    }
    text
}

fn database(cluster: &v1::GetClusterResponse) -> String {
    let span = |duration: Option<&prost_types::Duration>| duration.and_then(std_duration);
    let health = cluster.health.as_ref();
    let confirmed = span(cluster.stale_for.as_ref()).unwrap_or_default();
    let mut text = format!("confirmed {}", ago(confirmed));
    if let Some(latency) = span(health.and_then(|health| health.database_latency.as_ref())) {
        text.push_str(&format!(", a save takes {}", millis(latency)));
    }
    match span(health.and_then(|health| health.flush_lag.as_ref())) {
        None | Some(Duration::ZERO) => {}
        Some(lag) => text.push_str(&format!(", saving is {} late", age_text(lag))),
    }
    text
}

fn names(cluster: &v1::GetClusterResponse, counts: &v1::InstanceCounts) -> String {
    let mut text = format!("{} live, {} without a live instance", counts.logical_ids_live, counts.logical_ids_unserved);
    let shown = &cluster.unserved_logical_ids;
    if !shown.is_empty() {
        let is_all = u64::try_from(shown.len()).is_ok_and(|count| count >= counts.logical_ids_unserved);
        text.push_str(&format!(": {}{}", shown.join(", "), if is_all { "" } else { ", ..." }));
    }
    text
}

fn expiry(cluster: &v1::GetClusterResponse) -> String {
    match (&cluster.hold, &cluster.brake) {
        (Some(hold), _) => format!("on hold for {}: {}", seconds(hold.remaining.as_ref()), hold.reason),
        (None, Some(brake)) => format!("braked: {}", epoch::brake(brake)),
        (None, None) => "goes on".to_owned(),
    }
}

fn reaper(cluster: &v1::GetClusterResponse) -> String {
    let age = cluster.health.as_ref().and_then(|health| health.last_reap_age.as_ref()).and_then(std_duration);
    age.map_or_else(|| "has not looked yet".to_owned(), |age| format!("looked {}", ago(age)))
}

fn daemons(cluster: &v1::GetClusterResponse) -> Table<4> {
    let mut table = Table::new(["DAEMON", "VERSION", "UP FOR", "LAST SAVED"]);
    let now = moment(cluster.database_time.as_ref());
    for daemon in &cluster.daemons {
        let started = moment(daemon.started_at.as_ref());
        let up = now.zip(started).and_then(|(now, started)| (now - started).to_std().ok());
        let saved = daemon.last_flush_age.as_ref().and_then(std_duration);
        let mark = if daemon.daemon_id == cluster.daemon_id { " (answers)" } else { "" };
        table.row([
            format!("{}{mark}", daemon.address),
            daemon.version.clone(),
            up.map(age_text).unwrap_or_default(),
            saved.map(ago).unwrap_or_default(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(findings: Vec<Finding>) -> Seen {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let age = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let daemon = |id: &str, address: &str| v1::Daemon {
            daemon_id: id.into(),
            address: address.into(),
            version: "0.1.0".into(),
            started_at: at(1_000),
            last_flush_age: age(0),
        };
        let cluster = v1::GetClusterResponse {
            epoch_number: 3,
            cluster_epoch: "2f1c".into(),
            counts: Some(v1::InstanceCounts {
                alive: 12,
                logical_ids_live: 4,
                logical_ids_unserved: 11,
                ..Default::default()
            }),
            daemons: vec![daemon("a", "10.0.0.1:7717"), daemon("b", "10.0.0.2:7717")],
            daemon_id: "b".into(),
            database_time: at(4_600),
            unserved_logical_ids: vec!["organ_3".into(), "organ\u{1b}_7".into()],
            ..Default::default()
        };
        let epoch = Some(v1::Epoch { epoch_number: 3, started_at: at(4_000), ..Default::default() });
        Seen { addr: "http://h:1".into(), cluster, epoch, findings }
    }

    #[test]
    fn the_screen_says_first_whether_all_is_well() {
        let text = screen(&seen(vec![Finding::ok("flush", "in time")]), true);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "The registry at http://h:1 is well.");
        for line in [
            "EPOCH      3 (2f1c), begun 10m ago",
            "NAMES      4 live, 11 without a live instance: organ_3, organ\\u{1b}_7, ...",
            "EXPIRY     goes on",
            "10.0.0.2:7717 (answers)  0.1.0    1h      0.0s ago",
        ] {
            assert!(lines.contains(&line), "{line:?} in\n{text}");
        }
        assert!(lines.len() <= 24, "one screen");
    }

    #[test]
    fn what_is_not_well_comes_next_with_its_fix() {
        let frame = frame(&seen(vec![Finding::fail("flush", "late", "look")]), Format::Table).expect("a frame");
        assert_eq!(frame.code, exit::NEGATIVE);
        let lines: Vec<&str> = frame.text.lines().collect();
        assert_eq!(lines[0], "The registry at http://h:1 is NOT WELL.");
        assert!(lines[1].starts_with("fail  flush") && lines[2].ends_with("fix: look"), "{}", frame.text);
        let warned =
            super::frame(&seen(vec![Finding::warn("expiry", "on hold", "wait")]), Format::Json).expect("a frame");
        assert_eq!(warned.code, exit::OK, "a hold is no illness");
        assert!(warned.text.contains("\"well\": true"), "{}", warned.text);
    }
}
