//! `musterd list`: what is registered.
//!
//! The daemon answers in pages; this command reads them all. Each page is a snapshot at its own revision, so the whole
//! is not one: what changed between two pages may be missing or appear as it was. The `revision` of the JSON document is
//! therefore the lowest of its pages: everything up to it is in the answer. `jsonl` is written page by page, so that a
//! large registry does not have to fit into memory here.

use std::{pin::pin, time::SystemTime};

use futures_util::TryStreamExt as _;
use musterd_client::{Client, Filter, Page, Status};

use crate::{
    command::{
        client::ClientArgs,
        exit::{self, Error},
        filter::FilterArgs,
        instances,
        redraw::{self, Frame, RepeatArgs},
    },
    json::messages,
    terminal::output::{self, Format, OutputArgs},
};

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,

    /// All statuses, the dead included while they are kept
    #[arg(long, conflicts_with_all = ["status", "dead"])]
    all_statuses: bool,

    /// Only the dead: short for --status dead
    #[arg(long, conflicts_with = "status")]
    dead: bool,

    /// Instances that were alive at this time (RFC 3339, e.g. 2026-01-31T03:12:00Z), as far as still on record
    #[arg(long, value_name = "TIME", conflicts_with_all = ["status", "dead", "all_statuses"], value_parser = instances::parse_time)]
    alive_at: Option<SystemTime>,

    /// Answer at this revision or later; waits at most 1 s for it
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = instances::parse_number)]
    min_revision: u64,

    #[command(flatten)]
    repeat: RepeatArgs,

    #[command(flatten)]
    output: OutputArgs,
}

impl ListArgs {
    /// Whether it goes on after the first answer.
    pub(super) fn repeats(&self) -> bool {
        self.repeat.is_wanted()
    }

    fn filter(&self) -> Result<Filter, Error> {
        let filter = self.filter.filter(None)?;
        Ok(match (self.all_statuses, self.dead, self.alive_at) {
            (true, ..) => filter.any_status(),
            (_, true, _) => filter.status(Status::Dead),
            (.., Some(time)) => filter.alive_at(time),
            _ => filter,
        })
    }
}

pub(super) async fn run(args: ListArgs, client: &ClientArgs) -> Result<u8, Error> {
    let filter = args.filter()?;
    let client = client.connect().await?;
    client.require_revision(args.min_revision);
    let format = args.output.output;
    // Page by page only where the whole is one stream.
    let stream = format == Format::Jsonl && !args.repeat.is_wanted();
    redraw::show(args.repeat, format, async || frame(&client, filter.clone(), format, stream).await).await
}

async fn frame(client: &Client, filter: Filter, format: Format, stream: bool) -> Result<Frame, Error> {
    let mut pages = pin!(client.pages(filter));
    let mut all: Option<Page> = None;
    while let Some(mut page) = pages.try_next().await? {
        if stream {
            let instances = std::mem::take(&mut page.instances);
            output::print(|out| {
                instances.iter().try_for_each(|i| out.write_all(output::json_line(&messages::instance(i)).as_bytes()))
            })?;
        }
        match &mut all {
            None => all = Some(page),
            Some(all) => append(all, page),
        }
    }
    let all = all.unwrap_or_default();
    let mut notes: Vec<String> = instances::stale_warning(all.stale_for).into_iter().collect();
    if all.instances.is_empty() && (format.is_table() || format == Format::Name) {
        notes.push(nothing(client).await);
    }
    let text = output::answer_list(
        format,
        || messages::list(&all),
        || all.instances.iter().map(messages::instance).collect(),
        || all.instances.iter().map(|instance| instance.instance_id.to_string()).collect(),
        || instances::table(&all.instances, format == Format::Wide),
    )?;
    Ok(Frame { text, notes, code: exit::OK })
}

/// What to say instead of nothing: a filter that is too narrow and an empty registry look alike.
async fn nothing(client: &Client) -> String {
    match client.cluster(0).await.map(|cluster| cluster.counts) {
        Ok(counts) => format!(
            "no instance matches; on record are {} alive, {} starting, {} draining, {} dead",
            counts.alive, counts.starting, counts.draining, counts.dead
        ),
        Err(_) => "no instance matches".to_owned(),
    }
}

/// Adds a page. What is said about the whole must hold for each page: the lowest revision, the greatest age.
pub(super) fn append(all: &mut Page, page: Page) {
    all.instances.extend(page.instances);
    all.revision = all.revision.min(page.revision);
    all.stale_for = all.stale_for.max(page.stale_for);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::args::parse;

    fn filter(words: &[&str]) -> Filter {
        let words = std::iter::once("list").chain(words.iter().copied());
        parse::<ListArgs>(words).expect("arguments").filter().expect("a filter")
    }

    #[test]
    fn flags_become_the_conditions() {
        assert_eq!(filter(&[]), Filter::all());
        let both = Filter::all().status(Status::Alive).status(Status::Draining);
        assert_eq!(filter(&["--status", "alive,draining"]), both);
        assert_eq!(filter(&["--dead"]), Filter::all().status(Status::Dead));
        assert_eq!(filter(&["--all-statuses"]), Filter::all().any_status());
        let words = ["--prefix", "organ_", "--node", "n1", "--label", "a=1", "--label", "b=2=3"];
        assert_eq!(filter(&words), Filter::prefix("organ_").node("n1").label("a", "1").label("b", "2=3"));
        assert!(parse::<ListArgs>(["list", "--dead", "--status", "alive"]).is_err());
    }

    #[test]
    fn the_whole_promises_no_more_than_its_worst_page() {
        let page = |revision, seconds| {
            let mut page = Page::default();
            page.instances.push(musterd_client::Instance::default());
            (page.revision, page.stale_for) = (revision, std::time::Duration::from_secs(seconds));
            page
        };
        let mut all = page(9, 1);
        append(&mut all, page(7, 3));
        append(&mut all, page(8, 2));
        assert_eq!((all.instances.len(), all.revision, all.stale_for.as_secs()), (3, 7, 3));
    }
}
