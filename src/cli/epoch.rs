//! `musterd epoch show|rotate|list`: the cluster's current life, a new one, and those before.
//!
//! Rotation declares every instance of the old epoch dead, so a rotation whose outcome is unknown must be repeatable
//! without rotating twice. The command therefore chooses the UUID of the new epoch itself, and after an unknown outcome
//! says with which flag to repeat it.

use tonic::Code;
use uuid::Uuid;

use super::{
    client::{Client, ClientArgs},
    exit::{self, Error},
    instances::{parse_uuid, seconds, warn_if_stale},
    json,
    output::{self, Format, OutputArgs, Table},
};
use crate::proto::v1;

/// Epochs per page.
const PAGE_SIZE: i32 = 500;

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
  # Only if nobody else rotates in the meantime; exits with 5 otherwise
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
    let client = Client::connect(client).await?;
    let cluster = client.call(client.cluster().get_cluster(v1::GetClusterRequest::default())).await?;
    warn_if_stale(cluster.stale_for.as_ref());
    output::print_answer(
        format,
        || json::cluster(&cluster),
        || vec![cluster.cluster_epoch.clone()],
        || epoch_table(&cluster).text(),
    )?;
    Ok(exit::OK)
}

fn epoch_table(cluster: &v1::GetClusterResponse) -> Table<10> {
    let counts = cluster.counts.unwrap_or_default();
    let mut table = Table::new([
        "NUMBER", "EPOCH", "REVISION", "ALIVE", "STARTING", "DRAINING", "DEAD", "DAEMONS", "HOLD", "BRAKE",
    ]);
    let hold = cluster.hold.as_ref().map(|hold| format!("{} ({})", seconds(hold.remaining.as_ref()), hold.reason));
    let brake = cluster.brake.as_ref().map(brake);
    table.row([
        cluster.epoch_number.to_string(),
        cluster.cluster_epoch.clone(),
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
pub(super) fn brake(brake: &v1::Brake) -> String {
    let mode = match v1::BrakeMode::try_from(brake.mode) {
        Ok(v1::BrakeMode::Pace) => "pace".to_owned(),
        Ok(v1::BrakeMode::Protect) => "protect".to_owned(),
        Ok(v1::BrakeMode::Unspecified) | Err(_) => brake.mode.to_string(),
    };
    format!("{mode} ({} of {} overdue)", brake.overdue, brake.live)
}

async fn rotate(args: RotateArgs, client: &ClientArgs) -> Result<u8, Error> {
    let client = Client::connect(client).await?;
    let new = args.new.unwrap_or_else(Uuid::new_v4);
    let request = v1::RotateEpochRequest {
        expected_epoch: args.expect.map(|epoch| epoch.to_string()).unwrap_or_default(),
        new_epoch: new.to_string(),
        reason: args.reason,
    };
    let response = client.call(client.cluster().rotate_epoch(request)).await.inspect_err(|error| {
        if is_unknown_outcome(error) {
            output::note(&format!("the epoch may have been rotated; repeat with --new {new}, it rotates once at most"));
        }
    })?;
    output::print_answer(
        args.output.output,
        || json::rotated(&response),
        || vec![response.cluster_epoch.clone()],
        || {
            let mut table = Table::new(["NUMBER", "EPOCH", "REVISION", "PREVIOUS", "ROTATED"]);
            table.row([
                response.epoch_number.to_string(),
                response.cluster_epoch.clone(),
                response.revision.to_string(),
                response.previous_epoch.clone(),
                if response.rotated { "yes".to_owned() } else { "no".to_owned() },
            ]);
            table.text()
        },
    )?;
    Ok(exit::OK)
}

/// Whether the rotation may have happened all the same.
fn is_unknown_outcome(error: &Error) -> bool {
    match (error, error.reason().as_deref()) {
        (Error::Timeout { .. }, _) | (_, Some("MAYBE_APPLIED")) => true,
        // No daemon has signed this: the connection broke somewhere between the call and its answer.
        (Error::Rpc(status), None) => {
            matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled)
        }
        _ => false,
    }
}

async fn list(format: Format, client: &ClientArgs) -> Result<u8, Error> {
    let client = Client::connect(client).await?;
    let mut cluster = client.cluster();
    let mut request = v1::ListEpochsRequest { page_size: PAGE_SIZE, page_token: String::new() };
    let mut all = v1::ListEpochsResponse::default();
    loop {
        let page = client.call(cluster.list_epochs(request.clone())).await?;
        all.epochs.extend(page.epochs);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let text = output::answer_list(
        format,
        || json::epochs(&all),
        || all.epochs.iter().map(json::epoch).collect(),
        || all.epochs.iter().map(|epoch| epoch.cluster_epoch.clone()).collect(),
        || epochs_table(&all.epochs).text(),
    )?;
    output::print_text(&text)?;
    Ok(exit::OK)
}

fn epochs_table(epochs: &[v1::Epoch]) -> Table<6> {
    let mut table = Table::new(["NUMBER", "EPOCH", "STARTED", "REVISION", "BY", "REASON"]);
    for epoch in epochs {
        table.row([
            epoch.epoch_number.to_string(),
            epoch.cluster_epoch.clone(),
            json::timestamp(epoch.started_at.as_ref()).as_str().unwrap_or_default().to_owned(),
            epoch.started_revision.to_string(),
            epoch.rotated_by.clone(),
            epoch.reason.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Status;
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    #[test]
    fn a_brake_says_how_many_are_overdue() {
        let shown = |mode| brake(&v1::Brake { mode, overdue: 51, live: 100, since: None });
        assert_eq!(shown(v1::BrakeMode::Protect.into()), "protect (51 of 100 overdue)");
        assert_eq!(shown(v1::BrakeMode::Pace.into()), "pace (51 of 100 overdue)");
        assert_eq!(shown(9), "9 (51 of 100 overdue)", "of a newer daemon");
    }

    #[test]
    fn only_an_unknown_outcome_asks_for_a_repetition() {
        let signed = |code, reason: &str| {
            Error::from(Status::with_error_details(code, "", ErrorDetails::with_error_info(reason, "musterd", [])))
        };
        assert!(is_unknown_outcome(&Error::Timeout { addr: String::new(), after: Duration::from_secs(5) }));
        assert!(is_unknown_outcome(&signed(Code::Unavailable, "MAYBE_APPLIED")));
        assert!(is_unknown_outcome(&Error::from(Status::unavailable("connection reset"))));
        assert!(!is_unknown_outcome(&signed(Code::Unavailable, "DATABASE_UNAVAILABLE")));
        assert!(!is_unknown_outcome(&signed(Code::FailedPrecondition, "EPOCH_MISMATCH")));
    }
}
