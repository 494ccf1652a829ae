//! `musterd audit`: what was decided about the cluster, when, and which identity asked for it.

use std::time::SystemTime;

use futures_util::{StreamExt as _, TryStreamExt as _};
use musterd_client::{Decision, DecisionFilter};
use serde_json::Value;

use crate::{
    clock::Clock,
    command::{
        client::ClientArgs,
        exit::{self, Error},
        instances::{self, time},
    },
    json::messages,
    terminal::output::{self, OutputArgs, Table},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  # The decisions of the last hour, with the identities that asked for them
  musterd audit --since 1h
  # The denials, as JSON, one line each
  musterd audit --action denied -o jsonl | jq -c '{at, by, object, detail}'
  musterd audit --action rotate --limit 5

Actions: rotate, hold, release, expire, deregister and set_status (of others),
purge, hook_set, hook_remove, migrate_up, migrate_adopt, migrate_eject,
migrate_return, migrate_repair, reload, denied.

With a policy it needs the right `cluster`.";

/// Arguments of `audit`.
#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    /// Decisions since then: a duration, such as 2h, or a time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<SystemTime>,

    /// This action alone
    #[arg(long, value_name = "ACTION", value_parser = parse_action)]
    action: Option<String>,

    /// Of this identity alone, such as token/alice, or sql/ROLE
    #[arg(long, value_name = "IDENTITY")]
    by: Option<String>,

    /// At most so many, the newest
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    #[command(flatten)]
    output: OutputArgs,
}

fn parse_since(text: &str) -> Result<SystemTime, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return SystemTime::from(Clock::new().wall())
            .checked_sub(ago)
            .ok_or_else(|| "that is before all time".to_owned());
    }
    instances::parse_time(text).map_err(|error| format!("{error}, or a duration like 2h"))
}

/// A daemon may be newer and know more of them: what is refused is what cannot be the name of an action.
fn parse_action(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    is_name
        .then(|| text.to_owned())
        .ok_or_else(|| "expected an action such as rotate; see musterd audit --help".to_owned())
}

pub(super) async fn run(args: AuditArgs, client: &ClientArgs) -> Result<u8, Error> {
    let mut filter = DecisionFilter::new();
    if let Some(since) = args.since {
        filter = filter.since(since);
    }
    filter = filter.action(args.action.unwrap_or_default()).by(args.by.unwrap_or_default());
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let decisions: Vec<Decision> = client.connect().await?.decisions(&filter).take(limit).try_collect().await?;
    let text = output::answer_list(
        args.output.output,
        || messages::decisions(&decisions),
        || decisions.iter().map(messages::decision).collect(),
        || decisions.iter().map(|decision| decision.id.to_string()).collect(),
        || table(&decisions).text(),
    )?;
    output::print_text(&text)?;
    Ok(exit::OK)
}

fn table(decisions: &[Decision]) -> Table<7> {
    let mut table = Table::new(["AT", "ACTION", "BY", "OBJECT", "REVISION", "ROLE", "DETAIL"]);
    for decision in decisions {
        table.row([
            time(decision.at),
            decision.action.clone(),
            decision.by.clone(),
            decision.object.clone(),
            decision.revision.map(|revision| revision.to_string()).unwrap_or_default(),
            decision.by_role.clone(),
            detail(&decision.detail),
        ]);
    }
    table
}

/// `count=3 reason=PERMISSION_DENIED`.
fn detail(text: &str) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str(text) else { return text.to_owned() };
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    fields.iter().map(|(key, value)| format!("{key}={}", word(value))).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detail_is_shown_as_pairs() {
        assert_eq!(detail(r#"{"count": 3, "reason": "a b"}"#), "count=3 reason=a b");
        assert_eq!(detail("{}"), "");
    }

    #[test]
    fn since_is_a_duration_or_a_time() {
        assert!(parse_since("2h").unwrap() < SystemTime::from(Clock::new().wall()));
        assert!(parse_since("2026-01-31T03:12:00Z").is_ok());
        assert!(parse_since("yesterday").is_err() && parse_since("").is_err());
        assert!(parse_action("set_status").is_ok() && parse_action("Rotate!").is_err());
    }
}
