//! `/metrics/logical-ids`: metrics with the logical id as a label, for those who ask for them.
//!
//! `/metrics` never has such a label, because its size must not depend on the fleet. Here the number of logical ids is
//! bounded instead, by a limit that the caller may choose within [`LIMIT_MAX`]. What the limit leaves out is the best
//! served, and `musterd_logical_ids_omitted` says how many that is: a cut is never silent, and never hides a name that
//! no instance serves behind one that is well.

use std::fmt::Write as _;

use axum::{
    Extension, Router,
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
    routing::get,
};

use super::respond::{PROMETHEUS, respond, text};
use crate::{
    api::{
        asker::Asker,
        error::ApiError,
        query::{Query, quoted},
    },
    metrics::names::per_logical_id::{ALL, BEST_LEASE, INSTANCES, OMITTED, SUSPECT},
    model::{
        InvalidInput,
        input::{self, LOGICAL_ID_MAX_BYTES, invalid},
    },
    stats::counts::{ServiceCounts, worst},
    view::View,
};

/// Logical ids of one answer, if the caller does not say.
pub const LIMIT: usize = 1_000;
/// Most logical ids of one answer; with five series each.
pub const LIMIT_MAX: usize = 10_000;

const PARAMETERS: &[&str] = &["prefix", "limit"];

/// The route.
pub fn router<S>(view: View, registry: Option<&str>) -> Router<S> {
    // As the recorder of a registry writes it, before all other labels.
    let label = registry.map(|name| format!("registry=\"{name}\"")).unwrap_or_default();
    Router::new().route("/metrics/logical-ids", get(answer)).with_state((view, label))
}

async fn answer(State((view, label)): State<(View, String)>, Extension(asker): Extension<Asker>, uri: Uri) -> Response {
    let (prefix, limit) = match Query::read(uri.query(), PARAMETERS).and_then(|query| read(&query)) {
        Ok(read) => read,
        Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    let readable = match asker.readable("", &prefix) {
        Ok(readable) => readable,
        Err(denied) => return ApiError::from(denied).into_text(),
    };
    if view.applied().is_none() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the registry is not loaded yet\n".to_owned());
    }
    let (snapshot, now_ms) = (std::sync::Arc::clone(&view.snapshot()), view.clock().now_ms());
    // Of a million logical ids this takes a while: not on a thread that serves actors.
    let rendered = tokio::task::spawn_blocking(move || {
        let (counts, omitted) = worst(&snapshot, (&prefix, &readable.names), limit, now_ms);
        let mut body = render(&counts, omitted, &label);
        if readable.is_filtered {
            body.push_str("# filtered: names that the caller may not read are left out\n");
        }
        body
    });
    match rendered.await {
        Ok(body) => respond(StatusCode::OK, PROMETHEUS, body),
        Err(error) => {
            tracing::error!(%error, "metrics of logical ids could not be made");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be made; see the daemon's log\n".to_owned())
        }
    }
}

fn read(query: &Query) -> Result<(String, usize), InvalidInput> {
    let prefix = query.one("prefix")?.unwrap_or_default();
    input::plain_text("prefix", prefix, LOGICAL_ID_MAX_BYTES)?;
    let limit = match query.one("limit")?.map(|text| (text, text.parse())) {
        None => LIMIT,
        Some((_, Ok(limit))) if (1..=LIMIT_MAX).contains(&limit) => limit,
        Some((text, _)) => return invalid("limit", format!("is {}; choose 1 to {LIMIT_MAX}", quoted(text))),
    };
    Ok((prefix.to_owned(), limit))
}

/// The metrics in the text format 0.0.4.
fn render(counts: &[ServiceCounts], omitted: u64, label: &str) -> String {
    let mut out = String::new();
    let (alone, first) =
        if label.is_empty() { (String::new(), String::new()) } else { (format!("{{{label}}}"), format!("{label},")) };
    for metric in ALL {
        // Writing to a string cannot fail.
        let name = metric.name;
        let _ = write!(out, "# HELP {name} {}\n# TYPE {name} gauge\n", metric.help);
        if name == OMITTED {
            let _ = writeln!(out, "{name}{alone} {omitted}");
        }
        for counts in counts {
            let logical_id = escaped(counts.logical_id.as_str());
            for (more_labels, value) in samples(name, counts) {
                let _ = writeln!(out, "{name}{{{first}logical_id=\"{logical_id}\"{more_labels}}} {value}");
            }
        }
    }
    out
}

/// What a metric says of a logical id: labels beside it, and values.
fn samples(metric: &str, counts: &ServiceCounts) -> Vec<(&'static str, u64)> {
    match metric {
        INSTANCES => vec![
            (",status=\"starting\"", counts.starting),
            (",status=\"alive\"", counts.alive),
            (",status=\"draining\"", counts.draining),
        ],
        SUSPECT => vec![("", counts.alive - counts.trusted)],
        BEST_LEASE => vec![("", counts.best.map_or(0, |lease| lease.0))],
        _ => Vec::new(),
    }
}

/// The value of a label as the text format writes it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LeaseId, LogicalId};

    fn counts(logical_id: &str, alive: u64, trusted: u64) -> ServiceCounts {
        let best = (alive > 0).then_some(LeaseId(7));
        let left = false;
        ServiceCounts {
            left,
            trusted,
            alive,
            logical_id: LogicalId::from_record(logical_id),
            starting: 0,
            draining: 2,
            best,
        }
    }

    #[test]
    fn every_metric_is_rendered_with_its_help_and_hostile_names_are_escaped() {
        let text = render(&[counts("a\"b\\c\nd", 3, 2)], 0, "");
        for metric in ALL {
            assert!(text.contains(&format!("# HELP {} {}\n", metric.name, metric.help)), "{text}");
        }
        for line in [
            r#"musterd_logical_id_instances{logical_id="a\"b\\c\nd",status="alive"} 3"#,
            r#"musterd_logical_id_instances{logical_id="a\"b\\c\nd",status="draining"} 2"#,
            r#"musterd_logical_id_suspect{logical_id="a\"b\\c\nd"} 1"#,
            r#"musterd_logical_id_best_lease{logical_id="a\"b\\c\nd"} 7"#,
            "musterd_logical_ids_omitted 0",
        ] {
            assert!(text.lines().any(|each| each == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn a_limit_has_bounds() {
        let read = |query: &str| Query::read(Some(query), PARAMETERS).and_then(|query| read(&query));
        assert_eq!(read(""), Ok((String::new(), LIMIT)));
        assert_eq!(read("prefix=organ_&limit=10000"), Ok(("organ_".to_owned(), LIMIT_MAX)));
        for limit in ["0", "10001", "-1", "ten", "", "1e3"] {
            let refusal = read(&format!("limit={limit}")).unwrap_err().to_string();
            assert_eq!(refusal, format!("limit: is \"{limit}\"; choose 1 to 10000"));
        }
    }
}
