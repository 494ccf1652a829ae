//! `musterd describe INSTANCE_ID|NAME`: everything that is known, in words.
//!
//! Of an instance: what it is, how its lease stands, and why it is dead if it is. Of a name: whom Resolve would choose,
//! who else there is, and who has died lately. A UUID is an instance; if none has it, it may still be a name.

mod text;

use std::pin::pin;

use futures_util::TryStreamExt as _;
use musterd_client::{Choice, Client, Cluster, Filter, Kind, Page};
use uuid::Uuid;

use super::list;
use crate::{
    clock::Clock,
    command::{
        client::ClientArgs,
        exit::{self, Error},
        instances::{moment, warn_if_stale},
        suggest,
    },
    json::messages,
    terminal::output::{self, OutputArgs},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  musterd describe cognitive_organ_1
  musterd describe 6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10
  musterd describe cognitive_organ_1 -o name | xargs -r musterd drain";

/// Arguments of `describe`.
#[derive(Debug, clap::Args)]
pub struct DescribeArgs {
    /// An instance id (a UUID), or a logical id
    #[arg(value_name = "INSTANCE_ID|NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    what: String,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: DescribeArgs, client: &ClientArgs) -> Result<u8, Error> {
    let client = client.connect().await?;
    // Ages are told by the database clock, which stamped the times: that of this machine may be another.
    let cluster = client.cluster(0).await?;
    let now = moment(cluster.database_time).unwrap_or_else(|| Clock::new().wall());
    warn_if_stale(cluster.stale_for);
    let mut unknown_instance = None;
    if let Ok(instance_id) = Uuid::try_parse(&args.what) {
        match client.instance(instance_id).await {
            Ok(found) => {
                let text = || text::instance(&found.instance, found.revision, now);
                let names = || vec![instance_id.to_string()];
                output::print_answer(args.output.output, || messages::found(&found), names, text)?;
                return Ok(exit::OK);
            }
            Err(error) if error.kind() != Kind::NotFound => return Err(error.into()),
            Err(error) => unknown_instance = Some(error),
        }
    }
    let all = named(&args.what, &client).await?;
    match (all.instances.is_empty(), unknown_instance) {
        (true, Some(error)) => Err(error.into()),
        (true, None) => Err(unknown(&args.what, &client).await),
        (false, _) => name(&args, &all, &cluster, now),
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

fn name(args: &DescribeArgs, all: &Page, cluster: &Cluster, now: chrono::DateTime<chrono::Utc>) -> Result<u8, Error> {
    output::print_answer(
        args.output.output,
        || messages::list(all),
        || all.instances.iter().map(|instance| instance.instance_id.to_string()).collect(),
        || text::name(&args.what, all, cluster, now),
    )?;
    Ok(exit::OK)
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
