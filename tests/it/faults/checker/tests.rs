//! The checker against histories written by hand: one that is right, and for each rule one that breaks it.
#![cfg(test)]

use uuid::Uuid;

use super::{Change, Demands, Epoch, Evidence, Final, Rule, check};
use crate::faults::history::{Answer, Call, Disruption, Micros, Op, Outcome, Row, SECOND, Seen, Sight};

pub(super) const TTL: Micros = 3 * SECOND;

pub(super) fn id(number: u64) -> Uuid {
    Uuid::from_u128(number.into())
}

pub(super) fn row(instance: u64, lease: u64, revision: u64, status: &str) -> Row {
    Row { instance: id(instance), lease, revision, epoch: 1, status: status.into() }
}

/// A run in the making.
#[derive(Clone)]
pub(super) struct Story(pub(super) Evidence);

impl Story {
    /// One instance registers at revision 2, beats, is listed, resolved and watched, falls silent and dies at 3.
    pub(super) fn good() -> Self {
        let mut story = Self(Evidence {
            epochs: vec![Epoch { number: 1, id: id(100), started: 1 }],
            ttl: TTL,
            clock_error: 1_000,
            ..Evidence::default()
        });
        story.registers(SECOND, 1, 2, "c1");
        for second in 2..5 {
            story.beats(second * SECOND, 2);
        }
        story.listed(4 * SECOND, 2, vec![row(1, 2, 2, "alive")]);
        story.watches(vec![
            Sight::Opened { resume_after: 0 },
            Sight::Put(row(1, 2, 2, "alive")),
            Sight::Reached { revision: 2, complete: true },
            Sight::Gone { instance: id(1), revision: 3 },
            Sight::Reached { revision: 3, complete: false },
        ]);
        story.0.kept.insert(2, Some(4 * SECOND + 500_000));
        story.dies(4 * SECOND + TTL + 200_000, 1, 2, 3, "stale");
        story.listed(20 * SECOND, 3, vec![]);
        story.0.rows = vec![row(1, 2, 3, "dead")];
        story.0.finals = ["sql", "daemon"].map(|who| Final { who: who.into(), revision: 3, rows: Vec::new() }).to_vec();
        story
    }

    pub(super) fn call(&mut self, start: Micros, op: Op, outcome: Outcome) -> &mut Call {
        let end = Some(start + 1_000);
        self.0.calls.push(Call { client: 1, daemon: 0, attempt: 1, start, end, op, outcome });
        self.0.calls.last_mut().unwrap()
    }

    pub(super) fn change(
        &mut self,
        at: Micros,
        row: Row,
        content: &str,
        before: Option<(u64, &str)>,
        reason: Option<&str>,
    ) {
        let n = self.0.changes.len() as u64 + 1;
        self.0.changes.push(Change {
            n,
            transaction: n,
            at,
            stopped_at: (row.status == "dead").then_some(at),
            row,
            content: content.into(),
            logical_id: "organ".into(),
            before: before.map(|(lease, status)| (lease, status.into())),
            reason: reason.map(str::to_owned),
        });
    }

    fn asks_to_register(&mut self, start: Micros, instance: u64, lease: u64, content: &str) {
        let op = Op::Register { instance: id(instance), content: content.into(), epoch: None };
        self.call(start, op, Outcome::Ok(Answer::Registered { lease, revision: lease, epoch: 1 }));
    }

    pub(super) fn registers(&mut self, start: Micros, instance: u64, lease: u64, content: &str) {
        self.asks_to_register(start, instance, lease, content);
        self.change(start + 500, row(instance, lease, lease, "alive"), content, None, None);
    }

    fn beats(&mut self, start: Micros, lease: u64) {
        self.call(start, Op::Beat { lease }, Outcome::Ok(Answer::Beaten));
    }

    pub(super) fn dies(&mut self, at: Micros, instance: u64, lease: u64, revision: u64, reason: &str) {
        self.change(at, row(instance, lease, revision, "dead"), "c1", Some((lease, "alive")), Some(reason));
    }

    fn listed(&mut self, start: Micros, revision: u64, rows: Vec<Row>) {
        self.call(start, Op::List { min_revision: 0 }, Outcome::Ok(Answer::Listed { revision, rows }));
    }

    fn watches(&mut self, sights: Vec<Sight>) {
        let seen = sights.into_iter().map(|sight| Seen { watcher: 1, daemon: 0, at: 0, sight });
        self.0.seen = seen.collect();
    }

    /// The rules that are broken, without the checks of the end, which most stories here leave out.
    pub(super) fn breaks(mut self) -> Vec<Rule> {
        self.0.finals.clear();
        let mut rules: Vec<_> = check(&self.0).violations.into_iter().map(|violation| violation.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }
}

#[test]
fn a_history_that_keeps_every_promise_passes() {
    let verdict = check(&Story::good().0);
    assert_eq!(verdict.violations, []);
    assert_eq!((verdict.figures.margin, verdict.figures.stale_deaths), (Some(201_000), 1));
    assert_eq!(verdict.figures.detections, [TTL + 200_000]);
    assert_eq!((verdict.figures.reads_checked, verdict.figures.watch_states_checked), (2, 2));
}

#[test]
fn an_acknowledged_registration_that_is_not_on_record_is_lost() {
    let mut story = Story::good();
    story.asks_to_register(9 * SECOND, 7, 9, "c9");
    assert_eq!(story.breaks(), [Rule::Lost]);
}

#[test]
fn an_acknowledged_end_that_is_not_on_record_is_lost() {
    let mut story = Story::good();
    story.registers(9 * SECOND, 7, 4, "c4");
    let told = Outcome::Ok(Answer::Set { lease: 4, revision: 5, already_dead: false });
    story.call(10 * SECOND, Op::Deregister { lease: 4 }, told);
    assert!(story.breaks().contains(&Rule::Lost));
}

#[test]
fn a_row_that_changed_behind_the_audit_is_lost() {
    let mut story = Story::good();
    story.0.rows = vec![row(1, 2, 2, "alive")];
    assert!(check(&story.0).breaks(Rule::Lost));
}

#[test]
fn record_without_a_request_or_with_a_refusal_is_a_phantom() {
    let mut story = Story::good();
    story.change(9 * SECOND, row(7, 4, 4, "alive"), "c4", None, None);
    assert_eq!(story.clone().breaks(), [Rule::Phantom]);
    let op = Op::Register { instance: id(7), content: "c4".into(), epoch: None };
    story.call(8 * SECOND, op.clone(), Outcome::Fail("OVERLOADED".into()));
    assert_eq!(story.clone().breaks(), [Rule::Phantom]);
    story.call(8 * SECOND, op, Outcome::Unknown("MAYBE_APPLIED".into()));
    assert_eq!(story.breaks(), [], "an unknown outcome explains it");
}

#[test]
fn one_registration_with_two_live_leases_is_doubled() {
    let mut story = Story::good();
    story.registers(9 * SECOND, 7, 4, "c4");
    story.registers(10 * SECOND, 8, 5, "c4");
    assert_eq!(story.breaks(), [Rule::Doubled]);
}

#[test]
fn a_repetition_after_the_lease_died_is_not_doubled() {
    let mut story = Story::good();
    story.registers(20 * SECOND, 1, 4, "c1");
    story.0.changes.last_mut().unwrap().before = Some((2, "dead".into()));
    assert_eq!(story.breaks(), []);
}

#[test]
fn a_revision_with_two_meanings_is_doubled() {
    let mut story = Story::good();
    story.registers(9 * SECOND, 7, 4, "c4");
    story.registers(9 * SECOND, 8, 5, "c5");
    story.0.changes.last_mut().unwrap().row.revision = 4;
    assert!(story.breaks().contains(&Rule::Doubled));
}

#[test]
fn a_lower_revision_for_what_was_asked_later_is_out_of_order() {
    let mut story = Story::good();
    story.registers(9 * SECOND, 7, 5, "c5");
    story.registers(10 * SECOND, 8, 4, "c4");
    assert_eq!(story.clone().breaks(), [Rule::Order]);
    story.0.changes.reverse();
    assert!(story.breaks().contains(&Rule::Order), "in order of commits nothing is better");
}

#[test]
fn an_old_epoch_that_is_accepted_breaks_the_fence() {
    let mut story = Story::good();
    story.0.epochs.push(Epoch { number: 2, id: id(200), started: 4 });
    let told = Outcome::Ok(Answer::Rotated { epoch: 2, revision: 4 });
    story.call(21 * SECOND, Op::Rotate { epoch: id(200) }, told);
    assert_eq!(story.clone().breaks(), []);
    story.registers(22 * SECOND, 7, 5, "c5");
    assert_eq!(story.breaks(), [Rule::Fence]);
}

#[test]
fn a_registration_in_another_epoch_than_it_named_breaks_the_fence() {
    let mut story = Story::good();
    let op = Op::Register { instance: id(1), content: "c1".into(), epoch: Some(id(100)) };
    story.0.calls[0].op = op;
    assert_eq!(story.clone().breaks(), []);
    story.0.epochs[0].number = 0;
    assert!(story.breaks().contains(&Rule::Fence));
}

#[test]
fn an_answer_with_an_instance_of_an_older_epoch_breaks_the_fence() {
    let mut story = Story::good();
    story.registers(18 * SECOND, 7, 4, "c4");
    story.0.epochs.push(Epoch { number: 2, id: id(200), started: 5 });
    story.listed(22 * SECOND, 5, vec![row(7, 4, 4, "alive")]);
    assert_eq!(story.breaks(), [Rule::Fence]);
}

#[test]
fn a_dead_lease_that_lives_or_dies_again_is_not_final() {
    let mut story = Story::good();
    story.change(20 * SECOND, row(1, 2, 4, "alive"), "c1", Some((2, "dead")), None);
    assert!(story.breaks().contains(&Rule::Final));
    let mut story = Story::good();
    story.dies(20 * SECOND, 1, 2, 4, "stale");
    assert_eq!(story.breaks(), [Rule::Final]);
    let mut story = Story::good();
    story.beats(20 * SECOND, 2);
    assert_eq!(story.breaks(), [Rule::Final]);
}

#[test]
fn a_death_within_the_ttl_of_an_acknowledged_beat_is_false() {
    let mut story = Story::good();
    story.beats(5 * SECOND, 2);
    assert_eq!(story.breaks(), [Rule::FalseDeath]);
}

#[test]
fn the_death_of_one_that_never_stopped_to_try_is_a_loss_to_the_outage() {
    let mut story = Story::good();
    for tenth in 45..72 {
        let refused = Outcome::Unknown("DeadlineExceeded".into());
        story.call(tenth * SECOND / 10, Op::Beat { lease: 2 }, refused);
    }
    story.0.kept.insert(2, None);
    assert_eq!(story.clone().breaks(), [Rule::LostToOutage]);
    story.0.calls.retain(|call| call.start < 5 * SECOND - 200_000 || call.start > 8 * SECOND);
    let verdict = check(&story.0);
    assert_eq!((verdict.violations, verdict.figures.starved), (vec![], 1), "the harness itself was late");
}

/// The owner beats to the end, and no beat is answered.
fn unanswered() -> Story {
    let mut story = Story::good();
    for tenth in (45..72).step_by(5) {
        let start = tenth * SECOND / 10;
        let call = story.call(start, Op::Beat { lease: 2 }, Outcome::Unknown("no answer in time".into()));
        call.end = Some(start + SECOND / 2);
    }
    story.0.kept.insert(2, None);
    story
}

#[test]
fn unanswered_beats_are_no_loss_when_the_owner_or_the_daemons_had_no_time() {
    assert_eq!(unanswered().breaks(), [Rule::LostToOutage]);
    let mut late = unanswered();
    for call in late.0.calls.iter_mut().filter(|call| matches!(call.outcome, Outcome::Unknown(_))) {
        call.end = Some(call.start + SECOND / 2 + SECOND / 5);
    }
    assert_eq!(late.breaks(), [], "the owner noticed the end of its patience late");
    for (answered, left_alone, broken) in
        [(2, true, vec![]), (2, false, vec![Rule::LostToOutage]), (3, true, vec![Rule::LostToOutage])]
    {
        let mut story = unanswered();
        story.0.are_daemons_left_alone = left_alone;
        for number in 0..5 {
            let no_answer = Outcome::Unknown("no answer in time".into());
            let outcome = if number < answered { Outcome::Fail("UNKNOWN_LOGICAL_ID".into()) } else { no_answer };
            let op = Op::Resolve { logical_id: "other".into(), min_revision: 0 };
            story.call((5 + number / 3) * SECOND, op, outcome);
        }
        assert_eq!(story.breaks(), broken, "{answered} of 5 reads were answered");
    }
}

#[test]
fn thirty_deaths_at_once_are_not_paced() {
    let mut story = Story::good();
    for number in 0..30 {
        story.registers(20 * SECOND + number, 10 + number, 10 + number, &format!("c{}", 10 + number));
    }
    for number in 0..30 {
        story.dies(40 * SECOND + number, 10 + number, 10 + number, 50 + number, "stale");
    }
    assert_eq!(story.breaks(), [Rule::Paced]);
}

#[test]
fn a_silent_one_that_is_not_declared_dead_in_time_is_not_detected() {
    let mut story = Story::good();
    story.0.changes.last_mut().unwrap().at = 12 * SECOND;
    assert_eq!(story.clone().breaks(), [Rule::Detection]);
    let (from, until) = (3 * SECOND, 4 * SECOND);
    story.0.protections.push((from, until, "a daemon was lost".into()));
    assert_eq!(story.clone().breaks(), [], "a hold delays it");
    story.0.protections.clear();
    let fault = "kill".to_owned();
    story.0.disruptions.push(Disruption { fault, from, until, effect: "killed".into(), recovery: 0 });
    assert_eq!(story.breaks(), [], "so does a disruption");
}

#[test]
fn owner_whose_live_lease_is_reported_ended_is_refused_falsely() {
    let mut story = Story::good();
    story.call(3 * SECOND, Op::Beat { lease: 2 }, Outcome::Fail("UNKNOWN_LEASE".into()));
    assert_eq!(story.breaks(), [Rule::FalseRefusal]);
    let mut story = Story::good();
    story.call(10 * SECOND, Op::Beat { lease: 2 }, Outcome::Fail("LEASE_EXPIRED".into()));
    assert_eq!(story.breaks(), []);
}

#[test]
fn an_answer_older_than_asked_for_breaks_the_session() {
    let mut story = Story::good();
    story.listed(21 * SECOND, 2, vec![row(1, 2, 2, "alive")]);
    story.0.calls.last_mut().unwrap().op = Op::List { min_revision: 3 };
    assert_eq!(story.breaks(), [Rule::Session]);
}

#[test]
fn an_answer_that_was_not_so_at_its_revision_is_wrong() {
    let mut story = Story::good();
    story.listed(21 * SECOND, 2, vec![]);
    assert_eq!(story.breaks(), [Rule::Answer]);
    let mut story = Story::good();
    story.listed(21 * SECOND, 3, vec![row(1, 2, 2, "alive")]);
    assert_eq!(story.breaks(), [Rule::Answer]);
}

#[test]
fn watcher_that_misses_a_change_has_a_gap() {
    let mut story = Story::good();
    story.0.seen.remove(3);
    assert_eq!(story.breaks(), [Rule::Watch]);
}

#[test]
fn watcher_complains_of_repeated_and_unordered_changes() {
    let mut story = Story::good();
    let again = story.0.seen[3].clone();
    story.0.seen.insert(4, again);
    assert_eq!(story.breaks(), [Rule::Watch]);
}

#[test]
fn a_watcher_that_resumes_goes_on_with_what_it_knew() {
    let mut story = Story::good();
    let opened = |resume_after| Seen { watcher: 1, daemon: 1, at: 0, sight: Sight::Opened { resume_after } };
    story.0.seen.insert(3, opened(2));
    assert_eq!(story.clone().breaks(), []);
    story.0.seen[3] = opened(1);
    assert_eq!(story.breaks(), [Rule::Watch]);
}

#[test]
fn daemons_that_disagree_in_the_end_have_not_converged() {
    let mut story = Story::good();
    story.0.finals[1].rows.push(row(1, 2, 2, "alive"));
    assert!(check(&story.0).breaks(Rule::Convergence));
}

#[test]
fn a_run_in_which_too_little_happened_proves_nothing() {
    let mut story = Story::good();
    story.0.demands = Demands { changes_acknowledged: 2, ..Demands::default() };
    assert_eq!(story.breaks(), [Rule::Vacuous]);
    let mut story = Story::good();
    let fault = "a fault without effect".to_owned();
    let from = 50 * SECOND;
    story.0.disruptions.push(Disruption { fault, from, until: from, effect: String::new(), recovery: 0 });
    assert_eq!(story.breaks(), [Rule::Vacuous]);
}

#[test]
fn leftovers_break_the_rule_of_hygiene() {
    let mut story = Story::good();
    story.0.complaints.push("daemon 0 panicked".into());
    assert_eq!(story.breaks(), [Rule::Hygiene]);
}
