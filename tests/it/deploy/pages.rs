//! The pages for operators: a runbook page for each alert and no other, and commands, metrics and files that exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use musterd::metrics::names;
use serde_json::Value;

use super::{misunderstood, path, text};

const ALERTS: &str = "deploy/prometheus/alerts.yaml";
const HEADINGS: [&str; 5] =
    ["## Meaning", "## What users notice", "## First commands", "## Causes and fixes", "## Over when"];
const PAGES: [&str; 3] = ["deploy/UPGRADE.md", "deploy/BACKUP.md", "deploy/runbook/README.md"];

/// The runbook pages: the name of the alert, and the text.
fn runbook() -> BTreeMap<String, String> {
    let files = fs::read_dir(path("deploy/runbook")).unwrap().map(|entry| entry.unwrap().path());
    let pages =
        files.filter(|file| file.extension().is_some_and(|ending| ending == "md") && !file.ends_with("README.md"));
    pages
        .map(|file| (file.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(file).unwrap()))
        .collect()
}

/// All pages, by the path of their file.
fn pages() -> BTreeMap<String, String> {
    let runbook = runbook().into_iter().map(|(name, text)| (format!("deploy/runbook/{name}.md"), text));
    runbook.chain(PAGES.iter().map(|page| ((*page).to_owned(), text(page)))).collect()
}

/// The alerts, with the severity of each.
fn alerts() -> BTreeMap<String, String> {
    let rules: Value = serde_saphyr::from_str(&text(ALERTS)).unwrap();
    let groups = rules["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    let alerts = rules.filter_map(|rule| Some((rule["alert"].as_str()?, rule["labels"]["severity"].as_str()?)));
    alerts.map(|(name, severity)| (name.to_owned(), severity.to_owned())).collect()
}

#[test]
fn every_alert_has_a_page_and_every_page_an_alert() {
    let severity =
        |page: &str| page.split("Severity: **").nth(1).and_then(|rest| rest.split("**").next()).unwrap().to_owned();
    let pages: BTreeMap<String, String> = runbook().iter().map(|(name, text)| (name.clone(), severity(text))).collect();
    assert_eq!(pages, alerts());
    let index = text("deploy/runbook/README.md");
    for (name, severity) in pages {
        assert!(index.contains(&format!("| [{name}]({name}.md) | {severity} |")), "{name} is not in the index");
    }
}

#[test]
fn every_runbook_page_has_its_required_sections() {
    for (name, text) in runbook() {
        assert!(text.starts_with(&format!("# {name}\n")), "{name}");
        let headings: Vec<&str> = text.lines().filter(|line| line.starts_with("## ")).collect();
        assert_eq!(headings, HEADINGS, "{name}");
        let commands = text.split("## First commands").nth(1).unwrap().split("\n## ").next().unwrap();
        assert!(commands.contains("\n$ ") && commands.lines().any(|line| !line.starts_with('$')), "{name}");
        assert!(text.lines().filter(|line| line.starts_with("| ")).count() >= 3, "{name} names too few causes");
    }
}

#[test]
fn pages_lead_somewhere() {
    for (page, text) in pages() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = path(&page).parent().unwrap().join(link.split('#').next().unwrap());
            assert!(file.exists(), "{page} leads to {link}");
        }
    }
}

#[test]
fn the_metrics_that_pages_name_are_those_of_the_program() {
    let known: BTreeSet<&str> = names::ALL.iter().map(|metric| metric.name).collect();
    for (page, text) in pages() {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        // The Debian package has a name with its version.
        let metrics = words.filter(|word| word.starts_with("musterd_") || word.starts_with("grpc_server_"));
        let metrics = metrics.filter(|word| !word.starts_with("musterd_0"));
        for metric in metrics {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|ending| metric.strip_suffix(ending));
            let is_role = ["owner", "migrator", "daemon", "reader", "application"]
                .iter()
                .any(|role| metric.strip_prefix("musterd_") == Some(role));
            let is_pattern = known.iter().any(|name| name.starts_with(metric) && metric.ends_with('_'));
            assert!(
                known.contains(metric) || base.is_some_and(|base| known.contains(base)) || is_role || is_pattern,
                "{page} names {metric}"
            );
        }
    }
}

/// The calls of musterd in the text: lines of code after a prompt, and code between backquotes.
fn calls(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("$ ").map(str::to_owned));
    let quoted = text.split('`').skip(1).step_by(2).map(str::to_owned);
    lines.chain(quoted).filter(|call| call.starts_with("musterd ")).collect()
}

#[test]
fn the_commands_that_pages_name_are_those_of_the_program() {
    let mut seen = 0;
    for (page, text) in pages() {
        for call in calls(&text) {
            let words: Vec<&str> = call
                .split_whitespace()
                .skip(1)
                .take_while(|word| !matches!(*word, "|" | "||" | "&&" | ">" | "--reason") && !word.starts_with('#'))
                .filter(|word| *word != "...")
                .map(|word| if word == "INSTANCE_ID" { "0191d6f0-0000-7000-8000-000000000001" } else { word })
                .collect();
            let wrong = misunderstood(&words, &BTreeMap::new());
            // What is only missing is known from the surroundings: a URL from the environment.
            let wrong = wrong.filter(|why| !why.contains("required arguments were not provided"));
            assert_eq!(wrong, None, "{page}: {call}");
            seen += 1;
        }
    }
    assert!(seen >= 30, "only {seen} calls");
}

/// What a page quotes of the log: the messages of JSON lines, each as a string of the source; and the beginnings of
/// messages that are searched for in the journal.
fn quoted_messages(text: &str) -> BTreeSet<String> {
    let messages = text.split(r#""message":""#).skip(1).filter_map(|rest| rest.split('"').next());
    let searched = text.lines().filter(|line| line.contains("journalctl"));
    let searched = searched.filter_map(|line| line.split("| grep \"").nth(1)?.split('"').next());
    messages.map(|message| format!("\"{message}\"")).chain(searched.map(|begin| format!("\"{begin}"))).collect()
}

#[test]
fn log_messages_that_pages_quote_are_those_of_the_program() {
    let sources: String = rust_files(&path("src")).iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let operating = text("docs/operating.md");
    let table = operating.split("\n## Logs").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let cells = table.lines().filter_map(|line| line.strip_prefix("| `")?.split("` |").next());
    let explained: Vec<_> = cells.flat_map(|cell| cell.split("`, `").map(|message| format!("\"{message}\""))).collect();
    assert!(explained.len() >= 15, "{explained:?}");
    let pages = pages();
    let quoted =
        pages.iter().flat_map(|(page, text)| quoted_messages(text).into_iter().map(move |it| (page.as_str(), it)));
    for (page, message) in quoted.chain(explained.into_iter().map(|message| ("docs/operating.md", message))) {
        assert!(sources.contains(&message), "{page} quotes a message that no source has: {message}");
    }
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|entry| if entry.is_dir() { rust_files(&entry) } else { vec![entry] });
    files.filter(|file| file.extension().is_some_and(|ending| ending == "rs")).collect()
}
