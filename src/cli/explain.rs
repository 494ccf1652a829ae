//! `musterd explain NAME`: why Resolve gives this instance and none of the others.
//!
//! The rules are those of the daemon (`model::explain`), applied to what it lists: every instance of the name on record,
//! with its rank if it was a candidate, and why it lost.

use std::collections::BTreeMap;

use musterd_client::Instance;
use serde_json::{Value, json};
use uuid::Uuid;

use super::describe::{named, unknown};
use crate::{
    command::{
        client::{ClientArgs, label_map, parse_label},
        exit::{self, Error},
        instances::{address, moment, parse_instance_id, status, time, warn_if_stale},
    },
    json::{messages, value},
    model::{
        DeathReason, InstanceId, InstanceStatus,
        explain::{Candidate, Explained, Standing, explain},
    },
    terminal::{
        output::{self, Format, OutputArgs, Table},
        paint,
    },
};

pub(super) const EXAMPLES: &str = "\
Examples:
  musterd explain cognitive_organ_1
  # As for musterd resolve with the same flags
  musterd explain web --label zone=eu-1 \\
    --exclude 6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10";

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// The logical id
    #[arg(value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: String,

    /// An instance not to choose; may be repeated
    #[arg(long, value_name = "ID", value_parser = parse_instance_id)]
    exclude: Vec<Uuid>,

    /// Only instances with this label; may be repeated, all must match
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: ExplainArgs, client: &ClientArgs) -> Result<u8, Error> {
    let labels = label_map(&args.label)?;
    let client = client.connect().await?;
    let all = named(&args.name, &client).await?;
    if all.instances.is_empty() {
        return Err(unknown(&args.name, &client).await);
    }
    warn_if_stale(all.stale_for);
    let candidates = all.instances.iter().map(|one| candidate(one, &args.exclude, &labels));
    let candidates = candidates.collect::<Option<Vec<_>>>().ok_or(Error::Incomplete("a readable instance"))?;
    let explained = explain(&candidates);
    let lines: Vec<_> =
        explained.iter().filter_map(|line| Some((line, find(&all.instances, line.instance_id)?))).collect();
    let format = args.output.output;
    let text = output::answer_list(
        format,
        || {
            let items: Vec<_> = lines.iter().map(|(line, one)| item(line, one)).collect();
            let (revision, stale_for) = (value::long(all.revision), value::duration(all.stale_for));
            json!({ "logicalId": args.name, "instances": items, "revision": revision, "staleFor": stale_for })
        },
        || lines.iter().map(|(line, one)| item(line, one)).collect(),
        || explained.iter().filter(|line| line.rank.is_some()).map(|line| line.instance_id.to_string()).collect(),
        || table(&lines, format == Format::Wide),
    )?;
    output::print_text(&text)?;
    Ok(exit::OK)
}

fn find(instances: &[Instance], instance_id: InstanceId) -> Option<&Instance> {
    instances.iter().find(|one| one.instance_id == instance_id.0)
}

/// An instance as the rules see it; `None` if a newer daemon tells what this version does not know.
fn candidate(one: &Instance, excluded: &[Uuid], labels: &BTreeMap<String, String>) -> Option<Candidate> {
    let status = match one.status {
        musterd_client::Status::Starting => InstanceStatus::Starting,
        musterd_client::Status::Alive => InstanceStatus::Alive,
        musterd_client::Status::Draining => InstanceStatus::Draining,
        musterd_client::Status::Dead => InstanceStatus::Dead,
        _ => return None,
    };
    Some(Candidate {
        instance_id: InstanceId(one.instance_id),
        status,
        death: one.death.as_ref().and_then(|death| reason(death.reason)),
        // The daemon lists instances as its epoch sees them: who is of another is dead there.
        epoch_is_current: true,
        suspect: one.suspect,
        started_at: moment(one.started_at)?,
        excluded: excluded.contains(&one.instance_id),
        labels_match: labels.iter().all(|(key, value)| one.labels.get(key) == Some(value)),
    })
}

fn reason(reason: musterd_client::DeathReason) -> Option<DeathReason> {
    match reason {
        musterd_client::DeathReason::Stale => Some(DeathReason::Stale),
        musterd_client::DeathReason::OldEpoch => Some(DeathReason::OldEpoch),
        musterd_client::DeathReason::Deregistered => Some(DeathReason::Deregistered),
        musterd_client::DeathReason::Replaced => Some(DeathReason::Replaced),
        musterd_client::DeathReason::Operator => Some(DeathReason::Operator),
        _ => None,
    }
}

fn item(line: &Explained, one: &Instance) -> Value {
    json!({
        "rank": line.rank,
        "standing": line.standing.as_str(),
        "because": line.standing.because(),
        "why": line.to_string(),
        "instance": messages::instance(one),
    })
}

fn table(lines: &[(&Explained, &Instance)], wide: bool) -> String {
    let why = |line: &Explained| match line.standing {
        // In full it would be as wide as the screen.
        Standing::Outranked { by, .. } if !wide => line.to_string().replace(&by.to_string(), "the first"),
        _ => line.to_string(),
    };
    let mut table = Table::new(["RANK", "INSTANCE", "STATUS", "ADDRESS", "STARTED", "WHY"]).painted(2, paint::status);
    for (line, one) in lines {
        table.row([
            line.rank.map(|rank| rank.to_string()).unwrap_or_default(),
            one.instance_id.to_string(),
            status(one),
            address(one),
            time(one.started_at),
            why(line),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(number: u128, seconds: u64) -> Instance {
        let mut one = Instance::default();
        (one.instance_id, one.status) = (Uuid::from_u128(number), musterd_client::Status::Alive);
        one.started_at = Some(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds));
        one.labels.insert("zone".to_owned(), "a".to_owned());
        one
    }

    #[test]
    fn flags_decide_which_instances_are_candidates() {
        let zone = |zone: &str| BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
        let mut one = instance(1, 5);
        let read = |excluded: &[Uuid], labels| candidate(&one, excluded, &labels).expect("readable");
        assert!(!read(&[], BTreeMap::new()).excluded && read(&[], zone("a")).labels_match);
        assert!(!read(&[], zone("b")).labels_match);
        assert!(read(&[Uuid::from_u128(1)], zone("a")).excluded);
        one.status = musterd_client::Status::Unknown;
        assert!(candidate(&one, &[], &BTreeMap::new()).is_none());
    }

    #[test]
    fn first_row_is_the_resolved_instance() {
        let all = [instance(2, 9), instance(1, 5)];
        let candidates: Vec<_> = all.iter().filter_map(|one| candidate(one, &[], &BTreeMap::new())).collect();
        let explained = explain(&candidates);
        let lines: Vec<_> = explained.iter().filter_map(|line| Some((line, find(&all, line.instance_id)?))).collect();
        let text = table(&lines, false);
        let rows: Vec<&str> = text.lines().collect();
        assert!(rows[1].starts_with("1     00000000-0000-0000-0000-000000000001  alive"), "{text}");
        assert!(rows[1].ends_with("chosen: the longest serving"), "{text}");
        assert!(rows[2].ends_with("outranked by the first: that one has served for longer"), "{text}");
        assert_eq!(item(lines[0].0, lines[0].1)["because"], "seniority");
    }
}
