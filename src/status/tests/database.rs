//! Problems of what the database holds for the application, and of its schema.

use super::{super::*, Row, Severity::Warning, healthy, seconds};

/// Deaths that are not released, the first of them for so long.
fn unreleased(oldest_s: u64, failure: Option<&str>, waiting: &[&str]) -> Facts {
    let (failure, waiting) = (failure.map(str::to_owned), waiting.iter().map(ToString::to_string).collect());
    Facts { release: Release { unreleased: 7, oldest: seconds(oldest_s), failure, waiting }, ..healthy() }
}

/// Problems of deaths that are not released, and of the schema.
pub(super) fn of_database() -> Vec<Row> {
    vec![
        (
            unreleased(6, Some("hook tasks: division by zero (22012)"), &[]),
            Warning,
            "deaths_unreleased",
            "7 deaths are not released, the first of them for 6 s: hook tasks: division by zero (22012)",
        ),
        (unreleased(6, None, &["tasks (disabled)"]), Warning, "deaths_unreleased", "hook tasks (disabled) waits"),
        (unreleased(61, None, &[]), Warning, "deaths_unreleased", "no hook has run"),
        (
            Facts { schema: Schema { drift: vec!["function beat(uuid)".to_owned()], ahead: None }, ..healthy() },
            Warning,
            "schema_drift",
            "1 object of the schema differs from those of this daemon: function beat(uuid)",
        ),
        (
            Facts { schema: Schema { drift: Vec::new(), ahead: Some(22) }, ..healthy() },
            Warning,
            "schema_ahead",
            "migrated the database to 022",
        ),
    ]
}
