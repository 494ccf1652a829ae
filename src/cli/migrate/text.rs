//! How migrations are shown.

use chrono::SecondsFormat;
use serde_json::{Value, json};

use crate::{
    migrate::{self, Detection, Plan, State},
    terminal::output::{Table, escape},
};

/// `011`, as in the file's name.
pub(super) fn number(version: i32) -> String {
    format!("{version:03}")
}

pub(super) fn millis(duration: std::time::Duration) -> String {
    format!("{}ms", duration.as_millis())
}

pub(super) fn state_word(state: State) -> &'static str {
    match state {
        State::Applied => "applied",
        State::Pending => "pending",
        State::Changed => "changed",
        State::Unknown => "unknown",
        State::Ejected => "ejected",
    }
}

pub(super) fn state_json(status: &migrate::Status) -> Value {
    json!({
        "version": status.version,
        "name": status.name,
        "state": state_word(status.state),
        "appliedAt": status.applied_at.map(|at| at.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
        "appliedBy": status.applied_by,
        "durationSeconds": status.duration.map(|duration| duration.as_secs_f64()),
    })
}

pub(super) fn status_table(list: &[migrate::Status]) -> Table<6> {
    let mut table = Table::new(["VERSION", "NAME", "STATE", "APPLIED", "BY", "TOOK"]);
    for status in list {
        table.row([
            number(status.version),
            status.name.clone(),
            state_word(status.state).to_owned(),
            status.applied_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)).unwrap_or_default(),
            status.applied_by.clone().unwrap_or_default(),
            status.duration.map(millis).unwrap_or_default(),
        ]);
    }
    table
}

/// A migration that was applied, for programs.
pub(super) fn applied_json(applied: &migrate::Applied) -> Value {
    json!({ "version": applied.version, "name": applied.name, "durationSeconds": applied.duration.as_secs_f64() })
}

/// Those that were applied; nothing if there are none.
pub(super) fn applied_table(list: &[migrate::Applied]) -> String {
    let mut table = Table::new(["VERSION", "NAME", "TOOK"]);
    for applied in list {
        table.row([number(applied.version), applied.name.clone(), millis(applied.duration)]);
    }
    if list.is_empty() { String::new() } else { table.text() }
}

/// What was detected, for programs.
pub(super) fn detection_json(detection: &Detection) -> Value {
    let migrations: Vec<Value> = detection.migrations.iter().map(detected_json).collect();
    let layouts: Vec<Value> = detection
        .layouts
        .iter()
        .map(|layout| {
            let (name, files) = layout.describe();
            json!({ "name": name, "registryFiles": files })
        })
        .collect();
    json!({ "schema": detection.schema, "seedcore": layouts, "migrations": migrations })
}

/// One migration of it.
pub(super) fn detected_json(detected: &migrate::Detected) -> Value {
    let mut value = state_json(&detected.recorded);
    if let Value::Object(map) = &mut value {
        map.insert("detected".to_owned(), detected.presence.word().into());
        map.insert("missing".to_owned(), detected.missing.clone().into());
        map.insert("different".to_owned(), detected.different.clone().into());
    }
    value
}

/// The same for people: a table, a line for each migration that is not whole, and what of SeedCore is there.
pub(super) fn detection_text(detection: &Detection) -> String {
    let mut table = Table::new(["VERSION", "NAME", "STATE", "DETECTED"]);
    for one in &detection.migrations {
        let (status, presence) = (&one.recorded, one.presence.word().to_owned());
        table.row([number(status.version), status.name.clone(), state_word(status.state).to_owned(), presence]);
    }
    let mut text = table.text();
    let odd = detection.migrations.iter().filter(|one| !one.missing.is_empty() || !one.different.is_empty());
    for line in odd.map(migrate::Detected::describe) {
        text.push_str(&format!("{}\n", escape(&line)));
    }
    text.push_str(&format!("schema {}\n", escape(&detection.schema)));
    for layout in &detection.layouts {
        let (name, files) = layout.describe();
        text.push_str(&format!("SeedCore {name}: its registry is made by {}\n", files.join(" and ")));
    }
    text
}

/// A plan, for programs.
pub(super) fn plan_json(plan: &Plan) -> Value {
    let steps: Vec<Value> = plan
        .steps
        .iter()
        .map(|step| {
            let lock = |(table, mode): &(String, &str)| json!({ "table": table, "mode": mode });
            json!({
                "name": step.name,
                "kind": step.kind.word(),
                "locks": step.locks.iter().map(lock).collect::<Vec<_>>(),
                "rows": step.rows,
                "estimateSeconds": step.estimate.as_secs_f64(),
                "sql": step.sql,
            })
        })
        .collect();
    json!({ "schema": plan.schema, "steps": steps, "lacking": plan.lacking, "sql": plan.to_string() })
}

/// The same for people, without the SQL.
pub(super) fn plan_text(plan: &Plan) -> String {
    if plan.steps.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["STEP", "KIND", "ROWS", "ESTIMATE", "LOCKS"]);
    for step in &plan.steps {
        let locks = step.locks.iter().map(|(table, mode)| format!("{mode} on {table}"));
        let locks = locks.collect::<Vec<_>>().join(", ");
        let kind = step.kind.word().to_owned();
        table.row([step.name.clone(), kind, step.rows.to_string(), millis(step.estimate), locks]);
    }
    let mut text = table.text();
    for line in &plan.lacking {
        text.push_str(&format!("missing right: {}\n", escape(line)));
    }
    text
}
