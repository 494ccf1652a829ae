//! How many wrong signatures an address may bring. A token that is wrong in another way costs nothing; one with a key that
//! exists costs a check by that key, which only a limit keeps a stranger from asking for all day.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Wrong signatures that an address may bring in a second.
const FAILURES_MAX: u32 = 10;
/// Addresses that are counted apart in one second. Those beyond it are counted together.
const ADDRESSES_MAX: usize = 10_000;

/// The wrong signatures of this second. The lock is taken only for tokens that are not known yet.
#[derive(Debug, Default)]
pub struct Failures(Mutex<Second>);

#[derive(Debug, Default)]
struct Second {
    at: i64,
    of_address: HashMap<u32, u32>,
}

impl Failures {
    /// Whether a signature from an address is looked at.
    pub(super) fn admits(&self, address: u32, second: i64) -> bool {
        let now = self.at(second);
        now.of_address.get(&now.slot(address)).is_none_or(|count| *count < FAILURES_MAX)
    }

    /// Counts a wrong one.
    pub(super) fn count(&self, address: u32, second: i64) {
        let mut now = self.at(second);
        let slot = now.slot(address);
        *now.of_address.entry(slot).or_default() += 1;
    }

    fn at(&self, second: i64) -> MutexGuard<'_, Second> {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.at != second {
            *now = Second { at: second, of_address: HashMap::new() };
        }
        now
    }
}

impl Second {
    fn slot(&self, address: u32) -> u32 {
        if self.of_address.contains_key(&address) || self.of_address.len() < ADDRESSES_MAX { address } else { 0 }
    }
}
