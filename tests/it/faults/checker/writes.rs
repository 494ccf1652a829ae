//! Changes: none lost, none from nowhere, none twice, in order, in their epoch.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::{Change, Evidence, Rule, Verdict};
use crate::faults::history::{Answer, Call, Micros, Op, SECOND};

/// Within this another daemon has to learn that the epoch was rotated, or stop to accept beats (README, promise 4).
const FENCE_LAG: Micros = 3 * SECOND;

/// Checks them.
pub(crate) fn check(evidence: &Evidence, verdict: &mut Verdict) {
    let ledger = Ledger::of(evidence);
    lost(evidence, &ledger, verdict);
    lost_rows(evidence, verdict);
    phantoms(evidence, &ledger, verdict);
    doubled(evidence, &ledger, verdict);
    commit_order(evidence, verdict);
    real_time_order(evidence, verdict);
    fence(evidence, &ledger, verdict);
}

/// The audit, by lease and by content.
struct Ledger<'a> {
    by_lease: HashMap<u64, Vec<&'a Change>>,
    grants_by_content: BTreeMap<&'a str, Vec<&'a Change>>,
    /// Leases in whose place another one came.
    superseded: HashSet<u64>,
}

impl<'a> Ledger<'a> {
    fn of(evidence: &'a Evidence) -> Self {
        let (mut by_lease, mut grants, mut superseded) = (HashMap::new(), BTreeMap::new(), HashSet::new());
        for change in &evidence.changes {
            by_lease.entry(change.row.lease).or_insert_with(Vec::new).push(change);
            if change.grants() {
                grants.entry(change.content.as_str()).or_insert_with(Vec::new).push(change);
                superseded.extend(change.before.as_ref().map(|(lease, _)| *lease));
            }
        }
        Self { by_lease, grants_by_content: grants, superseded }
    }

    fn of_lease(&self, lease: u64) -> &[&'a Change] {
        self.by_lease.get(&lease).map_or(&[], Vec::as_slice)
    }

    fn epoch_of(&self, lease: u64) -> Option<u64> {
        self.of_lease(lease).first().map(|change| change.row.epoch)
    }
}

fn lost(evidence: &Evidence, ledger: &Ledger<'_>, verdict: &mut Verdict) {
    for call in &evidence.calls {
        let kept = match (&call.op, call.answer()) {
            (Op::Register { content, .. }, Some(Answer::Registered { lease, .. })) => {
                ledger.of_lease(*lease).iter().any(|change| change.content == *content)
            }
            (Op::SetStatus { status, .. }, Some(Answer::Set { lease, revision, .. })) => {
                let set = |change: &&Change| change.row.revision == *revision && change.row.status == *status;
                ledger.of_lease(*lease).iter().any(set)
            }
            (Op::Deregister { lease }, Some(Answer::Set { .. })) => {
                ledger.superseded.contains(lease) || ledger.of_lease(*lease).iter().any(|change| change.is_death())
            }
            (Op::Leave { .. }, Some(Answer::Left { lease: Some(lease) })) => {
                ledger.superseded.contains(lease) || ledger.of_lease(*lease).iter().any(|change| change.is_death())
            }
            (Op::Rotate { epoch }, Some(Answer::Rotated { epoch: number, revision })) => {
                let same = |known: &super::Epoch| known.id == *epoch && known.number == *number;
                evidence.epochs.iter().any(|known| same(known) && known.started <= *revision)
            }
            _ => true,
        };
        if !kept {
            verdict.broken_at(
                call.start,
                Rule::Lost,
                format!("acknowledged, but PostgreSQL knows nothing of it: {call:?}"),
            );
        }
    }
}

/// The table must say what the latest change of each row left there.
fn lost_rows(evidence: &Evidence, verdict: &mut Verdict) {
    let last: HashMap<Uuid, &Change> = evidence.changes.iter().map(|change| (change.row.instance, change)).collect();
    let rows: HashMap<Uuid, _> = evidence.rows.iter().map(|row| (row.instance, row)).collect();
    if evidence.finals.is_empty() {
        return;
    }
    for (instance, change) in last {
        if rows.get(&instance) != Some(&&change.row) {
            let found = rows.get(&instance);
            verdict.broken_at(
                change.at,
                Rule::Lost,
                format!("{:?} was committed, the table has {found:?}", change.row),
            );
        }
    }
}

fn phantoms(evidence: &Evidence, ledger: &Ledger<'_>, verdict: &mut Verdict) {
    let mut asked: HashMap<&str, Vec<&Call>> = HashMap::new();
    let mut asked_of_lease: HashMap<u64, Vec<&Call>> = HashMap::new();
    let mut left: HashMap<Uuid, Vec<&Call>> = HashMap::new();
    for call in &evidence.calls {
        match &call.op {
            Op::Register { content, .. } => asked.entry(content).or_default().push(call),
            Op::SetStatus { lease, .. } | Op::Deregister { lease } => {
                asked_of_lease.entry(*lease).or_default().push(call);
            }
            Op::Leave { instance } => left.entry(*instance).or_default().push(call),
            _ => {}
        }
    }
    let caused = |calls: Option<&Vec<&Call>>, at: Micros| {
        let before = |call: &&&Call| !call.failed() && call.start <= at + evidence.clock_error;
        calls.is_some_and(|calls| calls.iter().any(|call| before(&call)))
    };
    for (content, grants) in &ledger.grants_by_content {
        let first = grants[0];
        if !caused(asked.get(content), first.at) {
            verdict.broken(Rule::Phantom, format!("no call asked for it, or it was refused: {first:?}"));
        }
    }
    for change in evidence.changes.iter().filter(|change| !change.grants()) {
        let by_itself = change.is_death() && change.reason.as_deref() != Some("deregistered");
        let same = change.before.as_ref().is_some_and(|(_, status)| *status == change.row.status);
        // A repeated registration may make an instance alive, never end it.
        let renewed = asked.get(change.content.as_str()).filter(|_| !change.is_death());
        // An instance that leaves is ended, and nothing else.
        let leaves = left.get(&change.row.instance).filter(|_| change.is_death());
        if !by_itself
            && !same
            && !caused(asked_of_lease.get(&change.row.lease), change.at)
            && !caused(renewed, change.at)
            && !caused(leaves, change.at)
        {
            verdict.broken(Rule::Phantom, format!("no call asked for this status, or it was refused: {change:?}"));
        }
    }
}

fn doubled(evidence: &Evidence, ledger: &Ledger<'_>, verdict: &mut Verdict) {
    for grants in ledger.grants_by_content.values() {
        for pair in grants.windows(2) {
            let (first, second) = (pair[0], pair[1]);
            let died = ledger.of_lease(first.row.lease).iter().any(|change| change.is_death() && change.n < second.n);
            if !died && first.row.epoch >= second.row.epoch {
                verdict.broken_at(
                    second.at,
                    Rule::Doubled,
                    format!("one registration took effect twice: {first:?}, {second:?}"),
                );
            }
        }
    }
    let mut used: HashMap<u64, &Change> = HashMap::new();
    for change in &evidence.changes {
        if let Some(other) = used.insert(change.row.revision, change) {
            verdict.broken_at(
                change.at,
                Rule::Doubled,
                format!("one revision has two meanings: {other:?}, {change:?}"),
            );
        }
    }
}

/// Revisions grow from transaction to transaction, in the order in which these held the cluster row.
fn commit_order(evidence: &Evidence, verdict: &mut Verdict) {
    let mut transactions: Vec<(u64, u64, u64, Micros)> = Vec::new();
    for change in &evidence.changes {
        let revision = change.row.revision;
        match transactions.last_mut() {
            Some((transaction, low, high, _)) if *transaction == change.transaction => {
                (*low, *high) = ((*low).min(revision), (*high).max(revision));
            }
            _ => transactions.push((change.transaction, revision, revision, change.at)),
        }
    }
    for pair in transactions.windows(2) {
        if pair[1].1 <= pair[0].2 {
            verdict.broken_at(
                pair[1].3,
                Rule::Order,
                format!(
                    "transaction {} took revision {} after transaction {} had taken {}",
                    pair[1].0, pair[1].1, pair[0].0, pair[0].2
                ),
            );
        }
    }
}

/// What was acknowledged before something else was asked for has the lower revision.
fn real_time_order(evidence: &Evidence, verdict: &mut Verdict) {
    let revision_of = |call: &Call| match call.answer() {
        Some(Answer::Registered { lease, revision, .. }) if lease == revision => Some(*revision),
        Some(Answer::Set { revision, already_dead: false, .. }) => Some(*revision),
        // A daemon that had to ask twice is told the revision of the moment, not that of the rotation.
        Some(Answer::Rotated { epoch, .. }) => {
            evidence.epochs.iter().find(|known| known.number == *epoch).map(|known| known.started)
        }
        _ => None,
    };
    // Repetitions may be told the revision of the first; so may a caller that finds the work done.
    let own = evidence.calls.iter().filter(|call| call.attempt == 1);
    let changes: Vec<_> = own.filter_map(|call| revision_of(call).map(|revision| (call, revision))).collect();
    let mut acknowledged: HashMap<u64, &Call> = HashMap::new();
    for (call, revision) in &changes {
        if let Some(other) = acknowledged.insert(*revision, call) {
            verdict.broken_at(
                call.start,
                Rule::Doubled,
                format!("one revision was acknowledged twice: {other:?}, {call:?}"),
            );
        }
    }
    let mut by_start = changes.clone();
    by_start.sort_by_key(|(call, _)| call.start);
    let mut by_end = changes;
    by_end.sort_by_key(|(call, _)| call.ended());
    let mut ended = by_end.into_iter().peekable();
    let mut highest: Option<(&Call, u64)> = None;
    for (call, revision) in by_start {
        while let Some(before) = ended.next_if(|(before, _)| before.ended() < call.start) {
            if highest.is_none_or(|(_, high)| before.1 > high) {
                highest = Some(before);
            }
        }
        if let Some((before, high)) = highest.filter(|(_, high)| *high >= revision) {
            verdict.broken_at(
                call.start,
                Rule::Order,
                format!("{high} was acknowledged before {revision}: {before:?}, {call:?}"),
            );
        }
    }
}

/// After a rotation returned, nothing of an older epoch is accepted.
fn fence(evidence: &Evidence, ledger: &Ledger<'_>, verdict: &mut Verdict) {
    let mut rotations: Vec<(Micros, u64, usize)> = evidence
        .calls
        .iter()
        .filter_map(|call| match call.answer() {
            Some(Answer::Rotated { epoch, .. }) => Some((call.ended(), *epoch, call.daemon)),
            _ => None,
        })
        .collect();
    rotations.sort_unstable();
    let number_of: HashMap<Uuid, u64> = evidence.epochs.iter().map(|epoch| (epoch.id, epoch.number)).collect();
    for call in &evidence.calls {
        if let (Op::Register { epoch: Some(named), .. }, Some(Answer::Registered { epoch, .. })) =
            (&call.op, call.answer())
            && number_of.get(named) != Some(epoch)
        {
            verdict.broken(Rule::Fence, format!("registered in another epoch than it named: {call:?}"));
        }
        let beat = matches!(call.op, Op::Beat { .. });
        let epoch = match (&call.op, call.answer()) {
            (Op::Register { .. }, Some(Answer::Registered { epoch, .. })) => Some(*epoch),
            (Op::SetStatus { lease, .. } | Op::Beat { lease }, Some(_)) => ledger.epoch_of(*lease),
            _ => None,
        };
        let Some(epoch) = epoch else { continue };
        for (at, number, daemon) in rotations.iter().take_while(|(at, ..)| *at < call.start) {
            let age = call.start - at;
            let elsewhere = beat && *daemon != call.daemon;
            if *number > epoch && elsewhere && age <= FENCE_LAG {
                verdict.figures.late_fence = verdict.figures.late_fence.max(age);
            } else if *number > epoch {
                verdict.broken(Rule::Fence, format!("epoch {number} was begun {age} us before: {call:?}"));
                break;
            }
        }
    }
}
