//! The same text again is the same memory.
//!
//! Nodes, versions and routes are few, and the instances that carry them are many: a million copies would be tens of
//! megabytes, and a lookup would find each where nothing else of use is. Of each text that comes here the latest copy is
//! remembered, as long as no other needs its slot, so what is remembered is bounded whatever texts come.

use std::{
    cell::RefCell,
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::Arc,
};

/// Texts that are remembered by each thread.
const SLOTS: usize = 1_024;

thread_local! {
    static LATEST: RefCell<Vec<Option<Arc<str>>>> = RefCell::new(vec![None; SLOTS]);
}

/// A text that others carry too.
pub(super) fn shared(text: &str) -> Arc<str> {
    LATEST.with_borrow_mut(|latest| {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let slot = usize::try_from(hasher.finish() % SLOTS as u64).unwrap_or_default();
        match &latest[slot] {
            Some(known) if **known == *text => Arc::clone(known),
            _ => Arc::clone(latest[slot].insert(text.into())),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_text_is_shared_and_the_memory_for_it_is_bounded() {
        let first = shared("node-7");
        assert!(Arc::ptr_eq(&first, &shared("node-7")));
        let others: Vec<_> = (0..20 * SLOTS).map(|number| shared(&format!("other-{number}"))).collect();
        assert!(others.iter().enumerate().all(|(number, text)| **text == format!("other-{number}")));
        let remembered = others.iter().filter(|text| Arc::strong_count(text) > 1).count();
        assert!(remembered <= SLOTS, "{remembered}");
        assert_eq!(Arc::strong_count(&first), 1, "it was forgotten");
        assert_eq!(*shared("node-7"), *first);
    }
}
