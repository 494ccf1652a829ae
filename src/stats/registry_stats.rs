//! Statistics of the whole registry: what an operator needs first, and which logical ids need attention.
//!
//! The counters of the snapshot do not tell which instances are suspect (that changes with time alone), which died lately,
//! or which of a million names has a problem. One pass over all instances finds that, for all callers. What the pass
//! keeps is bounded: the first [`LISTED_MAX`] names of each state with a problem, and the latest [`LATEST_MAX`] changes;
//! names without a problem are walked in the snapshot itself ([`super::names`]).

#[cfg(test)]
mod tests;

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    model::{DeathReason, Epoch, InstanceStatus, LogicalId, Revision},
    view::{Entry, Name, Service, Snapshot},
};

/// Most names that are remembered of each state but [`NameState::Served`].
pub const LISTED_MAX: usize = 10_000;
/// Most changes that are remembered.
pub const LATEST_MAX: usize = 30;
/// A death is "lately" for so long.
pub const LATELY: Duration = Duration::from_secs(600);
/// A name with more instances is summed up once a pass, not by each reader.
const LARGE: usize = 1_000;

/// How a logical id is doing; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameState {
    /// No instance is alive, and not on purpose.
    Unserved,
    /// Every instance that is alive is suspect.
    AllSuspect,
    /// Some are suspect.
    SomeSuspect,
    /// All is well now, but an instance fell silent and died within [`LATELY`].
    LostLately,
    /// All is well.
    Served,
    /// No instance is alive, on purpose ([`Service::Left`]).
    Left,
}

impl NameState {
    /// Every state, the worst first.
    pub const ALL: [Self; 6] =
        [Self::Unserved, Self::AllSuspect, Self::SomeSuspect, Self::LostLately, Self::Served, Self::Left];

    /// The word for it, for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unserved => "unserved",
            Self::AllSuspect => "all_suspect",
            Self::SomeSuspect => "some_suspect",
            Self::LostLately => "lost_lately",
            Self::Served => "served",
            Self::Left => "left",
        }
    }

    /// The state for a word, if it is one.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// One moment: by this daemon's clock, and what the database clock then showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    /// By this daemon's monotonic clock, in milliseconds.
    pub now_ms: u64,
    /// By the database clock.
    pub database: DateTime<Utc>,
}

/// One logical id, summed up.
#[derive(Clone, Debug)]
pub struct NameSummary {
    /// How it is doing.
    pub state: NameState,
    /// Instances that are alive.
    pub alive: u64,
    /// Those of them that are suspect.
    pub suspect: u64,
    /// Instances that are starting.
    pub starting: u64,
    /// Instances that are draining.
    pub draining: u64,
    /// Dead instances on record.
    pub dead: u64,
    /// The one that Resolve gives.
    pub best: Option<Arc<Entry>>,
    /// The latest that died.
    pub last_dead: Option<Arc<Entry>>,
}

/// Deaths by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deaths {
    /// No beat within the TTL.
    pub stale: u64,
    /// The epoch was rotated.
    pub old_epoch: u64,
    /// By their owners' wish.
    pub deregistered: u64,
    /// A new registration took their place.
    pub replaced: u64,
    /// By an operator's decision.
    pub operator: u64,
}

/// What one pass over the registry found.
#[derive(Debug, Default)]
pub struct RegistryStats {
    /// The revision it was taken at.
    pub revision: Revision,
    /// When, by this daemon's clock.
    pub taken_ms: u64,
    /// Of the instances that are starting, alive or draining, those that are suspect.
    pub suspect: u64,
    /// Deaths within [`LATELY`].
    pub deaths: Deaths,
    /// Beats per second that all live instances owe, in thousandths.
    pub beats_expected_milli: u64,
    /// Of these, what those owe that beat at this daemon.
    pub beats_expected_here_milli: u64,
    /// The longest TTL of those that beat at this daemon.
    pub longest_ttl_here: Duration,
    /// The instances that changed last, the latest first.
    pub latest: Vec<Arc<Entry>>,
    /// Changes up to this revision are not among the latest.
    floor: Revision,
    counts: [u64; NameState::ALL.len()],
    listed: [Vec<LogicalId>; NameState::ALL.len()],
    large: BTreeMap<LogicalId, NameSummary>,
}

impl RegistryStats {
    /// Reads every instance, which takes about 0.2 s for a million.
    #[must_use]
    pub fn of(snapshot: &Snapshot, now: Timestamps) -> Self {
        let mut stats = Self { revision: snapshot.revision(), taken_ms: now.now_ms, ..Self::default() };
        let Some(cluster) = snapshot.cluster() else { return stats };
        for (logical_id, name) in snapshot.names_from("") {
            for entry in &name.all {
                stats.see(entry, cluster.epoch, now);
            }
            let summary = NameSummary::of(name, cluster.epoch, now);
            stats.counts[summary.state as usize] += 1;
            let listed = &mut stats.listed[summary.state as usize];
            if summary.state != NameState::Served && listed.len() < LISTED_MAX {
                listed.push(logical_id.clone());
            }
            if name.all.len() > LARGE {
                stats.large.insert(logical_id.clone(), summary);
            }
        }
        stats.keep_latest();
        stats
    }

    /// How many names are in a state.
    #[must_use]
    pub fn count(&self, state: NameState) -> u64 {
        self.counts[state as usize]
    }

    /// The first names in a state, by name; those that are served are not remembered.
    #[must_use]
    pub fn listed(&self, state: NameState) -> &[LogicalId] {
        &self.listed[state as usize]
    }

    /// Whether a name is among those remembered of any state.
    pub(super) fn lists(&self, logical_id: &LogicalId) -> bool {
        self.listed.iter().any(|listed| listed.binary_search(logical_id).is_ok())
    }

    /// A name summed up: as of now, or as of the pass if that would take long.
    pub(super) fn summary(&self, logical_id: &LogicalId, name: &Name, epoch: Epoch, now: Timestamps) -> NameSummary {
        match self.large.get(logical_id) {
            Some(summary) if name.all.len() > LARGE => summary.clone(),
            _ => NameSummary::of(name, epoch, now),
        }
    }

    fn see(&mut self, entry: &Arc<Entry>, epoch: Epoch, now: Timestamps) {
        if entry.instance.status_in(epoch) == InstanceStatus::Dead {
            self.deaths.count(entry, epoch, now.database);
        } else {
            let lease = &entry.lease;
            self.suspect += u64::from(lease.is_suspect(now.now_ms));
            let owed = 1_000_000 / lease.ttl().beat_interval_ms().max(1);
            self.beats_expected_milli += owed;
            if lease.beats_here() {
                self.beats_expected_here_milli += owed;
                self.longest_ttl_here = self.longest_ttl_here.max(lease.ttl().as_duration());
            }
        }
        if entry.instance.revision > self.floor {
            self.latest.push(Arc::clone(entry));
            if self.latest.len() >= 16 * LATEST_MAX {
                self.keep_latest();
            }
        }
    }

    fn keep_latest(&mut self) {
        self.latest.sort_unstable_by_key(|entry| Reverse(entry.instance.revision));
        self.latest.truncate(LATEST_MAX);
        self.floor = self.latest.get(LATEST_MAX - 1).map(|entry| entry.instance.revision).unwrap_or_default();
    }
}

impl Deaths {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.stale + self.old_epoch + self.deregistered + self.replaced + self.operator
    }

    fn count(&mut self, entry: &Entry, epoch: Epoch, now: DateTime<Utc>) {
        let Some(death) = entry.instance.death_in(epoch).filter(|death| is_lately(death.at, now)) else { return };
        match death.reason {
            Some(DeathReason::Stale) => self.stale += 1,
            Some(DeathReason::OldEpoch) => self.old_epoch += 1,
            Some(DeathReason::Deregistered) => self.deregistered += 1,
            Some(DeathReason::Replaced) => self.replaced += 1,
            Some(DeathReason::Operator) => self.operator += 1,
            None => {}
        }
    }
}

/// A death that is not written down yet has only just come.
fn is_lately(at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> bool {
    let lately = TimeDelta::from_std(LATELY).unwrap_or_default();
    at.is_none_or(|at| at > now - lately)
}

impl NameSummary {
    /// Sums up a name.
    #[must_use]
    pub fn of(name: &Name, epoch: Epoch, now: Timestamps) -> Self {
        let (mut starting, mut draining, mut dead) = (0, 0, 0);
        let (mut lost_lately, mut last_dead) = (false, None::<&Arc<Entry>>);
        for entry in &name.all {
            match entry.instance.status_in(epoch) {
                InstanceStatus::Starting => starting += 1,
                InstanceStatus::Draining => draining += 1,
                InstanceStatus::Alive => {}
                InstanceStatus::Dead => {
                    dead += 1;
                    let death = entry.instance.death();
                    let stale = death.filter(|death| death.reason == Some(DeathReason::Stale));
                    lost_lately |= stale.is_some_and(|death| is_lately(death.at, now.database));
                    if last_dead.is_none_or(|last| last.instance.revision < entry.instance.revision) {
                        last_dead = Some(entry);
                    }
                }
            }
        }
        let alive = || name.alive.iter().filter(|entry| entry.instance.status_in(epoch) == InstanceStatus::Alive);
        let is_suspect = |entry: &&Arc<Entry>| entry.lease.is_suspect(now.now_ms);
        let (count, suspect) = (alive().count() as u64, alive().filter(is_suspect).count() as u64);
        let best = alive().find(|entry| !is_suspect(entry)).or_else(|| alive().next());
        let state = match name.service(epoch) {
            Service::Left => NameState::Left,
            Service::Unserved => NameState::Unserved,
            Service::Live if suspect == count => NameState::AllSuspect,
            Service::Live if suspect > 0 => NameState::SomeSuspect,
            Service::Live if lost_lately => NameState::LostLately,
            Service::Live => NameState::Served,
        };
        Self {
            state,
            alive: count,
            suspect,
            starting,
            draining,
            dead,
            best: best.cloned(),
            last_dead: last_dead.cloned(),
        }
    }
}
