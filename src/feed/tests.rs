//! What the feed applies, where the writer hands over what it has read behind its own changes.

use std::{net::Ipv4Addr, sync::Mutex};

use chrono::DateTime;

use super::*;
use crate::{
    model::{Epoch, EpochId, InstanceId, InstanceStatus, Labels, LeaseId, LogicalId, Ttl},
    store::handover::{Handover, handover},
};

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
        ttl: Ttl::from_record(None),
        started_at: DateTime::default(),
        last_beat: DateTime::default(),
        death: None,
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
fn feed() -> (Feed<Told>, Told, Handover) {
    let (told, (writer, handed)) = (Told::default(), handover());
    let mut feed = Feed::new(Database::at("host=h").unwrap(), told.clone(), Clock::new(), Arc::default(), handed);
    (feed.history_id, feed.applied) = (Some(Uuid::nil()), Revision(10));
    (feed, told, writer)
}

#[test]
fn what_the_writer_asked_is_applied_where_it_continues_what_is_known() {
    let (mut feed, told, writer) = feed();
    assert_eq!(writer.after(), None, "before anything is loaded there is nothing to continue");
    feed.take(changes(10, 12));
    assert_eq!(writer.after(), Some(Revision(12)));
    // Asked before the feed knew of 12.
    feed.take(changes(10, 13));
    assert_eq!(*told.0.lock().unwrap(), [(12, vec![11, 12]), (13, vec![13])]);
}

#[test]
fn what_the_writer_asked_is_left_aside_where_it_is_old_or_leaves_a_gap_or_is_of_another_history() {
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
async fn an_answer_is_expected_while_the_writer_asks_and_until_it_is_taken() {
    let (mut feed, _told, writer) = feed();
    let under_way = writer.begin();
    assert!(feed.handed.is_under_way());
    writer.hand(changes(10, 12));
    drop(under_way);
    assert!(feed.handed.is_under_way(), "it waits to be taken");
    assert_eq!(feed.handed.next().await.cluster.revision, Revision(12));
    assert!(!feed.handed.is_under_way());
    // More than anybody takes are dropped, and nobody waits.
    (0..10).for_each(|_| writer.hand(changes(10, 12)));
}
