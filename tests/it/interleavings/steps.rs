//! The steps of which interleavings are made: what actors, operators and SQL callers do, in any order, at either
//! daemon or beside them. A step may be refused, as it comes in any order, but only with a decision.

use musterd::{
    model::InstanceStatus as Status,
    proto::v1::{self, InstanceStatus},
};
use proptest::{prelude::*, strategy::Union};
use tokio::sync::Mutex;
use tokio_postgres::Client;
use tonic::Code;

use crate::harness::{
    daemon::Daemon,
    registry::{Registry, id},
    served::seconds,
    wire::{BeatStream, Wire, wire},
};

/// Where a step is taken.
#[derive(Clone, Copy, Debug)]
pub(super) enum Via {
    Daemon(usize),
    Sql,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Register { who: u8, name: u8, node: u8, zone: u8, alive: bool, fenced: bool, via: Via },
    Status { who: u8, status: Status, via: Via },
    Deregister { who: u8, via: Via },
    Beat { who: u8, via: Via },
    BeatStream { who: Vec<u8>, daemon: usize },
    Rotate { via: Via },
    Expire { who: u8 },
    ReapOldEpoch,
    Relabel { who: u8, zone: u8 },
    Purge { limit: u8 },
    Delete { who: u8 },
}

const INSTANCES: u8 = 6;

fn any_via() -> impl Strategy<Value = Via> {
    prop_oneof![Just(Via::Daemon(0)), Just(Via::Daemon(1)), Just(Via::Sql)]
}

fn any_status() -> impl Strategy<Value = Status> {
    prop_oneof![3 => Just(Status::Alive), 2 => Just(Status::Draining), 1 => Just(Status::Dead)]
}

/// Any step. What ends everything at once is rarer than what ends one.
pub(super) fn any_step() -> Union<BoxedStrategy<Step>> {
    let who = || 0..INSTANCES;
    let register = (who(), 0..3_u8, 0..2_u8, 0..2_u8, any::<bool>(), prop::bool::weighted(0.05), any_via());
    let register = register.prop_map(|(who, name, node, zone, alive, fenced, via)| Step::Register {
        who,
        // Mostly its own, or every second registration would be refused for another owner.
        name: if zone == 0 { who % 3 } else { name },
        node: if zone == 0 { who % 2 } else { node },
        zone,
        alive,
        fenced,
        via,
    });
    let status = (who(), any_status(), any_via()).prop_map(|(who, status, via)| Step::Status { who, status, via });
    let stream = (prop::collection::vec(who(), 0..4), 0..2_usize);
    Union::new_weighted(vec![
        (12, register.boxed()),
        (8, status.boxed()),
        (3, (who(), any_via()).prop_map(|(who, via)| Step::Deregister { who, via }).boxed()),
        (4, (who(), any_via()).prop_map(|(who, via)| Step::Beat { who, via }).boxed()),
        (3, stream.prop_map(|(who, daemon)| Step::BeatStream { who, daemon }).boxed()),
        (1, any_via().prop_map(|via| Step::Rotate { via }).boxed()),
        (3, who().prop_map(|who| Step::Expire { who }).boxed()),
        (1, Just(Step::ReapOldEpoch).boxed()),
        (2, (who(), 0..2_u8).prop_map(|(who, zone)| Step::Relabel { who, zone }).boxed()),
        (1, (1..4_u8).prop_map(|limit| Step::Purge { limit }).boxed()),
        (1, prop_oneof![9 => Just(Step::ReapOldEpoch), 1 => who().prop_map(|who| Step::Delete { who })].boxed()),
    ])
}

/// Two daemons over one database, and their clients.
pub(super) struct World {
    pub(super) sql: Registry,
    pub(super) daemons: [Daemon; 2],
    pub(super) clients: [Wire; 2],
    streams: [Mutex<BeatStream>; 2],
    /// The latest lease that each instance was granted by a daemon.
    leases: Mutex<[u64; INSTANCES as usize]>,
}

fn instance_id(who: u8) -> String {
    id(u128::from(who) + 1).to_string()
}

fn zone_of(zone: u8) -> String {
    if zone == 0 { "a".to_owned() } else { "b".to_owned() }
}

impl World {
    pub(super) async fn start() -> Self {
        let sql = Registry::head().await;
        let daemons = [Daemon::start(sql.database.url()).await, Daemon::start(sql.database.url()).await];
        // The brake would pace a test that expires as much as this one.
        sql.client.batch_execute("SELECT muster_release_expiry(3600000)").await.unwrap();
        let clients = [Wire::of(&daemons[0]).await, Wire::of(&daemons[1]).await];
        let streams =
            [Mutex::new(BeatStream::open(&daemons[0]).await), Mutex::new(BeatStream::open(&daemons[1]).await)];
        Self { sql, daemons, clients, streams, leases: Mutex::default() }
    }

    /// Takes a step, to its end.
    pub(super) async fn take(&self, step: &Step) {
        match step {
            Step::Register { via: Via::Daemon(daemon), .. } => self.register(*daemon, step).await,
            Step::Register { who, name, node, fenced, via: Via::Sql, .. } => {
                let epoch = if *fenced { "gen_random_uuid()" } else { "(SELECT current_epoch FROM cluster_metadata)" };
                let (instance_id, pid) = (instance_id(*who), who + 1);
                self.run(&format!(
                    "SELECT register_instance('{instance_id}', 'organ-{name}', {epoch}, NULL, NULL, 'node-{node}', NULL, {pid})"
                ))
                .await;
            }
            Step::Status { .. } | Step::Deregister { .. } | Step::Beat { .. } => self.change(step).await,
            Step::BeatStream { who, daemon } => self.beat_stream(who, *daemon).await,
            Step::Rotate { via: Via::Daemon(daemon) } => {
                let mut operator = self.clients[*daemon].cluster.clone();
                decided(operator.rotate_epoch(v1::RotateEpochRequest { force: true, ..Default::default() }).await);
            }
            Step::Rotate { via: Via::Sql } => self.run("SELECT set_current_epoch(gen_random_uuid())").await,
            Step::Expire { who } => {
                let instance_id = instance_id(*who);
                self.run(&format!("UPDATE registry_instance SET last_heartbeat = last_heartbeat - interval '1 h' WHERE instance_id = '{instance_id}'")).await;
                self.run("SELECT expire_stale_instances()").await;
            }
            Step::ReapOldEpoch => self.run("SELECT expire_old_epoch_instances()").await,
            Step::Relabel { who, zone } => {
                let (instance_id, zone) = (instance_id(*who), zone_of(*zone));
                self.run(&format!("UPDATE registry_instance SET labels = '{{\"zone\": \"{zone}\"}}' WHERE instance_id = '{instance_id}'")).await;
            }
            Step::Purge { limit } => self.run(&format!("SELECT muster_purge_dead(0, {limit})")).await,
            Step::Delete { who } => {
                self.run(&format!("DELETE FROM registry_instance WHERE instance_id = '{}'", instance_id(*who))).await;
            }
        }
    }

    async fn register(&self, daemon: usize, step: &Step) {
        let Step::Register { who, name, node, zone, alive, fenced, .. } = step else { return };
        let status = if *alive { InstanceStatus::Alive } else { InstanceStatus::Starting };
        let request = v1::RegisterRequest {
            instance_id: instance_id(*who),
            logical_id: format!("organ-{name}"),
            cluster_epoch: if *fenced { uuid::Uuid::new_v4().to_string() } else { String::new() },
            actor_name: format!("actor-{who}"),
            node_id: format!("node-{node}"),
            ip_address: "10.0.0.1".into(),
            port: 8_000 + u32::from(*zone),
            pid: i64::from(*who) + 1,
            ttl: Some(seconds(300)),
            labels: [("zone".to_owned(), zone_of(*zone))].into(),
            initial_status: status.into(),
            ..Default::default()
        };
        if let Some(lease) = decided(self.clients[daemon].registry.clone().register(request).await) {
            self.leases.lock().await[usize::from(*who)] = lease.lease_id;
        }
    }

    /// What is done to one instance by its id.
    async fn change(&self, step: &Step) {
        let (Step::Status { who, via, .. } | Step::Deregister { who, via } | Step::Beat { who, via }) = step else {
            return;
        };
        let instance_id = instance_id(*who);
        match (step, via) {
            (Step::Status { status, .. }, Via::Sql) => {
                let status = status.as_str();
                self.run(&format!("SELECT set_instance_status('{instance_id}', '{status}')")).await;
            }
            (Step::Beat { .. }, Via::Sql) => self.run(&format!("SELECT beat('{instance_id}')")).await,
            (_, Via::Sql) => self.run(&format!("SELECT set_instance_status('{instance_id}', 'dead')")).await,
            (Step::Status { status, .. }, Via::Daemon(daemon)) => {
                let status = wire(*status).into();
                let request = v1::SetStatusRequest { instance_id, status, ..Default::default() };
                decided(self.clients[*daemon].registry.clone().set_status(request).await);
            }
            (Step::Beat { .. }, Via::Daemon(daemon)) => {
                let request = v1::BeatRequest { instance_id, lease_id: 0 };
                decided(self.clients[*daemon].registry.clone().beat(request).await);
            }
            (_, Via::Daemon(daemon)) => {
                let request = v1::DeregisterRequest { instance_id, ..Default::default() };
                decided(self.clients[*daemon].registry.clone().deregister(request).await);
            }
        }
    }

    async fn beat_stream(&self, who: &[u8], daemon: usize) {
        let leases = *self.leases.lock().await;
        let leases: Vec<_> = who.iter().map(|who| leases[usize::from(*who)]).collect();
        let answer = self.streams[daemon].lock().await.beat(&leases).await.unwrap();
        assert_eq!(usize::try_from(answer.renewed).unwrap() + answer.exceptions.len(), leases.len());
    }

    async fn run(&self, sql: &str) {
        run_or_refused(&self.sql.client, sql).await;
    }
}

async fn run_or_refused(client: &Client, sql: &str) {
    if let Err(error) = client.batch_execute(sql).await {
        let code = error.code().map_or("", |code| code.code());
        // A session that edits rows by hand locks them before the cluster row: one of two then has to repeat it.
        assert!(code.starts_with("MU") || code == "40P01", "{sql}: {error:?}");
    }
}

/// What came of a call that may be refused, but not left undecided.
fn decided<T: std::fmt::Debug>(result: Result<tonic::Response<T>, tonic::Status>) -> Option<T> {
    match result {
        Ok(response) => Some(response.into_inner()),
        Err(status) => {
            let decisions = [Code::NotFound, Code::FailedPrecondition, Code::AlreadyExists];
            assert!(decisions.contains(&status.code()), "{status:?}");
            None
        }
    }
}
