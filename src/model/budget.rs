//! What the registry takes in the memory of a daemon, and what it may take.
//!
//! Every daemon holds every record, the dead ones as long as they are kept, and loads all of them when it starts. So a
//! client that registers without end would fill every daemon, and fill it again after each restart. A [`Budget`] bounds
//! records and their bytes, and no address may use all of it ([`is_within_share`]).

use std::{
    num::NonZeroU32,
    ops::{Add, AddAssign, Sub, SubAssign},
};

/// What a record takes besides its texts: the entry, its lease, its places in the maps of the view. An estimate from the
/// sizing table of `docs/operating.md`: 0.9 kB to 1.1 kB for each instance on record, texts included.
const RECORD_BYTES: u64 = 1_024;
/// What a label takes besides its texts: two boxed texts, and what the allocator rounds up.
const LABEL_BYTES: u64 = 64;
/// Sizes are multiples of this, so that a registration that is repeated with a slightly longer text needs no more.
const STEP_BYTES: u64 = 256;
/// An address may have as many times what is left free as this says.
const SHARE: u64 = 3;
/// What a known instance may add when it registers again, although the registry is full: another address, a longer version.
const REJOIN_BYTES: u64 = 1_024;
/// Such growth ends at this part of the budget beyond it.
const REJOIN_PART: u64 = 8;

/// Where a change comes from: an address, for fairness among addresses and for nothing else. It is a keyed hash, so two
/// addresses share a number by accident only, and no client can look for one that does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin(NonZeroU32);

impl Origin {
    /// The origin with this hash.
    #[must_use]
    pub fn from_hash(hash: u64) -> Self {
        let low = u32::try_from(hash & u64::from(u32::MAX)).unwrap_or_default();
        Self(NonZeroU32::new(low).unwrap_or(NonZeroU32::MIN))
    }

    /// The origin with this number.
    #[must_use]
    pub const fn from_number(number: NonZeroU32) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0.get()
    }
}

/// Records, and the bytes they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many, the dead ones on record included.
    pub records: u64,
    /// What they take in memory, by [`record_bytes`].
    pub bytes: u64,
}

impl Usage {
    /// That of one record.
    #[must_use]
    pub const fn of_record(bytes: u64) -> Self {
        Self { records: 1, bytes }
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }
}

impl Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { records: self.records.saturating_add(other.records), bytes: self.bytes.saturating_add(other.bytes) }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { records: self.records.saturating_sub(other.records), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

impl SubAssign for Usage {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

/// What a record takes in memory that has texts of `text_bytes` in all, of them `labels` pairs of key and value.
#[must_use]
pub fn record_bytes(text_bytes: usize, labels: usize) -> u64 {
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let bytes = RECORD_BYTES + count(text_bytes) + LABEL_BYTES * count(labels);
    bytes.next_multiple_of(STEP_BYTES)
}

/// The most that the registry may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Records, the dead ones included.
    pub records: u64,
    /// What they take in memory.
    pub bytes: u64,
}

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Records.
    Records,
    /// Their bytes.
    Bytes,
}

impl Unit {
    /// The word for it, for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Bytes => "bytes",
        }
    }

    /// What is counted, for people.
    #[must_use]
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Bytes => "bytes of records",
        }
    }

    /// The setting of its limit.
    #[must_use]
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Records => "--max-records",
            Self::Bytes => "--max-record-bytes",
        }
    }
}

/// Which limit a registration would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// What is counted.
    pub unit: Unit,
    /// The limit of the whole registry.
    pub limit: u64,
    /// Whether only the share of the caller's address is used up, so that other addresses may still register.
    pub of_address: bool,
}

impl Budget {
    /// Each unit with what is used of it and its limit.
    pub fn units(self, used: Usage) -> [(Unit, u64, u64); 2] {
        [(Unit::Records, used.records, self.records), (Unit::Bytes, used.bytes, self.bytes)]
    }

    /// The unit of which most is used, with what is used and its limit.
    #[must_use]
    pub fn fullest(self, used: Usage) -> (Unit, u64, u64) {
        let [records, bytes] = self.units(used);
        let product = |used: u64, limit: u64| u128::from(used) * u128::from(limit);
        if product(bytes.1, records.2) > product(records.1, bytes.2) { bytes } else { records }
    }

    /// The unit that has no room for the smallest record, if there is one, with what is used and its limit.
    #[must_use]
    pub fn full(self, used: Usage) -> Option<(Unit, u64, u64)> {
        let smallest = Usage::of_record(record_bytes(1, 0));
        let full = self.admit(used, None, smallest).err()?;
        self.units(used).into_iter().find(|(unit, ..)| *unit == full.unit)
    }

    /// Whether there is room for `growth` where `used` is taken, `own` of it by the address that asks (`None`: the daemon
    /// itself asks, which has no share). What needs no room is never refused. A known instance that needs a little more
    /// passes in a full registry as well, until the budget is exceeded by an eighth.
    ///
    /// # Errors
    /// The limit that is in the way.
    pub fn admit(self, used: Usage, own: Option<Usage>, growth: Usage) -> Result<(), Full> {
        let reserve = self.bytes.saturating_add(self.bytes / REJOIN_PART);
        let is_rejoin = growth.records == 0 && growth.bytes <= REJOIN_BYTES;
        if is_rejoin && used.bytes.saturating_add(growth.bytes) <= reserve {
            return Ok(());
        }
        let own = own.unwrap_or_default();
        let asks = [(own.records, growth.records), (own.bytes, growth.bytes)];
        for ((unit, used, limit), (own, growth)) in self.units(used).into_iter().zip(asks) {
            if growth == 0 {
                continue;
            }
            let free = limit.checked_sub(used.saturating_add(growth));
            let Some(free) = free else { return Err(Full { unit, limit, of_address: false }) };
            if own > 0 && !is_within_share(own.saturating_add(growth), free) {
                return Err(Full { unit, limit, of_address: true });
            }
        }
        Ok(())
    }
}

/// Whether one of several that share something limited may have `own` of it while `free` is left: at most three times as
/// much. One of them alone leaves a quarter free, two leave a seventh, and so on; none can take the last of it. (The
/// dynamic threshold of shared-memory switches; Choudhury and Hahne, 1998.)
#[must_use]
pub const fn is_within_share(own: u64, free: u64) -> bool {
    own <= free.saturating_mul(SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget { records: 1_000, bytes: 1_000_000 };

    /// How many records of these bytes one address after the other can add.
    fn fill(addresses: usize, bytes: u64) -> Vec<u64> {
        let mut used = Usage::default();
        let fill_one = |_| {
            let mut own = Usage::default();
            while BUDGET.admit(used, Some(own), Usage::of_record(bytes)).is_ok() {
                used += Usage::of_record(bytes);
                own += Usage::of_record(bytes);
            }
            own.records
        };
        (0..addresses).map(fill_one).collect()
    }

    #[test]
    fn each_address_leaves_a_quarter_of_what_it_found() {
        assert_eq!(fill(4, 1), [750, 187, 47, 12]);
        assert_eq!(fill(2, 10_000), [75, 18], "bytes are shared like records");
    }

    #[test]
    fn last_place_is_left_to_an_address_without_records() {
        let full = |used| Usage { records: used, bytes: 0 };
        assert_eq!(BUDGET.admit(full(999), Some(Usage::default()), full(1)), Ok(()));
        let refused = Full { unit: Unit::Records, limit: 1_000, of_address: true };
        assert_eq!(BUDGET.admit(full(999), Some(full(1)), full(1)), Err(refused));
        let refused = Full { of_address: false, ..refused };
        assert_eq!(BUDGET.admit(full(1_000), Some(Usage::default()), full(1)), Err(refused));
    }

    #[test]
    fn change_that_needs_no_room_passes_over_the_budget() {
        let over = Usage { records: 5_000, bytes: 5_000_000 };
        assert_eq!(BUDGET.admit(over, Some(over), Usage::default()), Ok(()));
        let refused = Full { unit: Unit::Bytes, limit: 1_000_000, of_address: false };
        assert_eq!(BUDGET.admit(over, None, Usage { records: 0, bytes: 1 }), Err(refused));
    }

    #[test]
    fn known_instance_that_grows_a_little_passes_in_a_full_registry_up_to_an_eighth_beyond() {
        let full = Usage { records: 1_000, bytes: 1_000_000 };
        let grows = |used, bytes| BUDGET.admit(used, Some(full), Usage { records: 0, bytes });
        assert_eq!(grows(full, 1_024), Ok(()));
        assert!(grows(full, 1_025).is_err(), "growth without end is a flood");
        assert_eq!(grows(Usage { records: 1_000, bytes: 1_124_000 }, 1_000), Ok(()));
        assert!(grows(Usage { records: 1_000, bytes: 1_124_000 }, 1_001).is_err());
        assert!(BUDGET.admit(full, Some(full), Usage::of_record(1)).is_err(), "a new instance has no reserve");
    }

    #[test]
    fn fullest_unit_is_the_one_with_the_greater_part_used() {
        assert_eq!(BUDGET.fullest(Usage { records: 800, bytes: 900_000 }), (Unit::Bytes, 900_000, 1_000_000));
        assert_eq!(BUDGET.fullest(Usage { records: 800, bytes: 700_000 }), (Unit::Records, 800, 1_000));
    }

    #[test]
    fn budget_is_full_when_the_smallest_record_finds_no_room() {
        let full = |records, bytes| BUDGET.full(Usage { records, bytes });
        assert_eq!(full(999, 998_720), None);
        assert_eq!(full(1_000, 0), Some((Unit::Records, 1_000, 1_000)));
        assert_eq!(full(999, 998_721), Some((Unit::Bytes, 998_721, 1_000_000)));
    }

    #[test]
    fn size_of_a_record_grows_in_steps_with_texts_and_labels() {
        assert_eq!(record_bytes(0, 0), 1_024);
        assert_eq!(record_bytes(1, 0), 1_280);
        assert_eq!(record_bytes(100, 0), record_bytes(200, 0), "a slightly longer text needs no more");
        assert_eq!(record_bytes(16_384, 64), 21_504);
    }

    #[test]
    fn origin_is_never_zero() {
        assert_eq!(Origin::from_hash(0), Origin::from_hash(1));
    }
}
