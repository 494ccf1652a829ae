//! Flags that the benchmarks share, and their limits: no benchmark can be told to run without an end.

use std::time::Duration;

use crate::{
    model::input,
    terminal::{args::parse_duration, output::DocumentArgs},
};

/// The longest a load may last.
const DURATION_MAX: Duration = Duration::from_secs(600);
/// The longest prefix.
const PREFIX_MAX_BYTES: usize = 100;

/// How much load, for how long.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct LoadArgs {
    /// Connections to the daemon
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(super) connections: u32,

    /// Calls, or requests of a stream, at the same time on each connection
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(super) in_flight: u32,

    /// Calls per second in all, due at fixed times [default: as fast as answers come]
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    pub(super) rate: Option<f64>,

    /// End after so many calls
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,

    #[command(flatten)]
    pub(super) run: RunArgs,
}

/// How long, and what is left and said at the end.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct RunArgs {
    /// End after this time, at most 10m; registration before and after it is not counted
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_run_time)]
    pub(super) duration: Duration,

    /// Leave what was registered; its leases end by themselves
    #[arg(long)]
    pub(super) keep: bool,

    /// Run although the registry has instances that are not of a benchmark
    #[arg(long)]
    pub(super) yes: bool,

    /// Begin the logical ids with this [default: "bench-" and a random name]
    #[arg(long, value_name = "PREFIX", value_parser = parse_prefix)]
    pub(super) prefix: Option<String>,

    #[command(flatten)]
    pub(super) output: DocumentArgs,
}

/// Reads a rate: calls per second.
pub(super) fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected calls per second, between 0.001 and 10000000".to_owned()),
    }
}

/// Reads a prefix: a logical id that leaves room for a number.
fn parse_prefix(text: &str) -> Result<String, String> {
    if !(1..=PREFIX_MAX_BYTES).contains(&text.len()) {
        return Err(format!("has {} bytes; give 1 to {PREFIX_MAX_BYTES}", text.len()));
    }
    input::logical_id("prefix", text).map(|_| text.to_owned()).map_err(|invalid| invalid.to_string())
}

fn parse_run_time(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("must be longer than zero".to_owned()),
        duration if duration > DURATION_MAX => Err("must be at most 10m".to_owned()),
        duration => Ok(duration),
    }
}

/// Reads a TTL within the limits of the protocol.
pub(super) fn parse_ttl(text: &str) -> Result<Duration, String> {
    let ttl = parse_duration(text)?;
    if (Duration::from_secs(2)..=Duration::from_secs(300)).contains(&ttl) {
        Ok(ttl)
    } else {
        Err("must be between 2s and 300s".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_load_is_endless() {
        assert!(parse_run_time("10m").is_ok());
        for text in ["0s", "11m", "5", ""] {
            assert!(parse_run_time(text).is_err(), "{text}");
        }
        assert_eq!(parse_rate("2.5"), Ok(2.5));
        for text in ["0", "-1", "nan", "inf", "1e9", ""] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        assert!(parse_ttl("30s").is_ok());
        assert_eq!(parse_prefix("organ"), Ok("organ".to_owned()));
        for text in ["", &"x".repeat(PREFIX_MAX_BYTES + 1)] {
            assert!(parse_prefix(text).is_err_and(|error| error.contains("1 to 100")), "{text}");
        }
        assert!(parse_ttl("1s").is_err());
    }
}
