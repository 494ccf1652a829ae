//! `musterd hold`, `release`, `expire`: what an operator may overrule about deaths.
//!
//! All three may be repeated safely, so an unknown outcome needs no more advice than to repeat the command. Limits are
//! the daemon's to know: it refuses what is out of range, and the command ends with 2.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    command::{
        client::ClientArgs,
        exit::{self, Error},
        instances::{parse_instance_id, parse_number, seconds},
    },
    json::messages,
    terminal::{
        args::parse_duration,
        output::{self, DocumentArgs, OutputArgs, Table},
    },
};

pub(super) const HOLD_EXAMPLES: &str = "\
Examples:
  # For as long as all live instances need to be heard again
  musterd hold
  musterd hold --for 10m --reason 'work on the network'

A hold that ends later stays. musterd release ends it.";

pub(super) const EXPIRE_EXAMPLES: &str = "\
Examples:
  musterd expire 6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10
  # Only if it was not registered again in the meantime; exits with 4 if it never had that lease
  musterd expire 6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10 --lease 42";

/// Arguments of `hold`.
#[derive(Debug, clap::Args)]
pub struct HoldArgs {
    /// For how long, 1s to 1h [default: the longest TTL of the live instances and 5s]
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Duration>,

    /// Reason, shown to all operators; at most 1024 bytes
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,

    #[command(flatten)]
    output: DocumentArgs,
}

/// Arguments of `release`.
#[derive(Debug, clap::Args)]
pub struct ReleaseArgs {
    /// For how long the brake stays off, 1s to 1h [default: 5m]
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Duration>,

    #[command(flatten)]
    output: DocumentArgs,
}

/// Arguments of `expire`.
#[derive(Debug, clap::Args)]
pub struct ExpireArgs {
    /// The instance
    #[arg(value_name = "INSTANCE_ID", value_parser = parse_instance_id)]
    instance_id: Uuid,

    /// Only if it still has this lease [default: whichever it has]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = parse_number)]
    lease: u64,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn hold(args: HoldArgs, client: &ClientArgs) -> Result<u8, Error> {
    let client = client.connect().await?;
    let remaining = client.hold_expiry(args.duration, &args.reason).await?;
    output::print_answer(
        args.output.output,
        || messages::held(remaining),
        Vec::new,
        || {
            let mut table = Table::new(["HELD FOR"]);
            table.row([seconds(remaining)]);
            table.text()
        },
    )?;
    Ok(exit::OK)
}

pub(super) async fn release(args: ReleaseArgs, client: &ClientArgs) -> Result<u8, Error> {
    let client = client.connect().await?;
    client.release_expiry(args.duration).await?;
    if args.output.output.is_table() {
        output::note("expiry resumed, rate limit lifted for a while");
    } else {
        output::print_json(&serde_json::json!({}), args.output.output)?;
    }
    Ok(exit::OK)
}

pub(super) async fn expire(args: ExpireArgs, client: &ClientArgs) -> Result<u8, Error> {
    let client = client.connect().await?;
    let lease_id = Some(args.lease).filter(|lease_id| *lease_id > 0);
    let changed = client.expire(args.instance_id, lease_id).await?;
    output::print_answer(
        args.output.output,
        || messages::expired(&changed),
        || vec![args.instance_id.to_string()],
        || {
            let mut table = Table::new(["INSTANCE", "REVISION", "DEAD BEFORE"]);
            let before = if changed.already_dead { "yes" } else { "no" };
            table.row([args.instance_id.to_string(), changed.revision.to_string(), before.to_owned()]);
            table.text()
        },
    )?;
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Hold {
        #[command(flatten)]
        args: HoldArgs,
    }

    #[derive(Debug, Parser)]
    struct Expire {
        #[command(flatten)]
        args: ExpireArgs,
    }

    #[test]
    fn hold_without_a_duration_leaves_it_to_the_daemon() {
        let hold = |words: &[&str]| Hold::try_parse_from([&["hold"], words].concat()).map(|hold| hold.args.duration);
        assert_eq!(hold(&[]).expect("no flag is needed"), None);
        assert_eq!(hold(&["--for", "10m"]).expect("a duration"), Some(Duration::from_secs(600)));
        for bad in ["10", "soon", "", "-1s"] {
            assert!(hold(&["--for", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_instance_is_named_by_a_uuid_and_its_lease_may_be_left_out() {
        let id = "6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10";
        let expire = |words: &[&str]| Expire::try_parse_from([&["expire"], words].concat()).map(|one| one.args.lease);
        assert_eq!(expire(&[id]).expect("an id"), 0);
        assert_eq!(expire(&[id, "--lease", "42"]).expect("a lease"), 42);
        for bad in [&[][..], &["organ-1"], &[id, "--lease", "x"], &[id, "--lease", "-1"]] {
            assert!(expire(bad).is_err(), "{bad:?}");
        }
    }
}
