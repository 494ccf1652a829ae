//! `musterd describe INSTANCE_ID|NAME`: everything that is known, in words.
//!
//! Of an instance: what it is, how its lease stands, and why it is dead if it is. Of a name: whom Resolve would choose,
//! who else there is, and who has died lately. A UUID is an instance; if none has it, it may still be a name.

mod text;

use uuid::Uuid;

use super::{
    client::{Client, ClientArgs},
    exit::{self, Error},
    instances::{moment, warn_if_stale},
    json,
    output::{self, OutputArgs},
    suggest,
};
use crate::{
    clock::Clock,
    proto::v1::{self, InstanceStatus},
};

/// Instances per page.
const PAGE_SIZE: i32 = 500;

const ALL_STATUSES: [InstanceStatus; 4] =
    [InstanceStatus::Starting, InstanceStatus::Alive, InstanceStatus::Draining, InstanceStatus::Dead];

pub(super) const EXAMPLES: &str = "\
Examples:
  musterd describe cognitive_organ_1
  musterd describe 6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10
  musterd describe cognitive_organ_1 -o name | xargs -r musterd drain";

/// Arguments of `describe`.
#[derive(Debug, clap::Args)]
pub struct DescribeArgs {
    /// An instance id (a UUID), or a logical id
    #[arg(value_name = "INSTANCE_ID|NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    what: String,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: DescribeArgs, client: &ClientArgs) -> Result<u8, Error> {
    let client = Client::connect(client).await?;
    // Ages are told by the database clock, which stamped the times: that of this machine may be another.
    let cluster = client.call(client.cluster().get_cluster(v1::GetClusterRequest::default())).await?;
    let now = moment(cluster.database_time.as_ref()).unwrap_or_else(|| Clock::new().wall());
    warn_if_stale(cluster.stale_for.as_ref());
    if let Ok(instance_id) = Uuid::try_parse(&args.what) {
        let request = v1::GetInstanceRequest { instance_id: instance_id.to_string(), min_revision: 0 };
        match client.call(client.discovery().get_instance(request)).await {
            Ok(response) => {
                let instance = response.instance.as_ref().ok_or(Error::Incomplete("the instance"))?;
                let text = || text::instance(instance, response.revision, now);
                let names = || vec![instance.instance_id.clone()];
                output::print_answer(args.output.output, || json::got(&response), names, text)?;
                return Ok(exit::OK);
            }
            Err(error) if error.exit_code() != exit::NOT_FOUND => return Err(error),
            Err(error) => {
                let all = named(&args.what, &client).await?;
                return if all.instances.is_empty() { Err(error) } else { name(&args, &all, &cluster, now) };
            }
        }
    }
    let all = named(&args.what, &client).await?;
    if all.instances.is_empty() {
        return Err(unknown(&args.what, &client).await);
    }
    name(&args, &all, &cluster, now)
}

/// The daemon's own words for a name that is not on record, and a suggestion.
pub(super) async fn unknown(name: &str, client: &Client) -> Error {
    let request = v1::ResolveRequest { logical_id: name.to_owned(), ..Default::default() };
    match client.call(client.discovery().resolve(request)).await {
        Err(error) => suggest::name(error, name, client).await,
        // It was registered a moment ago.
        Ok(_) => Error::Incomplete("an instance that was registered this moment; repeat the command"),
    }
}

fn name(
    args: &DescribeArgs,
    all: &v1::ListInstancesResponse,
    cluster: &v1::GetClusterResponse,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<u8, Error> {
    output::print_answer(
        args.output.output,
        || json::list(all),
        || all.instances.iter().map(|instance| instance.instance_id.clone()).collect(),
        || text::name(&args.what, all, cluster, now),
    )?;
    Ok(exit::OK)
}

/// Every instance of a name on record. Names come in order, and one comes before those that it begins.
pub(super) async fn named(name: &str, client: &Client) -> Result<v1::ListInstancesResponse, Error> {
    let mut request = v1::ListInstancesRequest {
        logical_id_prefix: name.to_owned(),
        statuses: ALL_STATUSES.map(i32::from).to_vec(),
        page_size: PAGE_SIZE,
        ..Default::default()
    };
    let mut all: Option<v1::ListInstancesResponse> = None;
    loop {
        let mut page = client.call(client.discovery().list_instances(request.clone())).await?;
        let is_last = page.next_page_token.is_empty() || page.instances.iter().any(|one| one.logical_id != name);
        request.page_token = std::mem::take(&mut page.next_page_token);
        page.instances.retain(|instance| instance.logical_id == name);
        match &mut all {
            None => all = Some(page),
            Some(all) => {
                all.revision = all.revision.min(page.revision);
                all.instances.extend(page.instances);
            }
        }
        if is_last {
            return Ok(all.unwrap_or_default());
        }
    }
}
