//! Which BeatStream renews a lease here, and since when it has been the only one.
//!
//! The end of a stream is a sign of death only for leases that no other client renews: otherwise a client that names the
//! leases of a fleet and disconnects would make all of them suspect. So a lease remembers its latest renewer and since
//! when that has not changed. One word holds both, in the place of padding: beats compare it and write it only when the
//! renewer changes, so two clients that renew the same lease take it from each other and neither is ever alone for long.

use std::sync::atomic::{AtomicU64, Ordering};

/// Resolution of "since", in milliseconds: 31 bits of it last for four years.
const TICK_MS: u64 = 64;
const TICKS_MASK: u64 = (1 << 31) - 1;
/// The lease was granted by this daemon, and nothing was heard of it from elsewhere when its renewer last changed.
const GRANTED_HERE: u64 = 1 << 31;

/// A BeatStream of this daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamId(u32);

impl StreamId {
    /// No stream: a call of Beat, or no beat yet.
    pub const NONE: Self = Self(0);

    /// The stream with this number. Numbers repeat after four billion streams, which takes days at any rate that a
    /// daemon can serve; two streams that share one would count as one renewer.
    #[must_use]
    pub const fn numbered(number: u32) -> Self {
        Self(if number == 0 { 1 } else { number })
    }
}

/// The latest renewer of a lease: `stream:32 granted_here:1 since:31`.
#[derive(Debug, Default)]
pub struct Renewer(AtomicU64);

/// What a stream that renewed a lease alone can vouch for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alone {
    /// Whether this daemon knows by itself that the lease is renewed nowhere else.
    pub granted_here: bool,
}

impl Renewer {
    /// This daemon has granted the lease.
    pub fn grant_here(&self) {
        self.0.fetch_or(GRANTED_HERE, Ordering::Relaxed);
    }

    /// A beat arrived at `now_ms`. `heard_here`: whether the beat before arrived here as well; asked only if the renewer
    /// has changed.
    pub fn renewed_by(&self, stream: StreamId, now_ms: u64, heard_here: impl FnOnce() -> bool) {
        let word = self.0.load(Ordering::Relaxed);
        if word >> 32 != u64::from(stream.0) {
            let granted_here = if heard_here() { word & GRANTED_HERE } else { 0 };
            let since = (now_ms / TICK_MS) & TICKS_MASK;
            // Two renewers at once may overwrite each other: the next beat of either sees that it is not alone.
            self.0.store((u64::from(stream.0) << 32) | granted_here | since, Ordering::Relaxed);
        }
    }

    /// Whether this stream alone renewed the lease from more than `interval_ms` before `until_ms`, its latest beat.
    pub fn alone(&self, stream: StreamId, until_ms: u64, interval_ms: u64) -> Option<Alone> {
        let word = self.0.load(Ordering::Relaxed);
        let ticks = (until_ms / TICK_MS).wrapping_sub(word) & TICKS_MASK;
        // One tick less: both ends are rounded.
        let is_alone = stream != StreamId::NONE
            && word >> 32 == u64::from(stream.0)
            && ticks.saturating_sub(1) * TICK_MS >= interval_ms;
        is_alone.then_some(Alone { granted_here: word & GRANTED_HERE != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL_MS: u64 = 5_000;
    const ONE: StreamId = StreamId(1);
    const OTHER: StreamId = StreamId(2);

    fn beat(renewer: &Renewer, stream: StreamId, now_ms: u64) {
        renewer.renewed_by(stream, now_ms, || true);
    }

    #[test]
    fn stream_is_alone_only_after_a_whole_interval() {
        let renewer = Renewer::default();
        beat(&renewer, ONE, 1_000_000);
        beat(&renewer, ONE, 1_005_000);
        assert_eq!(renewer.alone(ONE, 1_005_000, INTERVAL_MS), None);
        beat(&renewer, ONE, 1_006_000);
        assert_eq!(renewer.alone(ONE, 1_006_000, INTERVAL_MS), Some(Alone { granted_here: false }));
        assert_eq!(renewer.alone(OTHER, 1_006_000, INTERVAL_MS), None);
    }

    #[test]
    fn any_other_renewer_ends_being_alone() {
        for other in [OTHER, StreamId::NONE] {
            let renewer = Renewer::default();
            beat(&renewer, ONE, 1_000_000);
            beat(&renewer, other, 1_009_000);
            beat(&renewer, ONE, 1_010_000);
            assert_eq!(renewer.alone(ONE, 1_010_000, INTERVAL_MS), None);
            assert_eq!(renewer.alone(other, 1_010_000, INTERVAL_MS), None);
        }
    }

    #[test]
    fn single_beats_are_never_a_stream() {
        let renewer = Renewer::default();
        beat(&renewer, StreamId::NONE, 1_000_000);
        assert_eq!(renewer.alone(StreamId::NONE, 2_000_000, INTERVAL_MS), None);
    }

    #[test]
    fn grant_of_this_daemon_is_forgotten_after_a_beat_elsewhere() {
        let renewer = Renewer::default();
        renewer.grant_here();
        beat(&renewer, ONE, 1_000_000);
        assert_eq!(renewer.alone(ONE, 1_010_000, INTERVAL_MS), Some(Alone { granted_here: true }));
        renewer.renewed_by(OTHER, 1_020_000, || false);
        beat(&renewer, ONE, 1_021_000);
        assert_eq!(renewer.alone(ONE, 1_030_000, INTERVAL_MS), Some(Alone { granted_here: false }));
    }

    #[test]
    fn since_may_wrap_around() {
        let renewer = Renewer::default();
        let wraps_ms = (TICKS_MASK + 1) * TICK_MS;
        beat(&renewer, ONE, wraps_ms - 1_000);
        assert_eq!(renewer.alone(ONE, wraps_ms + 1_000, INTERVAL_MS), None);
        assert!(renewer.alone(ONE, wraps_ms + 6_000, INTERVAL_MS).is_some());
    }
}
