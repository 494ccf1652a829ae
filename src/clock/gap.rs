//! What a gap in time means: a stepped database clock, a call that took long, or a daemon that was paused.
//!
//! PostgreSQL compares its clock with what the caller expects. Whether the clock has been stepped forward or the request was
//! held up on its way, it cannot tell: both look the same from there. The daemon can tell, because it reads the database
//! clock between two moments of its own monotonic clock: how far the database clock is ahead of its own lies in a range as
//! wide as the call took. A step moves the range, and a call that takes long only widens it.
//!
//! | what happened | PostgreSQL sees | the range | found |
//! |---|---|---|---|
//! | a partition, a paused database or a paused daemon holds the request up | a late request | wider | late |
//! | the same holds the answer up | nothing | wider | nothing |
//! | a step forward | a late request | higher | step |
//! | a step back | a request from the future | lower | step, by PostgreSQL itself: no delay looks like this |
//! | a step forward while the request is held up | a late request | higher and wider | step |
//! | a step forward while the answer is held up for as long | a late request | wider | late; the next reading tells |
//!
//! What cannot be told apart: a partition between daemon and PostgreSQL, and a PostgreSQL that is paused or away; and a step
//! forward, and a machine of the daemon that slept, because its monotonic clock stood still meanwhile.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// A step forward is certain if it moves the range by more than this: a part of what PostgreSQL tolerates, which leaves the
/// rest to the time that a call takes.
const CERTAIN_MS: i64 = 500;
/// After so many late requests in a row the network is slow, and what is expected is as uncertain as it is slow.
const LATE_IN_A_ROW: u32 = 3;

/// The database clock as it was read between two moments of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// When it was asked for.
    pub asked_ms: u64,
    /// When the answer was there.
    pub answered_ms: u64,
    /// What it showed.
    pub read_at: DateTime<Utc>,
}

impl Reading {
    /// By how many milliseconds the database clock is ahead of our own: at least, and at most.
    fn ahead_ms(self) -> (i64, i64) {
        let shown = self.read_at.timestamp_millis();
        (shown - self.answered_ms.cast_signed(), shown - self.asked_ms.cast_signed())
    }

    /// What the clock shows at least, if it goes on from this reading.
    #[must_use]
    pub fn continued(self, now_ms: u64) -> DateTime<Utc> {
        let passed_ms = now_ms.saturating_sub(self.answered_ms);
        self.read_at + TimeDelta::milliseconds(i64::try_from(passed_ms).unwrap_or_default())
    }

    /// By how much more it may show: the call may have been answered at any moment of it.
    #[must_use]
    pub fn uncertainty(self) -> Duration {
        Duration::from_millis(self.answered_ms.saturating_sub(self.asked_ms))
    }
}

/// By how many milliseconds the database clock was stepped between two readings, at least: forward, or back if negative.
/// Zero: one clock that goes on explains both.
fn step_ms(former: Reading, latter: Reading) -> i64 {
    let ((least, most), (least_now, most_now)) = (former.ahead_ms(), latter.ahead_ms());
    let (forward, back) = (least_now - most, most_now - least);
    if forward > CERTAIN_MS {
        forward
    } else if back < -CERTAIN_MS {
        back
    } else {
        0
    }
}

/// What a look at the database clock came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The clock shows what it should.
    Nothing,
    /// The request was held up on its way: it changed nothing, and is made again.
    Late,
    /// The clock was stepped forward.
    Step,
}

/// The database clock, as one task follows it from call to call.
#[derive(Debug, Default)]
pub struct Followed {
    known: Option<Reading>,
    late: u32,
}

impl Followed {
    /// The reading that the next one is compared with; `None` if nothing is known.
    #[must_use]
    pub fn known(&self) -> Option<Reading> {
        self.known
    }

    /// Takes in what a call has read. `is_late`: PostgreSQL found its clock further on than expected, and did nothing.
    /// After [`Found::Step`] what was known stays, for the call that has it acted on.
    pub fn take(&mut self, reading: Reading, is_late: bool) -> Found {
        let found = match self.known {
            Some(known) if is_late && step_ms(known, reading) > 0 => return Found::Step,
            Some(_) if is_late => Found::Late,
            _ => Found::Nothing,
        };
        self.late = if found == Found::Late { self.late + 1 } else { 0 };
        if found == Found::Nothing || self.late >= LATE_IN_A_ROW {
            *self = Self { known: Some(reading), late: 0 };
        }
        found
    }

    /// A call was not answered: after an outage nothing is expected.
    pub fn lose(&mut self) {
        *self = Self::default();
    }
}

/// Why a daemon saved nothing for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// PostgreSQL took nothing: it was away or paused, or the network was cut.
    Database,
    /// The daemon itself did not run: it was stopped, or its machine gave it no time.
    Daemon,
}

/// A timer that is this much late is no matter of a busy machine.
const PAUSE_MS: u64 = 1_000;

/// For how long PostgreSQL has taken nothing from a daemon.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    since_ms: u64,
    /// By how much waits since then were longer than the timers that end them, of those that were by more than [`PAUSE_MS`]:
    /// nothing delays a timer for so long but a daemon that does not run.
    stood_still_ms: u64,
}

impl Silence {
    /// One that begins.
    #[must_use]
    pub fn begin(now_ms: u64) -> Self {
        Self { since_ms: now_ms, stood_still_ms: 0 }
    }

    /// A wait is over that a timer ends after `bound`.
    pub fn waited(&mut self, since_ms: u64, now_ms: u64, bound: Duration) {
        let bound_ms = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
        let late_ms = now_ms.saturating_sub(since_ms).saturating_sub(bound_ms);
        self.stood_still_ms += if late_ms > PAUSE_MS { late_ms } else { 0 };
    }

    /// Why, if it is longer than `bound_ms`.
    #[must_use]
    pub fn cause(&self, now_ms: u64, bound_ms: u64) -> Option<Outage> {
        let silent_ms = now_ms.saturating_sub(self.since_ms);
        let is_daemon = self.stood_still_ms >= silent_ms / 2;
        (silent_ms > bound_ms).then_some(if is_daemon { Outage::Daemon } else { Outage::Database })
    }
}

#[cfg(test)]
mod tests {
    use super::{Found::*, *};

    /// The database clock is this much ahead of the daemon's, at first.
    const AHEAD_MS: i64 = 1_700_000_000_000;
    /// By how much it may be further on than expected, besides what is uncertain (`registry::reaper`).
    const TOLERANCE_MS: i64 = 1_000;

    /// One call: for how long its request and its answer were on their way, and by how much the clock has been stepped when
    /// PostgreSQL reads it.
    #[derive(Clone, Copy, Debug)]
    struct Call {
        request_ms: u64,
        answer_ms: u64,
        stepped_ms: i64,
    }

    fn call(request_ms: u64, answer_ms: u64, stepped_ms: i64) -> Call {
        Call { request_ms, answer_ms, stepped_ms }
    }

    fn reading(asked_ms: u64, call: Call) -> Reading {
        let read_ms = asked_ms + call.request_ms;
        let shown = read_ms.cast_signed() + AHEAD_MS + call.stepped_ms;
        let read_at = DateTime::from_timestamp_millis(shown).unwrap();
        Reading { asked_ms, answered_ms: read_ms + call.answer_ms, read_at }
    }

    /// What is found by these calls, one after the other, with 5 s between them. `back`: PostgreSQL finds its clock further back
    /// than expected, and acts at once.
    fn found(calls: &[Call]) -> Vec<(Found, &'static str)> {
        let (mut followed, mut found, mut asked_ms) = (Followed::default(), Vec::new(), 1_000_000);
        followed.take(reading(asked_ms, call(2, 2, 0)), false);
        for call in calls {
            asked_ms += 5_000;
            let reading = reading(asked_ms, *call);
            asked_ms = reading.answered_ms;
            let known = followed.known().unwrap();
            let gap_ms = (reading.read_at - known.continued(reading.asked_ms)).num_milliseconds();
            let tolerance_ms = TOLERANCE_MS + i64::try_from(known.uncertainty().as_millis()).unwrap();
            let back = if gap_ms < -tolerance_ms { "back" } else { "" };
            found.push((followed.take(reading, gap_ms > tolerance_ms), back));
        }
        found
    }

    #[test]
    fn cause_of_a_gap_follows_its_table() {
        let usual = call(2, 2, 0);
        for (calls, expected, why) in [
            (&[usual][..], &[(Nothing, "")][..], "nothing happened"),
            (&[call(400, 400, 0)], &[(Nothing, "")], "a network far away"),
            (&[call(8_000, 2, 0), usual], &[(Late, ""), (Nothing, "")], "a partition holds the request up"),
            (&[call(2, 8_000, 0), usual], &[(Nothing, ""), (Nothing, "")], "a partition holds the answer up"),
            (&[call(4_000, 4_000, 0), usual], &[(Late, ""), (Nothing, "")], "a paused database, or both"),
            (
                &[call(3_600_000, 2, 0), usual],
                &[(Late, ""), (Nothing, "")],
                "a daemon paused for an hour before it sent",
            ),
            (
                &[call(2, 3_600_000, 0), usual],
                &[(Nothing, ""), (Nothing, "")],
                "a daemon paused before it read the answer",
            ),
            (&[call(2, 2, 5_000)], &[(Step, "")], "a step forward"),
            (&[call(2, 2, 3_600_000)], &[(Step, "")], "a step forward by an hour"),
            (&[call(2, 2, 900)], &[(Nothing, "")], "a step that is tolerated"),
            (&[call(2, 2, -5_000)], &[(Nothing, "back")], "a step back"),
            (&[call(8_000, 2, 5_000)], &[(Step, "")], "a step forward while the request is held up"),
            (&[call(2, 8_000, 5_000), call(2, 2, 5_000)], &[(Late, ""), (Step, "")], "while the answer is held up"),
            (&[call(8_000, 2, -5_000), call(2, 2, -5_000)], &[(Late, ""), (Nothing, "back")], "back, request held up"),
            (
                &[call(3_000, 3_000, 0); 4],
                &[(Late, ""), (Late, ""), (Late, ""), (Nothing, "")],
                "a network as slow as that is no reason to do nothing for ever",
            ),
            (
                &[call(3_000, 2, 0), usual, call(3_000, 2, 0), usual, call(3_000, 2, 0), call(2, 2, 5_000)],
                &[(Late, ""), (Nothing, ""), (Late, ""), (Nothing, ""), (Late, ""), (Step, "")],
                "late requests now and then hide no step",
            ),
        ] {
            assert_eq!(found(calls), expected, "{why}: {calls:?}");
        }
    }

    #[test]
    fn step_is_acted_on_from_what_was_known_before_and_then_known() {
        let mut followed = Followed::default();
        let (before, after) = (reading(1_000_000, call(2, 2, 0)), reading(1_060_000, call(2, 2, 5_000)));
        assert_eq!(followed.take(before, false), Nothing);
        assert_eq!(followed.take(after, true), Step);
        assert_eq!(followed.known(), Some(before));
        assert_eq!(followed.take(after, false), Nothing, "acted on");
        assert_eq!(followed.known(), Some(after));
        followed.lose();
        assert_eq!(followed.known(), None);
    }

    #[test]
    fn step_between_two_readings_is_at_least_what_the_ranges_prove() {
        let former = reading(1_000_000, call(2, 2, 0));
        for (latter, proven) in [
            (call(2, 2, 5_000), 4_996),
            (call(2, 2, -5_000), -4_996),
            (call(2, 4_000, 5_000), 998),
            (call(4_000, 2, -5_000), -998),
            (call(2, 2, 400), 0),
            (call(2, 5_000, 5_000), 0),
        ] {
            assert_eq!(step_ms(former, reading(1_060_000, latter)), proven, "{latter:?}");
        }
    }

    #[test]
    fn cause_of_an_outage_follows_its_table() {
        const TICK: Duration = Duration::from_millis(200);
        const CALL: Duration = Duration::from_secs(3);
        for (waits, cause, why) in [
            (&[(TICK, 200), (CALL, 5)][..], None, "no outage"),
            (&[(TICK, 2_900)], None, "a pause within the bound"),
            (&[(CALL, 3_000), (TICK, 200), (CALL, 3_000)], Some(Outage::Database), "a partition, or a paused database"),
            (&[(CALL, 3_100), (TICK, 500), (CALL, 3_300)], Some(Outage::Database), "the same on a slow machine"),
            (&[(TICK, 900); 10], Some(Outage::Database), "a database that refuses at once, on a very slow machine"),
            (&[(TICK, 4_000), (CALL, 5)], Some(Outage::Daemon), "a daemon that was stopped between two calls"),
            (&[(CALL, 17_000)], Some(Outage::Daemon), "a daemon that was stopped during a call"),
            (&[(TICK, 9_000), (CALL, 3_000)], Some(Outage::Daemon), "both, and the longer one is named"),
            (&[(TICK, 3_000), (CALL, 3_000), (CALL, 3_000)], Some(Outage::Database), "both, the other way round"),
        ] {
            let (mut silence, mut now_ms) = (Silence::begin(1_000_000), 1_000_000);
            for (bound, took_ms) in waits {
                silence.waited(now_ms, now_ms + took_ms, *bound);
                now_ms += took_ms;
            }
            assert_eq!(silence.cause(now_ms, 3_000), cause, "{why}: {waits:?}");
        }
    }
}
