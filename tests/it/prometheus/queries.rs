//! Every query of the rules and the dashboard asks only for what a daemon exports.

use std::collections::{BTreeMap, BTreeSet};

use musterd::metrics::names::{ALL, Kind};
use regex::Regex;

use super::{
    files::{dashboard, rules},
    promql::{self, Asked, Selector},
};
use crate::harness::{
    daemon::DAEMON_BOUND,
    served::{Served, registration},
    wait::wait_until,
};

type Labels = BTreeMap<String, String>;

/// What Prometheus adds to every series, and a daemon with several registries.
const OF_THE_TARGET: &[&str] = &["job", "instance", "registry"];

/// Series by metric.
#[derive(Debug, Default)]
struct Known(BTreeMap<String, Vec<Labels>>);

impl Known {
    /// What a daemon exports, and what Prometheus knows of it by itself.
    fn exported(exposition: &str) -> Self {
        let mut known = Self::default();
        known.add("up", Labels::new());
        for line in exposition.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let series = line.rsplit_once(' ').unwrap().0;
            let [Selector { metric, matchers }] = &promql::read(series).selectors[..] else { panic!("{line}") };
            let labels = matchers.iter().map(|(label, _, value)| (label.clone(), value.clone()));
            known.add(metric, labels.collect());
        }
        known
    }

    fn add(&mut self, metric: &str, labels: Labels) {
        self.0.entry(metric.to_owned()).or_default().push(labels);
    }

    /// Adds what a rule records: series with the labels of those that it is made of.
    fn record(&mut self, name: &str, asked: &Asked) {
        let made_of: Vec<_> = asked.selectors.iter().flat_map(|selector| self.matching(selector)).collect();
        self.0.insert(name.to_owned(), made_of);
    }

    fn matching(&self, selector: &Selector) -> Vec<Labels> {
        let series = self.0.get(&selector.metric).into_iter().flatten();
        series.filter(|labels| selector.matchers.iter().all(|matcher| matches(labels, matcher))).cloned().collect()
    }

    /// What is wrong with a query: metrics without a series, labels that none of its series has.
    fn complaints(&self, asked: &Asked) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut labels: BTreeSet<&str> = OF_THE_TARGET.iter().copied().collect();
        for selector in &asked.selectors {
            let Some(series) = self.0.get(&selector.metric) else {
                complaints.push(format!("no metric {}", selector.metric));
                continue;
            };
            let of_metric: BTreeSet<_> = series.iter().flat_map(|labels| labels.keys().map(String::as_str)).collect();
            let unknown = selector.matchers.iter().map(|(label, _, _)| label.as_str());
            let unknown = unknown.filter(|label| !of_metric.contains(label) && !OF_THE_TARGET.contains(label));
            complaints.extend(unknown.map(|label| format!("{} has no label {label}", selector.metric)));
            if self.matching(selector).is_empty() {
                complaints.push(format!("no series of {} matches {:?}", selector.metric, selector.matchers));
            }
            labels.extend(of_metric);
        }
        let grouped = asked.grouping.iter().filter(|label| !labels.contains(label.as_str()));
        complaints.extend(grouped.map(|label| format!("nothing has the label {label}")));
        complaints
    }
}

fn matches(labels: &Labels, (label, operator, expected): &(String, String, String)) -> bool {
    if OF_THE_TARGET.contains(&label.as_str()) {
        return true;
    }
    let value = labels.get(label).map_or("", String::as_str);
    let pattern = || Regex::new(&format!("^(?:{expected})$")).unwrap();
    match operator.as_str() {
        "=" => value == expected,
        "!=" => value != expected,
        "=~" => pattern().is_match(value),
        "!~" => !pattern().is_match(value),
        other => panic!("no operator of a matcher: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_asks_only_for_what_a_daemon_exports() {
    let served = Served::start().await;
    // Calls are counted when they have ended, which a client may see before the daemon does.
    served.clients.register(registration(1, "organ")).await;
    let exposition = wait_until("a call is counted", DAEMON_BOUND, async || {
        let (_, exposition) = served.daemon.http_get("/metrics").await.unwrap();
        if exposition.contains("\ngrpc_server_handled_total{") { Ok(exposition) } else { Err("none") }
    })
    .await;
    // What a daemon exports with TLS alone.
    let exposition = exposition
        + "musterd_certificate_expiry_seconds{certificate=\"server\"} 1\n"
        + "musterd_certificate_lifetime_seconds{certificate=\"server\"} 1\n"
        + "musterd_security_reloads_total{what=\"tls\",outcome=\"failed\"} 1\n"
        + "musterd_tls_handshakes_total{port=\"grpc\",outcome=\"ok\"} 1\n";
    let mut known = Known::exported(&exposition);
    let mut queries = Vec::new();
    for rule in rules("recording.yaml") {
        let asked = promql::read(&rule.expr);
        known.record(&rule.record, &asked);
        queries.push((rule.record, asked));
    }
    queries.extend(rules("alerts.yaml").into_iter().map(|rule| (rule.alert, promql::read(&rule.expr))));
    queries.extend(dashboard().into_iter().map(|(panel, query)| (panel, promql::read(&query))));
    assert!(queries.len() > 60, "only {} queries", queries.len());
    let complaints: Vec<_> = queries
        .iter()
        .flat_map(|(name, asked)| known.complaints(asked).into_iter().map(move |what| format!("{name}: {what}")))
        .collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_metric_is_watched_by_a_rule_or_a_panel() {
    let rules = [rules("recording.yaml"), rules("alerts.yaml")].concat();
    let queries = rules.into_iter().map(|rule| rule.expr).chain(dashboard().into_iter().map(|(_, query)| query));
    let asked: BTreeSet<String> =
        queries.flat_map(|query| promql::read(&query).selectors).map(|selector| selector.metric).collect();
    for metric in ALL {
        let names = match metric.kind {
            Kind::Histogram => ["_bucket", "_sum", "_count"].map(|suffix| format!("{}{suffix}", metric.name)).to_vec(),
            Kind::Counter | Kind::Gauge => vec![metric.name.to_owned()],
        };
        assert!(names.iter().any(|name| asked.contains(name)), "nothing looks at {}", metric.name);
    }
}

#[test]
fn a_query_for_what_is_not_there_is_found() {
    let mut known = Known::exported("# HELP a A.\na_total{x=\"1\"} 0\na_total{x=\"2\"} 0\nb 1\n");
    known.record("job:a:rate", &promql::read(r#"sum by (job, x) (rate(a_total{x=~"1"}[5m]))"#));
    let complaints = |query: &str| known.complaints(&promql::read(query)).join("; ");
    assert_eq!(complaints(r#"sum by (job, x) (a_total{x!="1", job="j"}) + on (job) b"#), "");
    assert_eq!(complaints(r#"job:a:rate{x="1"} > 0 and up == 1"#), "");
    assert_eq!(complaints("c > 0"), "no metric c");
    assert_eq!(complaints(r#"a_total{y!="1"}"#), "a_total has no label y");
    assert_eq!(complaints(r#"a_total{x="3"}"#), r#"no series of a_total matches [("x", "=", "3")]"#);
    assert_eq!(complaints(r#"job:a:rate{x="2"}"#), r#"no series of job:a:rate matches [("x", "=", "2")]"#);
    assert_eq!(complaints("sum by (z) (b)"), "nothing has the label z");
}
