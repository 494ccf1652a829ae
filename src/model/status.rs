//! The states of an instance, the changes between them, and the reasons of a death.

/// State of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InstanceStatus {
    /// Registered, not ready for work. Never resolved.
    Starting,
    /// Ready for work.
    Alive,
    /// Takes nothing new. Never resolved.
    Draining,
    /// Final.
    Dead,
}

impl InstanceStatus {
    /// Every status, in the order of an instance's life.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Alive, Self::Draining, Self::Dead];

    /// The word for it in SQL, metrics and JSON of operations.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Alive => "alive",
            Self::Draining => "draining",
            Self::Dead => "dead",
        }
    }

    /// The status for a word, if it is one.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Whether an instance may go from this status to `next`. The same table stands in the SQL function
    /// `muster_apply_status`, which decides; a test holds the two against each other.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Starting, Self::Starting | Self::Alive | Self::Dead)
                | (Self::Alive | Self::Draining, Self::Alive | Self::Draining | Self::Dead)
                | (Self::Dead, Self::Dead)
        )
    }
}

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeathReason {
    /// No beat within the TTL.
    Stale,
    /// The epoch was rotated.
    OldEpoch,
    /// The owner ended it.
    Deregistered,
    /// A new registration of the same instance id took its place.
    Replaced,
    /// An operator ended it.
    Operator,
}

impl DeathReason {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::Stale, Self::OldEpoch, Self::Deregistered, Self::Replaced, Self::Operator];

    /// The word for it in SQL and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::OldEpoch => "old_epoch",
            Self::Deregistered => "deregistered",
            Self::Replaced => "replaced",
            Self::Operator => "operator",
        }
    }

    /// The reason for a word, if it is one.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_is_final_and_everything_may_die() {
        for status in InstanceStatus::ALL {
            assert!(status.may_become(InstanceStatus::Dead));
            assert!(status.may_become(status), "the present status changes nothing");
            assert_eq!(InstanceStatus::Dead.may_become(status), status == InstanceStatus::Dead);
        }
        assert!(!InstanceStatus::Starting.may_become(InstanceStatus::Draining));
        assert!(!InstanceStatus::Alive.may_become(InstanceStatus::Starting));
    }

    #[test]
    fn every_word_leads_back_to_its_value() {
        for status in InstanceStatus::ALL {
            assert_eq!(InstanceStatus::from_word(status.as_str()), Some(status));
        }
        for reason in DeathReason::ALL {
            assert_eq!(DeathReason::from_word(reason.as_str()), Some(reason));
        }
        assert_eq!(InstanceStatus::from_word("ALIVE"), None);
    }
}
