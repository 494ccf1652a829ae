//! `musterd epoch show|rotate|list`: the cluster's current life, a new one, and those before.
//!
//! Rotation declares every instance of the old epoch dead, so a rotation whose outcome is unknown must be repeatable
//! without rotating twice. The command therefore chooses the UUID of the new epoch itself, and after an unknown outcome
//! says with which flag to repeat it.

use futures_util::TryStreamExt as _;
use musterd_client::{Brake, BrakeMode, Cluster, Epoch};
use uuid::Uuid;

use crate::{
    command::{
        client::ClientArgs,
        exit::{self, Error},
        instances::{parse_uuid, seconds, warn_if_stale},
    },
    json::messages,
    terminal::output::{self, Format, OutputArgs, Table},
};

/// Subcommands of `epoch`.
#[derive(Debug, clap::Subcommand)]
pub enum EpochCommand {
    /// Show the current epoch, the revision, how many daemons and instances there are, hold and brake
    #[command(after_help = "Examples:\n  musterd epoch show\n  musterd epoch show -o json | jq -r .clusterEpoch")]
    Show(ShowArgs),
    /// Begin a new epoch: every instance registered before is dead from then on
    #[command(after_help = ROTATE_EXAMPLES)]
    Rotate(RotateArgs),
    /// List the epochs, the newest first
    List(ListArgs),
}

const ROTATE_EXAMPLES: &str = "\
Examples:
  musterd epoch rotate --reason 'cold start after the upgrade'
  # Only if the epoch is still the same; exits with 5 otherwise
  current=$(musterd epoch show -o json | jq -r .clusterEpoch)
  musterd epoch rotate --expect $current";

/// Arguments of `epoch show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `epoch rotate`.
#[derive(Debug, clap::Args)]
pub struct RotateArgs {
    /// Rotate only if this is the current epoch; otherwise change nothing and exit with 5
    #[arg(long, value_name = "UUID", value_parser = parse_uuid)]
    expect: Option<Uuid>,

    /// UUID of the new epoch; repeating the command with the same one rotates once [default: a random one]
    #[arg(long, value_name = "UUID", value_parser = parse_uuid)]
    new: Option<Uuid>,

    /// Rotate however soon after the last rotation; daemons refuse a second one within 10 s
    #[arg(long)]
    force: bool,

    /// Why, for the history; at most 1024 bytes
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,

    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `epoch list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(command: EpochCommand, client: &ClientArgs) -> Result<u8, Error> {
    match command {
        EpochCommand::Show(args) => show(args.output.output, client).await,
        EpochCommand::Rotate(args) => rotate(args, client).await,
        EpochCommand::List(args) => list(args.output.output, client).await,
    }
}

async fn show(format: Format, client: &ClientArgs) -> Result<u8, Error> {
    let cluster = client.connect().await?.cluster(0).await?;
    warn_if_stale(cluster.stale_for);
    output::print_answer(
        format,
        || messages::cluster(&cluster),
        || vec![cluster.cluster_epoch.to_string()],
        || epoch_table(&cluster).text(),
    )?;
    Ok(exit::OK)
}

fn epoch_table(cluster: &Cluster) -> Table<10> {
    let counts = cluster.counts;
    let mut table = Table::new([
        "NUMBER", "EPOCH", "REVISION", "ALIVE", "STARTING", "DRAINING", "DEAD", "DAEMONS", "HOLD", "BRAKE",
    ]);
    let hold = cluster
        .hold
        .as_ref()
        .map(|hold| format!("{} ({})", hold.remaining.map(seconds).unwrap_or_default(), hold.reason));
    let brake = cluster.brake.as_ref().map(brake);
    table.row([
        cluster.epoch_number.to_string(),
        cluster.cluster_epoch.to_string(),
        cluster.revision.to_string(),
        counts.alive.to_string(),
        counts.starting.to_string(),
        counts.draining.to_string(),
        counts.dead.to_string(),
        cluster.daemons.len().to_string(),
        hold.unwrap_or_default(),
        brake.unwrap_or_default(),
    ]);
    table
}

/// `protect (51 of 100 overdue)`.
pub(super) fn brake(brake: &Brake) -> String {
    let mode = match brake.mode {
        BrakeMode::Pace => "pace",
        BrakeMode::Protect => "protect",
        _ => "unknown",
    };
    format!("{mode} ({} of {} overdue)", brake.overdue, brake.live)
}

async fn rotate(args: RotateArgs, client: &ClientArgs) -> Result<u8, Error> {
    let client = client.connect().await?;
    let new = args.new.unwrap_or_else(Uuid::new_v4);
    let rotated = match args.force {
        true => client.force_rotate_epoch(new, args.expect, &args.reason).await,
        false => client.rotate_epoch(new, args.expect, &args.reason).await,
    };
    let rotated = rotated.inspect_err(|error| {
        if error.may_be_applied() {
            output::note(&format!("the epoch may have been rotated; repeat with --new {new}, it rotates once at most"));
        }
    })?;
    output::print_answer(
        args.output.output,
        || messages::rotated(&rotated),
        || vec![rotated.cluster_epoch.to_string()],
        || {
            let mut table = Table::new(["NUMBER", "EPOCH", "REVISION", "PREVIOUS", "ROTATED"]);
            table.row([
                rotated.epoch_number.to_string(),
                rotated.cluster_epoch.to_string(),
                rotated.revision.to_string(),
                rotated.previous_epoch.map(|epoch| epoch.to_string()).unwrap_or_default(),
                if rotated.rotated { "yes".to_owned() } else { "no".to_owned() },
            ]);
            table.text()
        },
    )?;
    Ok(exit::OK)
}

async fn list(format: Format, client: &ClientArgs) -> Result<u8, Error> {
    let all: Vec<Epoch> = client.connect().await?.epochs().try_collect().await?;
    let text = output::answer_list(
        format,
        || messages::epochs(&all),
        || all.iter().map(messages::epoch).collect(),
        || all.iter().map(|epoch| epoch.cluster_epoch.to_string()).collect(),
        || epochs_table(&all).text(),
    )?;
    output::print_text(&text)?;
    Ok(exit::OK)
}

fn epochs_table(epochs: &[Epoch]) -> Table<6> {
    let mut table = Table::new(["NUMBER", "EPOCH", "STARTED", "REVISION", "BY", "REASON"]);
    for epoch in epochs {
        table.row([
            epoch.epoch_number.to_string(),
            epoch.cluster_epoch.to_string(),
            messages::timestamp(epoch.started_at).as_str().unwrap_or_default().to_owned(),
            epoch.started_revision.to_string(),
            epoch.rotated_by.clone(),
            epoch.reason.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brake_reports_the_number_of_overdue_leases() {
        let shown = |mode| {
            let mut one = Brake::default();
            (one.mode, one.overdue, one.live) = (mode, 51, 100);
            brake(&one)
        };
        assert_eq!(shown(BrakeMode::Protect), "protect (51 of 100 overdue)");
        assert_eq!(shown(BrakeMode::Pace), "pace (51 of 100 overdue)");
    }
}
