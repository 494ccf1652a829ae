//! How many handshakes do work at once: so many in all, and a quarter of them for one address.
//!
//! A handshake costs a signature and some tens of kilobytes, and a client that sends a ClientHello and then nothing keeps
//! its slot until its time is over. So one address cannot have all of them. What waits for a slot waits in order.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::access::counted_address;

/// Handshakes that do work at once, on one port.
pub(super) const HANDSHAKES_MAX: usize = 64;
/// Of these, for one address.
const OF_ADDRESS_MAX: usize = HANDSHAKES_MAX / 4;

/// The slots of a port. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    all: Arc<Semaphore>,
    of_addresses: Arc<Mutex<HashMap<IpAddr, OfAddress>>>,
}

#[derive(Debug)]
struct OfAddress {
    slots: Arc<Semaphore>,
    /// How many have a slot or wait for one.
    users: usize,
}

/// A slot, until dropped.
#[derive(Debug)]
pub(super) struct Slot {
    _of_address: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
    _user: User,
}

/// A handshake that has or wants a slot; the address is forgotten with the last one.
#[derive(Debug)]
struct User {
    slots: Slots,
    address: IpAddr,
}

impl Slots {
    pub(super) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(HANDSHAKES_MAX)), of_addresses: Arc::default() }
    }

    /// Waits for a slot. `None` only if the semaphores were closed, which nothing does.
    pub(super) async fn take(&self, address: IpAddr) -> Option<Slot> {
        let address = counted_address(address);
        let of_address = {
            let mut of_addresses = self.of_addresses();
            let entry = of_addresses
                .entry(address)
                .or_insert_with(|| OfAddress { slots: Arc::new(Semaphore::new(OF_ADDRESS_MAX)), users: 0 });
            entry.users += 1;
            Arc::clone(&entry.slots)
        };
        let user = User { slots: self.clone(), address };
        let of_address = of_address.acquire_owned().await.ok()?;
        let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Slot { _of_address: of_address, _of_all: of_all, _user: user })
    }

    fn of_addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, OfAddress>> {
        self.of_addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut of_addresses = self.slots.of_addresses();
        if let Some(entry) = of_addresses.get_mut(&self.address) {
            entry.users -= 1;
            if entry.users == 0 {
                of_addresses.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[tokio::test]
    async fn one_address_leaves_slots_for_others_and_all_have_a_limit() {
        let slots = Slots::new();
        let mut held = Vec::new();
        for last in 0..4 {
            for _ in 0..OF_ADDRESS_MAX {
                held.push(slots.take(address(last)).now_or_never().expect("a free slot"));
            }
            assert!(slots.take(address(last)).now_or_never().is_none(), "address {last} has more than its share");
        }
        assert!(slots.take(address(9)).now_or_never().is_none(), "more than {HANDSHAKES_MAX} at once");
        held.pop();
        // The budget of a task is used up by so many slots.
        tokio::task::yield_now().await;
        assert!(slots.take(address(9)).now_or_never().is_some());
        drop(held);
        assert!(slots.of_addresses().is_empty(), "nothing is kept of addresses without handshakes");
    }

    #[tokio::test]
    async fn ipv6_addresses_of_one_network_share_their_slots() {
        let slots = Slots::new();
        let of_network = |last: usize| format!("2001:db8::{last:x}").parse().unwrap();
        let held: Vec<_> = (0..OF_ADDRESS_MAX).map(|last| slots.take(of_network(last)).now_or_never()).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(slots.take(of_network(99)).now_or_never().is_none(), "a client has 2^64 addresses of its network");
        assert!(slots.take("2001:db8:0:1::1".parse().unwrap()).now_or_never().is_some());
    }
}
