//! Answers: never older than asked for, never naming a dead instance, and equal to the audit at their revision. What a router
//! picks from its cache was so, and not too long ago.

use std::collections::HashMap;

use uuid::Uuid;

use super::{
    Change, Evidence, Rule, Verdict,
    replay::{Replay, difference, epoch_at},
};
use crate::faults::{
    history::{Answer, Call, Micros, Op, Row, SECOND},
    roles::router::MAX_STALE,
};

/// How long ago what a router picks may have been over: as old as its cache may be, and as far as a daemon may be behind that
/// fills it.
#[expect(clippy::cast_possible_truncation, reason = "a few seconds")]
const PICK_AGE: Micros = MAX_STALE.as_micros() as Micros + 10 * SECOND;

/// Checks them.
pub(crate) fn check(evidence: &Evidence, verdict: &mut Verdict) {
    sessions(evidence, verdict);
    picks(evidence, verdict);
    let mut answers: Vec<_> = evidence.calls.iter().filter_map(revision_read).collect();
    answers.sort_by_key(|(revision, _)| *revision);
    let mut replay = Replay::new(evidence);
    for (revision, call) in answers {
        verdict.figures.reads_checked += 1;
        let truth = replay.at(revision);
        match call.answer() {
            Some(Answer::Listed { rows, .. }) => list(evidence, call, revision, rows, &truth, verdict),
            Some(Answer::Resolved { row, epoch, .. }) => {
                if row.epoch != *epoch || row.epoch != epoch_at(&evidence.epochs, revision) {
                    verdict.broken(Rule::Fence, format!("it names an instance of another epoch: {call:?}"));
                } else if row.status != "alive" || !truth.contains(&row) {
                    verdict.broken(Rule::Answer, format!("at {revision} that was not so: {call:?}"));
                }
            }
            _ => {}
        }
    }
}

fn revision_read(call: &Call) -> Option<(u64, &Call)> {
    match call.answer()? {
        Answer::Resolved { revision, .. } | Answer::Listed { revision, .. } => Some((*revision, call)),
        _ => None,
    }
}

fn list(evidence: &Evidence, call: &Call, revision: u64, rows: &[Row], truth: &[&Row], verdict: &mut Verdict) {
    let epoch = epoch_at(&evidence.epochs, revision);
    if let Some(row) = rows.iter().find(|row| row.epoch != epoch) {
        verdict.broken(Rule::Fence, format!("at {revision} the epoch is {epoch}, listed is {row:?}"));
        return;
    }
    let mut told: Vec<_> = rows.iter().collect();
    told.sort_by_key(|row| row.instance);
    if let Some(difference) = difference(&told, truth) {
        let (client, daemon, start) = (call.client, call.daemon, call.start);
        verdict.broken(
            Rule::Answer,
            format!("list of client {client} at daemon {daemon}, revision {revision}, asked at {start}: {difference}"),
        );
    }
}

fn sessions(evidence: &Evidence, verdict: &mut Verdict) {
    for call in &evidence.calls {
        let (Op::Resolve { min_revision, .. } | Op::List { min_revision }) = &call.op else { continue };
        if let Some((revision, _)) = revision_read(call).filter(|(revision, _)| revision < min_revision) {
            verdict.broken(Rule::Session, format!("asked for {min_revision}, answered as of {revision}: {call:?}"));
        }
    }
}

fn picks(evidence: &Evidence, verdict: &mut Verdict) {
    let mut changes: HashMap<Uuid, Vec<&Change>> = HashMap::new();
    for change in &evidence.changes {
        changes.entry(change.row.instance).or_default().push(change);
    }
    for call in &evidence.calls {
        let Some(Answer::Picked { row }) = call.answer() else { continue };
        verdict.figures.picks_checked += 1;
        let of_instance = changes.get(&row.instance).map_or(&[][..], Vec::as_slice);
        let known = of_instance.iter().position(|change| change.row == *row);
        let Some(at) = known.filter(|_| row.status == "alive") else {
            verdict.broken(Rule::Answer, format!("picked what was never so: {call:?}"));
            continue;
        };
        let rotated = evidence.changes.iter().find(|change| change.row.epoch > row.epoch);
        let over = of_instance.get(at + 1).copied().into_iter().chain(rotated).map(|change| change.at).min();
        if let Some(over) = over.filter(|over| call.start > over + PICK_AGE) {
            verdict.broken(Rule::Answer, format!("picked what was over since {over}: {call:?}"));
        }
    }
}
