//! How many connections each address has, so that no single one takes the places of all others.
//!
//! Addresses are compared in the form in which limits count them ([`counted`]). Touched at an accept and at the end of a
//! connection, by no call.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{model::Origin, rights::addresses::counted};

/// Counts connections by address.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    limit: usize,
    /// Keyed by chance, so that no client can look for an address that shares the origin of another one.
    hasher: RandomState,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place among the connections of an address, until dropped.
#[derive(Debug)]
pub(crate) struct AddressPlace {
    addresses: Addresses,
    network: IpAddr,
}

impl Addresses {
    /// At most so many connections of each address.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, hasher: RandomState::new(), open: Arc::default() }
    }

    /// The most of one address.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Takes a place, if one is left.
    pub(crate) fn take(&self, address: IpAddr) -> Option<AddressPlace> {
        let network = counted(address);
        let mut open = self.open();
        let count = open.entry(network).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(AddressPlace { addresses: self.clone(), network })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AddressPlace {
    /// The address, as far as changes are concerned that come from it.
    pub(crate) fn origin(&self) -> Origin {
        Origin::from_hash(self.addresses.hasher.hash_one(self.network))
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut open = self.addresses.open();
        if let Some(count) = open.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(addresses: &Addresses, address: &str) -> Option<AddressPlace> {
        addresses.take(address.parse().unwrap())
    }

    #[test]
    fn address_has_its_places_back_when_connections_end() {
        let addresses = Addresses::new(2);
        let first = taken(&addresses, "10.0.0.1").unwrap();
        let second = taken(&addresses, "::ffff:10.0.0.1").unwrap();
        assert!(taken(&addresses, "10.0.0.1").is_none());
        let other = taken(&addresses, "10.0.0.2");
        assert!(other.is_some(), "each address has places of its own");
        drop(first);
        let third = taken(&addresses, "10.0.0.1");
        assert!(third.is_some());
        drop((second, third, other));
        assert!(addresses.open().is_empty(), "nothing is kept of addresses without connections");
    }

    #[test]
    fn ipv6_addresses_of_one_network_count_as_one() {
        let addresses = Addresses::new(1);
        let _first = taken(&addresses, "2001:db8::1").unwrap();
        assert!(taken(&addresses, "2001:db8::ffff:1").is_none());
        assert!(taken(&addresses, "2001:db8:0:1::1").is_some());
    }
}
