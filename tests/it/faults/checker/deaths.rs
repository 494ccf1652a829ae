//! Deaths: final, never early, never because the registry itself was silent, and in time.

use std::collections::HashMap;

use super::{Change, Evidence, Rule, Verdict, replay::epoch_at, seconds};
use crate::faults::{
    client,
    history::{Answer, Micros, Op, Outcome, SECOND},
};

/// How much later than its TTL a death may come.
const DETECTION_SLACK: Micros = 3 * SECOND;
/// How long the protection that a disruption calls for may go on after its end, besides the hold itself: until a lost
/// daemon counts as lost.
const SETTLING: Micros = 16 * SECOND;
/// Within this a daemon that cannot see a death any more has to stop to accept beats.
const FINAL_LAG: Micros = 3 * SECOND;

/// How long a call waits for its answer, at least; the client crate waits for that of a beat for a sixth of the TTL.
#[expect(clippy::cast_possible_truncation, reason = "half a second")]
const PATIENCE: Micros = client::PATIENCE.as_micros() as Micros;
/// An owner that notices that this much later has no processor time.
const LATE: Micros = SECOND / 10;
/// As many reads tell whether daemons get processor time.
const READS_TO_TELL: usize = 3;

/// Checks them.
pub(crate) fn check(evidence: &Evidence, verdict: &mut Verdict) {
    finality(evidence, verdict);
    let lives = Lives::of(evidence);
    for change in evidence.changes.iter().filter(|change| change.is_stale_death()) {
        stale_death(evidence, &lives, change, verdict);
    }
    pace(evidence, verdict);
    detection(evidence, &lives, verdict);
    refusals(evidence, verdict);
}

/// What was heard of each lease, by its owner's knowledge.
struct Lives {
    /// Starts and ends of calls that were acknowledged as a sign of life.
    acknowledged: HashMap<u64, Vec<(Micros, Micros)>>,
    /// Starts of all calls that were meant as one and made in time by the owner's own clock.
    attempted: HashMap<u64, Vec<Micros>>,
    /// Starts of what is answered from memory, and whether it was.
    reads: Vec<(Micros, bool)>,
}

impl Lives {
    fn of(evidence: &Evidence) -> Self {
        let (mut acknowledged, mut attempted): (HashMap<_, Vec<_>>, HashMap<_, Vec<_>>) = Default::default();
        let mut reads = Vec::new();
        for call in &evidence.calls {
            let lease = match (&call.op, call.answer()) {
                (Op::Register { .. }, Some(Answer::Registered { lease, .. })) => *lease,
                (Op::Beat { lease }, _) => *lease,
                (Op::Resolve { .. } | Op::List { .. }, answer) => {
                    reads.push((call.start, answer.is_some() || call.failed()));
                    continue;
                }
                _ => continue,
            };
            // An owner that notices the end of its patience late has no processor time, and its request may not have left it.
            let is_late = call.ended() > call.start + PATIENCE.max(evidence.ttl / 6) + LATE;
            if call.answer().is_some() || call.failed() || !is_late {
                attempted.entry(lease).or_default().push(call.start);
            }
            if call.answer().is_some() {
                acknowledged.entry(lease).or_default().push((call.start, call.ended()));
            }
        }
        Self { acknowledged, attempted, reads }
    }

    /// When the owner had last asked for a beat that was acknowledged by this time.
    fn last_acknowledged(&self, lease: u64, by: Micros) -> Option<Micros> {
        let acknowledged = self.acknowledged.get(&lease)?.iter();
        acknowledged.filter(|(_, end)| *end <= by).map(|(start, _)| *start).max()
    }

    /// Whether the machine had no time for the daemons: what they answer from memory, without a database, was cut off for
    /// the most part. A daemon that answers reads and not beats is no excuse.
    fn is_machine_busy(&self, from: Micros, until: Micros) -> bool {
        let within = |(at, _): &&(Micros, bool)| (from..until).contains(at);
        let (asked, answered) =
            self.reads.iter().filter(within).fold((0, 0), |(asked, yes), (_, is)| (asked + 1, yes + usize::from(*is)));
        asked >= READS_TO_TELL && answered * 2 <= asked
    }

    /// The longest pause of the owner itself in the time before a death.
    fn longest_pause(&self, lease: u64, from: Micros, until: Micros) -> Micros {
        let attempts = self.attempted.get(&lease).into_iter().flatten().copied();
        let mut times: Vec<_> = attempts.filter(|time| (from..until).contains(time)).collect();
        times.extend([from, until]);
        times.sort_unstable();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

/// Dead is final, once for each lease, and a lease is granted once.
fn finality(evidence: &Evidence, verdict: &mut Verdict) {
    let mut died: HashMap<u64, &Change> = HashMap::new();
    let mut granted: HashMap<u64, &Change> = HashMap::new();
    for change in &evidence.changes {
        let lease = change.row.lease;
        if change.grants()
            && let Some(other) = granted.insert(lease, change)
        {
            verdict.broken(Rule::Final, format!("one lease was granted twice: {other:?}, {change:?}"));
        }
        if let Some(death) = died.get(&lease) {
            let again = if change.is_death() { "died twice" } else { "came back to life" };
            verdict.broken(Rule::Final, format!("a lease {again}: {death:?}, then {change:?}"));
        }
        if change.is_death() {
            died.insert(lease, change);
        }
    }
    for call in &evidence.calls {
        let (Op::Beat { lease }, Some(_)) = (&call.op, call.answer()) else { continue };
        if let Some(death) = died.get(lease).filter(|death| call.start > death.at + FINAL_LAG) {
            verdict.broken(Rule::Final, format!("a beat was accepted after {death:?}: {call:?}"));
        }
    }
}

fn stale_death(evidence: &Evidence, lives: &Lives, death: &Change, verdict: &mut Verdict) {
    verdict.figures.stale_deaths += 1;
    let lease = death.row.lease;
    let decided = death.stopped_at.unwrap_or(death.at);
    // Counted from before the call: it was heard later than that, so a right decision is never blamed. One that had not
    // ended may have been heard after the decision.
    if let Some(heard) = lives.last_acknowledged(lease, decided) {
        let margin = (decided + evidence.clock_error).checked_sub(heard + evidence.ttl);
        match margin {
            None => {
                let age = seconds(decided.saturating_sub(heard));
                verdict.broken_at(
                    decided,
                    Rule::FalseDeath,
                    format!("declared dead {age} after an acknowledged sign of life: {death:?}"),
                );
            }
            Some(margin) => {
                let smallest = &mut verdict.figures.margin;
                *smallest = Some(smallest.map_or(margin, |known| known.min(margin)));
            }
        }
    }
    let Some(silent) = evidence.kept.get(&lease) else { return };
    if silent.is_some_and(|silent| silent < decided) {
        return;
    }
    let from = decided.saturating_sub(evidence.ttl);
    let born = lives.attempted.get(&lease).and_then(|times| times.iter().min()).copied().unwrap_or_default();
    let is_slow = lives.longest_pause(lease, from.max(born), decided) > evidence.ttl * 3 / 4;
    if is_slow || evidence.are_daemons_left_alone && lives.is_machine_busy(from, decided) {
        verdict.figures.starved += 1;
    } else {
        verdict.broken_at(decided, Rule::LostToOutage, format!("its owner never stopped to beat: {death:?}"));
    }
}

/// Many deaths at once are paced: at most 10, or 15 % of the live instances, within a TTL.
fn pace(evidence: &Evidence, verdict: &mut Verdict) {
    let deaths: Vec<_> = evidence.changes.iter().filter(|change| change.is_stale_death()).collect();
    let granted = |at: Micros| evidence.changes.iter().filter(|change| change.grants() && change.at < at).count();
    let ended = |at: Micros| evidence.changes.iter().filter(|change| change.is_death() && change.at < at).count();
    let mut first = 0;
    for (index, death) in deaths.iter().enumerate() {
        while death.at - deaths[first].at >= evidence.ttl {
            first += 1;
        }
        let count = index + 1 - first;
        // Leases that ended without a record (replaced, older epoch) only make the allowance larger.
        let alive = granted(deaths[first].at).saturating_sub(ended(deaths[first].at));
        // Twice, because the window here need not begin where the brake's does.
        let allowed = 2 * 10.max(alive * 15 / 100);
        if count > allowed {
            verdict.broken(Rule::Paced, format!("{count} deaths of {alive} alive within a TTL, up to {death:?}"));
            return;
        }
    }
}

/// A lease that falls silent without a fault expires in time.
fn detection(evidence: &Evidence, lives: &Lives, verdict: &mut Verdict) {
    let mut deaths: HashMap<u64, &Change> = HashMap::new();
    for change in evidence.changes.iter().filter(|change| change.is_death()) {
        deaths.entry(change.row.lease).or_insert(change);
    }
    let end = evidence.calls.iter().map(|call| call.start).max().unwrap_or_default();
    for (lease, silent) in &evidence.kept {
        let Some(heard) = silent.and_then(|silent| lives.last_acknowledged(*lease, silent)) else {
            continue;
        };
        let bound = heard + evidence.ttl + DETECTION_SLACK;
        let longest_hold = evidence.ttl + 5 * SECOND;
        let overlaps = |from: Micros, until: Micros| from <= bound && heard <= until;
        let disturbed = evidence.disruptions.iter().any(|disruption| {
            overlaps(disruption.from, disruption.until + disruption.recovery + SETTLING + longest_hold)
        }) || evidence.protections.iter().any(|(from, until, _)| overlaps(*from, *until));
        if disturbed || bound > end {
            continue;
        }
        match deaths.get(lease) {
            Some(death) if !death.is_stale_death() => {}
            Some(death) => {
                verdict.figures.detections.push(death.at.saturating_sub(heard));
                if death.at > bound {
                    verdict.broken(
                        Rule::Detection,
                        format!("dead only {} after the last beat: {death:?}", seconds(death.at - heard)),
                    );
                }
            }
            None => verdict.broken(Rule::Detection, format!("lease {lease} is silent since {heard} and lives")),
        }
    }
    verdict.figures.detections.sort_unstable();
}

/// An owner is told that its lease has ended only if it has.
fn refusals(evidence: &Evidence, verdict: &mut Verdict) {
    let mut ended: HashMap<u64, Micros> = HashMap::new();
    let mut epoch_of: HashMap<u64, u64> = HashMap::new();
    for change in &evidence.changes {
        epoch_of.insert(change.row.lease, change.row.epoch);
        if change.is_death() {
            ended.entry(change.row.lease).or_insert(change.at);
        }
        if let Some((before, _)) = change.before.as_ref().filter(|_| change.grants()) {
            ended.entry(*before).or_insert(change.at);
        }
    }
    let newest = epoch_at(&evidence.epochs, u64::MAX);
    for call in &evidence.calls {
        let (Op::Beat { lease } | Op::SetStatus { lease, .. }, Outcome::Fail(reason)) = (&call.op, &call.outcome)
        else {
            continue;
        };
        let over = ["LEASE_EXPIRED", "LEASE_REPLACED", "UNKNOWN_LEASE", "EPOCH_FENCED"].contains(&reason.as_str());
        let by_death = ended.get(lease).is_some_and(|at| *at <= call.ended().saturating_add(evidence.clock_error));
        let by_epoch = epoch_of.get(lease).is_some_and(|epoch| *epoch < newest);
        if over && !by_death && !by_epoch {
            verdict.broken(Rule::FalseRefusal, format!("told {reason}, but the lease was alive: {call:?}"));
        }
    }
}
