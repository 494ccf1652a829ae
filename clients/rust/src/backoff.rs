//! Pauses between attempts: full jitter below a limit that doubles, so that a fleet does not come back in step.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);

/// Counts failures and draws the pause after each.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure: between 0.1 s and a limit that doubles from 0.2 s up to 2 s.
    pub(crate) fn pause(&mut self) -> Duration {
        self.pause_below(LONGEST)
    }

    /// As [`Self::pause`], with a lower limit: what is short-lived has no time for long pauses.
    pub(crate) fn pause_below(&mut self, longest: Duration) -> Duration {
        let longest = longest.clamp(SHORTEST, LONGEST);
        let limit = (SHORTEST * 2u32.saturating_pow(self.failures.min(8) + 1)).min(longest);
        self.failures = self.failures.saturating_add(1);
        SHORTEST + (limit - SHORTEST).mul_f64(random())
    }

    /// An attempt succeeded.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A number from 0 to 1. The standard library's hash keys are random; no secret depends on it.
pub(crate) fn random() -> f64 {
    let bits = u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or_default();
    f64::from(bits) / f64::from(u32::MAX)
}

/// A random index below `count`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a fraction of a count of instances")]
pub(crate) fn index(count: usize) -> usize {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    ((f64::from(count) * random()) as usize).min(count.saturating_sub(1) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_limit_and_start_over_after_success() {
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            assert!((SHORTEST..=LONGEST).contains(&backoff.pause()));
        }
        backoff.reset();
        assert!(backoff.pause() <= SHORTEST * 2);
    }

    #[test]
    fn pauses_stay_below_a_lower_limit() {
        let (mut backoff, limit) = (Backoff::default(), SHORTEST * 3);
        for _ in 0..100 {
            assert!((SHORTEST..=limit).contains(&backoff.pause_below(limit)));
        }
        assert_eq!(backoff.pause_below(Duration::ZERO), SHORTEST);
    }

    #[test]
    fn index_stays_below_the_count() {
        assert!((0..1_000).all(|_| index(3) < 3));
        assert_eq!(index(0), 0);
    }
}
