//! How each logical id is served, the worst served first.

use std::collections::BinaryHeap;

use crate::{
    access::Names,
    model::{Epoch, InstanceStatus, LeaseId, LogicalId},
    view::{Name, Service, Snapshot},
};

/// How one logical id is served. The order is that of urgency: those come first that fewest instances serve.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceCounts {
    /// Whether it left on purpose: such a name comes last.
    pub left: bool,
    /// Instances that are alive and not suspect.
    pub trusted: u64,
    /// Instances that are alive, suspect ones included.
    pub alive: u64,
    /// The logical id.
    pub logical_id: LogicalId,
    /// Instances that are starting.
    pub starting: u64,
    /// Instances that are draining.
    pub draining: u64,
    /// The lease of the instance that resolve names; `None` if it names none.
    pub best: Option<LeaseId>,
}

impl ServiceCounts {
    fn of(logical_id: &LogicalId, name: &Name, epoch: Epoch, now_ms: u64) -> Self {
        let of = |status| count(name.all.iter().filter(|entry| entry.instance.status_in(epoch) == status));
        let alive = || name.alive.iter().filter(|entry| entry.instance.status_in(epoch) == InstanceStatus::Alive);
        let trusted = || alive().filter(|entry| !entry.lease.is_suspect(now_ms));
        // They stand in the order of their ranks but for suspicion.
        let best = trusted().next().or_else(|| alive().next());
        Self {
            left: name.service(epoch) == Service::Left,
            trusted: count(trusted()),
            alive: count(alive()),
            logical_id: logical_id.clone(),
            starting: of(InstanceStatus::Starting),
            draining: of(InstanceStatus::Draining),
            best: best.map(|entry| entry.instance.lease_id),
        }
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u64 {
    items.map(|_| 1).sum()
}

/// The worst served logical ids with a prefix, at most `limit`, worst first, and how many others of those `readable` there are.
#[must_use]
pub fn worst(
    snapshot: &Snapshot,
    (prefix, readable): (&str, &Names),
    limit: usize,
    now_ms: u64,
) -> (Vec<ServiceCounts>, u64) {
    let Some(cluster) = snapshot.cluster() else { return (Vec::new(), 0) };
    let names =
        snapshot.readable_from(prefix, readable).take_while(|(logical_id, _)| logical_id.as_str().starts_with(prefix));
    let mut omitted = 0;
    // Its greatest is the best served of those kept: the one that gives way.
    let mut kept = BinaryHeap::new();
    for (logical_id, name) in names {
        kept.push(ServiceCounts::of(logical_id, name, cluster.epoch, now_ms));
        if kept.len() > limit {
            kept.pop();
            omitted += 1;
        }
    }
    (kept.into_sorted_vec(), omitted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::START_MS, model::fixture::instance, view::fixture::loaded};

    #[test]
    fn those_come_first_that_fewest_serve_and_the_suspect_serve_less() {
        use InstanceStatus::{Alive, Dead, Draining, Starting};
        let view = loaded([
            (instance(1, "two", Alive), 0),
            (instance(2, "two", Alive), 0),
            (instance(3, "one", Alive), 0),
            (instance(4, "one and a suspect", Alive), 60),
            (instance(5, "one and a suspect", Alive), 0),
            (instance(6, "suspect", Alive), 60),
            (instance(7, "nobody", Starting), 0),
            (instance(8, "nobody", Draining), 0),
            (instance(9, "gone", Dead), 0),
        ]);
        let (counts, omitted) = worst(&view.snapshot(), ("", &Names::everything()), 10, START_MS);
        let told: Vec<_> = counts.iter().map(|each| (each.logical_id.as_str(), each.trusted, each.alive)).collect();
        let order = [("gone", 0, 0), ("nobody", 0, 0), ("suspect", 0, 1), ("one", 1, 1), ("one and a suspect", 1, 2)];
        assert_eq!((told, omitted), ([&order[..], &[("two", 2, 2)]].concat(), 0));
        assert_eq!((counts[1].starting, counts[1].draining), (1, 1));
        let best: Vec<_> = counts.iter().map(|each| each.best.map_or(0, |lease| lease.0)).collect();
        assert_eq!(best, [0, 0, 6, 3, 5, 1], "a suspect one only where there is no other");
        let (kept, omitted) = worst(&view.snapshot(), ("", &Names::everything()), 2, START_MS);
        assert_eq!((&kept[..], omitted), (&counts[..2], 4));
    }
}
