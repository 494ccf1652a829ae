//! Something that clients can cause at will, logged the first time and then at most once in ten seconds, with a count.

use std::time::{Duration, Instant};

/// How often it is logged at most.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// One kind of event.
#[derive(Debug, Default)]
pub struct Throttle {
    last: Option<Instant>,
    suppressed: u64,
}

impl Throttle {
    /// It has happened. Returns how often it was not logged since it last was, if it is to be logged now.
    pub fn due(&mut self) -> Option<u64> {
        self.due_at(Instant::now())
    }

    fn due_at(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_none_or(|last| now.duration_since(last) >= LOG_INTERVAL) {
            self.last = Some(now);
            Some(std::mem::take(&mut self.suppressed))
        } else {
            self.suppressed += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_is_logged_at_once_and_then_with_the_count_of_those_between() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        assert_eq!(throttle.due_at(start), Some(0));
        assert_eq!((throttle.due_at(start), throttle.due_at(start)), (None, None));
        assert_eq!(throttle.due_at(start + LOG_INTERVAL), Some(2));
        assert_eq!(throttle.due_at(start + LOG_INTERVAL * 3), Some(0));
    }
}
