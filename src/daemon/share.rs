//! How the connections of a daemon are shared among its registries: one budget, whatever their number.

use crate::postgres::pool::{CONNECTIONS, CONNECTIONS_MIN};

/// Most connections of a daemon with several registries, over all of them.
const CONNECTIONS_MAX: usize = 64;

/// How many connections one of so many registries may hold, that of its feed included: the budget is split evenly, and no
/// registry needs more than a daemon that has no other.
pub(crate) fn share(registries: usize) -> usize {
    (CONNECTIONS_MAX / registries.max(1)).clamp(CONNECTIONS_MIN, CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::pool::split;

    #[test]
    fn budget_of_connections_is_split_and_never_exceeded() {
        for registries in 1..=CONNECTIONS_MAX / CONNECTIONS_MIN {
            let share = share(registries);
            let (engine, operators) = split(share);
            assert_eq!(engine + operators + 1, share, "with that of the feed");
            assert!(engine >= 2 && operators >= 1 && share * registries <= CONNECTIONS_MAX, "{registries}");
        }
        assert_eq!((share(1), share(8), share(9), share(16)), (8, 8, 7, 4));
        assert_eq!(split(CONNECTIONS), (5, 2));
    }
}
