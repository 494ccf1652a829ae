//! `musterd wait NAME --for live|gone|count=N`: until a name is what a script needs it to be.
//!
//! By a watch and not by asking again and again, so it ends the moment the change arrives. A daemon that goes away
//! meanwhile is waited for as well, within the time there is; only the first connection must succeed, since an address
//! that was never right will not become so.

use std::collections::BTreeMap;

use musterd_client::{Batch, Change, Filter, Instance, Status, Step};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    command::{
        client::ClientArgs,
        exit::{self, Error},
        instances::{self, address},
    },
    json::messages,
    terminal::output::{self, Format, OutputArgs},
};

pub(super) const HELP: &str = "\
What to wait for:
  live       one instance is alive
  gone       none is starting, alive or draining
  count=N    at least N are alive

Exits with 0 when it is so. --timeout is for all of it here: when that time is
up, it exits with 1 and says what there was instead.

Examples:
  musterd wait web --for live --timeout 30s && ./smoke-test
  musterd wait organ --for count=3 --timeout 2m
  musterd drain \"$ID\" && sleep 30 && musterd deregister \"$ID\" \\
    && musterd wait web --for gone --timeout 10s";

/// Arguments of `wait`.
#[derive(Debug, clap::Args)]
pub struct WaitArgs {
    /// The logical id
    #[arg(value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: String,

    /// What to wait for
    #[arg(long = "for", value_name = "live|gone|count=N", default_value = "live", value_parser = parse_goal)]
    goal: Goal,

    #[command(flatten)]
    output: OutputArgs,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Gone,
    Alive(u32),
}

fn parse_goal(text: &str) -> Result<Goal, String> {
    let malformed = || "expected live, gone, or count=N with N from 1, for example count=3".to_owned();
    match text.split_once('=') {
        None if text == "live" => Ok(Goal::Alive(1)),
        None if text == "gone" => Ok(Goal::Gone),
        Some(("count", count)) => match count.parse() {
            Ok(count) if count > 0 => Ok(Goal::Alive(count)),
            _ => Err(malformed()),
        },
        _ => Err(malformed()),
    }
}

impl Goal {
    fn is_reached(self, living: &Living) -> bool {
        match self {
            Self::Gone => living.0.is_empty(),
            Self::Alive(wanted) => living.count(Status::Alive) >= usize::try_from(wanted).unwrap_or(usize::MAX),
        }
    }
}

/// The instances of the name that are not dead.
#[derive(Debug, Default)]
struct Living(BTreeMap<Uuid, Instance>);

impl Living {
    /// Takes over a batch. Returns whether what is known is all there is.
    fn take(&mut self, batch: Batch) -> bool {
        if batch.reset {
            self.0.clear();
        }
        for change in batch.changes {
            match change {
                Change::Put(one) => drop(self.0.insert(one.instance_id, *one)),
                Change::Gone(one) => drop(self.0.remove(&one.instance_id)),
                _ => {}
            }
        }
        // Instances of another epoch are dead, with or without a change that says so.
        self.0.retain(|_, instance| instance.cluster_epoch == batch.cluster_epoch);
        batch.complete
    }

    fn count(&self, status: Status) -> usize {
        self.0.values().filter(|instance| instance.status == status).count()
    }

    /// `2 alive, 1 starting, 0 draining (ids and addresses of the first)`.
    fn describe(&self) -> String {
        const SHOWN: usize = 3;
        let mut text = format!(
            "{} alive, {} starting, {} draining",
            self.count(Status::Alive),
            self.count(Status::Starting),
            self.count(Status::Draining)
        );
        let shown = self.0.values().take(SHOWN).map(|one| {
            format!("{} {} {}", one.instance_id, instances::status(one), address(one)).trim_end().to_owned()
        });
        let shown: Vec<_> = shown.collect();
        if !shown.is_empty() {
            let more = if self.0.len() > SHOWN { ", ..." } else { "" };
            text.push_str(&format!(" ({}{more})", shown.join(", ")));
        }
        text
    }
}

pub(super) async fn run(args: WaitArgs, client: &ClientArgs) -> Result<u8, Error> {
    let client = &client.patient();
    let mut wait = Wait { args, living: Living::default(), known: false };
    match timeout(client.timeout, wait.until_reached(client)).await {
        Ok(reached) => {
            reached?;
            wait.print()?;
            Ok(exit::OK)
        }
        Err(_) if wait.known => {
            let (name, after) = (&wait.args.name, humantime::format_duration(client.timeout));
            let text = format!("`{name}` is not {} after {after}: {}", wait.args.goal, wait.living.describe());
            output::note(&output::escape(&text));
            Ok(exit::NEGATIVE)
        }
        Err(_) => Err(Error::Timeout { addr: client.addr.to_string(), after: client.timeout }),
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone => f.write_str("gone"),
            Self::Alive(1) => f.write_str("live"),
            Self::Alive(count) => write!(f, "served by {count}"),
        }
    }
}

struct Wait {
    args: WaitArgs,
    living: Living,
    /// Whether what is known is, or was, all there is.
    known: bool,
}

impl Wait {
    async fn until_reached(&mut self, client: &ClientArgs) -> Result<(), Error> {
        let mut watch = client.connect().await?.watch(&Filter::logical_id(&self.args.name));
        let mut has_begun = false;
        loop {
            match watch.next().await? {
                Step::Batch(batch) => {
                    has_begun = true;
                    let is_whole = self.living.take(batch);
                    self.known |= is_whole;
                    if is_whole && self.args.goal.is_reached(&self.living) {
                        return Ok(());
                    }
                }
                Step::Interrupted(error) => {
                    let error = Error::from(error);
                    // At the start, only a daemon that says it is not ready yet is waited for.
                    if !has_begun && error.reason().is_none() {
                        return Err(error);
                    }
                }
                _ => {}
            }
        }
    }

    fn print(&self) -> Result<(), Error> {
        let format = self.args.output.output;
        let living = || self.living.0.values();
        let text = output::answer_list(
            format,
            || serde_json::json!({ "instances": living().map(messages::instance).collect::<Vec<_>>() }),
            || living().map(messages::instance).collect(),
            || living().map(|instance| instance.instance_id.to_string()).collect(),
            || match self.args.goal {
                Goal::Gone => String::new(),
                Goal::Alive(_) => instances::table(living(), format == Format::Wide),
            },
        )?;
        Ok(output::print_text(&text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_live_gone_or_a_number() {
        assert_eq!(parse_goal("live"), Ok(Goal::Alive(1)));
        assert_eq!(parse_goal("gone"), Ok(Goal::Gone));
        assert_eq!(parse_goal("count=3"), Ok(Goal::Alive(3)));
        for bad in ["", "dead", "count", "count=", "count=0", "count=-1", "live=1", "3"] {
            assert!(parse_goal(bad).is_err_and(|text| text.contains("count=N")), "{bad}");
        }
    }

    fn batch(changes: Vec<Change>, complete: bool, epoch: u128) -> Batch {
        let mut one = Batch::default();
        (one.changes, one.complete, one.cluster_epoch) = (changes, complete, Uuid::from_u128(epoch));
        one
    }

    fn instance(id: u128, status: Status) -> Box<Instance> {
        let mut one = Instance::default();
        (one.instance_id, one.status, one.cluster_epoch) = (Uuid::from_u128(id), status, Uuid::from_u128(1));
        Box::new(one)
    }

    #[test]
    fn incomplete_snapshot_is_not_taken_for_a_complete_one() {
        let mut living = Living::default();
        assert!(!living.take(batch(vec![Change::Put(instance(1, Status::Alive))], false, 1)));
        assert!(living.take(batch(Vec::new(), true, 1)));
        assert!(Goal::Alive(1).is_reached(&living) && !Goal::Alive(2).is_reached(&living));
        living.take(batch(vec![Change::Put(instance(2, Status::Starting))], true, 1));
        assert!(!Goal::Alive(2).is_reached(&living), "an instance that is starting is not alive");
        assert!(living.describe().starts_with("1 alive, 1 starting, 0 draining ("), "{}", living.describe());
        living.take(batch(vec![Change::Gone(instance(2, Status::Dead))], true, 1));
        assert!(!Goal::Gone.is_reached(&living));
        assert!(living.take(batch(Vec::new(), true, 2)));
        assert!(Goal::Gone.is_reached(&living), "a rotation ends all of the epoch before");
    }
}
