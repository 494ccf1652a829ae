//! The main job, end to end, through a daemon and its gRPC.

use musterd::proto::v1::{self, InstanceStatus};

use crate::harness::{daemon::Daemon, postgres::TestDatabase};

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_registers_beats_is_resolved_and_leaves() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    main_job(&daemon).await;
    assert!(daemon.terminate().await.success());
}

/// What a daemon is for; it must be the only one of its registry, and new.
pub(crate) async fn main_job(daemon: &Daemon) {
    let mut registry = daemon.registry().await;
    let mut discovery = daemon.discovery().await;

    let request = v1::RegisterRequest {
        logical_id: "organ".into(),
        initial_status: InstanceStatus::Alive.into(),
        ..Default::default()
    };
    let lease = registry.register(request).await.unwrap().into_inner();
    let resolve = v1::ResolveRequest { logical_id: "organ".into(), min_revision: lease.revision, ..Default::default() };
    let resolved = discovery.resolve(resolve.clone()).await.unwrap().into_inner();
    assert_eq!(resolved.instance.unwrap().instance_id, lease.instance_id);

    let beat = v1::BeatRequest { lease_id: lease.lease_id, ..Default::default() };
    assert_eq!(registry.beat(beat.clone()).await.unwrap().into_inner().lease_id, lease.lease_id);

    let leave = v1::DeregisterRequest { lease_id: lease.lease_id, ..Default::default() };
    assert!(!registry.deregister(leave.clone()).await.unwrap().into_inner().already_dead);
    assert!(registry.deregister(leave).await.unwrap().into_inner().already_dead);
    assert_eq!(discovery.resolve(resolve).await.unwrap_err().code(), tonic::Code::NotFound);
    assert_eq!(registry.beat(beat).await.unwrap_err().code(), tonic::Code::FailedPrecondition);
}
