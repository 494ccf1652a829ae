//! One lease at given times.

use uuid::Uuid;

use super::*;

const ONE: StreamId = StreamId::numbered(1);

fn lease() -> Lease {
    Lease::new(LeaseId(7), InstanceId(Uuid::from_u128(7)), 1, None, Ttl::from_record(Some(15_000)), 1_000)
}

#[test]
fn it_is_queued_for_saving_once_until_it_was_taken() {
    let lease = lease();
    assert!(lease.beat(ONE, 2_000));
    assert!(!lease.beat(ONE, 3_000), "it is queued already");
    assert_eq!(lease.take_unsaved(), 3_000);
    assert!(lease.beat(ONE, 4_000), "a beat after it was taken queues it again");
}

#[test]
fn a_save_is_due_a_third_of_the_ttl_after_the_last() {
    let lease = lease();
    assert_eq!(lease.save_due_ms(), 6_000);
    lease.saved(9_000);
    lease.saved(8_000);
    assert_eq!(lease.save_due_ms(), 14_000, "an older save does not take it back");
}

#[test]
fn suspicion_comes_after_two_beats_here_and_after_the_ttl_elsewhere() {
    let lease = lease();
    assert!(!lease.is_suspect(16_000));
    assert!(lease.is_suspect(16_001));
    lease.beat(ONE, 20_000);
    assert!(!lease.is_suspect(30_000));
    assert!(lease.is_suspect(30_001));
    lease.heard_elsewhere(20_050);
    assert!(lease.is_suspect(30_051), "that was our own beat, as it was saved");
    lease.heard_elsewhere(29_000);
    assert!(!lease.is_suspect(44_000));
    lease.heard_elsewhere(10_000);
    assert_eq!(lease.heard_ms(), 29_000, "an older beat changes nothing");
}

#[test]
fn a_broken_stream_makes_it_suspect_until_the_next_beat() {
    let lease = lease();
    lease.beat(ONE, 2_000);
    lease.mark_contact_lost(2_000);
    assert!(lease.is_suspect(2_001));
    lease.beat(ONE, 2_500);
    assert!(!lease.is_suspect(2_501));
    lease.mark_contact_lost(2_000);
    assert!(!lease.is_suspect(2_501), "it has beaten elsewhere since");
}

#[test]
fn lease_suspected_by_another_daemon_is_suspect_until_a_beat() {
    let lease = lease();
    assert!(lease.agrees(2_000), "it never beat here");
    lease.mark_suspect();
    assert!(lease.is_suspect(2_001) && !lease.lose_overdue(2_001), "that is not for this daemon to tell");
    lease.clear_suspect();
    assert!(!lease.is_suspect(2_001));
    lease.mark_suspect();
    lease.beat(ONE, 2_500);
    assert!(!lease.is_suspect(2_501));
    lease.mark_contact_lost(2_500);
    assert!(lease.agrees(2_400), "what was found here is no sign of life, however rough the times are");
    assert!(lease.is_suspect(2_501));
    lease.beat(ONE, 3_000);
    assert!(!lease.lose_overdue(13_000));
    assert!(lease.lose_overdue(13_001), "two beats are overdue");
}

#[test]
fn lease_that_beats_here_is_not_suspect_by_a_stream_elsewhere() {
    let lease = lease();
    lease.beat(ONE, 20_000);
    assert!(!lease.agrees(19_000), "it has beaten here since");
    assert!(!lease.agrees(24_999), "its next beat here is not yet due");
    assert!(lease.agrees(25_000), "it beat elsewhere for a whole interval");
}

#[test]
fn end_of_a_stream_counts_if_it_alone_renewed_the_lease() {
    let granted = |here: bool| {
        let lease = lease();
        lease.registered_here(20_000, here);
        lease.beat(ONE, 20_000);
        lease.beat(ONE, 26_000);
        lease
    };
    assert_eq!(granted(true).lose_stream(ONE, 25_999), Loss::None, "it has beaten since");
    let lease = granted(true);
    assert_eq!(lease.lose_stream(ONE, 26_000), Loss::Lost);
    assert!(lease.is_suspect(26_001));
    let lease = granted(false);
    assert_eq!(lease.lose_stream(ONE, 26_000), Loss::Unconfirmed);
    assert!(!lease.is_suspect(26_001), "another daemon may hear it");
    assert!(lease.agrees(26_000), "this daemon does not");
    for intruder in [StreamId::numbered(2), StreamId::NONE] {
        let lease = granted(true);
        lease.beat(intruder, 27_000);
        lease.beat(ONE, 28_000);
        assert_eq!(lease.lose_stream(ONE, 28_000), Loss::None);
        assert_eq!(lease.lose_stream(intruder, 28_000), Loss::None);
    }
}

#[test]
fn it_ends_for_good() {
    let lease = lease();
    assert_eq!(lease.state(), LeaseState::Live);
    lease.end(false);
    lease.beat(ONE, 50_000);
    assert_eq!(lease.state(), LeaseState::Dead);
    lease.forget();
    lease.end(true);
    assert_eq!(lease.state(), LeaseState::Gone);
}

#[test]
fn it_takes_no_more_memory_than_it_must() {
    assert!(size_of::<Lease>() <= 88, "there may be a million; four bytes tell the address that registered it");
}
