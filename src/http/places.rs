//! The places for HTTP connections: how many there are, how many one address may have, and those that only probes use.
//!
//! The HTTP port serves a scraper, some probes and a few browsers, so small limits cost nothing and keep a client that
//! opens connections and forgets them from eating the file descriptors that actors need. But a daemon that does not
//! answer its probes is taken out of service and then killed, so a connection over a limit is accepted all the same, on
//! one of [`PROBE_CONNECTIONS`] further places: there `/livez` and `/readyz` are answered, and everything else is
//! refused with the limit. The oldest of these gives way to the newest. A probe sends its request at once and is
//! answered at once; what is still there when 32 others have come is something else.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use crate::{access::counted_address, model::Origin};

/// Most HTTP connections that are open at once, those of [`PROBE_CONNECTIONS`] apart.
pub const MAX_CONNECTIONS: usize = 128;
/// Most of them from one address.
pub const MAX_PER_ADDRESS: usize = 16;
/// The places beyond these limits, for probes.
pub const PROBE_CONNECTIONS: usize = 32;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Everything.
    Full,
    /// Probes only: its address has as many connections as it may.
    ProbesOfAddress,
    /// Probes only: all places are taken.
    ProbesOfAll,
}

impl Admission {
    /// The limit that has been reached, in words.
    #[must_use]
    pub fn limit(self) -> Option<impl fmt::Display> {
        match self {
            Self::Full => None,
            Self::ProbesOfAddress => {
                Some(format!("your address has {MAX_PER_ADDRESS} connections to this port, which is the limit"))
            }
            Self::ProbesOfAll => Some(format!("{MAX_CONNECTIONS} connections are open, which is the limit")),
        }
    }
}

/// All places. Clones share them.
#[derive(Clone, Debug)]
pub struct Places {
    connections: usize,
    per_address: usize,
    /// Keyed by chance, so that no client can look for an address that shares the origin of another one.
    hasher: RandomState,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    open: usize,
    by_address: HashMap<IpAddr, usize>,
    /// The oldest first.
    probes: VecDeque<(u64, CancellationToken)>,
    last_id: u64,
}

/// A place that is taken; given back when dropped.
#[derive(Debug)]
pub struct Place {
    /// What it is for.
    pub admission: Admission,
    /// Cancelled when the connection has to give way.
    pub evicted: CancellationToken,
    address: IpAddr,
    origin: Origin,
    id: u64,
    taken: Arc<Mutex<Taken>>,
}

impl Place {
    /// Its address, as a number.
    #[must_use]
    pub fn origin(&self) -> u32 {
        self.origin.number()
    }
}

impl Places {
    /// So many places, and so many for one address.
    #[must_use]
    pub fn new(connections: usize, per_address: usize) -> Self {
        Self { connections, per_address, hasher: RandomState::new(), taken: Arc::default() }
    }

    /// Takes a place for a connection from an address. There is always one.
    #[must_use]
    pub fn take(&self, address: IpAddr) -> Place {
        let address = counted_address(address);
        let origin = Origin::from_hash(self.hasher.hash_one(address));
        let mut taken = lock(&self.taken);
        let of_address = taken.by_address.get(&address).copied().unwrap_or_default();
        let admission = if of_address >= self.per_address {
            Admission::ProbesOfAddress
        } else if taken.open >= self.connections {
            Admission::ProbesOfAll
        } else {
            Admission::Full
        };
        taken.last_id += 1;
        let (id, evicted) = (taken.last_id, CancellationToken::new());
        if admission == Admission::Full {
            taken.open += 1;
            *taken.by_address.entry(address).or_default() += 1;
        } else {
            taken.probes.push_back((id, evicted.clone()));
            if taken.probes.len() > PROBE_CONNECTIONS
                && let Some((_, oldest)) = taken.probes.pop_front()
            {
                oldest.cancel();
            }
        }
        Place { admission, evicted, address, origin, id, taken: Arc::clone(&self.taken) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if self.admission != Admission::Full {
            taken.probes.retain(|(id, _)| *id != self.id);
            return;
        }
        taken.open = taken.open.saturating_sub(1);
        if let Some(of_address) = taken.by_address.get_mut(&self.address) {
            *of_address = of_address.saturating_sub(1);
            if *of_address == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

/// Counts stay true whatever happened to the thread that changed them last.
fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn connections_over_a_limit_are_for_probes_until_one_ends() {
        let places = Places::new(3, 2);
        let held = [places.take(address(1)), places.take(address(1))];
        assert!(held.iter().all(|place| place.admission == Admission::Full));
        assert_eq!(places.take(address(1)).admission, Admission::ProbesOfAddress);
        let other = places.take(address(2));
        assert_eq!(other.admission, Admission::Full);
        assert_eq!(places.take(address(3)).admission, Admission::ProbesOfAll);
        drop(other);
        assert_eq!(places.take(address(3)).admission, Admission::Full);
        drop(held);
        assert!(lock(&places.taken).by_address.is_empty() && lock(&places.taken).probes.is_empty());
    }

    #[test]
    fn an_address_written_as_ipv6_is_the_same_address() {
        let places = Places::new(9, 1);
        let _held = places.take(address(1));
        let mapped = IpAddr::from(std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
        assert_eq!(places.take(mapped).admission, Admission::ProbesOfAddress);
    }

    #[test]
    fn ipv6_addresses_of_one_network_share_their_places_and_their_origin() {
        let places = Places::new(9, 1);
        let (first, same, other) = ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1");
        let held = places.take(first.parse().unwrap());
        let second = places.take(same.parse().unwrap());
        assert_eq!(second.admission, Admission::ProbesOfAddress, "a client has 2^64 addresses of its network");
        assert_eq!(held.origin(), second.origin(), "wrong signatures of a network are counted together");
        assert_eq!(places.take(other.parse().unwrap()).admission, Admission::Full);
    }

    #[test]
    fn origin_of_an_address_cannot_be_computed_by_others() {
        let origins: std::collections::HashSet<u32> =
            (0..8).map(|_| Places::new(1, 1).take(address(1)).origin()).collect();
        assert!(origins.len() > 1, "the hash has no key: a stranger finds an address with the origin of another one");
    }

    #[test]
    fn the_oldest_of_the_probes_gives_way_to_the_newest() {
        let places = Places::new(0, 1);
        let held: Vec<_> = (0..=PROBE_CONNECTIONS).map(|_| places.take(address(1))).collect();
        assert!(held[0].evicted.is_cancelled());
        assert!(held[1..].iter().all(|place| !place.evicted.is_cancelled()));
        drop(held);
        assert!(lock(&places.taken).probes.is_empty());
    }
}
