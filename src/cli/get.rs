//! `musterd get INSTANCE_ID`: one instance, the dead included while they are kept.

use uuid::Uuid;

use crate::{
    command::{
        client::ClientArgs,
        exit::{self, Error},
        instances::{self, parse_instance_id, parse_number, warn_if_stale},
    },
    json::messages,
    terminal::output::{self, Format, OutputArgs},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  musterd get 6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10 -o wide
  musterd get 6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10 -o json \\
    | jq -r .instance.death.reason

musterd describe says the same in words.";

/// Arguments of `get`.
#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// The instance
    #[arg(value_name = "INSTANCE_ID", value_parser = parse_instance_id)]
    instance_id: Uuid,

    /// Answer at this revision or later; waits at most 1 s for it
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_number)]
    min_revision: u64,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: GetArgs, client: &ClientArgs) -> Result<u8, Error> {
    let client = client.connect().await?;
    client.require_revision(args.min_revision);
    let found = client.instance(args.instance_id).await?;
    warn_if_stale(found.stale_for);
    let (format, instance) = (args.output.output, &found.instance);
    output::print_answer(
        format,
        || messages::found(&found),
        || vec![instance.instance_id.to_string()],
        || instances::table([instance], format == Format::Wide),
    )?;
    Ok(exit::OK)
}
