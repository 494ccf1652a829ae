//! `musterd describe INSTANCE_ID|NAME`: everything that is known, in words.
//!
//! Of an instance: what it is, how its lease stands, and why it is dead if it is. Of a name: whom Resolve would choose,
//! which others there are, and which leases have ended lately, also those that the registry itself no longer shows. With a time: the
//! leases that were held then. A UUID is an instance; if none has it, it may still be a name.

mod held;
mod text;

use std::{pin::pin, time::SystemTime};

use futures_util::TryStreamExt as _;
use musterd_client::{Choice, Client, Cluster, Ended, EndedLease, Filter, Found, Kind, Page};
use serde_json::{Value, json};
use uuid::Uuid;

use super::list;
use crate::{
    clock::Clock,
    command::{
        client::ClientArgs,
        exit::{self, Error},
        instances::{self, moment, warn_if_stale},
        suggest,
    },
    json::messages,
    terminal::output::{self, OutputArgs},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  musterd describe cognitive_organ_1
  musterd describe 6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10
  musterd describe cognitive_organ_1 --at 2026-01-31T03:12:00Z
  musterd describe cognitive_organ_1 -o name | xargs -r musterd drain";

/// Most ended leases that are asked for: those of a name that ends very often are not all of interest.
const ENDED_MAX: u32 = 100;

/// Arguments of `describe`.
#[derive(Debug, clap::Args)]
pub struct DescribeArgs {
    /// An instance id (a UUID), or a logical id
    #[arg(value_name = "INSTANCE_ID|NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    what: String,

    /// The leases that were held at this time (RFC 3339, e.g. 2026-01-31T03:12:00Z), as far as still on record
    #[arg(long, value_name = "TIME", value_parser = instances::parse_time)]
    at: Option<SystemTime>,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: DescribeArgs, client: &ClientArgs) -> Result<u8, Error> {
    let client = client.connect().await?;
    // Ages are told by the database clock, which stamped the times: that of this machine may be another.
    let cluster = client.cluster(0).await?;
    let now = moment(cluster.database_time).unwrap_or_else(|| Clock::new().wall());
    warn_if_stale(cluster.stale_for);
    let asked = |of: Ended| match args.at {
        Some(at) => of.alive_at(at).limit(ENDED_MAX),
        None => of.limit(ENDED_MAX),
    };
    let mut unknown_instance = None;
    if let Ok(instance_id) = Uuid::try_parse(&args.what) {
        let found = match client.instance(instance_id).await {
            Ok(found) => Some(found),
            Err(error) if error.kind() != Kind::NotFound => return Err(error.into()),
            Err(error) => {
                unknown_instance = Some(error);
                None
            }
        };
        let ended = held::ended(&client, &asked(Ended::of_instance(instance_id))).await;
        if found.is_some() || !ended.is_empty() {
            return instance(&args, found.as_ref(), &ended, now);
        }
    }
    let all = named(&args.what, &client).await?;
    let ended = held::ended(&client, &asked(Ended::of_logical_id(&args.what))).await;
    match (all.instances.is_empty() && ended.is_empty(), unknown_instance) {
        (true, Some(error)) => Err(error.into()),
        (true, None) => Err(unknown(&args.what, &client).await),
        (false, _) => name(&args, &all, &ended, &cluster, now),
    }
}

/// The daemon's own words for a name that is not on record, and a suggestion.
pub(super) async fn unknown(name: &str, client: &Client) -> Error {
    match client.resolve(name, &Choice::best()).await {
        Err(error) => suggest::name(error, name, client).await,
        // It was registered a moment ago.
        Ok(_) => Error::Incomplete("an instance that was registered this moment; repeat the command"),
    }
}

/// An instance, which is on record or has ended leases.
fn instance(
    args: &DescribeArgs,
    found: Option<&Found>,
    ended: &[EndedLease],
    now: chrono::DateTime<chrono::Utc>,
) -> Result<u8, Error> {
    let instances = || found.iter().map(|found| &found.instance);
    if let Some(at) = args.at {
        return held_at(args, at, held::all(instances(), ended));
    }
    let current = found.map(|found| found.instance.lease_id);
    let earlier = held::all([], ended).into_iter().filter(|held| Some(held.lease_id) != current).collect::<Vec<_>>();
    output::print_answer(
        args.output.output,
        || with_ended(found.map_or_else(|| json!({ "instance": Value::Null }), messages::found), ended),
        || vec![args.what.clone()],
        || {
            found.map(|it| text::instance(&it.instance, it.revision, now)).unwrap_or_default()
                + &text::earlier(&earlier, now)
        },
    )?;
    Ok(exit::OK)
}

fn name(
    args: &DescribeArgs,
    all: &Page,
    ended: &[EndedLease],
    cluster: &Cluster,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<u8, Error> {
    if let Some(at) = args.at {
        return held_at(args, at, held::all(&all.instances, ended));
    }
    output::print_answer(
        args.output.output,
        || with_ended(messages::list(all), ended),
        || all.instances.iter().map(|instance| instance.instance_id.to_string()).collect(),
        || text::name(&args.what, all, ended, cluster, now),
    )?;
    Ok(exit::OK)
}

/// The leases that were held at a time.
fn held_at(args: &DescribeArgs, at: SystemTime, mut leases: Vec<held::Held>) -> Result<u8, Error> {
    leases.retain(|held| held.was_alive_at(at));
    output::print_answer(
        args.output.output,
        || json!({ "at": messages::timestamp(Some(at)), "leases": leases.iter().map(held::Held::json).collect::<Vec<_>>() }),
        || leases.iter().map(|held| held.instance_id.to_string()).collect(),
        || text::held_at(&args.what, at, &leases),
    )?;
    Ok(exit::OK)
}

/// An answer, and the ended leases beside it.
fn with_ended(mut answer: Value, ended: &[EndedLease]) -> Value {
    answer["endedLeases"] = ended.iter().map(messages::ended_lease).collect();
    answer
}

/// Every instance of a name on record.
pub(super) async fn named(name: &str, client: &Client) -> Result<Page, Error> {
    let mut pages = pin!(client.pages(Filter::logical_id(name).any_status()));
    let mut all = pages.try_next().await?.unwrap_or_default();
    while let Some(page) = pages.try_next().await? {
        list::append(&mut all, page);
    }
    Ok(all)
}
