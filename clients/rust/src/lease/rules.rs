//! The rules of a lease: pure decisions, without clock or connection.

use std::time::Duration;

use super::{clock::Moment, register::OnLost, state::LossReason};
use crate::{error::Error, reason::Reason};

/// The shortest pause between two beats.
const SHORTEST: Duration = Duration::from_millis(100);
/// The longest time for the answer to a beat.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The shortest time for the answer to a beat.
const ANSWER_MIN: Duration = Duration::from_millis(250);

/// What a daemon's reason says about a lease; `None` if it says nothing about it.
pub(super) const fn loss(reason: Reason) -> Option<LossReason> {
    match reason {
        Reason::LeaseExpired => Some(LossReason::Expired),
        Reason::LeaseReplaced | Reason::InstanceIdTaken => Some(LossReason::Replaced),
        Reason::EpochFenced => Some(LossReason::Fenced),
        Reason::UnknownLease | Reason::UnknownInstance => Some(LossReason::Unknown),
        _ => None,
    }
}

/// Whether a failure of one registration says that no other one would fare better now.
pub(super) fn concerns_all(error: &Error) -> bool {
    use Reason::{DatabaseUnavailable, NotYetSeen, Overloaded, ShuttingDown};
    error.is_transport() || matches!(error.reason(), DatabaseUnavailable | NotYetSeen | Overloaded | ShuttingDown)
}

/// From when on a lease is in doubt that was renewed by a beat sent then.
pub(super) fn doubtful_from(renewed: Moment, ttl: Duration) -> Moment {
    renewed.after(ttl * 2 / 3)
}

/// What follows a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Register again under the same instance id.
    Again,
    /// Register again under a new instance id.
    UnderNewId,
    /// Register again in whichever epoch is current.
    InCurrentEpoch,
    /// Stay without a lease.
    End,
}

/// What follows a loss, for an instance that may have named its epoch and may be draining.
pub(super) const fn after(loss: LossReason, on_lost: OnLost, names_epoch: bool, drains: bool) -> Next {
    match (on_lost, loss) {
        (OnLost::Stop, _) | (_, LossReason::Closed) => Next::End,
        _ if drains => Next::End,
        (OnLost::RejoinSameEpoch, LossReason::Fenced) => Next::End,
        (OnLost::Rejoin, LossReason::Fenced) if names_epoch => Next::End,
        (OnLost::RejoinAnyEpoch, LossReason::Fenced) => Next::InCurrentEpoch,
        (_, LossReason::Replaced) => Next::UnderNewId,
        _ => Next::Again,
    }
}

/// When to send the next beat: when the daemon expects it, but not after half of what remains of the shortest lease.
/// Up to a tenth early, by `random` (0 to 1), so that a fleet that was started together does not beat in step.
pub(super) fn next_beat(expected: Duration, shortest_remaining: Duration, random: f64) -> Duration {
    let latest = if expected.is_zero() { shortest_remaining / 2 } else { expected.min(shortest_remaining / 2) };
    latest.mul_f64(0.9 + 0.1 * random.clamp(0.0, 1.0)).max(SHORTEST)
}

/// How long to wait for the answer to a beat before another daemon is asked: a sixth of the shortest TTL leaves time for
/// two more daemons before a lease is suspect.
pub(super) fn answer_limit(shortest_ttl: Duration) -> Duration {
    (shortest_ttl / 6).clamp(ANSWER_MIN, ANSWER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_decides_whether_and_how_the_instance_registers_again() {
        use LossReason::{Closed, Deadline, Expired, Fenced, Replaced, Unknown};
        for reason in [Deadline, Expired, Unknown, Fenced] {
            assert_eq!(after(reason, OnLost::Rejoin, false, false), Next::Again, "{reason:?}");
            assert_eq!(after(reason, OnLost::Rejoin, false, true), Next::End, "{reason:?} while draining");
            assert_eq!(after(reason, OnLost::Stop, false, false), Next::End, "{reason:?}");
        }
        assert_eq!(after(Replaced, OnLost::Rejoin, false, false), Next::UnderNewId);
        assert_eq!(after(Fenced, OnLost::Rejoin, true, false), Next::End);
        assert_eq!(after(Fenced, OnLost::RejoinAnyEpoch, true, false), Next::InCurrentEpoch);
        assert_eq!(after(Fenced, OnLost::RejoinSameEpoch, false, false), Next::End);
        assert_eq!(after(Expired, OnLost::RejoinSameEpoch, false, false), Next::Again);
        assert_eq!(after(Expired, OnLost::Rejoin, true, false), Next::Again);
        assert_eq!(after(Closed, OnLost::Rejoin, false, false), Next::End);
    }

    #[test]
    fn only_verdicts_about_the_lease_end_it() {
        assert_eq!(loss(Reason::LeaseExpired), Some(LossReason::Expired));
        assert_eq!(loss(Reason::EpochFenced), Some(LossReason::Fenced));
        for reason in [Reason::NotYetSeen, Reason::BeatsNotSaved, Reason::Unavailable, Reason::Internal, Reason::Other]
        {
            assert_eq!(loss(reason), None, "{reason:?}");
        }
    }

    #[test]
    fn next_beat_is_never_later_than_expected_or_than_half_of_what_remains() {
        let seconds = Duration::from_secs;
        assert_eq!(next_beat(seconds(5), seconds(15), 1.0), seconds(5));
        assert_eq!(next_beat(seconds(5), seconds(15), 0.0), seconds(5).mul_f64(0.9));
        assert_eq!(next_beat(seconds(5), seconds(4), 1.0), seconds(2));
        assert_eq!(next_beat(Duration::ZERO, seconds(4), 1.0), seconds(2));
        assert_eq!(next_beat(seconds(5), Duration::ZERO, 1.0), SHORTEST);
    }

    #[test]
    fn answer_is_awaited_for_a_sixth_of_the_shortest_ttl_within_bounds() {
        assert_eq!(answer_limit(Duration::from_secs(15)), Duration::from_millis(2_500));
        assert_eq!(answer_limit(Duration::from_secs(1)), ANSWER_MIN);
        assert_eq!(answer_limit(Duration::from_secs(300)), ANSWER_MAX);
    }
}
