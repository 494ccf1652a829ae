//! The instances of one logical id, and whether it is served.

use std::sync::Arc;

use smallvec::SmallVec;

use super::entry::Entry;
use crate::model::{DeathReason, Epoch, InstanceStatus, Revision};

/// Instances of one logical id. Most have one or two, which then need no memory of their own: there may be a million.
pub type Entries = SmallVec<[Arc<Entry>; 2]>;

/// Whether a logical id is served. The one place that decides it, for counts, metrics, lists and states alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// An instance is alive.
    Live,
    /// None is, and not on purpose.
    Unserved,
    /// None is, on purpose: the last that happened to it is that an instance began to drain or was deregistered. Where the
    /// last one died otherwise, a draining instance beside it does not make up for it.
    Left,
}

/// What decides it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    /// Instances that are alive.
    pub(super) alive: bool,
    /// Instances that are starting.
    pub(super) starting: bool,
    /// Instances that died with their epoch, which is not yet recorded.
    pub(super) fenced: bool,
    /// Of the instances that drain or died, the latest did so on purpose.
    pub(super) on_purpose: bool,
}

impl Standing {
    /// The definition.
    pub(super) fn service(self) -> Service {
        if self.alive {
            Service::Live
        } else if !self.starting && !self.fenced && self.on_purpose {
            Service::Left
        } else {
            Service::Unserved
        }
    }
}

/// The instances of one logical id.
#[derive(Clone, Debug, Default)]
pub struct Name {
    /// Those written as alive, in the order of their ranks as long as none is suspect.
    pub alive: Entries,
    /// All on record, by instance id.
    pub all: Entries,
    /// How many are written as starting: a change must not have to look at all of them.
    starting: u32,
    /// The latest that ended the service of an instance.
    last_end: End,
}

/// Revision at which an instance drains or is dead, and in the lowest bit whether on purpose: there may be a million names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct End(u64);

// With the counters of its `Arc` a name fills 96 bytes.
const _: () = assert!(size_of::<Name>() <= 96 - 16);

impl End {
    fn of(entry: &Entry) -> Self {
        let death = entry.instance.death();
        let on_purpose = match entry.instance.status {
            InstanceStatus::Starting | InstanceStatus::Alive => return Self::default(),
            InstanceStatus::Draining => true,
            InstanceStatus::Dead => death.is_some_and(|death| death.reason == Some(DeathReason::Deregistered)),
        };
        let Revision(revision) = entry.instance.revision;
        Self((revision << 1) | u64::from(on_purpose))
    }

    fn is_on_purpose(self) -> bool {
        self.0 & 1 == 1
    }
}

impl Name {
    /// Whether one of its instances is alive in this epoch.
    #[must_use]
    pub fn is_served(&self, epoch: Epoch) -> bool {
        self.alive.iter().any(|entry| entry.instance.status_in(epoch) == InstanceStatus::Alive)
    }

    /// Whether it is served in this epoch.
    #[must_use]
    pub fn service(&self, epoch: Epoch) -> Service {
        let mut standing = Standing { on_purpose: self.last_end.is_on_purpose(), ..Standing::default() };
        if self.is_served(epoch) {
            return Service::Live;
        }
        for entry in &self.all {
            match (entry.instance.status, entry.instance.status_in(epoch)) {
                (InstanceStatus::Dead, _) | (_, InstanceStatus::Alive | InstanceStatus::Draining) => {}
                (_, InstanceStatus::Dead) => standing.fenced = true,
                (_, InstanceStatus::Starting) => standing.starting = true,
            }
        }
        standing.service()
    }

    /// As [`Name::service`], where every instance that is not written as dead is of the current epoch.
    pub(super) fn settled_service(&self) -> Service {
        let (alive, starting) = (!self.alive.is_empty(), self.starting > 0);
        Standing { alive, starting, fenced: false, on_purpose: self.last_end.is_on_purpose() }.service()
    }

    /// Takes over an instance that is not among them.
    pub(super) fn insert(&mut self, entry: &Arc<Entry>) {
        let at = self.all.partition_point(|other| other.instance.instance_id < entry.instance.instance_id);
        insert(&mut self.all, at, entry);
        match entry.instance.status {
            InstanceStatus::Alive => {
                let at = self.alive.partition_point(|other| other.steady_rank() < entry.steady_rank());
                insert(&mut self.alive, at, entry);
            }
            InstanceStatus::Starting => self.starting += 1,
            InstanceStatus::Draining | InstanceStatus::Dead => self.last_end = self.last_end.max(End::of(entry)),
        }
    }

    /// Removes an instance that is among them.
    pub(super) fn remove(&mut self, entry: &Entry) {
        let instance_id = entry.instance.instance_id;
        self.all.retain(|other| other.instance.instance_id != instance_id);
        match entry.instance.status {
            InstanceStatus::Alive => self.alive.retain(|other| other.instance.instance_id != instance_id),
            InstanceStatus::Starting => self.starting = self.starting.saturating_sub(1),
            // Purges begin with the earliest deaths, so that this is rare.
            InstanceStatus::Draining | InstanceStatus::Dead if self.last_end == End::of(entry) => {
                self.last_end = self.all.iter().map(|other| End::of(other)).max().unwrap_or_default();
            }
            InstanceStatus::Draining | InstanceStatus::Dead => {}
        }
    }
}

/// Inserts, growing by no more than half.
fn insert(entries: &mut Entries, at: usize, entry: &Arc<Entry>) {
    if entries.len() == entries.capacity() {
        entries.reserve_exact(1 + entries.len() / 2);
    }
    entries.insert(at, Arc::clone(entry));
}
