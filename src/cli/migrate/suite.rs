//! `--suite seedcore`: the optional suite, apart from the registry's migrations.

use serde_json::{Value, json};

use super::text::{applied_json, applied_table, number, state_word};
use crate::{
    command::{
        exit::{self, Error},
        host,
    },
    migrate::State,
    suite::{self, SuiteStatus},
    terminal::output::{self, Format, Table, escape},
};

/// `migrate up --suite seedcore`.
pub(super) async fn up(url: &str, format: Format, samples: bool) -> Result<u8, Error> {
    let report = suite::up(url, samples, &host::operator()).await?;
    output::print_answer(
        format,
        || {
            let applied: Vec<Value> = report.applied.iter().map(applied_json).collect();
            json!({ "suite": suite::SEEDCORE, "applied": applied, "migrations": items(&report.statuses) })
        },
        || report.applied.iter().map(|applied| applied.name.clone()).collect(),
        || applied_table(&report.applied),
    )?;
    for (status, reason) in report.statuses.iter().filter_map(|one| one.reason.as_ref().map(|reason| (one, reason))) {
        output::note(&format!("{} is pending: {reason}", status.name));
    }
    output::note(&format!("suite {}: {} applied now", suite::SEEDCORE, report.applied.len()));
    Ok(exit::OK)
}

/// `migrate status --suite seedcore`.
pub(super) async fn status(url: &str, format: Format, exit_code: bool) -> Result<u8, Error> {
    let list = suite::status(url).await?;
    let text = output::answer_list(
        format,
        || Value::Array(items(&list)),
        || items(&list),
        || list.iter().map(|one| one.name.to_owned()).collect(),
        || {
            let mut table = Table::new(["VERSION", "NAME", "STATE", "REASON"]);
            for one in &list {
                let reason = one.reason.clone().unwrap_or_default();
                table.row([number(one.version), one.name.to_owned(), state_word(one.state).to_owned(), reason]);
            }
            table.text()
        },
    )?;
    output::print_text(&text)?;
    let is_pending = list.iter().any(|one| one.state == State::Pending);
    Ok(if exit_code && is_pending { exit::NEGATIVE } else { exit::OK })
}

/// `migrate verify --suite seedcore`.
pub(super) async fn verify(url: &str, format: Format) -> Result<u8, Error> {
    let differences = suite::verify(url).await?;
    output::print_answer(
        format,
        || json!({ "differences": differences }),
        Vec::new,
        || differences.iter().map(|difference| format!("{}\n", escape(difference))).collect(),
    )?;
    if differences.is_empty() {
        output::note("suite verified, no differences");
        return Ok(exit::OK);
    }
    Ok(exit::NEGATIVE)
}

fn items(list: &[SuiteStatus]) -> Vec<Value> {
    let item = |one: &SuiteStatus| json!({ "version": one.version, "name": one.name, "state": state_word(one.state), "reason": one.reason });
    list.iter().map(item).collect()
}
