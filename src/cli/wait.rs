//! `musterd wait NAME --for live|gone|count=N`: until a name is what a script needs it to be.
//!
//! By a watch and not by asking again and again, so it ends the moment the change arrives. A daemon that goes away
//! meanwhile is waited for as well, within the time there is; only the first connection must succeed, since an address
//! that was never right will not become so.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::Status;

use super::{
    backoff::Backoff,
    client::{Client, ClientArgs},
    exit::{self, Error},
    instances::{self, address},
    json,
    output::{self, Format, OutputArgs},
    watch::{
        is_passing,
        progress::{Line, Position, Progress, What},
    },
};
use crate::proto::v1::{self, InstanceStatus, WatchEventType};

/// The shortest and the longest pause before connecting again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// A daemon sends something every 5 s; one that has been silent for longer than this is as good as gone.
const SILENCE_MAX: Duration = Duration::from_secs(20);

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
            Self::Alive(wanted) => living.count(InstanceStatus::Alive) >= usize::try_from(wanted).unwrap_or(usize::MAX),
        }
    }
}

/// The instances of the name that are not dead.
#[derive(Debug, Default)]
struct Living(BTreeMap<String, v1::Instance>);

impl Living {
    /// Takes over one line of a watch. Returns whether what is known is all there is.
    fn take(&mut self, line: Line) -> bool {
        match line.what {
            What::Reset => self.0.clear(),
            // Who is of another epoch is dead, with or without an event that says so.
            What::Epoch => self.0.retain(|_, instance| instance.cluster_epoch == line.cluster_epoch),
            What::Event(event) => {
                let kind = event.r#type();
                let instance = event.instance.unwrap_or_default();
                match kind {
                    WatchEventType::Put => drop(self.0.insert(instance.instance_id.clone(), instance)),
                    WatchEventType::Gone => drop(self.0.remove(&instance.instance_id)),
                    _ => {}
                }
            }
            What::Synced | What::Bookmark => {}
        }
        line.position.revision != 0
    }

    fn count(&self, status: InstanceStatus) -> usize {
        self.0.values().filter(|instance| instance.status() == status).count()
    }

    /// `2 alive, 1 starting, 0 draining (ids and addresses of the first)`.
    fn describe(&self) -> String {
        const SHOWN: usize = 3;
        let mut text = format!(
            "{} alive, {} starting, {} draining",
            self.count(InstanceStatus::Alive),
            self.count(InstanceStatus::Starting),
            self.count(InstanceStatus::Draining)
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
    let deadline = Instant::now() + client.timeout;
    let mut wait = Wait { args, progress: Progress::new(Position::default()), living: Living::default(), known: false };
    match timeout_at(deadline, wait.until_reached(client)).await {
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
    progress: Progress,
    living: Living,
    /// Whether what is known is, or was, all there is.
    known: bool,
}

impl Wait {
    async fn until_reached(&mut self, client: &ClientArgs) -> Result<(), Error> {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            let Err(error) = self.follow(client).await else { return Ok(()) };
            // At the start, only a daemon that says it is not ready yet is waited for.
            let is_worth_it = self.progress.has_begun() || error.reason().is_some();
            if !is_passing(&error) || !is_worth_it {
                return Err(error);
            }
            self.progress.broken();
            sleep(backoff.next()).await;
        }
    }

    /// Follows one stream; fails when it ends before the goal is reached.
    async fn follow(&mut self, client: &ClientArgs) -> Result<(), Error> {
        let client = Client::connect(client).await?;
        let Position { revision, history_id } = self.progress.position().clone();
        let history_id = if revision == 0 { String::new() } else { history_id };
        let request = v1::WatchRequest {
            logical_id: self.args.name.clone(),
            resume_after: revision,
            history_id,
            ..Default::default()
        };
        let mut discovery = client.discovery();
        let mut responses = client.call(discovery.watch(request)).await?;
        loop {
            let response =
                timeout(SILENCE_MAX, responses.message()).await.map_err(|_| client.silent(SILENCE_MAX))??;
            let response = response.ok_or_else(|| Status::unavailable("the stream ended without a reason"))?;
            let mut is_whole = false;
            for line in self.progress.take(response)? {
                is_whole = self.living.take(line);
            }
            self.known |= is_whole;
            if is_whole && self.args.goal.is_reached(&self.living) {
                return Ok(());
            }
        }
    }

    fn print(&self) -> Result<(), Error> {
        let format = self.args.output.output;
        let living = || self.living.0.values();
        let text = output::answer_list(
            format,
            || serde_json::json!({ "instances": living().map(json::instance).collect::<Vec<_>>() }),
            || living().map(json::instance).collect(),
            || living().map(|instance| instance.instance_id.clone()).collect(),
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

    fn line(what: What, revision: u64, epoch: &str) -> Line {
        let position = Position { revision, history_id: "h".into() };
        Line { what, position, cluster_epoch: epoch.into(), epoch_number: 1 }
    }

    fn event(kind: WatchEventType, id: &str, status: InstanceStatus) -> What {
        let instance = v1::Instance {
            instance_id: id.into(),
            status: status.into(),
            cluster_epoch: "e1".into(),
            ..Default::default()
        };
        What::Event(Box::new(v1::WatchEvent { r#type: kind.into(), instance: Some(instance) }))
    }

    #[test]
    fn a_goal_is_live_gone_or_a_number() {
        assert_eq!(parse_goal("live"), Ok(Goal::Alive(1)));
        assert_eq!(parse_goal("gone"), Ok(Goal::Gone));
        assert_eq!(parse_goal("count=3"), Ok(Goal::Alive(3)));
        for bad in ["", "dead", "count", "count=", "count=0", "count=-1", "live=1", "3"] {
            assert!(parse_goal(bad).is_err_and(|text| text.contains("count=N")), "{bad}");
        }
    }

    #[test]
    fn a_half_told_snapshot_is_not_all_there_is() {
        let mut living = Living::default();
        assert!(!living.take(line(event(WatchEventType::Put, "a", InstanceStatus::Alive), 0, "e1")));
        assert!(living.take(line(What::Synced, 5, "e1")));
        assert!(Goal::Alive(1).is_reached(&living) && !Goal::Alive(2).is_reached(&living));
        living.take(line(event(WatchEventType::Put, "b", InstanceStatus::Starting), 6, "e1"));
        assert!(!Goal::Alive(2).is_reached(&living), "who is starting is not alive");
        assert_eq!(living.describe(), "1 alive, 1 starting, 0 draining (a alive, b starting)");
        living.take(line(event(WatchEventType::Gone, "b", InstanceStatus::Dead), 7, "e1"));
        assert!(!Goal::Gone.is_reached(&living));
        assert!(living.take(line(What::Epoch, 8, "e2")));
        assert!(Goal::Gone.is_reached(&living), "a rotation ends all of the epoch before");
    }
}
