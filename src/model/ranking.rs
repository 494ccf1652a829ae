//! Who is the best instance of a logical id.
//!
//! "Best" is whom a router should stay with, so the order rests on what does not change while an instance lives: not
//! suspect before suspect, then the longest serving, then the lowest instance id as a tie-break. The SQL view
//! `active_instance` has the same order; a test holds the two against each other. SeedCore ranked by the latest
//! beat, and its answer flipped between two healthy instances every few seconds.

use std::cmp::Ordering;

use chrono::{DateTime, Utc};

use super::ids::InstanceId;

/// What of an instance decides its rank; lower ranks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// Two beats overdue.
    pub suspect: bool,
    /// When its lease was registered.
    pub started_at: DateTime<Utc>,
    /// The tie-break.
    pub instance_id: InstanceId,
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        self.suspect
            .cmp(&other.suspect)
            .then_with(|| self.started_at.cmp(&other.started_at))
            .then_with(|| self.instance_id.cmp(&other.instance_id))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn rank() -> impl Strategy<Value = Rank> {
        (any::<bool>(), 0..4i64, 0..4u128).prop_map(|(suspect, second, id)| Rank {
            suspect,
            started_at: DateTime::from_timestamp(second, 0).unwrap(),
            instance_id: InstanceId(Uuid::from_u128(id)),
        })
    }

    proptest! {
        #[test]
        fn rank_is_a_total_order_that_agrees_with_equality(a in rank(), b in rank(), c in rank()) {
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            prop_assert_eq!(a.cmp(&b) == Ordering::Equal, a == b);
            if a <= b && b <= c {
                prop_assert!(a <= c);
            }
        }

        #[test]
        fn a_suspect_never_ranks_before_one_that_is_not(a in rank(), b in rank()) {
            if a.suspect && !b.suspect {
                prop_assert!(b < a);
            }
        }
    }
}
