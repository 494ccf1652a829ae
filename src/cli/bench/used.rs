//! Who else uses the registry, and what a run has left in it, as the registry itself tells.
//!
//! A benchmark takes what capacity there is, so on a registry that serves others it is refused unless the user accepts
//! that. Instances of benchmarks are known by their node, those of one run by the process that registered them as well.

use super::super::{client::Client, exit::Error, output};
use crate::proto::v1;

/// How the node of every instance of a benchmark begins.
pub(super) const NODE: &str = "bench-node-";
/// Instances per page.
const PAGE_SIZE: i32 = 1_000;

/// Refuses a registry with instances that are not of a benchmark.
pub(super) async fn refuse(client: &Client) -> Result<(), Error> {
    let mut request = v1::ListInstancesRequest { page_size: PAGE_SIZE, ..Default::default() };
    loop {
        let page = client.call(client.discovery().list_instances(request.clone())).await?;
        if let Some(other) = page.instances.iter().find(|one| !one.node_id.starts_with(NODE)) {
            return Err(Error::Precondition(format!(
                "the registry at {} serves others, `{}` among them, and a benchmark slows it down; use a registry of its \
                 own, or give --yes",
                client.addr(),
                output::escape(&other.logical_id)
            )));
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(());
        }
    }
}

/// The leases of this process under a prefix.
pub(super) async fn of_run(client: &Client, prefix: &str) -> Result<Vec<u64>, Error> {
    let prefix = format!("{prefix}-");
    let mut request =
        v1::ListInstancesRequest { logical_id_prefix: prefix, page_size: PAGE_SIZE, ..Default::default() };
    let mut leases = Vec::new();
    loop {
        let page = client.call(client.discovery().list_instances(request.clone())).await?;
        leases.extend(page.instances.iter().filter(|one| is_ours(one)).map(|one| one.lease_id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(leases);
        }
    }
}

fn is_ours(one: &v1::Instance) -> bool {
    one.node_id.starts_with(NODE) && one.pid == i64::from(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::{super::setup::registration, *};

    #[test]
    fn instances_of_this_run_are_told_from_those_of_others() {
        let registered = registration("web", 7, std::time::Duration::from_secs(2));
        let ours = v1::Instance { node_id: registered.node_id, pid: registered.pid, ..Default::default() };
        assert!(is_ours(&ours));
        assert!(!is_ours(&v1::Instance { pid: ours.pid + 1, ..ours.clone() }), "another run of the same prefix");
        assert!(!is_ours(&v1::Instance { node_id: "n1".into(), ..ours }), "an actor whose name begins alike");
    }
}
