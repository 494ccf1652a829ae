//! The files of `deploy/prometheus/` as values, and what can be said of them without a Prometheus.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::tools::Tools;

/// The directory of the files.
pub(super) fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus")
}

/// The text of one of them.
pub(super) fn text(name: &str) -> String {
    fs::read_to_string(directory().join(name)).unwrap()
}

/// One rule: an alert or a recording rule.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Rule {
    #[serde(default)]
    pub(super) alert: String,
    #[serde(default)]
    pub(super) record: String,
    pub(super) expr: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

/// All rules of a file.
pub(super) fn rules(file: &str) -> Vec<Rule> {
    let groups: Groups = serde_saphyr::from_str(&text(file)).unwrap();
    groups.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// Every query of the dashboard, with its panel, as Prometheus would get it.
pub(super) fn dashboard() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&text("dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
    });
    let annotations = dashboard["annotations"]["list"].as_array().unwrap();
    let annotations = annotations
        .iter()
        .map(|each| (each["name"].as_str().unwrap().to_owned(), each["expr"].as_str().unwrap().to_owned()));
    let filled = |query: String| {
        let query = query.replace("$__rate_interval", "1m").replace("job=\"$job\"", "job=\"musterd\"");
        // Of a daemon with several registries; of one, no series has the label, and the variable matches that.
        assert!(query.contains("registry=~\"$registry\""), "not of one registry: {query}");
        let query = query.replace("\"$instance\"", "\".+\"").replace("\"$registry\"", "\".*\"");
        assert!(!query.contains('$'), "an unknown variable: {query}");
        query
    };
    panels.chain(annotations).map(|(title, query)| (title, filled(query))).collect()
}

#[derive(Debug, Deserialize)]
struct UnitTests {
    tests: Vec<UnitTest>,
}

#[derive(Debug, Deserialize)]
struct UnitTest {
    alert_rule_test: Vec<AlertTest>,
}

#[derive(Debug, Deserialize)]
struct AlertTest {
    alertname: String,
    exp_alerts: Vec<Value>,
}

#[test]
fn every_alert_is_shown_to_fire_and_to_be_silent() {
    let tests: UnitTests = serde_saphyr::from_str(&text("rules_test.yaml")).unwrap();
    let looks: Vec<_> = tests.tests.into_iter().flat_map(|test| test.alert_rule_test).collect();
    for alert in rules("alerts.yaml") {
        for (silent, what) in [(false, "fire"), (true, "be silent")] {
            let shown = looks.iter().any(|look| look.alertname == alert.alert && look.exp_alerts.is_empty() == silent);
            assert!(shown, "rules_test.yaml never expects {} to {what}", alert.alert);
        }
    }
}

#[test]
fn every_alert_has_a_severity_a_summary_and_a_runbook_page() {
    let alerts = rules("alerts.yaml");
    assert!(alerts.len() > 20, "only {} alerts", alerts.len());
    for alert in alerts {
        let name = &alert.alert;
        assert!(matches!(alert.labels["severity"].as_str(), "critical" | "warning"), "{name}: {:?}", alert.labels);
        assert_eq!(alert.annotations["runbook"], format!("deploy/runbook/{name}.md"));
        for annotation in ["summary", "description"] {
            assert!(!alert.annotations[annotation].is_empty(), "{name} has no {annotation}");
        }
    }
}

#[test]
fn the_rules_pass_their_unit_tests_and_the_example_its_check() {
    let Some(tools) = Tools::find() else { return };
    for arguments in [
        &["check", "rules", "recording.yaml", "alerts.yaml"][..],
        &["test", "rules", "rules_test.yaml"],
        &["check", "config", "prometheus.yaml"],
    ] {
        let output = tools.promtool().current_dir(directory()).args(arguments).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "promtool {}: {said}", arguments.join(" "));
    }
}
