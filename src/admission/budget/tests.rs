//! Registrations under way count until the view shows them, and those that need no room always pass.

use std::sync::Arc;

use uuid::Uuid;

use super::*;
use crate::model::{
    InstanceStatus, Labels, LogicalId, Ttl,
    budget::{Unit, record_bytes},
};

/// What is on record: ids with their origins, all of the same size.
#[derive(Clone, Debug, Default)]
struct Known {
    revision: u64,
    confirmed_ms: u64,
    records: Vec<(u128, u64)>,
}

/// The size of a record without labels.
fn small() -> u64 {
    record_bytes("organ".len(), 0)
}

impl Records for Known {
    fn revision(&self) -> Revision {
        Revision(self.revision)
    }

    fn confirmed_ms(&self) -> u64 {
        self.confirmed_ms
    }

    fn usage(&self) -> Usage {
        let count = self.records.len() as u64;
        Usage { records: count, bytes: count * small() }
    }

    fn usage_of(&self, origin: Origin) -> Usage {
        let count = self.records.iter().filter(|(_, of)| Origin::from_hash(*of) == origin).count() as u64;
        Usage { records: count, bytes: count * small() }
    }

    fn records_of(&self, identity: &str) -> u64 {
        self.records.iter().filter(|(_, of)| format!("token/{of}") == identity).count() as u64
    }

    fn bytes_of(&self, instance_id: InstanceId) -> Option<u64> {
        self.records.iter().any(|(id, _)| Uuid::from_u128(*id) == instance_id.0).then(small)
    }
}

struct Scene {
    known: Arc<Mutex<Known>>,
    admission: Admission,
}

impl Scene {
    fn new(records: u64) -> Self {
        let known = Arc::new(Mutex::new(Known::default()));
        let read = Arc::clone(&known);
        let budget = Budget { records, bytes: records * 2 * small() };
        let read = move || -> Box<dyn Records> { Box::new(read.lock().unwrap().clone()) };
        Self { known, admission: Admission::new(budget, read, Clock::new()) }
    }

    fn admit(&self, id: u128, origin: u64) -> Result<(), Refusal> {
        self.admit_all(&[(register(id, 0), origin)]).remove(0)
    }

    fn admit_all(&self, group: &[(Operation, u64)]) -> Vec<Result<(), Refusal>> {
        self.admission.admit(group.iter().map(|(operation, origin)| (operation, Some(Origin::from_hash(*origin)))))
    }

    fn settle(&self, id: u128, outcome: Settled) {
        self.admission.settled(&register(id, 0), outcome);
    }

    fn know(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.lock().unwrap());
    }
}

fn register(id: u128, label: usize) -> Operation {
    let labels = (label > 0).then(|| ("key".into(), "x".repeat(label).into()));
    Operation::Register(Box::new(Registration {
        instance_id: InstanceId(Uuid::from_u128(id)),
        logical_id: LogicalId::from_record("organ"),
        epoch: None,
        status: InstanceStatus::Alive,
        actor_name: None,
        serve_route: None,
        node_id: None,
        ip_address: None,
        port: None,
        pid: None,
        version: None,
        labels: Labels::from_record(labels),
        ttl: Ttl::from_record(None),
        identity: None,
        records_max: None,
    }))
}

fn refused(of_address: bool, limit: u64) -> Result<(), Refusal> {
    Err(Refusal::Full(Full { unit: Unit::Records, limit, of_address }))
}

#[test]
fn burst_counts_before_the_view_shows_it() {
    let scene = Scene::new(8);
    let group: Vec<_> = (1..=10).map(|id| (register(id, 0), 1)).collect();
    let admitted = scene.admit_all(&group);
    assert_eq!(admitted.iter().filter(|it| it.is_ok()).count(), 6, "three quarters");
    assert_eq!(admitted[6], refused(true, 8));
    assert_eq!(scene.admit(20, 2), Ok(()), "another address");
    for id in 1..=6_u8 {
        scene.settle(id.into(), Settled::Written(Revision(id.into())));
    }
    assert_eq!(scene.admit(7, 1), refused(true, 8), "committed, and not yet in the view");
    scene.know(|known| (known.revision, known.records) = (6, (1..=6).map(|id| (id, 1)).collect()));
    assert_eq!(scene.admit(7, 1), refused(true, 8), "in the view, and counted once");
    assert_eq!(scene.admit(21, 3), Ok(()), "the last place");
    assert_eq!(scene.admit(22, 4), refused(false, 8));
}

#[test]
fn registration_that_failed_gives_its_room_back() {
    let scene = Scene::new(1);
    assert_eq!(scene.admit(1, 1), Ok(()));
    assert_eq!(scene.admit(2, 2), refused(false, 1));
    scene.settle(1, Settled::NotWritten);
    assert_eq!(scene.admit(2, 2), Ok(()));
}

#[test]
fn registration_without_an_answer_counts_until_the_view_is_confirmed_later() {
    let scene = Scene::new(1);
    assert_eq!(scene.admit(1, 1), Ok(()));
    scene.settle(1, Settled::Unknown);
    let now_ms = scene.admission.clock.now_ms();
    scene.know(|known| known.confirmed_ms = now_ms);
    assert_eq!(scene.admit(2, 2), refused(false, 1), "it may still be applied");
    scene.know(|known| known.confirmed_ms = now_ms + 2 * UNKNOWN_FOR_MS);
    assert_eq!(scene.admit(2, 2), Ok(()));
}

#[test]
fn known_instance_registers_again_in_a_full_registry_unless_it_grows() {
    let scene = Scene::new(2);
    scene.know(|known| known.records = vec![(1, 1), (2, 1), (3, 9)]);
    assert_eq!(scene.admit(1, 1), Ok(()), "again");
    assert_eq!(scene.admit(3, 2), Ok(()), "and from another address");
    assert_eq!(scene.admit(4, 4), refused(false, 2));
    let larger = scene.admit_all(&[(register(1, 5_000), 1)]).remove(0);
    assert_eq!(larger, Err(Refusal::Full(Full { unit: Unit::Bytes, limit: 4 * small(), of_address: false })));
    assert_eq!(scene.admission.origin_of(InstanceId(Uuid::from_u128(3))), Some(Origin::from_hash(2)));
}

#[test]
fn same_instance_registered_twice_at_once_counts_once() {
    let scene = Scene::new(2);
    let twice = [(register(1, 0), 1), (register(1, 0), 1)];
    assert_eq!(scene.admit_all(&twice), [Ok(()), Ok(())]);
    scene.settle(1, Settled::Written(Revision(5)));
    scene.settle(1, Settled::NotWritten);
    assert_eq!(scene.admit(2, 2), Ok(()));
    assert_eq!(scene.admit(3, 3), refused(false, 2), "the refusal of the second does not forget the first");
}

#[test]
fn owner_has_no_more_records_than_it_may_and_registers_known_ones_again() {
    let scene = Scene::new(1_000);
    let of_owner = |id: u128| {
        let Operation::Register(mut registration) = register(id, 0) else { unreachable!() };
        (registration.identity, registration.records_max) = (Some("token/7".into()), Some(2));
        (Operation::Register(registration), 7)
    };
    scene.known.lock().unwrap().records.push((1, 7));
    let group = [of_owner(1), of_owner(2), of_owner(3), of_owner(2), of_owner(1)];
    let full = Err(Refusal::OwnerFull(2));
    assert_eq!(scene.admit_all(&group), [Ok(()), Ok(()), full, Ok(()), Ok(())]);
    assert_eq!(scene.admit_all(&[(register(9, 0), 7)]), [Ok(())], "that of no identity");
}
