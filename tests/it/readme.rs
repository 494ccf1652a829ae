//! What README.md and docs/ say about the program is held equal to the program: flags, metrics, commands, codes, reasons.
//!
//! Users rely on the documentation, and a change of the code is easily made without it. Each table that can
//! be derived from the code is compared with it here, in both directions; on which page it stands does not matter.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use clap::{Command, CommandFactory as _};
use musterd::{
    cli::Cli,
    command::exit,
    metrics::names::{ALL, Kind, per_logical_id},
    proto::v1::{self, ErrorReason},
};

use crate::harness::{
    daemon::Daemon,
    postgres::{BOUND, TestDatabase},
    registry::run,
    served::{Served, registration},
    wait::wait_until,
};

/// README.md and the pages it leads to, one after the other.
fn readme() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = pages.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    pages.sort();
    pages.insert(0, root.join("README.md"));
    pages.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// The rows of the table whose first column has this title: the cells of each, without backquotes.
fn table(text: &str, first_column: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
        inner.split('|').map(|cell| cell.trim().replace('`', "")).collect()
    };
    let mut lines = text.lines().skip_while(|line| !(line.starts_with('|') && cells(line)[0] == first_column));
    assert!(lines.next().is_some(), "neither README.md nor docs/ has a table whose first column is {first_column}");
    lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect()
}

fn command(path: &[&str]) -> Option<Command> {
    let mut command = Cli::command();
    command.build();
    path.iter().try_fold(command, |command, name| command.find_subcommand(name).cloned())
}

/// Flag, environment variable and default of each setting that has an environment variable.
fn settings(command: &Command) -> BTreeMap<String, (String, String)> {
    let with_env = command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg.get_env()?, arg)));
    with_env
        .map(|(long, env, arg)| {
            let default = arg.get_default_values().first().map_or("", |value| value.to_str().unwrap());
            let takes_a_value = arg.get_action().takes_values();
            let default = if takes_a_value { default } else { "" };
            (format!("--{long}"), (env.to_str().unwrap().to_owned(), default.to_owned()))
        })
        .collect()
}

fn documented_settings(text: &str, first_column: &str) -> BTreeMap<String, (String, String)> {
    let rows = table(text, first_column).into_iter();
    rows.map(|row| {
        assert!(row.len() == 4 && !row[3].is_empty(), "{row:?} does not say what happens if it is wrong");
        // A default in words, in parentheses, is one that the program works out: clap knows none.
        let default = if row[2].starts_with('(') { String::new() } else { row[2].clone() };
        (row[0].clone(), (row[1].clone(), default))
    })
    .collect()
}

#[test]
fn the_configuration_table_is_that_of_the_program() {
    let serve = command(&["serve"]).unwrap();
    let client = settings(&command(&["resolve"]).unwrap());
    let daemon: BTreeMap<_, _> = settings(&serve).into_iter().filter(|(flag, _)| !client.contains_key(flag)).collect();
    assert_eq!(documented_settings(&readme(), "Flag of serve"), daemon);
    assert_eq!(documented_settings(&readme(), "Flag of a client"), client);
}

#[test]
fn the_metrics_table_is_that_of_the_program() {
    let documented: BTreeMap<String, (String, String)> =
        table(&readme(), "Metric").into_iter().map(|row| (row[0].clone(), (row[1].clone(), row[3].clone()))).collect();
    let kind = |kind| match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let actual = ALL.iter().map(|metric| {
        (metric.name.to_owned(), (kind(metric.kind).to_owned(), metric.help.trim_end_matches('.').to_owned()))
    });
    assert_eq!(documented, actual.collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_daemon_has_the_labels_of_the_metrics_table() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let (_, scraped) = daemon.http_get("/metrics").await.unwrap();
    assert!(daemon.terminate().await.success());
    let documented: BTreeMap<String, String> =
        table(&readme(), "Metric").into_iter().map(|row| (row[0].clone(), row[2].clone())).collect();
    let mut seen = BTreeSet::new();
    for line in scraped.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (series, labels) = line
            .split_once('{')
            .map_or((line.split(' ').next().unwrap(), ""), |(name, rest)| (name, rest.rsplit_once('}').unwrap().0));
        let name = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| series.strip_suffix(suffix).filter(|name| documented.contains_key(*name)));
        let name = name.unwrap_or(series);
        if name.starts_with("process_") {
            continue;
        }
        let keys: Vec<_> = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0)).collect();
        let keys: Vec<_> = keys.into_iter().filter(|key| *key != "le").collect();
        assert_eq!(documented.get(name), Some(&keys.join(", ")), "{line}");
        seen.insert(name.to_owned());
    }
    assert!(seen.len() > ALL.len() / 2, "only {seen:?} were scraped");
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_given_to_prometheus_are_reported() {
    let served = Served::start().await;
    let everything = v1::RegisterRequest {
        actor_name: "a".to_owned(),
        serve_route: "/a".to_owned(),
        version: "1".to_owned(),
        port: 1,
        labels: std::iter::once(("KEY".to_owned(), "value".to_owned())).collect(),
        ..registration(1, "organ")
    };
    served.clients.register(everything).await;
    // A daemon without a policy names no owner.
    run(&served.sql.client, "UPDATE registry_instance SET owner = 'token/a'").await;
    let listed = wait_until("the owner in the list of targets", BOUND, async || {
        let (_, listed) = served.daemon.http_get("/sd/prometheus").await.unwrap();
        if listed.contains("token/a") { Ok(listed) } else { Err(listed) }
    })
    .await;
    let names = |text: &str, start: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        words.filter(|word| word.starts_with(start)).map(str::to_owned).collect()
    };
    let rows = table(&readme(), "Label of a target");
    let documented: BTreeSet<_> = rows.iter().flat_map(|row| names(&row[0], "__meta_")).collect();
    assert_eq!(documented, names(&listed, "__meta_"));

    let (_, refusal) = served.daemon.http_get("/sd/prometheus?unknown").await.unwrap();
    let parameters = table(&readme(), "Parameter of /sd/prometheus");
    let parameters: Vec<_> = parameters.iter().map(|row| row[0].clone()).collect();
    assert!(refusal.ends_with(&format!("choose from {}\n", parameters.join(", "))), "{refusal}");

    let (_, scraped) = served.daemon.http_get("/metrics/logical-ids").await.unwrap();
    for (row, metric) in table(&readme(), "Metric by logical id").iter().zip(per_logical_id::ALL) {
        let labels = row[1].split(", ").filter(|label| !label.is_empty()).map(|label| format!("{label}=\""));
        let series = scraped.lines().find(|line| line.starts_with(&row[0])).unwrap();
        assert!(labels.clone().all(|label| series.contains(&label)), "{row:?}: {series}");
        assert_eq!(labels.count(), series.matches("=\"").count(), "{row:?}: {series}");
        assert_eq!((row[0].as_str(), row[2].as_str()), (metric.name, metric.help.trim_end_matches('.')));
    }
    assert_eq!(table(&readme(), "Metric by logical id").len(), per_logical_id::ALL.len());
}

#[test]
fn the_exit_codes_are_those_of_the_program() {
    let documented: BTreeSet<u8> = table(&readme(), "Exit code").iter().map(|row| row[0].parse().unwrap()).collect();
    let answers = [exit::OK, exit::NEGATIVE, exit::NOT_FOUND, exit::PRECONDITION, exit::REFUSED];
    let actual = [&answers[..], &[exit::USAGE, exit::UNREACHABLE, exit::CONFIG]].concat();
    assert_eq!(documented, BTreeSet::from_iter(actual));
}

#[test]
fn every_reason_of_an_error_is_explained() {
    let rows = table(&readme(), "Reason");
    let documented: BTreeSet<String> = rows.iter().flat_map(|row| row[0].split(", ").map(str::to_owned)).collect();
    let actual = (1..100).map_while(|number| ErrorReason::try_from(number).ok());
    let actual: BTreeSet<String> =
        actual.map(|reason| reason.as_str_name().trim_start_matches("ERROR_REASON_").to_owned()).collect();
    assert_eq!(documented, actual);
}

#[test]
fn every_sqlstate_of_ours_is_explained() {
    let codes = |text: &str| -> BTreeSet<String> {
        text.match_indices("MU0").filter_map(|(at, _)| text.get(at..at + 5)).map(str::to_owned).collect()
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/014_epoch_functions.sql");
    assert_eq!(codes(&readme()), codes(&fs::read_to_string(path).unwrap()));
}

/// The calls of musterd in the code blocks of the README, as words; what follows `--` or a pipe belongs to others.
fn calls(text: &str) -> Vec<Vec<String>> {
    let mut in_code = false;
    let mut calls = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            in_code = !in_code;
        }
        let Some(call) = line.trim_start_matches("$ ").strip_prefix("musterd ").filter(|_| in_code) else { continue };
        let words = call.split_whitespace().take_while(|word| !matches!(*word, "--" | "|" | "||" | "&" | "#"));
        calls.push(words.map(str::to_owned).collect());
    }
    calls
}

#[test]
fn every_command_in_an_example_exists_with_its_flags() {
    let calls = calls(&readme());
    assert!(calls.len() >= 8, "only {calls:?}");
    for call in calls {
        let mut command = command(&[]).unwrap();
        for word in &call {
            if let Some(flag) = word.strip_prefix("--") {
                let flag = flag.split('=').next().unwrap();
                assert!(command.get_arguments().any(|arg| arg.get_long() == Some(flag)), "musterd {}", call.join(" "));
            } else if let Some(next) = command.find_subcommand(word) {
                command = next.clone();
            }
        }
        assert!(!command.has_subcommands(), "musterd {} names no command", call.join(" "));
    }
}

#[test]
fn every_command_is_in_the_readme() {
    fn leaves(command: &Command, path: &str, found: &mut Vec<String>) {
        for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
            let path = format!("{path} {}", child.get_name());
            // The loads of a bench are kinds of one thing; its own help lists them.
            let group = child.has_subcommands() && child.get_name() != "bench";
            if group { leaves(child, &path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    leaves(&command(&[]).unwrap(), "musterd", &mut found);
    let documented: BTreeSet<String> = table(&readme(), "Command").iter().map(|row| row[0].clone()).collect();
    for path in &found {
        assert!(documented.iter().any(|call| call.starts_with(path.as_str())), "{path} is not in the README's table");
    }
    assert_eq!(documented.len(), found.len(), "{documented:?}");
}
