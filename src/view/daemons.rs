//! The daemons that share the database, and the memory of those that were lost.
//!
//! A daemon that leaves takes its row with it; so does the database with the row of a daemon that has been silent for
//! too long, and the operator who comes to look would find no trace of it. What tells the two apart is how it looked when
//! it was last there.

use std::time::Duration;

use crate::model::{self, DaemonRecord, wellness};

/// How long a lost daemon is remembered, in milliseconds.
const REMEMBERED_MS: u64 = 3_600_000;
/// How many lost daemons are remembered.
const LOST_MAX: usize = 16;

/// A daemon that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostDaemon {
    /// As it was last seen.
    pub record: DaemonRecord,
    /// When it was found to be gone, by this daemon's clock.
    pub lost_ms: u64,
}

/// The daemons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Daemons {
    /// Those on record, by when they started.
    pub present: Vec<DaemonRecord>,
    /// Those that were lost within the last hour, the latest first.
    pub lost: Vec<LostDaemon>,
}

impl Daemons {
    /// What is known once `present` has been read at `now_ms`. A lost daemon is forgotten when another one serves its
    /// address.
    #[must_use]
    pub fn next(&self, present: Vec<DaemonRecord>, now_ms: u64) -> Self {
        let gone = |record: &&DaemonRecord| !present.iter().any(|other| other.daemon_id == record.daemon_id);
        // Whoever leaves in good order was heard of until the end.
        let lost = self.present.iter().filter(gone).filter(|record| record.last_flush_age > wellness::SILENT_AFTER);
        let lost = lost.map(|record| LostDaemon { record: record.clone(), lost_ms: now_ms });
        let remembered = self.lost.iter().filter(|lost| now_ms.saturating_sub(lost.lost_ms) < REMEMBERED_MS).cloned();
        let served = |lost: &LostDaemon| present.iter().any(|other| other.address == lost.record.address);
        let lost = lost.chain(remembered).filter(|lost| !served(lost)).take(LOST_MAX).collect();
        Self { present, lost }
    }
}

impl Daemons {
    /// The lost ones, each with how long ago it was found to be gone.
    #[must_use]
    pub fn lost_at(&self, now_ms: u64) -> Vec<model::LostDaemon> {
        let lost_for = |lost_ms: u64| Duration::from_millis(now_ms.saturating_sub(lost_ms));
        let lost = |it: &LostDaemon| model::LostDaemon { record: it.record.clone(), lost_for: lost_for(it.lost_ms) };
        self.lost.iter().map(lost).collect()
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;

    fn daemon(id: u128, address: &str, silent_s: u64) -> DaemonRecord {
        DaemonRecord {
            daemon_id: Uuid::from_u128(id),
            address: address.to_owned(),
            version: "0.1.0".to_owned(),
            started_at: DateTime::default(),
            last_flush_age: Duration::from_secs(silent_s),
        }
    }

    fn lost(daemons: &Daemons) -> Vec<&str> {
        daemons.lost.iter().map(|lost| lost.record.address.as_str()).collect()
    }

    #[test]
    fn who_was_silent_when_last_seen_is_lost_and_who_was_not_has_left() {
        let before = Daemons::default().next(vec![daemon(1, "a", 0), daemon(2, "b", 13), daemon(3, "c", 1)], 0);
        assert_eq!(lost(&before), [""; 0]);
        let after = before.next(vec![daemon(1, "a", 0)], 2_000);
        assert_eq!(lost(&after), ["b"]);
        assert_eq!(lost(&after.next(vec![daemon(1, "a", 0)], 4_000)), ["b"], "it stays lost");
    }

    #[test]
    fn a_lost_daemon_is_forgotten_when_its_address_is_served_again_or_an_hour_has_passed() {
        let lost_one = Daemons::default().next(vec![daemon(1, "a", 14)], 0).next(Vec::new(), 1_000);
        assert_eq!(lost(&lost_one), ["a"]);
        assert_eq!(lost(&lost_one.next(vec![daemon(2, "a", 0)], 2_000)), [""; 0]);
        assert_eq!(lost(&lost_one.next(Vec::new(), 1_000 + REMEMBERED_MS)), [""; 0]);
    }

    #[test]
    fn the_memory_is_bounded() {
        let many = (0..100).map(|id| daemon(id, &format!("{id}"), 14)).collect();
        assert_eq!(Daemons::default().next(many, 0).next(Vec::new(), 1_000).lost.len(), LOST_MAX);
    }
}
