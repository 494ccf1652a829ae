//! The order and the policies of the daemon's Resolve, computed here: both must give the same answer.
//!
//! Not suspect before suspect, then the longest serving, then the lowest instance id. Rendezvous hashing scores key and
//! instance by FNV-1a and the finalizer of splitmix64; the protocol fixes both for good.

use std::{sync::Arc, time::SystemTime};

use uuid::Uuid;

use crate::{
    backoff::index,
    choice::{Choice, Policy},
    model::Instance,
};

/// The order of instances, without suspicion.
pub(super) fn seniority(instance: &Instance) -> (Option<SystemTime>, Uuid) {
    (instance.started_at, instance.instance_id)
}

/// Chooses among instances in the order of [`seniority`]; one that is suspect only if every candidate is.
pub(super) fn choose<'a>(
    instances: &'a [Arc<Instance>],
    choice: &Choice,
    excluded: &[Uuid],
) -> Option<&'a Arc<Instance>> {
    let candidates = || {
        let is_meant = |one: &&Arc<Instance>| !excluded.contains(&one.instance_id) && choice.admits(one);
        instances.iter().filter(is_meant)
    };
    by_policy(choice.policy(), || candidates().filter(|one| !one.suspect))
        .or_else(|| by_policy(choice.policy(), candidates))
}

fn by_policy<'a, I>(policy: &Policy, candidates: impl Fn() -> I) -> Option<&'a Arc<Instance>>
where
    I: Iterator<Item = &'a Arc<Instance>>,
{
    match policy {
        Policy::Best => candidates().next(),
        Policy::Random => {
            let count = candidates().count();
            candidates().nth(index(count))
        }
        Policy::Rendezvous(key) => candidates().max_by_key(|one| score(key, one.instance_id)),
        Policy::Near(node) => candidates().find(|one| one.node_id == *node).or_else(|| candidates().next()),
    }
}

fn score(key: &str, instance_id: Uuid) -> u64 {
    let bytes = key.bytes().chain(*instance_id.as_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    mix(hash)
}

/// The finalizer of splitmix64.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn score_is_that_of_the_daemon() {
        // The value that the daemon's own test fixes.
        assert_eq!(score("a", Uuid::from_u128(1)), 8_751_992_975_019_798_589);
    }
}
