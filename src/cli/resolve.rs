//! `musterd resolve`: which instance should I talk to right now?
//!
//! One name is one call of Resolve, whose error is the answer if there is no instance. Several names are one call of
//! BatchResolve, all as of one revision: each has its line, and one that has no instance shows why. What is printed has
//! the same shape for one name and for several, so that a script need not count its arguments.

use prost::Message as _;
use serde_json::Value;
use uuid::Uuid;

use super::{
    client::{Client, ClientArgs, label_map, parse_label},
    exit::{self, Error},
    instances::{address, known, parse_instance_id, parse_number, seconds, status, warn_if_stale},
    json,
    output::{self, Format, OutputArgs, Table},
    paint, suggest,
};
use crate::proto::{shared, v1};

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

    /// How to choose among the live instances [default: best, or what --key or --near stands for]
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

impl From<Policy> for v1::ResolvePolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Best => Self::Best,
            Policy::Random => Self::Random,
            Policy::Rendezvous => Self::Rendezvous,
            Policy::Near => Self::Near,
        }
    }
}

impl ResolveArgs {
    fn choice(&self) -> Result<v1::ResolveChoice, Error> {
        let usage = |text: &str| Err(Error::Usage(text.to_owned()));
        let policy = match (self.policy, &self.key, &self.near) {
            (_, Some(_), Some(_)) => return usage("--key and --near belong to different policies; give one of them"),
            (None | Some(Policy::Rendezvous), Some(_), None) => Policy::Rendezvous,
            (None | Some(Policy::Near), None, Some(_)) => Policy::Near,
            (Some(_), Some(_), None) => return usage("--key goes with --policy rendezvous only"),
            (Some(_), None, Some(_)) => return usage("--near goes with --policy near only"),
            (Some(Policy::Rendezvous), None, None) => return usage("--policy rendezvous needs --key"),
            (Some(Policy::Near), None, None) => return usage("--policy near needs --near"),
            (policy, None, None) => policy.unwrap_or(Policy::Best),
        };
        Ok(v1::ResolveChoice {
            policy: v1::ResolvePolicy::from(policy).into(),
            key: self.key.clone().unwrap_or_default(),
            near_node_id: self.near.clone().unwrap_or_default(),
            excluded_instance_ids: self.exclude.iter().map(Uuid::to_string).collect(),
            labels: label_map(&self.label)?,
        })
    }
}

pub(super) async fn run(args: ResolveArgs, client: &ClientArgs) -> Result<u8, Error> {
    let choice = Some(args.choice()?);
    let client = Client::connect(client).await?;
    match &args.names[..] {
        [name] => one(name, &args, choice, &client).await,
        names => several(names, &args, choice, &client).await,
    }
}

/// What was resolved, in the one form that one name and several share.
struct Resolved {
    names: Vec<String>,
    results: Vec<v1::BatchResolveResult>,
    cluster_epoch: String,
    epoch_number: u64,
    revision: u64,
    stale_for: Option<prost_types::Duration>,
}

async fn one(name: &str, args: &ResolveArgs, choice: Option<v1::ResolveChoice>, client: &Client) -> Result<u8, Error> {
    let request = v1::ResolveRequest { logical_id: name.to_owned(), min_revision: args.min_revision, choice };
    let response = match client.call(client.discovery().resolve(request)).await {
        Ok(response) => response,
        Err(error) => return Err(suggest::name(error, name, client).await),
    };
    if response.instance.is_none() {
        return Err(Error::Incomplete("the instance"));
    }
    let result = v1::BatchResolveResult {
        instance: response.instance,
        alternatives: response.alternatives,
        ..Default::default()
    };
    let resolved = Resolved {
        names: vec![name.to_owned()],
        results: vec![result],
        cluster_epoch: response.cluster_epoch,
        epoch_number: response.epoch_number,
        revision: response.revision,
        stale_for: response.stale_for,
    };
    resolved.print(args.output.output)
}

async fn several(
    names: &[String],
    args: &ResolveArgs,
    choice: Option<v1::ResolveChoice>,
    client: &Client,
) -> Result<u8, Error> {
    let request = v1::BatchResolveRequest { logical_ids: names.to_vec(), min_revision: args.min_revision, choice };
    let (response, results) = resolve_all(request, client).await?;
    let resolved = Resolved {
        names: names.to_vec(),
        results,
        cluster_epoch: response.cluster_epoch,
        epoch_number: response.epoch_number,
        revision: response.revision,
        stale_for: response.stale_for,
    };
    resolved.print(args.output.output)
}

impl Resolved {
    fn each(&self) -> impl Iterator<Item = (&String, &v1::BatchResolveResult)> {
        self.names.iter().zip(&self.results)
    }

    fn items(&self) -> Vec<Value> {
        self.each().map(|(name, result)| json::resolved(name, result)).collect()
    }

    fn document(&self) -> Value {
        serde_json::json!({
            "results": self.items(),
            "clusterEpoch": self.cluster_epoch,
            "epochNumber": json::long(self.epoch_number),
            "revision": json::long(self.revision),
            "staleFor": json::duration(self.stale_for.as_ref()),
        })
    }

    fn table(&self) -> String {
        let mut table = table();
        for (name, result) in self.each() {
            table.row(match &result.instance {
                Some(instance) => row(instance, result.alternatives),
                None => nobody(name, result.reason()),
            });
        }
        table.text()
    }

    /// Prints it; returns the exit code.
    fn print(&self, format: Format) -> Result<u8, Error> {
        warn_if_stale(self.stale_for.as_ref());
        let ids = || self.results.iter().filter_map(|one| Some(one.instance.as_ref()?.instance_id.clone())).collect();
        let text = output::answer_list(format, || self.document(), || self.items(), ids, || self.table())?;
        output::print_text(&text)?;
        let mut code = exit::OK;
        for (name, result) in self.each().filter(|(_, result)| result.instance.is_none()) {
            output::note(&format!("`{}` has no live instance ({})", output::escape(name), reason(result.reason())));
            code = exit::NOT_FOUND;
        }
        Ok(code)
    }
}

/// Resolves all names of a request: those that an answer has no room for are asked for again. Returns the first answer,
/// and the results of all.
async fn resolve_all(
    request: v1::BatchResolveRequest,
    client: &Client,
) -> Result<(shared::BatchResolveResponse, Vec<v1::BatchResolveResult>), Error> {
    let (first, mut results) = resolve_some(request.clone(), client).await?;
    loop {
        let left_out = |result: &v1::BatchResolveResult| result.reason() == v1::ErrorReason::AnswerTooLarge;
        let left: Vec<usize> = (0..results.len()).filter(|at| left_out(&results[*at])).collect();
        if left.is_empty() {
            return Ok((first, results));
        }
        let logical_ids = left.iter().map(|at| request.logical_ids[*at].clone()).collect();
        let again = v1::BatchResolveRequest { logical_ids, min_revision: first.revision, ..request.clone() };
        let (_, more) = resolve_some(again, client).await?;
        if more.iter().all(left_out) {
            return Err(Error::Incomplete("an instance that fits into an answer"));
        }
        for (at, result) in left.into_iter().zip(more) {
            results[at] = result;
        }
    }
}

/// One call, with its decoded results.
async fn resolve_some(
    request: v1::BatchResolveRequest,
    client: &Client,
) -> Result<(shared::BatchResolveResponse, Vec<v1::BatchResolveResult>), Error> {
    let asked = request.logical_ids.len();
    let response = client.call(client.discovery().batch_resolve(request)).await?;
    let results = response.results.iter().map(|result| v1::BatchResolveResult::decode(result.clone()));
    let results: Vec<_> = results.collect::<Result<_, _>>().map_err(|_| Error::Incomplete("a readable result"))?;
    if results.len() == asked { Ok((response, results)) } else { Err(Error::Incomplete("a result for each name")) }
}

fn reason(reason: v1::ErrorReason) -> &'static str {
    reason.as_str_name().trim_start_matches("ERROR_REASON_")
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

fn row(instance: &v1::Instance, alternatives: u32) -> [String; 10] {
    [
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
    ]
}

/// The row of a name without an instance: the reason stands where the status would.
fn nobody(name: &str, why: v1::ErrorReason) -> [String; 10] {
    let mut row: [String; 10] = Default::default();
    name.clone_into(&mut row[0]);
    row[2] = reason(why).to_ascii_lowercase();
    row
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Only {
        #[command(flatten)]
        args: ResolveArgs,
    }

    fn choice(words: &[&str]) -> Result<v1::ResolveChoice, Error> {
        let words = ["resolve", "organ"].into_iter().chain(words.iter().copied());
        Only::try_parse_from(words).expect("arguments").args.choice()
    }

    #[test]
    fn a_key_or_a_node_stands_for_its_policy() {
        let policy = |words: &[&str]| choice(words).map(|choice| choice.policy()).expect("a choice");
        assert_eq!(policy(&[]), v1::ResolvePolicy::Best);
        assert_eq!(policy(&["--policy", "random"]), v1::ResolvePolicy::Random);
        assert_eq!(policy(&["--key", "k"]), v1::ResolvePolicy::Rendezvous);
        assert_eq!(policy(&["--near", "n", "--policy", "near"]), v1::ResolvePolicy::Near);
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
        assert_eq!(choice.excluded_instance_ids, [id, id]);
        assert_eq!(choice.labels.get("zone").map(String::as_str), Some("a"));
    }
}
