//! The checker against what actors and routers on the client crate do.
#![cfg(test)]

use super::{
    Epoch, Rule,
    tests::{Story, TTL, id, row},
};
use crate::faults::history::{Answer, Op, Outcome, SECOND};

#[test]
fn end_of_an_instance_that_left_is_explained_and_must_be_on_record() {
    let mut story = Story::good();
    story.registers(9 * SECOND, 7, 4, "c4");
    let ended = |story: &mut Story| {
        story.change(10 * SECOND, row(7, 4, 5, "dead"), "c4", Some((4, "alive")), Some("deregistered"));
    };
    let mut unasked = story.clone();
    ended(&mut unasked);
    assert_eq!(unasked.breaks(), [Rule::Phantom]);
    story.call(10 * SECOND, Op::Leave { instance: id(7) }, Outcome::Ok(Answer::Left { lease: Some(4) }));
    assert_eq!(story.clone().breaks(), [Rule::Lost], "the lease lives");
    ended(&mut story);
    assert_eq!(story.breaks(), []);
}

#[test]
fn instance_that_left_explains_its_end_and_no_other_change() {
    let mut story = Story::good();
    story.registers(9 * SECOND, 7, 4, "c4");
    story.call(10 * SECOND, Op::Leave { instance: id(7) }, Outcome::Unknown("no caller waited for it".into()));
    story.change(11 * SECOND, row(7, 4, 5, "draining"), "other", Some((4, "alive")), None);
    assert_eq!(story.breaks(), [Rule::Phantom]);
}

fn picks(story: &mut Story, second: u64, revision: u64, status: &str) {
    let row = row(1, 2, revision, status);
    let op = Op::Pick { logical_id: "organ".into() };
    story.call(second * SECOND, op, Outcome::Ok(Answer::Picked { row }));
}

#[test]
fn pick_of_what_was_so_lately_is_right() {
    let mut story = Story::good();
    picks(&mut story, 3, 2, "alive");
    // It died at about 7 s.
    picks(&mut story, 20, 2, "alive");
    assert_eq!(story.breaks(), []);
}

#[test]
fn pick_of_what_was_never_so_or_is_long_over_is_wrong() {
    for (second, revision, status) in [(3, 9, "alive"), (3, 2, "draining"), (20, 3, "dead"), (40, 2, "alive")] {
        let mut story = Story::good();
        picks(&mut story, second, revision, status);
        assert_eq!(story.breaks(), [Rule::Answer], "{second} s, revision {revision}, {status}");
    }
}

#[test]
fn pick_from_an_epoch_that_is_long_over_is_wrong() {
    let mut story = Story::good();
    // Its death is not on record, as that of an instance of an older epoch may not be.
    story.0.changes.pop();
    story.0.kept.clear();
    story.0.rows.clear();
    story.0.calls.retain(|call| !matches!(call.op, Op::List { .. }));
    story.0.seen.clear();
    story.0.epochs.push(Epoch { number: 2, id: id(200), started: 3 });
    let op = Op::Register { instance: id(7), content: "c7".into(), epoch: None };
    story.call(9 * SECOND, op, Outcome::Ok(Answer::Registered { lease: 4, revision: 4, epoch: 2 }));
    let mut newer = row(7, 4, 4, "alive");
    newer.epoch = 2;
    story.change(9 * SECOND, newer, "c7", None, None);
    picks(&mut story, 20, 2, "alive");
    assert_eq!(story.clone().breaks(), []);
    picks(&mut story, 40, 2, "alive");
    assert_eq!(story.breaks(), [Rule::Answer]);
}

#[test]
fn beat_that_ends_after_the_decision_does_not_make_a_death_false() {
    let mut story = Story::good();
    let start = 4 * SECOND + TTL + 100_000;
    story.call(start, Op::Beat { lease: 2 }, Outcome::Ok(Answer::Beaten)).end = Some(start + 200_000);
    assert_eq!(story.breaks(), []);
}
