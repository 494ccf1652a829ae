//! Whom a router should talk to.
//!
//! Candidates are the live instances that are not excluded and carry the labels asked for. One that is suspect is
//! chosen only if every candidate is. Among the rest the policy decides; every policy is a pure function of the
//! snapshot, the request and (for [`Policy::Random`]) a number the caller draws.

use std::{hash::Hasher, sync::Arc};

use super::{entry::Entry, snapshot::Snapshot};
use crate::model::{Epoch, InstanceId, InstanceStatus, Labels, spread::mix};

/// How to choose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The lowest [`crate::model::ranking::Rank`].
    #[default]
    Best,
    /// Any; the number is drawn by the caller for each choice.
    Random(u64),
    /// The highest score of the key with the instance (rendezvous hashing, Thaler and Ravishankar 1998).
    Rendezvous(String),
    /// The best on this node; without one, the best.
    Near(String),
}

/// Whom to choose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// How.
    pub policy: Policy,
    /// Whom not.
    pub excluded: Vec<InstanceId>,
    /// Labels that all must be there.
    pub labels: Labels,
}

/// The instance chosen.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The instance.
    pub entry: Arc<Entry>,
    /// How many other candidates there were.
    pub alternatives: usize,
}

/// No instance to talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// No instance of this name is on record.
    UnknownLogicalId,
    /// None of those on record is a candidate; with how many there are.
    NoLiveInstance(usize),
}

/// Chooses a live instance of a logical id at `now_ms`.
///
/// # Errors
/// [`ResolveError`] says whether the name is known.
pub fn resolve(snapshot: &Snapshot, logical_id: &str, choice: &Choice, now_ms: u64) -> Result<Chosen, ResolveError> {
    let (Some(name), Some(cluster)) = (snapshot.name(logical_id), snapshot.cluster()) else {
        return Err(ResolveError::UnknownLogicalId);
    };
    let candidates = || name.alive.iter().filter(|entry| choice.admits(entry, cluster.epoch));
    let count = candidates().count();
    // They stand in the order of their ranks but for suspicion.
    let trusted = || candidates().filter(|entry| !entry.lease.is_suspect(now_ms));
    let chosen = match choice.policy.choose(trusted) {
        Some(entry) => Some(entry),
        None => choice.policy.choose(candidates),
    };
    let entry = chosen.ok_or(ResolveError::NoLiveInstance(name.all.len()))?;
    Ok(Chosen { entry: Arc::clone(entry), alternatives: count - 1 })
}

impl Choice {
    fn admits(&self, entry: &Entry, epoch: Epoch) -> bool {
        entry.instance.status_in(epoch) == InstanceStatus::Alive
            && !self.excluded.contains(&entry.instance.instance_id)
            && (self.labels.is_empty() || entry.instance.labels.contains(&self.labels))
    }
}

impl Policy {
    /// Chooses among candidates that come in the order of their ranks.
    fn choose<'a, I>(&self, candidates: impl Fn() -> I) -> Option<&'a Arc<Entry>>
    where
        I: Iterator<Item = &'a Arc<Entry>>,
    {
        match self {
            Self::Best => candidates().next(),
            Self::Random(draw) => {
                let count = u64::try_from(candidates().count()).ok().filter(|count| *count > 0)?;
                candidates().nth(usize::try_from(draw % count).ok()?)
            }
            Self::Rendezvous(key) => candidates().max_by_key(|entry| score(key, entry.instance.instance_id)),
            Self::Near(node) => candidates()
                .find(|entry| entry.instance.node_id.as_deref() == Some(node.as_str()))
                .or_else(|| candidates().next()),
        }
    }
}

/// How strongly a key falls to an instance. FNV-1a over both, then a finalizer (of splitmix64): FNV alone leaves
/// neighbouring inputs with neighbouring scores. Fixed for good, so that daemons of all versions agree.
fn score(key: &str, instance_id: InstanceId) -> u64 {
    let mut hash = Fnv1a(0xcbf2_9ce4_8422_2325);
    hash.write(key.as_bytes());
    hash.write(instance_id.0.as_bytes());
    mix(hash.finish())
}

struct Fnv1a(u64);

impl Hasher for Fnv1a {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_key_moves_only_when_its_instance_goes() {
        let instances: Vec<InstanceId> = (1..=8).map(|id| InstanceId(Uuid::from_u128(id))).collect();
        let owner = |key: &str, among: &[InstanceId]| *among.iter().max_by_key(|id| score(key, **id)).unwrap();
        let mut keys_of = BTreeMap::new();
        for key in (0..8_000).map(|key| format!("key-{key}")) {
            let before = owner(&key, &instances);
            *keys_of.entry(before).or_insert(0) += 1;
            let after = owner(&key, &instances[1..]);
            assert!(before == instances[0] || before == after, "{key} moved without need");
        }
        for (instance, keys) in keys_of {
            assert!((800..1_200).contains(&keys), "{instance} has {keys} of 8,000 keys, 1,000 expected");
        }
    }

    #[test]
    fn scores_are_the_same_in_every_version() {
        // Computed once with another program from the definition.
        assert_eq!(score("a", InstanceId(Uuid::from_u128(1))), 8_751_992_975_019_798_589);
    }
}
