//! The one clock of the daemon.
//!
//! Two kinds of time exist here, and mixing them up is how registries kill live instances. *How long ago* is asked
//! of the monotonic clock: it never jumps, so a beat that was heard 3 s ago stays 3 s old whatever an administrator
//! or NTP does to the wall clock. *When* is asked of the wall clock, and only to print it to people; whether a lease
//! has ended is judged by the database clock alone.
//!
//! Monotonic time is a plain `u64` of milliseconds so that it fits an atomic in a lease's slot, and is handed down
//! as a value to the pure rules in `model`, which therefore can be tested at any time without waiting.

pub mod gap;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

/// What [`Clock::now_ms`] returns at the moment the clock is made: 1,000,000 ms, about 17 minutes.
///
/// Longer than any TTL (300 s), so that "n ms before now" never falls below zero, and never zero itself, so that zero
/// can stand for "never".
pub const START_MS: u64 = 1_000_000;

/// The daemon's clock: made once by the composition root, then copied.
///
/// Milliseconds of two clocks that were made separately cannot be compared.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Makes a clock that starts at [`START_MS`] now.
    #[must_use]
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }

    /// Returns monotonic time in milliseconds; starts at [`START_MS`], never goes back, stands still while the
    /// machine sleeps.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        let elapsed = self.origin.elapsed();
        START_MS + elapsed.as_secs() * 1_000 + u64::from(elapsed.subsec_millis())
    }

    /// Returns the wall clock of this machine, for people to read; never to judge a lease with.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the place that all other code is sent to")]
    pub fn wall(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// What the database clock shows, as far as this daemon knows: from the last time that it was read. Clones share it.
///
/// It lags by the way that answer took, and by what the two clocks have drifted apart since: good enough to say until
/// when a task waits, and never to judge a lease with.
#[derive(Clone, Debug)]
pub struct DatabaseClock {
    clock: Clock,
    /// Milliseconds of Unix time on the database clock at zero of our own; `i64::MIN`: never read.
    zero_ms: Arc<AtomicI64>,
}

impl DatabaseClock {
    /// One that was never read, beside our own.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, zero_ms: Arc::new(AtomicI64::new(i64::MIN)) }
    }

    /// It has just been read, and shows this.
    pub fn shows(&self, at: DateTime<Utc>) {
        self.zero_ms.store(at.timestamp_millis() - self.clock.now_ms().cast_signed(), Ordering::Relaxed);
    }

    /// What it will show after so long; `None` if it was never read.
    #[must_use]
    pub fn after(&self, time: Duration) -> Option<DateTime<Utc>> {
        let zero_ms = Some(self.zero_ms.load(Ordering::Relaxed)).filter(|zero_ms| *zero_ms != i64::MIN)?;
        let in_ms = self.clock.now_ms().cast_signed() + i64::try_from(time.as_millis()).ok()?;
        DateTime::from_timestamp_millis(zero_ms.checked_add(in_ms)?)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_clock_goes_on_from_where_it_was_read() {
        let database = DatabaseClock::new(Clock::new());
        assert_eq!(database.after(Duration::ZERO), None);
        let shown = DateTime::from_timestamp(1_000_000_000, 0).unwrap();
        database.shows(shown);
        let later = database.after(Duration::from_secs(2)).unwrap() - shown;
        assert!((2_000..60_000).contains(&later.num_milliseconds()), "{later}");
    }

    #[test]
    fn starts_above_every_ttl_and_never_goes_back() {
        let clock = Clock::new();
        let copy = clock;
        let first = clock.now_ms();
        let second = copy.now_ms();
        assert!(first >= START_MS && START_MS > 300_000);
        assert!(second >= first && second < first + 60_000, "{first} {second}");
    }
}
