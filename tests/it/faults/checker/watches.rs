//! Watches: ordered, without a gap, without a duplicate, across reconnects and daemons.
//!
//! Changes of one instance may be told as one, so not every change has to be seen. What has to hold is stronger than a
//! count: whenever a watcher is told that it has seen everything up to a revision, what it knows equals the replay of
//! the audit up to there.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::{
    Evidence, Rule, Verdict,
    replay::{Replay, difference, epoch_at},
};
use crate::faults::history::{Row, Seen, Sight};

/// Checks them.
pub(crate) fn check(evidence: &Evidence, verdict: &mut Verdict) {
    let mut watchers: BTreeMap<u32, Watcher<'_>> = BTreeMap::new();
    let mut states = Vec::new();
    for seen in &evidence.seen {
        let watcher = watchers.entry(seen.watcher).or_default();
        if let Some(state) = watcher.take(seen, verdict) {
            states.push(state);
        }
    }
    states.sort_by_key(|(revision, ..)| *revision);
    let mut replay = Replay::new(evidence);
    let mut blamed: HashMap<u32, u32> = HashMap::new();
    for (revision, seen, known) in states {
        verdict.figures.watch_states_checked += 1;
        let truth = replay.at(revision);
        let epoch = epoch_at(&evidence.epochs, revision);
        let told: Vec<_> = known.into_iter().filter(|row| row.epoch == epoch).collect();
        let count = blamed.entry(seen.watcher).or_default();
        if let Some(difference) = difference(&told, &truth)
            && *count < 3
        {
            *count += 1;
            let (watcher, daemon, at) = (seen.watcher, seen.daemon, seen.at);
            verdict.broken(
                Rule::Watch,
                format!("watcher {watcher} of daemon {daemon} at {at}, revision {revision}: {difference}"),
            );
        }
    }
}

/// What one watcher knows.
#[derive(Default)]
struct Watcher<'a> {
    known: BTreeMap<Uuid, &'a Row>,
    /// Everything up to here was told.
    reached: u64,
    /// The latest change told since.
    last: u64,
    /// The snapshot is whole.
    complete: bool,
}

impl<'a> Watcher<'a> {
    /// Takes over a sight; returns what is known if that is to be checked.
    fn take(&mut self, seen: &'a Seen, verdict: &mut Verdict) -> Option<(u64, &'a Seen, Vec<&'a Row>)> {
        match &seen.sight {
            Sight::Opened { resume_after } => {
                self.complete = *resume_after > 0;
                if !self.complete {
                    self.known.clear();
                    self.reached = 0;
                } else if *resume_after != self.reached {
                    verdict.broken(Rule::Watch, format!("resumed elsewhere than at {}: {seen:?}", self.reached));
                }
                self.last = self.reached;
            }
            Sight::Reset => {
                self.known.clear();
                (self.complete, self.reached, self.last) = (false, 0, 0);
            }
            Sight::Put(row) => {
                self.order(row.revision, seen, verdict);
                self.known.insert(row.instance, row);
            }
            Sight::Gone { instance, revision } => {
                self.order(*revision, seen, verdict);
                self.known.remove(instance);
            }
            Sight::Suspect { .. } | Sight::Closed { .. } => {}
            Sight::Reached { revision, complete } => {
                self.complete |= complete;
                if self.complete {
                    if *revision < self.reached.max(self.last) {
                        let before = self.reached.max(self.last);
                        verdict.broken(Rule::Watch, format!("went back from {before}: {seen:?}"));
                    }
                    (self.reached, self.last) = (*revision, *revision);
                    return Some((*revision, seen, self.known.values().copied().collect()));
                }
            }
        }
        None
    }

    fn order(&mut self, revision: u64, seen: &Seen, verdict: &mut Verdict) {
        if self.complete && revision <= self.last {
            verdict.broken(Rule::Watch, format!("told after {}, twice or out of order: {seen:?}", self.last));
        }
        if self.complete {
            self.last = revision;
        }
    }
}
