//! A cheap way from a counter, or a hash, to numbers that look random.

/// Spreads a number over all 64 bits (the finalizer of splitmix64); a sequence of numbers becomes a random one.
#[must_use]
pub fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
