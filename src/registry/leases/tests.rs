//! Looking at leases by the schedule finds what looking at all of them would.

use proptest::prelude::*;

use super::*;
use crate::{
    clock::START_MS,
    model::{
        Epoch, InstanceStatus,
        fixture::{EPOCH, instance},
    },
};

const LEASES: u16 = 4;
/// The stream they beat on, granted here.
const STREAM: StreamId = StreamId::numbered(1);

/// What may happen to a lease.
#[derive(Clone, Debug)]
enum Event {
    Beats(u16),
    BeatsElsewhere(u16),
    StreamBreaks(u16),
    AnotherDaemonMarks(u16),
    AnotherDaemonClears(u16),
    TtlBecomes(u16, u32),
    Dies(u16),
    RowGoes(u16),
    RowComes(u16),
    Rotates,
    Wait(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let lease = 1..=LEASES;
    let event = prop_oneof![
        4 => lease.clone().prop_map(Event::Beats),
        2 => lease.clone().prop_map(Event::BeatsElsewhere),
        2 => lease.clone().prop_map(Event::StreamBreaks),
        2 => lease.clone().prop_map(Event::AnotherDaemonMarks),
        2 => lease.clone().prop_map(Event::AnotherDaemonClears),
        // A third of it falls on a slot of the schedule, so that nothing is rounded.
        2 => (lease.clone(), 7..=100_u32).prop_map(|(lease, ttl)| Event::TtlBecomes(lease, 300 * ttl)),
        1 => lease.clone().prop_map(Event::Dies),
        1 => lease.clone().prop_map(Event::RowGoes),
        2 => lease.prop_map(Event::RowComes),
        1 => Just(Event::Rotates),
        6 => (1..=12_u64).prop_map(Event::Wait),
    ];
    prop::collection::vec(event, 1..80)
}

/// A daemon's leases under a clock of the test.
struct World {
    leases: Leases,
    rows: Vec<Instance>,
    epoch: Epoch,
    now_ms: u64,
}

impl World {
    fn new() -> Self {
        let rows: Vec<_> = (1..=LEASES).map(|number| instance(number, "organ", InstanceStatus::Alive)).collect();
        let leases = Leases::new(Clock::new());
        leases.set_epoch(EPOCH);
        for row in &rows {
            let lease = leases.track(row, START_MS);
            // One half was granted here, the other by another daemon.
            if row.lease_id.0 % 2 == 0 {
                lease.registered_here(START_MS, true);
            }
        }
        Self { leases, rows, epoch: EPOCH, now_ms: START_MS }
    }

    fn lease(&self, number: u16) -> Option<Arc<Lease>> {
        self.leases.get(LeaseId(number.into()))
    }

    fn beat(&self, lease: &Arc<Lease>) {
        let _ = Beats { leases: &self.leases, stream: STREAM, epoch: self.epoch, now_ms: self.now_ms, save_lag_ms: 0 }
            .beat(lease);
    }

    fn happens(&mut self, event: &Event) {
        let number = match event {
            Event::Beats(number)
            | Event::BeatsElsewhere(number)
            | Event::StreamBreaks(number)
            | Event::AnotherDaemonMarks(number)
            | Event::AnotherDaemonClears(number)
            | Event::TtlBecomes(number, _)
            | Event::Dies(number)
            | Event::RowGoes(number)
            | Event::RowComes(number) => *number,
            Event::Rotates => {
                self.epoch.number += 1;
                return self.leases.set_epoch(self.epoch);
            }
            Event::Wait(_) => return,
        };
        let row = &mut self.rows[usize::from(number - 1)];
        if matches!(event, Event::RowComes(_)) {
            // Again, as after a history was lost, or for the first time in this epoch.
            row.epoch = self.epoch;
            row.status = InstanceStatus::Alive;
            self.leases.track(&self.rows[usize::from(number - 1)], self.now_ms);
            return;
        }
        let Some(lease) = self.leases.get(LeaseId(number.into())) else { return };
        match event {
            Event::Beats(_) => self.beat(&lease),
            Event::BeatsElsewhere(_) => lease.heard_elsewhere(self.now_ms),
            Event::StreamBreaks(_) => drop(self.leases.lose_stream(STREAM, [&lease].into_iter(), self.now_ms)),
            Event::AnotherDaemonMarks(_) => {
                if lease.agrees(self.now_ms) {
                    lease.mark_suspect();
                    self.leases.follow(&lease);
                }
            }
            Event::AnotherDaemonClears(_) => lease.clear_suspect(),
            Event::TtlBecomes(_, ttl_ms) => {
                row.ttl = Ttl::from_record(Some(i64::from(*ttl_ms)));
                self.leases.track(row, 0);
            }
            Event::Dies(_) => {
                row.status = InstanceStatus::Dead;
                self.leases.track(row, 0);
            }
            _ => self.leases.forget(&lease),
        }
    }

    /// Judges the leases that are due, and compares with what judging all of them finds.
    fn judge(&mut self) -> Result<(), TestCaseError> {
        let found = self.leases.judge_due_at(self.now_ms);
        let known: Vec<_> = (1..=LEASES).filter_map(|number| self.lease(number)).collect();
        let live: Vec<_> = known.iter().filter(|lease| lease.standing(self.epoch) == LeaseStanding::Live).collect();
        let suspects = live.iter().filter(|lease| lease.is_suspect(self.now_ms)).count();
        prop_assert_eq!(self.leases.suspects(), u64::try_from(suspects).unwrap());
        for lease in live {
            let (told, suspect) = (lease.is_published_suspect(), lease.is_suspect(self.now_ms));
            prop_assert_eq!(told, suspect, "{:?} at {}", lease, self.now_ms);
            let overdue = lease.is_overdue(self.now_ms);
            prop_assert_eq!(found.overdue.contains(&lease.id), overdue, "{:?} at {}", lease, self.now_ms);
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn overdue_and_suspect_leases_are_all_found(events in events()) {
        let mut world = World::new();
        for event in events {
            world.happens(&event);
            if let Event::Wait(seconds) = event {
                for _ in 0..seconds {
                    world.now_ms += 1_000;
                    world.judge()?;
                }
            }
        }
    }
}

#[test]
fn lease_that_beats_in_time_is_examined_once_an_interval() {
    let world = World::new();
    let interval_ms = world.rows[0].ttl.beat_interval_ms();
    let mut looks = 0;
    for second in 1..=60 {
        let now_ms = START_MS + second * 1_000;
        let beats = Beats { leases: &world.leases, stream: STREAM, epoch: EPOCH, now_ms, save_lag_ms: 0 };
        for number in 1..=LEASES {
            beats.beat(&world.lease(number).unwrap()).unwrap();
        }
        let due = world.leases.schedule.take_due(now_ms);
        looks += due.len();
        for lease in due {
            let at_ms = lease.overdue_ms();
            world.leases.schedule.put(lease, at_ms);
        }
    }
    let intervals = usize::try_from(60_000 / interval_ms).unwrap();
    assert!((1..=intervals * usize::from(LEASES)).contains(&looks), "{looks} looks");
}
