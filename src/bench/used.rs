//! Who else uses the registry, and what a run has left in it, as the registry itself tells.
//!
//! A benchmark takes what capacity there is, so on a registry that serves others it is refused unless the user accepts
//! that. Instances of benchmarks are known by their node, those of one run by the process that registered them as well.

use std::pin::pin;

use futures_util::TryStreamExt as _;
use musterd_client::{Client, Filter, Instance};

use super::error::Error;
use crate::terminal::output;

/// How the node of every instance of a benchmark begins.
pub(super) const NODE: &str = "bench-node-";

/// Refuses a registry with instances that are not of a benchmark.
pub(super) async fn refuse(client: &Client) -> Result<(), Error> {
    let mut all = pin!(client.list(Filter::all()));
    while let Some(one) = all.try_next().await? {
        if !one.node_id.starts_with(NODE) {
            return Err(Error::Precondition(format!(
                "the registry at {} serves others, `{}` among them, and a benchmark slows it down; use a registry of its \
                 own, or give --yes",
                client.daemon(),
                output::escape(&one.logical_id)
            )));
        }
    }
    Ok(())
}

/// The leases of this process under a prefix.
pub(super) async fn of_run(client: &Client, prefix: &str) -> Result<Vec<u64>, Error> {
    let mut all = pin!(client.list(Filter::prefix(format!("{prefix}-"))));
    let mut leases = Vec::new();
    while let Some(one) = all.try_next().await? {
        leases.extend(is_ours(&one).then_some(one.lease_id));
    }
    Ok(leases)
}

fn is_ours(one: &Instance) -> bool {
    one.node_id.starts_with(NODE) && one.pid == Some(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::{super::setup::registration, *};

    #[test]
    fn instances_of_this_run_are_distinguished_from_others() {
        let registered = registration("web", 7, std::time::Duration::from_secs(2));
        let mut one = Instance::default();
        (one.node_id, one.pid) = (registered.node_id, u32::try_from(registered.pid).ok());
        assert!(is_ours(&one));
        one.pid = one.pid.map(|pid| pid + 1);
        assert!(!is_ours(&one), "another run of the same prefix");
        (one.node_id, one.pid) = ("n1".into(), Some(std::process::id()));
        assert!(!is_ours(&one), "an actor whose name begins alike");
    }
}
