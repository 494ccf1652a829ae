//! `musterd drain|undrain|deregister INSTANCE_ID...`: what an owner may say of its instance, said in its name.
//!
//! Each of them may be repeated safely, so an unknown outcome needs no more advice than to repeat the command. Of
//! several instances each has its own result: one that is refused keeps none of the others from theirs.

use futures_util::{StreamExt as _, stream};
use musterd_client::{Client, Status};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    command::{
        client::ClientArgs,
        exit::{self, Error},
        instances::parse_instance_id,
    },
    json::value,
    terminal::{
        output::{self, OutputArgs, Table},
        paint,
    },
};

/// Calls at the same time; the daemon commits together what comes together.
const CONCURRENT: usize = 32;

pub(super) const DRAIN_EXAMPLES: &str = "\
Examples:
  musterd drain 6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10
  # All of a node, before work on it
  musterd list --node n7 -o name | xargs -r musterd drain --reason 'new disk'

A draining instance keeps its lease and is not resolved. musterd undrain takes
it back.";

pub(super) const DEREGISTER_EXAMPLES: &str = "\
Examples:
  musterd deregister 6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10

Its process is told at its next beat that the lease has ended, and registers
again if it is made to. To stop traffic and keep the lease: musterd drain.";

/// Arguments of `drain` and `undrain`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    change: ChangeArgs,

    /// Why, at most 256 bytes; shown by describe
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

/// Arguments of `deregister`, and what `drain` and `undrain` have in common with it.
#[derive(Debug, clap::Args)]
pub struct ChangeArgs {
    /// The instances
    #[arg(value_name = "INSTANCE_ID", required = true, value_parser = parse_instance_id)]
    instance_ids: Vec<Uuid>,

    #[command(flatten)]
    output: OutputArgs,
}

/// What is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Not resolved any more.
    Drain,
    /// Resolved again.
    Undrain,
    /// The lease ends.
    Deregister,
}

/// What became of one instance.
#[derive(Debug)]
struct Changed {
    instance_id: Uuid,
    outcome: Result<musterd_client::Changed, Error>,
}

pub(super) async fn run_status(change: Change, args: StatusArgs, client: &ClientArgs) -> Result<u8, Error> {
    run(change, &args.reason, args.change, client).await
}

pub(super) async fn run(change: Change, reason: &str, args: ChangeArgs, client: &ClientArgs) -> Result<u8, Error> {
    let client = client.connect().await?;
    let calls = args.instance_ids.iter().map(|id| apply(change, reason, *id, &client));
    let mut results: Vec<Changed> = stream::iter(calls).buffered(CONCURRENT).collect().await;
    // Of one alone, the refusal is the answer.
    if results.len() == 1
        && let Some(Changed { outcome: Err(error), .. }) = results.pop_if(|one| one.outcome.is_err())
    {
        return Err(error);
    }
    print(change, &results, args.output)
}

async fn apply(change: Change, reason: &str, instance_id: Uuid, client: &Client) -> Changed {
    let outcome = match change {
        Change::Deregister => client.deregister(instance_id).await,
        Change::Drain => client.set_status_because(instance_id, Status::Draining, reason).await,
        Change::Undrain => client.set_status_because(instance_id, Status::Alive, reason).await,
    };
    Changed { instance_id, outcome: outcome.map_err(Error::from) }
}

fn print(change: Change, results: &[Changed], args: OutputArgs) -> Result<u8, Error> {
    let text = output::answer_list(
        args.output,
        || json!({ "results": results.iter().map(item).collect::<Vec<_>>() }),
        || results.iter().map(item).collect(),
        || results.iter().filter(|one| one.outcome.is_ok()).map(|one| one.instance_id.to_string()).collect(),
        || table(change, results).text(),
    )?;
    output::print_text(&text)?;
    let failed: Vec<&Error> = results.iter().filter_map(|one| one.outcome.as_ref().err()).collect();
    for one in results {
        if let Err(error) = &one.outcome {
            output::note(&format!("{}: {}", one.instance_id, error.lines().join("; ")));
        }
    }
    Ok(code(&failed))
}

/// The exit code of several: of one kind if all failures are, else that of any failure.
fn code(failed: &[&Error]) -> u8 {
    match failed {
        [] => exit::OK,
        [first, rest @ ..] if rest.iter().all(|error| error.exit_code() == first.exit_code()) => first.exit_code(),
        _ => exit::NEGATIVE,
    }
}

fn item(one: &Changed) -> Value {
    match &one.outcome {
        Ok(done) => json!({
            "instanceId": one.instance_id,
            "leaseId": value::long(done.lease_id),
            "revision": value::long(done.revision),
            "alreadyDead": done.already_dead,
            "error": null,
        }),
        Err(error) => json!({
            "instanceId": one.instance_id,
            "leaseId": null,
            "revision": null,
            "alreadyDead": false,
            "error": { "reason": error.reason(), "message": error.lines().join("; ") },
        }),
    }
}

fn table(change: Change, results: &[Changed]) -> Table<4> {
    let mut table = Table::new(["INSTANCE", "RESULT", "LEASE", "REVISION"]).painted(1, |text| match text {
        "draining" | "alive" | "deregistered" | "dead before" => paint::GOOD,
        _ => paint::BAD,
    });
    for one in results {
        let (result, lease_id, revision) = match &one.outcome {
            Ok(done) => {
                (word(change, done.already_dead).to_owned(), done.lease_id.to_string(), done.revision.to_string())
            }
            Err(error) => {
                let reason = error.reason().unwrap_or("failed");
                (reason.to_ascii_lowercase(), String::new(), String::new())
            }
        };
        table.row([one.instance_id.to_string(), result, lease_id, revision]);
    }
    table
}

fn word(change: Change, already_dead: bool) -> &'static str {
    match change {
        Change::Drain => "draining",
        Change::Undrain => "alive",
        Change::Deregister if already_dead => "dead before",
        Change::Deregister => "deregistered",
    }
}

#[cfg(test)]
mod tests {
    use musterd_client::{Kind, Reason};

    use super::*;

    fn refused(kind: Kind, reason: Reason) -> Error {
        musterd_client::Error::new(kind, reason, "text").into()
    }

    #[test]
    fn several_have_the_exit_code_they_agree_on() {
        let unknown = refused(Kind::NotFound, Reason::UnknownInstance);
        let dead = refused(Kind::Precondition, Reason::LeaseExpired);
        assert_eq!(code(&[]), exit::OK);
        assert_eq!(code(&[&unknown, &unknown]), exit::NOT_FOUND);
        assert_eq!(code(&[&dead]), exit::PRECONDITION);
        assert_eq!(code(&[&dead, &unknown]), exit::NEGATIVE);
    }

    #[test]
    fn an_instance_that_is_refused_has_a_row_and_an_item_of_its_own() {
        let outcome = Err(refused(Kind::NotFound, Reason::UnknownInstance));
        let results = [Changed { instance_id: Uuid::nil(), outcome }];
        let text = table(Change::Drain, &results).text();
        let row: Vec<&str> = text.lines().nth(1).expect("a row").split_whitespace().collect();
        assert_eq!(row, [Uuid::nil().to_string().as_str(), "unknown_instance", "-", "-"]);
        assert_eq!(item(&results[0])["error"]["reason"], "UNKNOWN_INSTANCE");
    }
}
