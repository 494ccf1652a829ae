//! Compares what every client was answered with what PostgreSQL committed.
//!
//! The oracle is an audit that a trigger writes in the transaction of each membership change ([`Change`]). It resolves
//! every unknown outcome and gives the order of everything, so each rule below is a sort and a sweep, and no search.
//! A rule that is broken is a [`Violation`]; one that could not have been broken, because too little happened, is one
//! as well ([`Rule::Vacuous`]).
//!
//! - [`writes`]: nothing acknowledged is lost, nothing refused happened, nothing happened twice, order, fence.
//! - [`deaths`]: final, never early, never by the registry's own silence, and in time.
//! - [`reads`]: sessions, and every answer against a replay of the audit up to its revision.
//! - [`watches`]: every watcher's knowledge against that replay, at every revision it was told to have reached.

mod client_tests;
pub(crate) mod deaths;
pub(crate) mod reads;
pub(crate) mod replay;
mod tests;
pub(crate) mod watches;
pub(crate) mod writes;

use std::collections::HashMap;

use serde::Serialize;
use uuid::Uuid;

use super::history::{Call, Disruption, Dump, Micros, Row, SECOND, Seen};

/// A promise that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub(crate) enum Rule {
    Lost,
    Phantom,
    Doubled,
    Order,
    Fence,
    Final,
    FalseDeath,
    LostToOutage,
    Paced,
    FalseRefusal,
    Detection,
    Session,
    Answer,
    Watch,
    Convergence,
    Hygiene,
    Vacuous,
}

/// One that was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    /// When, if that is known.
    pub(crate) at: Option<Micros>,
    pub(crate) what: String,
}

/// A committed change of one row, as the audit has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Change {
    /// Order in which triggers ran.
    pub(crate) n: u64,
    pub(crate) transaction: u64,
    pub(crate) at: Micros,
    pub(crate) row: Row,
    pub(crate) content: String,
    pub(crate) logical_id: String,
    /// Lease and status before; `None`: the row is new.
    pub(crate) before: Option<(u64, String)>,
    pub(crate) reason: Option<String>,
    /// When the death was decided, of a dead row.
    pub(crate) stopped_at: Option<Micros>,
}

impl Change {
    /// Whether it granted a lease.
    pub(crate) fn grants(&self) -> bool {
        self.before.as_ref().is_none_or(|(lease, _)| *lease != self.row.lease)
    }

    /// Whether it ended a lease.
    pub(crate) fn is_death(&self) -> bool {
        self.row.status == "dead"
    }

    /// Whether it ended a lease for silence.
    pub(crate) fn is_stale_death(&self) -> bool {
        self.is_death() && self.reason.as_deref() == Some("stale")
    }
}

/// An epoch on record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Epoch {
    pub(crate) number: u64,
    pub(crate) id: Uuid,
    pub(crate) started: u64,
}

/// All live instances, as one source reports them in the end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Final {
    pub(crate) who: String,
    pub(crate) revision: u64,
    pub(crate) rows: Vec<Row>,
}

/// What a run must have had in it to prove anything.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Demands {
    pub(crate) changes_acknowledged: usize,
    pub(crate) beats_acknowledged: usize,
    pub(crate) reads_answered: usize,
    pub(crate) picks: usize,
    pub(crate) sights_per_watcher: usize,
    pub(crate) unknown: usize,
    pub(crate) detections: usize,
}

/// All there is to judge a run by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) calls: Vec<Call>,
    pub(crate) seen: Vec<Seen>,
    /// In the order of the audit.
    pub(crate) changes: Vec<Change>,
    pub(crate) epochs: Vec<Epoch>,
    /// When expiry was on hold or braked, and why.
    pub(crate) protections: Vec<(Micros, Micros, String)>,
    /// Leases whose owners beat at the agreed pace; with the time at which the owner fell silent on purpose.
    pub(crate) kept: HashMap<u64, Option<Micros>>,
    pub(crate) disruptions: Vec<Disruption>,
    /// PostgreSQL first, then each daemon.
    pub(crate) finals: Vec<Final>,
    /// Every row in the end, dead ones included.
    pub(crate) rows: Vec<Row>,
    /// What was left behind, or seen in a log.
    pub(crate) complaints: Vec<String>,
    /// No fault kept callers from daemons: a read without an answer tells that the machine had no time for them.
    pub(crate) are_daemons_left_alone: bool,
    pub(crate) ttl: Micros,
    /// By how much the harness may misjudge the database clock.
    pub(crate) clock_error: Micros,
    pub(crate) demands: Demands,
}

/// What was checked, in numbers.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) calls: usize,
    pub(crate) ok: usize,
    pub(crate) failed: usize,
    pub(crate) unknown: usize,
    pub(crate) changes_acknowledged: usize,
    pub(crate) beats_acknowledged: usize,
    pub(crate) reads_checked: usize,
    pub(crate) picks_checked: usize,
    pub(crate) watch_states_checked: usize,
    pub(crate) changes_committed: usize,
    pub(crate) rotations: usize,
    pub(crate) stale_deaths: usize,
    /// The smallest time by which a death came later than its TTL after the last acknowledged sign of life.
    pub(crate) margin: Option<Micros>,
    /// From the last beat to the death, of the leases that fell silent; sorted.
    pub(crate) detections: Vec<Micros>,
    /// From the end of a rotation to the last beat of an older epoch that another daemon accepted.
    pub(crate) late_fence: Micros,
    /// Deaths that do not count, because the harness itself could not keep the pace.
    pub(crate) starved: usize,
}

/// The judgement.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) violations: Vec<Violation>,
    pub(crate) figures: Figures,
    /// The history, if anything is wrong. Goes with the verdict, unless the test fails: a planted bug has to be caught.
    pub(crate) history: Option<Dump>,
}

impl Verdict {
    /// Notes that a promise was broken.
    pub(crate) fn broken(&mut self, rule: Rule, what: String) {
        self.violations.push(Violation { rule, at: None, what });
    }

    /// Notes that a promise was broken at this time.
    pub(crate) fn broken_at(&mut self, at: Micros, rule: Rule, what: String) {
        self.violations.push(Violation { rule, at: Some(at), what });
    }

    /// Whether this promise was broken.
    pub(crate) fn breaks(&self, rule: Rule) -> bool {
        self.violations.iter().any(|violation| violation.rule == rule)
    }
}

/// Judges a run.
pub(crate) fn check(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::default();
    count(evidence, &mut verdict);
    writes::check(evidence, &mut verdict);
    deaths::check(evidence, &mut verdict);
    reads::check(evidence, &mut verdict);
    watches::check(evidence, &mut verdict);
    convergence(evidence, &mut verdict);
    for complaint in &evidence.complaints {
        verdict.broken(Rule::Hygiene, complaint.clone());
    }
    vacuity(evidence, &mut verdict);
    verdict
}

fn count(evidence: &Evidence, verdict: &mut Verdict) {
    use super::history::{Answer, Op, Outcome};
    let figures = &mut verdict.figures;
    figures.calls = evidence.calls.len();
    for call in &evidence.calls {
        match (&call.op, &call.outcome) {
            (_, Outcome::Fail(_)) => figures.failed += 1,
            (_, Outcome::Unknown(_)) => figures.unknown += 1,
            (Op::Beat { .. }, Outcome::Ok(_)) => figures.beats_acknowledged += 1,
            (Op::Resolve { .. } | Op::List { .. } | Op::Pick { .. }, Outcome::Ok(_)) => {}
            (_, Outcome::Ok(answer)) => {
                figures.changes_acknowledged += 1;
                figures.rotations += usize::from(matches!(answer, Answer::Rotated { .. }));
            }
        }
    }
    figures.ok = figures.calls - figures.failed - figures.unknown;
    figures.changes_committed = evidence.changes.len();
}

fn convergence(evidence: &Evidence, verdict: &mut Verdict) {
    let Some((truth, daemons)) = evidence.finals.split_first() else { return };
    for daemon in daemons {
        if (daemon.revision, &daemon.rows) != (truth.revision, &truth.rows) {
            let differ = |a: &Final, b: &Final| a.rows.iter().filter(|row| !b.rows.contains(row)).count();
            verdict.broken(
                Rule::Convergence,
                format!(
                    "{} ends at revision {} with {} rows too many and {} missing; {} ends at {}",
                    daemon.who,
                    daemon.revision,
                    differ(daemon, truth),
                    differ(truth, daemon),
                    truth.who,
                    truth.revision
                ),
            );
        }
    }
}

fn vacuity(evidence: &Evidence, verdict: &mut Verdict) {
    let (demands, figures) = (&evidence.demands, verdict.figures.clone());
    let mut demand = |what: &str, wanted: usize, found: usize| {
        if found < wanted {
            verdict.broken(Rule::Vacuous, format!("{found} {what}, at least {wanted} are needed to prove anything"));
        }
    };
    demand("changes acknowledged", demands.changes_acknowledged, figures.changes_acknowledged);
    demand("beats acknowledged", demands.beats_acknowledged, figures.beats_acknowledged);
    demand("answers checked", demands.reads_answered, figures.reads_checked);
    demand("picks checked", demands.picks, figures.picks_checked);
    demand("unknown outcomes", demands.unknown, figures.unknown);
    demand("detections", demands.detections, figures.detections.len());
    let mut sights: HashMap<u32, usize> = HashMap::new();
    for seen in &evidence.seen {
        *sights.entry(seen.watcher).or_default() += 1;
    }
    for (watcher, count) in sights {
        demand(&format!("sights of watcher {watcher}"), demands.sights_per_watcher, count);
    }
    for disruption in &evidence.disruptions {
        if disruption.effect.is_empty() {
            verdict.broken(Rule::Vacuous, format!("{} had no effect", disruption.fault));
        }
    }
}

/// For people.
pub(crate) fn seconds(micros: Micros) -> String {
    format!("{}.{:03} s", micros / SECOND, micros % SECOND / 1_000)
}
