//! What was counted: latencies, answers, errors by reason. Each caller has a recorder of its own, so nothing is shared
//! while the load runs; they are added up at the end.

use std::{collections::BTreeMap, io, time::Duration};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tonic::Status;
use tonic_types::StatusExt as _;

use super::error::Error;

/// The domain of reasons that a daemon, not a proxy or the transport, has given.
const DOMAIN: &str = "musterd";

/// Latencies of this many microseconds and more are counted as this: an hour.
const LATENCY_MAX_US: u64 = 3_600_000_000;

/// Latencies to three significant digits, in microseconds.
#[derive(Debug, Clone)]
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    ///
    /// # Errors
    ///
    /// Never in practice: the library could not make a histogram of three digits.
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self(Histogram::new(3).map_err(io::Error::other)?))
    }

    pub(super) fn add(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_MAX_US).clamp(1, LATENCY_MAX_US);
        // It grows by itself up to the limit above, so no value is out of range.
        let _ = self.0.record(micros);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        let _ = self.0.add(&other.0);
    }

    /// The quantiles as JSON: `p50`, `p90`, `p99`, `p999`, `max`, `mean` in microseconds, and how many there were.
    pub(super) fn json(&self) -> Value {
        let at = |quantile| self.0.value_at_quantile(quantile);
        json!({
            "count": self.0.len(),
            "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999),
            "max": self.0.max(),
            "mean": self.0.mean().round(),
        })
    }

    /// The quantiles for a person.
    pub(super) fn text(&self) -> [String; 5] {
        [0.5, 0.9, 0.99, 0.999, 1.0].map(|quantile| micros_text(self.0.value_at_quantile(quantile)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `87 us`, `1.24 ms`, `2.500 s`.
fn micros_text(micros: u64) -> String {
    let duration = Duration::from_micros(micros);
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.2} ms", duration.as_secs_f64() * 1_000.0),
        _ => format!("{:.3} s", duration.as_secs_f64()),
    }
}

/// What one caller, or all of them, counted.
#[derive(Debug, Clone)]
pub(super) struct Recorder {
    pub(super) latencies: Latencies,
    /// Calls that succeeded.
    pub(super) calls: u64,
    /// What they did: names resolved, leases renewed.
    pub(super) items: u64,
    /// Calls, or items of one, that failed, by reason.
    pub(super) errors: BTreeMap<String, u64>,
}

impl Recorder {
    /// Nothing yet.
    ///
    /// # Errors
    ///
    /// As [`Latencies::new`].
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self { latencies: Latencies::new()?, calls: 0, items: 0, errors: BTreeMap::new() })
    }

    pub(super) fn succeeded(&mut self, latency: Duration, items: u64) {
        self.latencies.add(latency);
        self.calls += 1;
        self.items += items;
    }

    pub(super) fn failed(&mut self, status: &Status) {
        self.failed_for(reason(status), 1);
    }

    pub(super) fn failed_for(&mut self, reason: impl Into<String>, count: u64) {
        if count > 0 {
            *self.errors.entry(reason.into()).or_default() += count;
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.latencies.merge(&other.latencies);
        self.calls += other.calls;
        self.items += other.items;
        for (reason, count) in other.errors {
            self.failed_for(reason, count);
        }
    }

    pub(super) fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// The reason of the daemon, or the code where a proxy or the transport speaks.
pub(super) fn reason(status: &Status) -> String {
    let signed = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
    signed.map_or_else(|| format!("{:?}", status.code()), |info| info.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut latencies = Latencies::new().unwrap();
        for micros in 1..=1_000 {
            latencies.add(Duration::from_micros(micros));
        }
        let json = latencies.json();
        assert_eq!((&json["p50"], &json["p99"], &json["max"]), (&json!(500), &json!(990), &json!(1_000)));
        assert_eq!(json["count"], json!(1_000));
    }

    #[test]
    fn no_latency_is_lost_however_short_or_long() {
        let mut latencies = Latencies::new().unwrap();
        latencies.add(Duration::ZERO);
        latencies.add(Duration::from_secs(86_400));
        assert_eq!(latencies.json()["count"], json!(2));
        assert_eq!(latencies.text()[0], "1 us");
    }

    #[test]
    fn recorders_add_up() {
        let mut sum = Recorder::new().unwrap();
        let mut one = Recorder::new().unwrap();
        one.succeeded(Duration::from_millis(2), 10);
        one.failed(&Status::unavailable("gone"));
        sum.merge(one.clone());
        sum.merge(one);
        assert_eq!((sum.calls, sum.items, sum.error_count()), (2, 20, 2));
        assert_eq!(sum.errors.get("Unavailable"), Some(&2));
        assert_eq!(sum.latencies.text()[0], "2.00 ms");
    }
}
