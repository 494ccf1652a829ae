//! `musterd check-lease`: whether a fencing token is still good, for scripts that are handed one.
//!
//! The answer is the exit code; what is printed says whose lease it is. It is as old as the daemon's view, a moment as a
//! rule: a service that must be sure until the end of a transaction asks PostgreSQL itself, with `assert_lease`.

use musterd_client::Instance;

use crate::{
    command::{
        client::ClientArgs,
        exit::{self, Error},
        instances::{address, parse_lease_id, parse_number, seconds, status, warn_if_stale},
    },
    json::messages,
    terminal::output::{self, OutputArgs, Table},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  musterd check-lease 42 || exit 1
  musterd check-lease 42 -o json | jq -r .instance.logicalId

Exits with 0 if the lease is alive, with 4 if it is not on record, with 5 if
it has ended, was replaced, or belongs to an older epoch.";

/// Arguments of `check-lease`.
#[derive(Debug, clap::Args)]
pub struct CheckLeaseArgs {
    /// The lease
    #[arg(value_name = "LEASE_ID", value_parser = parse_lease_id)]
    lease_id: u64,

    /// Answer at this revision or later; waits at most 1 s for it
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_number)]
    min_revision: u64,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn check(args: CheckLeaseArgs, client: &ClientArgs) -> Result<u8, Error> {
    let client = client.connect().await?;
    client.require_revision(args.min_revision);
    let found = client.check_lease(args.lease_id).await?;
    warn_if_stale(found.stale_for);
    let instance = &found.instance;
    output::print_answer(
        args.output.output,
        || messages::found(&found),
        || vec![instance.instance_id.to_string()],
        || table(instance).text(),
    )?;
    Ok(exit::OK)
}

fn table(instance: &Instance) -> Table<6> {
    let mut table = Table::new(["LEASE", "LOGICAL ID", "INSTANCE", "STATUS", "ADDRESS", "REMAINING"]);
    table.row([
        instance.lease_id.to_string(),
        instance.logical_id.clone(),
        instance.instance_id.to_string(),
        status(instance),
        address(instance),
        seconds(instance.lease_remaining),
    ]);
    table
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Check {
        #[command(flatten)]
        args: CheckLeaseArgs,
    }

    #[test]
    fn a_lease_is_a_number_from_1() {
        let lease = |word| Check::try_parse_from(["check-lease", word]).map(|check| check.args.lease_id);
        assert_eq!(lease("42").expect("a lease"), 42);
        assert_eq!(lease("18446744073709551615").expect("the largest"), u64::MAX);
        for bad in ["0", "-1", "x", ""] {
            assert!(lease(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn table_names_the_owner_of_each_lease() {
        let mut one = Instance::default();
        (one.lease_id, one.logical_id, one.status) = (42, "organ".into(), musterd_client::Status::Draining);
        (one.ip, one.port) = ("10.0.0.1".parse().ok(), Some(80));
        let text = table(&one).text();
        let row: Vec<_> = text.lines().nth(1).expect("a row").split_whitespace().collect();
        let id = "00000000-0000-0000-0000-000000000000";
        assert_eq!(row, ["42", "organ", id, "draining", "10.0.0.1:80", "0.0s"]);
    }
}
