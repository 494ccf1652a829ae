//! Pauses between attempts that fail: random, so that many clients do not come back in one blow, and longer each time.

use std::time::Duration;

use uuid::Uuid;

/// How long to wait before the next attempt: between the shortest pause and a limit that doubles up to the longest.
#[derive(Debug)]
pub(super) struct Backoff {
    shortest: Duration,
    longest: Duration,
    limit: Duration,
}

impl Backoff {
    /// Pauses from `shortest` to `longest`.
    pub(super) fn new(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, limit: shortest }
    }

    /// The next pause.
    pub(super) fn next(&mut self) -> Duration {
        self.limit = (self.limit * 2).min(self.longest);
        self.shortest + self.limit.saturating_sub(self.shortest).mul_f64(random())
    }

    /// Begins again with short pauses.
    pub(super) fn reset(&mut self) {
        self.limit = self.shortest;
    }
}

/// A number from 0 to 1, to spread clients in time; not for secrets.
pub(super) fn random() -> f64 {
    // The first four bytes of a version 4 UUID are random.
    f64::from(Uuid::new_v4().as_fields().0) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_begin_again() {
        let (shortest, longest) = (Duration::from_millis(200), Duration::from_secs(5));
        let mut backoff = Backoff::new(shortest, longest);
        let first = backoff.next();
        assert!(first >= shortest && first <= shortest * 2, "{first:?}");
        let later: Vec<_> = (0..1_000).map(|_| backoff.next()).collect();
        assert!(later.iter().all(|pause| (shortest..=longest).contains(pause)));
        assert!(later.iter().any(|pause| *pause > longest / 2), "pauses grow");
        backoff.reset();
        assert!(backoff.next() <= shortest * 2);
    }

    #[test]
    fn random_numbers_stay_in_their_range() {
        assert!((0..1000).map(|_| random()).all(|number| (0.0..=1.0).contains(&number)));
    }
}
