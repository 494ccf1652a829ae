//! What wakes the reapers when there is something to do earlier than they planned: the feed sees it first.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};

use crate::{clock::Clock, model::Ttl};

/// A reaper looks at most this often.
pub(super) const SHORTEST_SLEEP: Duration = Duration::from_millis(200);

/// Wakes the reapers when there is something to do earlier than they planned.
#[derive(Debug, Default)]
pub struct Alarm {
    /// When to look for stale leases: as planned, or at the deadline of a lease that was granted since.
    wake_at_ms: AtomicU64,
    sooner: Notify,
    stale: Notify,
    old_epoch: Notify,
    died: Notify,
}

impl Alarm {
    /// A lease was granted at about `now_ms`. It is no reason to look now, but at its deadline: a fleet that registers
    /// would else have all leases looked at again and again.
    pub fn lease_granted(&self, now_ms: u64, ttl: Ttl) {
        self.wake_at(now_ms + u64::from(ttl.as_millis()));
    }

    /// Another daemon is silent, and is to be evicted in `within`: at no lease's deadline, so that the reaper might sleep
    /// for half a minute longer.
    pub fn evict_within(&self, now_ms: u64, within: Duration) {
        self.wake_at(now_ms + millis(within + SHORTEST_SLEEP));
    }

    fn wake_at(&self, deadline_ms: u64) {
        if self.wake_at_ms.fetch_min(deadline_ms, Ordering::AcqRel) > deadline_ms {
            self.sooner.notify_one();
        }
    }

    /// Whatever is granted from now on may be missing from what a look finds.
    pub(super) fn begin_look(&self) {
        self.wake_at_ms.store(u64::MAX, Ordering::Release);
    }

    /// When to look, by `plan_ms`.
    pub(super) fn plan(&self, plan_ms: u64) -> u64 {
        self.wake_at_ms.fetch_min(plan_ms, Ordering::AcqRel).min(plan_ms)
    }

    /// Sleeps until it is time to look again: by `plan_ms`, or sooner.
    pub(super) async fn sleep_until(&self, clock: Clock, plan_ms: u64) {
        let earliest_ms = plan_ms.min(clock.now_ms() + millis(SHORTEST_SLEEP));
        loop {
            let wake_at_ms = self.plan(plan_ms).max(earliest_ms);
            tokio::select! {
                biased;
                () = self.stale.notified() => return,
                () = self.sooner.notified() => {}
                () = sleep(Duration::from_millis(wake_at_ms.saturating_sub(clock.now_ms()))) => return,
            }
        }
    }

    /// Expiry is held or braked in another way than before.
    pub fn expiry_changed(&self) {
        self.stale.notify_one();
    }

    /// The epoch was rotated.
    pub fn epoch_rotated(&self) {
        self.old_epoch.notify_one();
    }

    /// Returns after the next rotation.
    pub(super) async fn old_epoch_is_due(&self) {
        self.old_epoch.notified().await;
    }

    /// A lease has ended, by whatever decision.
    pub fn lease_ended(&self) {
        self.died.notify_one();
    }

    /// Returns when a lease has ended since the last call.
    pub(super) async fn release_is_due(&self) {
        self.died.notified().await;
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lease_that_is_granted_meanwhile_is_looked_at_when_it_is_due() {
        let (alarm, ttl) = (Alarm::default(), Ttl::from_record(Some(2_000)));
        alarm.begin_look();
        alarm.lease_granted(1_000, ttl);
        assert_eq!(alarm.plan(31_000), 3_000, "granted while it looked");
        alarm.begin_look();
        assert_eq!(alarm.plan(31_000), 31_000, "found by that look");
        alarm.lease_granted(5_000, ttl);
        alarm.lease_granted(9_000, ttl);
        assert_eq!(alarm.plan(31_000), 7_000, "granted while it slept");
        alarm.expiry_changed();
        // Returns at once: an operator is not kept waiting.
        alarm.sleep_until(Clock::new(), u64::MAX / 2).await;
    }
}
