//! What the feed applies of the rows that come with changes of the writer.

use std::{net::Ipv4Addr, sync::Mutex};

use chrono::DateTime;

use super::*;
use crate::model::{Epoch, EpochId, InstanceId, InstanceStatus, Labels, LeaseId, LogicalId, Ttl};

const EPOCH: Epoch = Epoch { id: EpochId(Uuid::from_u128(1)), number: 1 };

/// Up to which revision, and the revisions of the instances.
type Applied = (u64, Vec<u64>);

/// What it was told to apply.
#[derive(Clone, Debug, Default)]
struct Told(Arc<Mutex<Vec<Applied>>>);

impl Sink for Told {
    fn load(&mut self, _: Cluster, _: impl Iterator<Item = Instance>, _: u64) {}
    fn apply(&mut self, cluster: Cluster, instances: Vec<Instance>, _: u64) {
        let revisions = instances.iter().map(|instance| instance.revision.0).collect();
        self.0.lock().unwrap().push((cluster.revision.0, revisions));
    }
    fn daemons(&mut self, _: Daemons) {}
    fn lost(&mut self, _: &store::Error) {}
}

fn instance(revision: u64) -> Instance {
    Instance {
        instance_id: InstanceId(Uuid::from_u128(revision.into())),
        logical_id: LogicalId::from_record("organ"),
        lease_id: LeaseId(revision),
        replaces: None,
        epoch: EPOCH,
        revision: Revision(revision),
        status: InstanceStatus::Alive,
        actor_name: None,
        serve_route: None,
        node_id: None,
        ip_address: Some(Ipv4Addr::LOCALHOST.into()),
        port: None,
        pid: None,
        version: None,
        labels: Labels::default(),
        owner: None,
        ttl: Ttl::from_record(None),
        started_at: DateTime::default(),
        last_beat: DateTime::default(),
        details: None,
    }
}

/// All changes after one revision, up to another.
fn changes(after: u64, up_to: u64) -> Changes {
    let cluster = Cluster {
        epoch: EPOCH,
        revision: Revision(up_to),
        history_id: Uuid::nil(),
        purged: Revision(0),
        hold: None,
        brake: None,
        read_at: DateTime::default(),
    };
    let instances: Vec<_> = (after + 1..=up_to).map(instance).collect();
    Changes { after: Revision(after), cluster, rows: instances.len(), instances, at_ms: 0 }
}

/// A feed that has applied revision 10.
fn feed() -> (Feed<Told>, Told, mpsc::Sender<Changes>) {
    let (told, (writer, prefetched)) = (Told::default(), mpsc::channel(PREFETCHED_MAX));
    let mut feed =
        Feed::new(Database::at("host=h", None).unwrap(), told.clone(), Clock::new(), Arc::default(), prefetched);
    (feed.history_id, feed.applied) = (Some(Uuid::nil()), Revision(10));
    (feed, told, writer)
}

#[test]
fn rows_of_a_change_are_applied_where_they_continue_what_is_known() {
    let (mut feed, told, _writer) = feed();
    feed.take(changes(10, 12));
    // Asked before the feed knew of 12.
    feed.take(changes(10, 13));
    // Asked when 13 was sent and not yet taken.
    feed.take(changes(13, 14));
    assert_eq!(*told.0.lock().unwrap(), [(12, vec![11, 12]), (13, vec![13]), (14, vec![14])]);
}

#[test]
fn rows_of_a_change_are_ignored_where_old_or_gapped_or_of_another_history() {
    let (mut feed, told, _writer) = feed();
    let with = |change: fn(&mut Cluster)| {
        let mut changes = changes(10, 12);
        change(&mut changes.cluster);
        changes
    };
    for answer in [
        changes(5, 10),
        changes(11, 12),
        with(|cluster| cluster.history_id = Uuid::from_u128(2)),
        with(|cluster| cluster.purged = Revision(11)),
    ] {
        feed.take(answer);
    }
    assert_eq!((told.0.lock().unwrap().len(), feed.applied), (0, Revision(10)));
}

#[tokio::test]
async fn rows_are_expected_while_a_change_is_under_way_and_until_they_are_taken() {
    let (mut feed, _told, writer) = feed();
    assert!(!feed.is_under_way());
    let permit = writer.try_reserve().unwrap();
    assert!(feed.is_under_way());
    permit.send(changes(10, 12));
    assert!(feed.is_under_way(), "they wait to be taken");
    assert_eq!(feed.prefetched.recv().await.unwrap().cluster.revision, Revision(12));
    assert!(!feed.is_under_way());
    drop(writer.try_reserve().unwrap());
    assert!(!feed.is_under_way(), "the change failed");
    drop(writer);
    assert!(!feed.is_under_way(), "no writer");
}
