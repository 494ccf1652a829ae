//! The rate of beats that a daemon receives, and whether it falls short of what its instances owe.
//!
//! An instance beats once in a third of its TTL, so a rate is measured over at least the longest of these intervals:
//! over one second, a fleet that beats every five seconds in step would show 0 four times of five. For the same reason
//! no rate is told before so much has been seen. A shortfall is told only of instances that have owed their beats for a
//! whole TTL: those that have registered or arrived since cannot have been heard as often.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// The rate is taken over at least so long.
const WINDOW_MIN: Duration = Duration::from_secs(15);
/// The share of the expected beats, in percent, below which they are too few.
const ENOUGH_PERCENT: u128 = 80;
/// So many beats a second, in thousandths, are too few to tell a shortfall from chance.
const FEW_MILLI: u64 = 1_000;

/// What is told of beats.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Beats {
    /// Beats per second; `None` until they have been counted for the longest interval.
    pub per_second: Option<f64>,
    /// Whether they have been too few for the longest TTL.
    pub late: bool,
}

/// What was counted at the last moments that a summary was made.
#[derive(Debug, Default)]
pub struct BeatHistory {
    samples: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    received: u64,
    expected_milli: u64,
}

impl BeatHistory {
    /// Adds what is counted now: beats `received` so far, and those `expected_milli` per second, in thousandths, of
    /// instances whose longest TTL is `ttl`.
    pub fn observe(&mut self, at: Instant, received: u64, expected_milli: u64, ttl: Duration) -> Beats {
        let (interval, now) = (ttl / 3, Sample { at, received, expected_milli });
        self.forget(at, ttl.max(WINDOW_MIN));
        let beats = Beats { per_second: self.rate(now, interval), late: self.is_late(now, ttl) };
        self.samples.push_back(now);
        beats
    }

    /// Keeps what reaches back for `span`, if it is not much older: the last request may be an hour ago.
    fn forget(&mut self, now: Instant, span: Duration) {
        while self.samples.get(1).is_some_and(|second| now.duration_since(second.at) >= span) {
            self.samples.pop_front();
        }
        if self.samples.front().is_some_and(|first| now.duration_since(first.at) > span * 2) {
            self.samples.pop_front();
        }
    }

    fn rate(&self, now: Sample, interval: Duration) -> Option<f64> {
        let window = interval.max(WINDOW_MIN);
        let age = |sample: &Sample| now.at.duration_since(sample.at);
        let latest_of_window = self.samples.iter().rev().find(|sample| age(sample) >= window);
        let first = latest_of_window.or_else(|| self.samples.front().filter(|first| age(first) >= interval))?;
        let beats = u32::try_from(now.received.saturating_sub(first.received)).unwrap_or(u32::MAX);
        Some(f64::from(beats) / age(first).as_secs_f64().max(0.001))
    }

    fn is_late(&self, now: Sample, ttl: Duration) -> bool {
        let Some(first) = self.samples.iter().rposition(|sample| now.at.duration_since(sample.at) >= ttl) else {
            return false;
        };
        let owed = self.samples.range(first..).map(|sample| sample.expected_milli).min().unwrap_or_default();
        let owed = owed.min(now.expected_milli);
        let (first, span) = match self.samples.get(first) {
            Some(sample) => (sample.received, now.at.duration_since(sample.at)),
            None => return false,
        };
        let received = u128::from(now.received.saturating_sub(first)) * 1_000_000;
        owed > FEW_MILLI && received * 100 < u128::from(owed) * span.as_millis() * ENOUGH_PERCENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(15);

    /// Observes once a second what `received(second)` and `expected_milli(second)` tell, for so many seconds.
    fn observe(seconds: u64, received: impl Fn(u64) -> u64, expected_milli: impl Fn(u64) -> u64) -> Vec<Beats> {
        let (mut history, began) = (BeatHistory::default(), Instant::now());
        let at = |second| began + Duration::from_secs(second);
        (0..seconds).map(|it| history.observe(at(it), received(it), expected_milli(it), TTL)).collect()
    }

    #[test]
    fn synchronised_beats_are_shown_as_their_mean_rate() {
        // 600 instances beat together, every 5 s.
        let seen = observe(60, |second| second / 5 * 600, |_| 120_000);
        assert!(seen[..5].iter().all(|beats| beats.per_second.is_none()), "{seen:?}");
        assert!(seen[5..].iter().all(|beats| beats.per_second.is_some_and(|rate| rate >= 60.0)), "{seen:?}");
        assert!(seen[15..].iter().all(|beats| beats.per_second == Some(120.0)), "{seen:?}");
        assert!(seen.iter().all(|beats| !beats.late), "{seen:?}");
    }

    #[test]
    fn a_fleet_that_has_just_registered_is_not_late() {
        // Nothing for 30 s, then 600 instances: the first of their beats comes after 5 s.
        let expected = |second| if second < 30 { 0 } else { 120_000 };
        let seen = observe(60, |second| second.saturating_sub(30) / 5 * 600, expected);
        assert!(seen.iter().all(|beats| !beats.late), "{seen:?}");
    }

    #[test]
    fn beats_that_stay_away_for_a_ttl_are_late() {
        let seen = observe(60, |second| second.min(30) * 120, |_| 120_000);
        assert!(seen[..31].iter().all(|beats| !beats.late), "{seen:?}");
        assert!(seen[46..].iter().all(|beats| beats.late && beats.per_second == Some(0.0)), "{seen:?}");
    }

    #[test]
    fn rate_excludes_the_time_without_requests() {
        let (mut history, began) = (BeatHistory::default(), Instant::now());
        history.observe(began, 0, 120_000, TTL);
        let later = began + Duration::from_secs(3_600);
        assert_eq!(history.observe(later, 10, 120_000, TTL), Beats::default());
        let beats = history.observe(later + Duration::from_secs(5), 610, 120_000, TTL);
        assert_eq!(beats.per_second, Some(120.0));
    }

    #[test]
    fn remembered_values_are_bounded() {
        let mut history = BeatHistory::default();
        let began = Instant::now();
        for second in 0..1_000 {
            history.observe(began + Duration::from_secs(second), second, 1_000, Duration::from_secs(300));
        }
        assert!(history.samples.len() <= 302, "{}", history.samples.len());
    }
}
