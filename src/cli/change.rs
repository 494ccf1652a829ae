//! `musterd drain|undrain|deregister INSTANCE_ID...`: what an owner may say of its instance, said in its name.
//!
//! Each of them may be repeated safely, so an unknown outcome needs no more advice than to repeat the command. Of
//! several instances each has its own result: one that is refused keeps none of the others from theirs.

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    client::{Client, ClientArgs},
    exit::{self, Error},
    instances::parse_instance_id,
    json,
    output::{self, OutputArgs, Table},
    paint,
};
use crate::proto::v1::{self, InstanceStatus};

/// Calls at the same time; the daemon commits together what comes together.
const CONCURRENT: usize = 32;

pub(super) const DRAIN_EXAMPLES: &str = "\
Examples:
  musterd drain 6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10
  # All of a node, before work on it
  musterd list --node n7 -o name | xargs -r musterd drain

A draining instance keeps its lease and is not resolved. musterd undrain takes
it back.";

pub(super) const DEREGISTER_EXAMPLES: &str = "\
Examples:
  musterd deregister 6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10

Its process is told at its next beat that the lease has ended, and registers
anew if it is made to. To stop traffic and keep the lease: musterd drain.";

/// Arguments of `drain`, `undrain` and `deregister`.
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
    instance_id: String,
    outcome: Result<Done, Error>,
}

#[derive(Debug)]
struct Done {
    lease_id: u64,
    revision: u64,
    already: bool,
}

pub(super) async fn run(change: Change, args: ChangeArgs, client: &ClientArgs) -> Result<u8, Error> {
    let client = Client::connect(client).await?;
    let calls = args.instance_ids.iter().map(|id| apply(change, id.to_string(), &client));
    let mut results: Vec<Changed> = stream::iter(calls).buffered(CONCURRENT).collect().await;
    // Of one alone, the refusal is the answer.
    if results.len() == 1
        && let Some(Changed { outcome: Err(error), .. }) = results.pop_if(|one| one.outcome.is_err())
    {
        return Err(error);
    }
    print(change, &results, args.output)
}

async fn apply(change: Change, instance_id: String, client: &Client) -> Changed {
    let id = instance_id.clone();
    let outcome = match change {
        Change::Deregister => {
            let request = v1::DeregisterRequest { instance_id: id, lease_id: 0 };
            client.call(client.registry().deregister(request)).await.map(|done| Done {
                lease_id: done.lease_id,
                revision: done.revision,
                already: done.already_dead,
            })
        }
        Change::Drain | Change::Undrain => {
            let status = if change == Change::Drain { InstanceStatus::Draining } else { InstanceStatus::Alive };
            let request = v1::SetStatusRequest { instance_id: id, lease_id: 0, status: status.into() };
            client.call(client.registry().set_status(request)).await.map(|done| Done {
                lease_id: done.lease_id,
                revision: done.revision,
                already: false,
            })
        }
    };
    Changed { instance_id, outcome }
}

fn print(change: Change, results: &[Changed], args: OutputArgs) -> Result<u8, Error> {
    let text = output::answer_list(
        args.output,
        || json!({ "results": results.iter().map(item).collect::<Vec<_>>() }),
        || results.iter().map(item).collect(),
        || results.iter().filter(|one| one.outcome.is_ok()).map(|one| one.instance_id.clone()).collect(),
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
            "leaseId": json::long(done.lease_id),
            "revision": json::long(done.revision),
            "alreadyDead": done.already,
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
            Ok(done) => (word(change, done).to_owned(), done.lease_id.to_string(), done.revision.to_string()),
            Err(error) => {
                let reason = error.reason().unwrap_or_else(|| "failed".to_owned());
                (reason.to_ascii_lowercase(), String::new(), String::new())
            }
        };
        table.row([one.instance_id.clone(), result, lease_id, revision]);
    }
    table
}

fn word(change: Change, done: &Done) -> &'static str {
    match change {
        Change::Drain => "draining",
        Change::Undrain => "alive",
        Change::Deregister if done.already => "dead before",
        Change::Deregister => "deregistered",
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    fn refused(code: Code, reason: &str) -> Error {
        Error::from(Status::with_error_details(code, "text", ErrorDetails::with_error_info(reason, "musterd", [])))
    }

    #[test]
    fn several_have_the_exit_code_they_agree_on() {
        let (unknown, dead) =
            (refused(Code::NotFound, "UNKNOWN_INSTANCE"), refused(Code::FailedPrecondition, "LEASE_EXPIRED"));
        assert_eq!(code(&[]), exit::OK);
        assert_eq!(code(&[&unknown, &unknown]), exit::NOT_FOUND);
        assert_eq!(code(&[&dead]), exit::PRECONDITION);
        assert_eq!(code(&[&dead, &unknown]), exit::NEGATIVE);
    }

    #[test]
    fn each_instance_has_a_row_and_an_item_of_its_own() {
        let results = [
            Changed { instance_id: "a".into(), outcome: Ok(Done { lease_id: 7, revision: 9, already: false }) },
            Changed { instance_id: "b".into(), outcome: Err(refused(Code::NotFound, "UNKNOWN_INSTANCE")) },
        ];
        let text = table(Change::Drain, &results).text();
        let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows, [["a", "draining", "7", "9"], ["b", "unknown_instance", "-", "-"]]);
        assert_eq!(item(&results[0])["leaseId"], "7");
        assert_eq!(item(&results[1])["error"]["reason"], "UNKNOWN_INSTANCE");
    }
}
