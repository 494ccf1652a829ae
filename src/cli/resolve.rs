//! `musterd resolve`: which instance should I talk to right now?

use super::{
    client::{Client, ClientArgs},
    exit::{self, Error},
    instances::{address, known, seconds, status, warn_if_stale},
    json,
    output::{self, Format, OutputArgs, Table},
};
use crate::proto::v1;

/// Arguments of `resolve`.
#[derive(Debug, clap::Args)]
pub struct ResolveArgs {
    /// The logical id to resolve, for example cognitive_organ_1
    #[arg(value_name = "NAME")]
    name: String,

    /// Answer at this revision or later, for example the one a registration returned; waits at most 1 s for it
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_revision: u64,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: ResolveArgs, client: &ClientArgs) -> Result<u8, Error> {
    let client = Client::connect(client).await?;
    let request = v1::ResolveRequest { logical_id: args.name, min_revision: args.min_revision };
    let response = client.call(client.discovery().resolve(request)).await?;
    let instance = response.instance.as_ref().ok_or(Error::Incomplete("the instance"))?;
    warn_if_stale(response.stale_for.as_ref());
    match args.output.output {
        format @ (Format::Json | Format::Jsonl) => output::print_json(&json::resolve(&response), format)?,
        Format::Table => output::print_table(&table(instance, response.alternatives))?,
    }
    Ok(exit::OK)
}

fn table(instance: &v1::Instance, alternatives: u32) -> Table<10> {
    let mut table = Table::new([
        "LOGICAL ID",
        "INSTANCE",
        "STATUS",
        "ADDRESS",
        "ROUTE",
        "NODE",
        "PID",
        "LEASE",
        "REMAINING",
        "ALTERNATIVES",
    ]);
    table.row([
        instance.logical_id.clone(),
        instance.instance_id.clone(),
        status(instance),
        address(instance),
        instance.serve_route.clone(),
        instance.node_id.clone(),
        known(instance.pid),
        instance.lease_id.to_string(),
        seconds(instance.lease_remaining.as_ref()),
        alternatives.to_string(),
    ]);
    table
}
