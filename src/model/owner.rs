//! The identity that registered an instance, in four bytes.
//!
//! Every lease and every record names its owner, and owners are few: a text in each would cost a million leases tens of
//! megabytes, and a beat the comparison of two texts. So each identity has a number as long as something holds it, and beats
//! compare numbers. Holders are counted: a number is given to another identity only when neither a lease nor a caller has it,
//! so that equal numbers are always the same identity, and what is remembered is bounded by what is on record.

use std::{
    collections::HashMap,
    fmt, mem,
    num::NonZeroU32,
    sync::{
        Arc, LazyLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

/// An identity that owns instances.
#[derive(PartialEq, Eq, Hash)]
pub struct Owner(NonZeroU32);

/// The identities that are held.
#[derive(Debug, Default)]
struct Identities {
    by_text: HashMap<Arc<str>, NonZeroU32>,
    /// By number, less one.
    slots: Vec<Slot>,
    /// Numbers that are held no more.
    free: Vec<NonZeroU32>,
}

#[derive(Debug)]
struct Slot {
    text: Arc<str>,
    /// Grows and shrinks under the shared lock; a slot is given up under the exclusive one.
    holders: AtomicUsize,
}

static IDENTITIES: LazyLock<RwLock<Identities>> = LazyLock::new(RwLock::default);

fn shared() -> RwLockReadGuard<'static, Identities> {
    IDENTITIES.read().unwrap_or_else(PoisonError::into_inner)
}

fn exclusive() -> RwLockWriteGuard<'static, Identities> {
    IDENTITIES.write().unwrap_or_else(PoisonError::into_inner)
}

impl Owner {
    /// The owner with this identity.
    #[must_use]
    pub fn named(identity: &str) -> Self {
        Self::known(identity).unwrap_or_else(|| Self(exclusive().enter(identity)))
    }

    /// The owner with this identity, if anything holds it: if not, it owns nothing.
    #[must_use]
    pub fn known(identity: &str) -> Option<Self> {
        let identities = shared();
        let number = *identities.by_text.get(identity)?;
        identities.hold(number);
        Some(Self(number))
    }

    /// The identity.
    #[must_use]
    pub fn text(&self) -> Arc<str> {
        shared().slot(self.0).map(|slot| Arc::clone(&slot.text)).unwrap_or_default()
    }

    /// The number, which is that of this identity as long as this value, or one that it was made from, is held.
    pub(super) const fn number(&self) -> u32 {
        self.0.get()
    }

    /// The number alone, which goes on to be held until [`Owner::held`] takes it back.
    pub(super) fn into_number(self) -> u32 {
        let number = self.number();
        mem::forget(self);
        number
    }

    /// Takes back what [`Owner::into_number`] left; `None` for zero.
    pub(super) fn held(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }
}

impl Clone for Owner {
    fn clone(&self) -> Self {
        shared().hold(self.0);
        Self(self.0)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let is_last = shared().slot(self.0).is_some_and(|slot| slot.holders.fetch_sub(1, Ordering::AcqRel) == 1);
        if is_last {
            exclusive().give_up(self.0);
        }
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Owner").field(&self.text()).finish()
    }
}

impl Identities {
    fn slot(&self, number: NonZeroU32) -> Option<&Slot> {
        self.slots.get(index(number))
    }

    fn hold(&self, number: NonZeroU32) {
        if let Some(slot) = self.slot(number) {
            slot.holders.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn enter(&mut self, identity: &str) -> NonZeroU32 {
        // Another thread may have entered it since.
        if let Some(number) = self.by_text.get(identity).copied() {
            self.hold(number);
            return number;
        }
        let text: Arc<str> = identity.into();
        let slot = Slot { text: Arc::clone(&text), holders: AtomicUsize::new(1) };
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[index(number)] = slot;
                number
            }
            None => {
                self.slots.push(slot);
                // One more than there are bits for would need more memory than there is.
                u32::try_from(self.slots.len()).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX)
            }
        };
        self.by_text.insert(text, number);
        number
    }

    /// Forgets an identity, unless it is held again since.
    fn give_up(&mut self, number: NonZeroU32) {
        let Some(slot) = self.slots.get_mut(index(number)) else { return };
        if slot.holders.load(Ordering::Acquire) == 0 && self.by_text.get(&slot.text) == Some(&number) {
            self.by_text.remove(&mem::take(&mut slot.text));
            self.free.push(number);
        }
    }
}

fn index(number: NonZeroU32) -> usize {
    usize::try_from(number.get() - 1).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn identity_has_one_number_while_it_is_held() {
        let first = Owner::named("token/held");
        assert_eq!(first, Owner::named("token/held"));
        assert_ne!(first, Owner::named("token/other"));
        assert_eq!(&*first.text(), "token/held");
        let copy = first.clone();
        drop(first);
        assert_eq!(Owner::known("token/held"), Some(copy));
    }

    #[test]
    fn identity_without_holders_is_forgotten() {
        let number = Owner::named("token/passing").into_number();
        assert!(Owner::known("token/passing").is_some(), "its number is held");
        drop(Owner::held(number));
        assert_eq!(Owner::known("token/passing"), None);
        assert_eq!(Owner::held(0), None);
    }

    #[test]
    fn owners_of_many_threads_keep_their_identity() {
        thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for round in 0..2_000 {
                        let identity = format!("token/shared-{}", (round + thread) % 3);
                        let owner = Owner::named(&identity);
                        assert_eq!(*owner.clone().text(), *identity);
                        assert_eq!(*owner.text(), *identity);
                    }
                });
            }
        });
        assert!((0..3).all(|number| Owner::known(&format!("token/shared-{number}")).is_none()));
    }
}
