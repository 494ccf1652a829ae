//! `musterd resolve`: which instance should I talk to right now?
//!
//! One name is one call of Resolve, whose error is the answer if there is no instance. Several names are one call of
//! BatchResolve, all as of one revision: each has its line, and one that has no instance shows why. What is printed has
//! the same shape for one name and for several, so that a script need not count its arguments.

use std::time::Duration;

use musterd_client::{Choice, Instance, Reason};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    command::{
        client::{ClientArgs, label_map, parse_label},
        exit::{self, Error},
        instances::{address, known, parse_instance_id, parse_number, seconds, status, warn_if_stale},
        suggest,
    },
    json::{messages, value},
    terminal::{
        output::{self, Format, OutputArgs, Table},
        paint,
    },
};

pub(super) const EXAMPLES: &str = "\
Examples:
  musterd resolve cognitive_organ_1
  musterd resolve cognitive_organ_1 -o json \\
    | jq -r '.results[].instance | \"\\(.ipAddress):\\(.port)\"'
  # The same user meets the same instance, as long as that lives
  musterd resolve web --key user-42
  # Several names at once: a line for each, exit code 4 if one has no instance
  musterd resolve organ_1 organ_2 organ_3 --near node-7";

/// Arguments of `resolve`.
#[derive(Debug, clap::Args)]
pub struct ResolveArgs {
    /// The logical id to resolve, for example cognitive_organ_1; or several
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,

    /// How to choose among the live instances [default: best, or the policy that --key or --near implies]
    #[arg(long, value_name = "POLICY", value_enum)]
    policy: Option<Policy>,

    /// The key for rendezvous
    #[arg(long, value_name = "KEY", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key: Option<String>,

    /// The node for near
    #[arg(long, value_name = "NODE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    near: Option<String>,

    /// An instance not to choose, for example because calling it has just failed; may be repeated
    #[arg(long, value_name = "ID", value_parser = parse_instance_id)]
    exclude: Vec<Uuid>,

    /// Only instances with this label; may be repeated, all must match
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,

    /// Answer at this revision or later, for example the one a registration returned; waits at most 1 s for it
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_number)]
    min_revision: u64,

    #[command(flatten)]
    output: OutputArgs,
}

/// A policy as a word of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Policy {
    /// The longest serving: the answer changes only when it must
    Best,
    /// Any, with equal chances
    Random,
    /// The one that the key falls to
    Rendezvous,
    /// One on the node if there is one
    Near,
}

impl ResolveArgs {
    fn choice(&self) -> Result<Choice, Error> {
        let usage = |text: &str| Err(Error::Usage(text.to_owned()));
        let policy = match (self.policy, &self.key, &self.near) {
            (_, Some(_), Some(_)) => return usage("--key and --near belong to different policies; give one of them"),
            (None | Some(Policy::Rendezvous), Some(key), None) => musterd_client::Policy::Rendezvous(key.clone()),
            (None | Some(Policy::Near), None, Some(node)) => musterd_client::Policy::Near(node.clone()),
            (Some(_), Some(_), None) => return usage("--key goes with --policy rendezvous only"),
            (Some(_), None, Some(_)) => return usage("--near goes with --policy near only"),
            (Some(Policy::Rendezvous), None, None) => return usage("--policy rendezvous needs --key"),
            (Some(Policy::Near), None, None) => return usage("--policy near needs --near"),
            (Some(Policy::Random), None, None) => musterd_client::Policy::Random,
            (None | Some(Policy::Best), None, None) => musterd_client::Policy::Best,
        };
        let choice = self.exclude.iter().fold(Choice::by(policy), |choice, id| choice.without(*id));
        Ok(label_map(&self.label)?.into_iter().fold(choice, |choice, (key, value)| choice.label(key, value)))
    }
}

pub(super) async fn run(args: ResolveArgs, client: &ClientArgs) -> Result<u8, Error> {
    let choice = args.choice()?;
    let client = client.connect().await?;
    client.require_revision(args.min_revision);
    let resolved = if let [name] = &args.names[..] {
        let one = match client.resolve(name, &choice).await {
            Ok(one) => one,
            Err(error) => return Err(suggest::name(error, name, &client).await),
        };
        Resolved {
            names: args.names.clone(),
            results: vec![Ok((one.instance, one.alternatives))],
            cluster_epoch: one.cluster_epoch,
            epoch_number: one.epoch_number,
            revision: one.revision,
            stale_for: one.stale_for,
        }
    } else {
        let all = client.resolve_all(&args.names, &choice).await?;
        Resolved {
            names: args.names.clone(),
            results: all.results,
            cluster_epoch: all.cluster_epoch,
            epoch_number: all.epoch_number,
            revision: all.revision,
            stale_for: all.stale_for,
        }
    };
    resolved.print(args.output.output)
}

/// What was resolved, in the one form that one name and several share.
struct Resolved {
    names: Vec<String>,
    results: Vec<Result<(Instance, u32), Reason>>,
    cluster_epoch: Uuid,
    epoch_number: u64,
    revision: u64,
    stale_for: Duration,
}

impl Resolved {
    fn each(&self) -> impl Iterator<Item = (&String, &Result<(Instance, u32), Reason>)> {
        self.names.iter().zip(&self.results)
    }

    fn items(&self) -> Vec<Value> {
        self.each().map(|(name, result)| messages::resolved(name, result)).collect()
    }

    fn document(&self) -> Value {
        serde_json::json!({
            "results": self.items(),
            "clusterEpoch": self.cluster_epoch,
            "epochNumber": value::long(self.epoch_number),
            "revision": value::long(self.revision),
            "staleFor": value::duration(self.stale_for),
        })
    }

    fn table(&self) -> String {
        let mut table = table();
        for (name, result) in self.each() {
            table.row(match result {
                Ok((instance, alternatives)) => row(instance, *alternatives),
                Err(reason) => without_instance(name, *reason),
            });
        }
        table.text()
    }

    /// Prints it; returns the exit code.
    fn print(&self, format: Format) -> Result<u8, Error> {
        warn_if_stale(self.stale_for);
        let ids = || self.results.iter().flatten().map(|(one, _)| one.instance_id.to_string()).collect();
        let text = output::answer_list(format, || self.document(), || self.items(), ids, || self.table())?;
        output::print_text(&text)?;
        let mut code = exit::OK;
        for (name, reason) in self.each().filter_map(|(name, result)| Some((name, result.as_ref().err()?))) {
            output::note(&format!("`{}` has no live instance ({})", output::escape(name), reason.name()));
            code = exit::NOT_FOUND;
        }
        Ok(code)
    }
}

fn table() -> Table<10> {
    Table::new([
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
    ])
    .painted(2, paint::status)
}

fn row(instance: &Instance, alternatives: u32) -> [String; 10] {
    [
        instance.logical_id.clone(),
        instance.instance_id.to_string(),
        status(instance),
        address(instance),
        instance.serve_route.clone(),
        instance.node_id.clone(),
        known(instance.pid),
        instance.lease_id.to_string(),
        seconds(instance.lease_remaining),
        alternatives.to_string(),
    ]
}

/// The row of a name without an instance: the reason stands where the status would.
fn without_instance(name: &str, why: Reason) -> [String; 10] {
    let mut row: [String; 10] = Default::default();
    name.clone_into(&mut row[0]);
    row[2] = why.name().to_ascii_lowercase();
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::args::parse;

    fn choice(words: &[&str]) -> Result<Choice, Error> {
        let words = ["resolve", "organ"].into_iter().chain(words.iter().copied());
        parse::<ResolveArgs>(words).expect("arguments").choice()
    }

    #[test]
    fn key_or_node_implies_its_policy() {
        use musterd_client::Policy::{Near, Random, Rendezvous};
        let read = |words: &[&str]| choice(words).expect("a choice");
        assert_eq!(read(&[]), Choice::best());
        assert_eq!(read(&["--policy", "random"]), Choice::by(Random));
        assert_eq!(read(&["--key", "k"]), Choice::by(Rendezvous("k".into())));
        assert_eq!(read(&["--near", "n", "--policy", "near"]), Choice::by(Near("n".into())));
        for words in [
            &["--policy", "random", "--key", "k"][..],
            &["--policy", "best", "--near", "n"],
            &["--policy", "rendezvous"],
            &["--policy", "near"],
            &["--key", "k", "--near", "n"],
            &["--label", "a=1", "--label", "a=2"],
        ] {
            assert!(matches!(choice(words), Err(Error::Usage(_))), "{words:?}");
        }
    }

    #[test]
    fn exclusions_and_labels_reach_the_request() {
        let id = "00000000-0000-0000-0000-000000000001";
        let choice = choice(&["--exclude", id, "--exclude", id, "--label", "zone=a"]).expect("a choice");
        let id: Uuid = id.parse().expect("an id");
        assert_eq!(choice, Choice::best().without(id).without(id).label("zone", "a"));
    }
}
