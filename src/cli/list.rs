//! `musterd list`: what is registered.
//!
//! The daemon answers in pages; this command reads them all. Each page is a snapshot at its own revision, so the whole
//! is not one: what changed between two pages may be missing or appear as it was. The `revision` of the JSON document is
//! therefore the lowest of its pages: everything up to it is in the answer. `jsonl` is written page by page, so that a
//! large registry does not have to fit into memory here.

use super::{
    client::{Client, ClientArgs},
    exit::{self, Error},
    filter::FilterArgs,
    instances, json,
    output::{self, Format, OutputArgs},
    redraw::{self, Frame, RepeatArgs},
};
use crate::proto::v1::{self, InstanceStatus};

/// Instances per page. The protocol allows 1,000; half of it keeps a page of the largest instances small.
const PAGE_SIZE: i32 = 500;

/// What `--all-statuses` stands for.
const ALL_STATUSES: [InstanceStatus; 4] =
    [InstanceStatus::Starting, InstanceStatus::Alive, InstanceStatus::Draining, InstanceStatus::Dead];

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

    /// Who was alive at this time (RFC 3339, e.g. 2026-01-31T03:12:00Z), as far as still on record
    #[arg(long, value_name = "TIME", conflicts_with_all = ["status", "dead", "all_statuses"], value_parser = parse_time)]
    alive_at: Option<prost_types::Timestamp>,

    /// Answer at this revision or later; waits at most 1 s for it
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = instances::parse_number)]
    min_revision: u64,

    #[command(flatten)]
    repeat: RepeatArgs,

    #[command(flatten)]
    output: OutputArgs,
}

fn parse_time(text: &str) -> Result<prost_types::Timestamp, String> {
    let time = chrono::DateTime::parse_from_rfc3339(text);
    let time = time.map_err(|_| "expected a time like 2026-01-31T03:12:00Z".to_owned())?;
    Ok(prost_types::Timestamp { seconds: time.timestamp(), nanos: time.timestamp_subsec_nanos().cast_signed() })
}

impl ListArgs {
    /// Whether it goes on after the first answer.
    pub(super) fn repeats(&self) -> bool {
        self.repeat.is_wanted()
    }

    fn statuses(&self) -> Vec<i32> {
        match (self.all_statuses, self.dead) {
            (true, _) => ALL_STATUSES.map(i32::from).to_vec(),
            (_, true) => vec![InstanceStatus::Dead.into()],
            _ => self.filter.statuses(),
        }
    }

    fn request(&self) -> Result<v1::ListInstancesRequest, Error> {
        Ok(v1::ListInstancesRequest {
            logical_id_prefix: self.filter.prefix.clone(),
            statuses: self.statuses(),
            node_id: self.filter.node.clone(),
            labels: self.filter.labels()?,
            page_size: PAGE_SIZE,
            page_token: String::new(),
            min_revision: self.min_revision,
            alive_at: self.alive_at,
        })
    }
}

pub(super) async fn run(args: ListArgs, client: &ClientArgs) -> Result<u8, Error> {
    let request = args.request()?;
    let client = Client::connect(client).await?;
    let format = args.output.output;
    // Page by page only where the whole is one stream.
    let stream = format == Format::Jsonl && !args.repeat.is_wanted();
    redraw::show(args.repeat, format, async || frame(&client, request.clone(), format, stream).await).await
}

async fn frame(
    client: &Client,
    mut request: v1::ListInstancesRequest,
    format: Format,
    stream: bool,
) -> Result<Frame, Error> {
    let mut discovery = client.discovery();
    let mut all: Option<v1::ListInstancesResponse> = None;
    loop {
        let mut page = client.call(discovery.list_instances(request.clone())).await?;
        request.page_token = std::mem::take(&mut page.next_page_token);
        if stream {
            let instances = std::mem::take(&mut page.instances);
            output::print(|out| {
                instances.iter().try_for_each(|i| out.write_all(output::json_line(&json::instance(i)).as_bytes()))
            })?;
        }
        match &mut all {
            None => all = Some(page),
            Some(all) => append(all, page),
        }
        if request.page_token.is_empty() {
            break;
        }
    }
    let all = all.unwrap_or_default();
    let mut notes: Vec<String> = instances::stale_warning(all.stale_for.as_ref()).into_iter().collect();
    if all.instances.is_empty() && (format.is_table() || format == Format::Name) {
        notes.push(nothing(client).await);
    }
    let text = output::answer_list(
        format,
        || json::list(&all),
        || all.instances.iter().map(json::instance).collect(),
        || all.instances.iter().map(|instance| instance.instance_id.clone()).collect(),
        || instances::table(&all.instances, format == Format::Wide),
    )?;
    Ok(Frame { text, notes, code: exit::OK })
}

/// What to say instead of nothing: a filter that is too narrow and an empty registry look alike.
async fn nothing(client: &Client) -> String {
    let request = v1::GetClusterRequest::default();
    match client.call(client.cluster().get_cluster(request)).await {
        Ok(v1::GetClusterResponse { counts: Some(counts), .. }) => {
            let v1::InstanceCounts { alive, starting, draining, dead, .. } = counts;
            format!(
                "no instance matches; on record are {alive} alive, {starting} starting, {draining} draining, {dead} dead"
            )
        }
        _ => "no instance matches".to_owned(),
    }
}

/// Adds a page. What is said about the whole must hold for each page: the lowest revision, the greatest age.
fn append(all: &mut v1::ListInstancesResponse, page: v1::ListInstancesResponse) {
    all.instances.extend(page.instances);
    all.revision = all.revision.min(page.revision);
    let age = |d: &Option<prost_types::Duration>| d.map(|d| (d.seconds, d.nanos));
    if age(&page.stale_for) > age(&all.stale_for) {
        all.stale_for = page.stale_for;
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Only {
        #[command(flatten)]
        args: ListArgs,
    }

    fn request(words: &[&str]) -> v1::ListInstancesRequest {
        let words = std::iter::once("list").chain(words.iter().copied());
        Only::try_parse_from(words).expect("arguments").args.request().expect("request")
    }

    #[test]
    fn statuses_default_to_the_servers_choice() {
        assert!(request(&[]).statuses.is_empty());
        assert_eq!(request(&["--status", "alive,draining"]).statuses, [2, 3]);
        assert_eq!(request(&["--dead"]).statuses, [4]);
        assert_eq!(request(&["--all-statuses"]).statuses, [1, 2, 3, 4]);
        assert!(Only::try_parse_from(["list", "--dead", "--status", "alive"]).is_err());
    }

    #[test]
    fn filters_reach_the_request() {
        let request = request(&["--prefix", "organ_", "--node", "n1", "--label", "a=1", "--label", "b=2=3"]);
        assert_eq!((request.logical_id_prefix.as_str(), request.node_id.as_str()), ("organ_", "n1"));
        assert_eq!(request.labels.get("b").map(String::as_str), Some("2=3"));
        assert_eq!(request.labels.len(), 2);
    }

    #[test]
    fn the_whole_promises_no_more_than_its_worst_page() {
        let page = |revision, seconds| v1::ListInstancesResponse {
            instances: vec![v1::Instance::default()],
            revision,
            stale_for: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..Default::default()
        };
        let mut all = page(9, 1);
        append(&mut all, page(7, 3));
        append(&mut all, page(8, 2));
        assert_eq!((all.instances.len(), all.revision), (3, 7));
        assert_eq!(all.stale_for.map(|d| d.seconds), Some(3));
    }
}
