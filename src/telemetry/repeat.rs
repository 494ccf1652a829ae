//! A trouble that comes again and again, told the first time, then once a minute with a count, then once when it is over.
//!
//! What fails once a second for a quarter of an hour would else write 900 lines that say the same, and bury the one that
//! says something else. The helper only decides *whether* a line is due and what it counts; the line itself stands where
//! the trouble is, so that its message can be searched for.

use std::time::{Duration, Instant};

/// How often a trouble that lasts is told.
const PERIOD: Duration = Duration::from_secs(60);

/// One trouble of one component.
#[derive(Debug, Default)]
pub struct Repeated {
    lasting: Option<Lasting>,
}

#[derive(Debug)]
struct Lasting {
    since: Instant,
    told: Instant,
    failures: u64,
}

/// What a line about a trouble says beside its cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// How many failures there have been, this one included.
    pub failures: u64,
    /// For how long.
    pub lasting: Duration,
}

impl Trouble {
    /// For how long, in whole milliseconds, as a field of a line.
    #[must_use]
    pub fn lasting_ms(&self) -> u64 {
        u64::try_from(self.lasting.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Repeated {
    /// It failed. Returns what to tell if a line is due: at the first failure, and once a minute from then on.
    pub fn failed(&mut self) -> Option<Trouble> {
        self.failed_at(Instant::now())
    }

    /// It works. Returns what to tell if it did not before.
    pub fn works(&mut self) -> Option<Trouble> {
        self.works_at(Instant::now())
    }

    /// Whether it last failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.lasting.is_some()
    }

    /// As [`Self::failed`], at a moment of the caller's.
    pub fn failed_at(&mut self, now: Instant) -> Option<Trouble> {
        let Some(lasting) = &mut self.lasting else {
            self.lasting = Some(Lasting { since: now, told: now, failures: 1 });
            return Some(Trouble { failures: 1, lasting: Duration::ZERO });
        };
        lasting.failures += 1;
        let due = now.saturating_duration_since(lasting.told) >= PERIOD;
        due.then(|| {
            lasting.told = now;
            Trouble { failures: lasting.failures, lasting: now.saturating_duration_since(lasting.since) }
        })
    }

    /// As [`Self::works`], at a moment of the caller's.
    pub fn works_at(&mut self, now: Instant) -> Option<Trouble> {
        let Lasting { since, failures, .. } = self.lasting.take()?;
        Some(Trouble { failures, lasting: now.saturating_duration_since(since) })
    }

    /// As [`Self::quiet_at`], now.
    pub fn quiet(&mut self) -> Option<Trouble> {
        // Asked at each success: without a trouble the clock is not even read.
        if self.is_failing() { self.quiet_at(Instant::now()) } else { None }
    }

    /// As [`Self::works_at`], but only if the last line is a minute old: for a trouble that comes and goes quickly, whose
    /// end would else be told as often as its beginning.
    pub fn quiet_at(&mut self, now: Instant) -> Option<Trouble> {
        let is_quiet = self.lasting.as_ref().is_some_and(|it| now.saturating_duration_since(it.told) >= PERIOD);
        if is_quiet { self.works_at(now) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_of_15_minutes_is_logged_sixteen_times_and_once_at_its_end() {
        let (mut repeated, began) = (Repeated::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        let told: Vec<_> = (0..=900).filter_map(|second| repeated.failed_at(at(second))).collect();
        assert_eq!(told.len(), 16);
        assert_eq!(told[0], Trouble { failures: 1, lasting: Duration::ZERO });
        assert_eq!(told[1], Trouble { failures: 61, lasting: Duration::from_secs(60) });
        assert!(repeated.is_failing());
        assert_eq!(repeated.works_at(at(910)), Some(Trouble { failures: 901, lasting: Duration::from_secs(910) }));
        assert_eq!(repeated.works_at(at(911)), None, "told once");
        assert_eq!(repeated.failed_at(at(912)), Some(Trouble { failures: 1, lasting: Duration::ZERO }), "another one");
    }

    #[test]
    fn intermittent_failure_is_over_after_a_minute_without_a_line() {
        let (mut repeated, began) = (Repeated::default(), Instant::now());
        assert!(repeated.failed_at(began).is_some());
        assert_eq!(repeated.quiet_at(began + Duration::from_secs(59)), None);
        assert_eq!(repeated.failed_at(began + Duration::from_secs(59)), None);
        let over = repeated.quiet_at(began + PERIOD).map(|trouble| (trouble.failures, trouble.lasting_ms()));
        assert_eq!(over, Some((2, 60_000)));
    }
}
