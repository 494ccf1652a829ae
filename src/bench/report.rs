//! What a benchmark prints. As JSON: lowerCamelCase names, latencies in microseconds, counts as numbers (no count here
//! comes near what a double cannot hold); fields are added, never renamed.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{
    error::Error,
    load::{Measured, as_f64},
    record::{Latencies, Recorder},
};
use crate::terminal::output::{self, DocumentArgs, Format, Table};

/// The result of one run.
#[derive(Debug)]
pub(super) struct Report {
    format: Format,
    fields: Map<String, Value>,
    latencies: Vec<(&'static str, Latencies)>,
    failed: bool,
}

impl Report {
    /// A report of a benchmark.
    pub(super) fn new(bench: &'static str, prefix: &str, output: DocumentArgs) -> Self {
        let mut fields = Map::new();
        fields.insert("bench".into(), bench.into());
        fields.insert("prefix".into(), prefix.into());
        Self { format: output.output, fields, latencies: Vec::new(), failed: false }
    }

    /// Adds a field.
    pub(super) fn set(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    /// Adds what a load came to: calls, errors, latency.
    pub(super) fn measured(&mut self, measured: Measured) -> &mut Self {
        let Measured { recorder, elapsed, not_sent } = measured;
        self.set("notSent", not_sent).counted(recorder, elapsed, "latency")
    }

    /// Adds calls, items, errors and latencies that were counted over a time.
    pub(super) fn counted(&mut self, recorder: Recorder, elapsed: Duration, latency: &'static str) -> &mut Self {
        self.failed |= recorder.calls == 0;
        self.set("seconds", round(elapsed.as_secs_f64()));
        self.set("calls", recorder.calls).set("callsPerSecond", per_second(recorder.calls, elapsed));
        self.set("items", recorder.items).set("itemsPerSecond", per_second(recorder.items, elapsed));
        self.set("errors", json!(recorder.errors)).set("errorCount", recorder.error_count());
        self.latency(latency, recorder.latencies)
    }

    /// Adds latencies.
    pub(super) fn latency(&mut self, name: &'static str, latencies: Latencies) -> &mut Self {
        self.latencies.push((name, latencies));
        self
    }

    /// The run has shown what must not be.
    pub(super) fn fail_if(&mut self, bad: bool) -> &mut Self {
        self.failed |= bad;
        self
    }

    /// Whether it has.
    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    /// Prints it.
    ///
    /// # Errors
    ///
    /// Those of standard output.
    pub(super) fn print(&self) -> Result<(), Error> {
        match self.format {
            Format::Table | Format::Wide => self.print_table()?,
            format => output::print_json(&self.json(), format)?,
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let mut fields = self.fields.clone();
        for (name, latencies) in &self.latencies {
            fields.insert(format!("{name}Us"), latencies.json());
        }
        Value::Object(fields)
    }

    fn print_table(&self) -> Result<(), Error> {
        let mut table = Table::new(["WHAT", "VALUE"]);
        for (name, value) in &self.fields {
            table.row([name.clone(), value_text(value)]);
        }
        output::print_table(&table)?;
        let mut table = Table::new(["LATENCY", "P50", "P90", "P99", "P99.9", "MAX"]);
        for (name, latencies) in self.latencies.iter().filter(|(_, latencies)| !latencies.is_empty()) {
            let [p50, p90, p99, p999, max] = latencies.text();
            table.row([(*name).to_owned(), p50, p90, p99, p999, max]);
        }
        output::print(|mut out| {
            writeln!(out)?;
            table.write(&mut out)
        })?;
        Ok(())
    }
}

fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) if fields.is_empty() => "none".to_owned(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// To a tenth: a rate is not known better.
pub(super) fn per_second(count: u64, elapsed: Duration) -> f64 {
    round(as_f64(count) / elapsed.as_secs_f64().max(1e-9))
}

fn round(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_in_which_nothing_succeeded_has_failed() {
        let output = DocumentArgs { output: Format::Json };
        let mut report = Report::new("resolve", "bench-1", output);
        report.measured(Measured { recorder: Recorder::new().unwrap(), elapsed: Duration::from_secs(2), not_sent: 3 });
        assert!(report.failed());
        let json = report.json();
        assert_eq!((&json["bench"], &json["calls"], &json["notSent"]), (&json!("resolve"), &json!(0), &json!(3)));
        assert_eq!(json["latencyUs"]["count"], json!(0));
    }

    #[test]
    fn rates_are_per_second() {
        assert!((per_second(10, Duration::from_secs(4)) - 2.5).abs() < 1e-9);
    }
}
