//! What is to be written into the database beside its decisions: refusals, counted, and files that were reloaded.
//!
//! A refusal has no transaction of its own, and callers must not wait for one. So it is counted here, and a task writes what is
//! due: of each identity and method the first refusal at once, then a count at most once a minute. While the database is away
//! the counts go on. Whatever callers do, the memory is bounded: beyond [`KEYS_MAX`] identities and methods refusals are counted
//! together.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::entry::Entry;
use crate::model::{Note, NoteAction};

/// Most identities and methods that are counted apart.
const KEYS_MAX: usize = 256;
/// Most reloads that wait to be written; older ones give way.
const RELOADS_MAX: usize = 64;
/// The longest text of an entry, in characters.
const TEXT_MAX: usize = 256;
/// How often the refusals of one identity and method are written.
const PERIOD_MS: u64 = 60_000;
/// What refusals that are not counted apart are of.
const OTHERS: &str = "other identities and methods";

/// What waits to be written. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Pages>>);

#[derive(Debug, Default)]
struct Pages {
    denials: HashMap<(String, String), Denial>,
    reloads: VecDeque<Note>,
}

/// The refusals of one identity and method.
#[derive(Debug)]
struct Denial {
    /// Since they were last written.
    count: u64,
    written_ms: Option<u64>,
    detail: BTreeMap<&'static str, String>,
}

/// A text of a caller that fits into an entry.
fn fitted(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(TEXT_MAX).collect()
}

impl Ledger {
    /// A call was refused.
    pub(super) fn denied(&self, entry: &Entry<'_>, reason: &str, message: &str) {
        let detail = || {
            let pairs = [("kind", entry.kind), ("peer", entry.peer), ("reason", reason), ("message", message)];
            let pairs = pairs.into_iter().filter(|(_, value)| !value.is_empty());
            pairs.map(|(key, value)| (key, fitted(value))).collect()
        };
        self.pages().count((fitted(entry.identity), fitted(entry.method)), 1, detail);
    }

    /// Files were put in use, or could not be: then with the reason.
    pub(super) fn reloaded(&self, object: &str, outcome: &str, failure: Option<&str>) {
        let pairs = [("outcome", outcome)].into_iter().chain(failure.map(|why| ("reason", why)));
        let detail = pairs.map(|(key, value)| (key, fitted(value))).collect();
        let action = NoteAction::Reload;
        self.pages().keep_reload(Note { action, by: String::new(), object: fitted(object), detail, count: 1 });
    }

    /// Takes what is due at this time; `all`: also what could still wait.
    #[must_use]
    pub fn take_due(&self, now_ms: u64, all: bool) -> Vec<Note> {
        let mut pages = self.pages();
        let mut due: Vec<Note> = pages.reloads.drain(..).collect();
        let rests = |denial: &Denial| denial.written_ms.is_some_and(|written_ms| now_ms < written_ms + PERIOD_MS);
        pages.denials.retain(|_, denial| denial.count > 0 || rests(denial));
        for ((by, object), denial) in &mut pages.denials {
            if denial.count > 0 && (all || !rests(denial)) {
                let (by, object, detail) = (by.clone(), object.clone(), denial.detail.clone());
                let count = std::mem::take(&mut denial.count);
                due.push(Note { action: NoteAction::Denied, by, object, detail, count });
                denial.written_ms = Some(now_ms);
            }
        }
        due
    }

    /// Takes back what could not be written; it is due again.
    pub fn give_back(&self, notes: Vec<Note>) {
        let mut pages = self.pages();
        for note in notes {
            match note.action {
                NoteAction::Reload => pages.keep_reload(note),
                NoteAction::Denied => {
                    let Note { by, object, detail, count, .. } = note;
                    pages.count((by, object), count, || detail).written_ms = None;
                }
            }
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn count(
        &mut self,
        key: (String, String),
        count: u64,
        detail: impl FnOnce() -> BTreeMap<&'static str, String>,
    ) -> &mut Denial {
        let is_full = self.denials.len() >= KEYS_MAX && !self.denials.contains_key(&key);
        let key = if is_full { (String::new(), OTHERS.to_owned()) } else { key };
        let new = || Denial { count: 0, written_ms: None, detail: if is_full { BTreeMap::new() } else { detail() } };
        let denial = self.denials.entry(key).or_insert_with(new);
        denial.count += count;
        denial
    }

    fn keep_reload(&mut self, note: Note) {
        if self.reloads.len() == RELOADS_MAX {
            self.reloads.pop_front();
        }
        self.reloads.push_back(note);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deny(ledger: &Ledger, identity: &str, method: &str) {
        let entry = Entry { identity, kind: "token", peer: "127.0.0.1", method, object: "" };
        ledger.denied(&entry, "PERMISSION_DENIED", "no\0 right");
    }

    fn counts(notes: &[Note]) -> Vec<u64> {
        notes.iter().map(|note| note.count).collect()
    }

    #[test]
    fn refusals_are_due_at_once_and_then_once_a_minute_with_their_count() {
        let ledger = Ledger::default();
        (0..3).for_each(|_| deny(&ledger, "token/a", "/Rotate"));
        let first = ledger.take_due(0, false);
        assert_eq!(counts(&first), [3]);
        assert_eq!((first[0].by.as_str(), first[0].object.as_str()), ("token/a", "/Rotate"));
        assert_eq!(first[0].detail["message"], "no right", "a character that PostgreSQL does not take is left out");
        (0..5).for_each(|_| deny(&ledger, "token/a", "/Rotate"));
        deny(&ledger, "token/b", "/Rotate");
        assert_eq!(counts(&ledger.take_due(59_999, false)), [1], "of another identity");
        assert_eq!(counts(&ledger.take_due(60_000, false)), [5]);
        deny(&ledger, "token/a", "/Rotate");
        assert_eq!(counts(&ledger.take_due(60_001, true)), [1], "at the end of the daemon");
        assert!(ledger.take_due(600_000, false).is_empty());
        assert!(ledger.pages().denials.is_empty(), "what rests for a period is forgotten");
    }

    #[test]
    fn refusals_that_could_not_be_written_are_counted_on() {
        let ledger = Ledger::default();
        deny(&ledger, "token/a", "/Rotate");
        let first = ledger.take_due(0, false);
        deny(&ledger, "token/a", "/Rotate");
        ledger.give_back(first);
        assert_eq!(counts(&ledger.take_due(1, false)), [2], "due again, with what came meanwhile");
    }

    #[test]
    fn memory_is_bounded_whatever_callers_do() {
        let ledger = Ledger::default();
        let long = "x".repeat(10_000);
        for number in 0..5_000 {
            deny(&ledger, &format!("token/{number}"), &long);
            ledger.reloaded(&number.to_string(), "kept", Some(&long));
        }
        let due = ledger.take_due(0, false);
        assert_eq!(due.len(), KEYS_MAX + 1 + RELOADS_MAX);
        let denied = || due.iter().filter(|note| note.action == NoteAction::Denied);
        assert_eq!(denied().map(|note| note.count).sum::<u64>(), 5_000, "each is counted");
        assert!(denied().any(|note| note.object == OTHERS && note.count == 5_000 - KEYS_MAX as u64));
        assert!(due.iter().all(|note| note.object.len() <= TEXT_MAX));
        assert!(due.iter().any(|note| note.object == "4999"), "the latest reload");
        ledger.give_back(due);
        assert_eq!(ledger.take_due(1, false).len(), KEYS_MAX + 1 + RELOADS_MAX);
    }
}
