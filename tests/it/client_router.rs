//! The router of the Rust client over random histories, how old its knowledge is, and the ways to follow it: changes, `tower`.

use std::{collections::BTreeSet, time::Duration};

use futures_util::StreamExt as _;
use musterd::proto::v1::{InstanceStatus, RegisterRequest};
use musterd_client::{
    Changes, Choice, Client, NoTarget, Policy, Reason, Register, Registration, Router, RouterSettings, Status,
    TargetChange, Update,
};
use tokio::time::timeout;
use tokio_postgres::Client as Sql;
use tower::discover::Change as Discovered;
use uuid::Uuid;

use crate::{
    faults::dice::Dice,
    harness::{
        daemon::Daemon,
        postgres::{OwnCluster, TestDatabase, connect},
        registry::column,
        wait::wait_until,
    },
};

/// How long an event may take on a loaded machine.
const BOUND: Duration = Duration::from_secs(40);
const NAME: &str = "organ";

fn client(daemon: &Daemon) -> Client {
    Client::builder().daemons([daemon.grpc_addr.clone()]).timeout(Duration::from_secs(20)).build().unwrap()
}

/// What has an effect on the answers of Resolve.
struct History {
    daemon: Daemon,
    client: Client,
    router: Router,
    dice: Dice,
    sql: Sql,
    kept: Vec<Registration>,
    silent: usize,
}

impl History {
    /// Does one thing, and returns what it was.
    async fn step(&mut self) -> String {
        let at = if self.kept.is_empty() { None } else { Some(self.dice.below(self.kept.len())) };
        match (self.dice.below(20), at) {
            (0..=6, _) | (_, None) => {
                let (node, zone) = (self.dice.below(3), self.dice.below(2));
                let wanted = Register::new(NAME).node(format!("n{node}")).label("zone", format!("z{zone}"));
                let wanted = wanted.ttl(Duration::from_secs(300));
                self.kept.push(self.client.register(wanted).await.unwrap());
                format!("register on n{node} in z{zone}")
            }
            (7..=9, Some(at)) => {
                self.kept.swap_remove(at).close(Duration::ZERO).await.unwrap();
                format!("close {at}")
            }
            (10..=12, Some(at)) => {
                self.kept[at].set_status(Status::Draining).await.unwrap();
                format!("drain {at}")
            }
            (13..=15, Some(at)) => {
                self.kept[at].set_status(Status::Alive).await.unwrap();
                format!("undrain {at}")
            }
            (16, Some(at)) => {
                let zone = self.dice.below(2);
                self.kept[at].update(Update::new().label("zone", format!("z{zone}"))).await.unwrap();
                format!("move {at} to z{zone}")
            }
            (17 | 18, _) => {
                // Never beats, and expiry is on hold: it becomes suspect, and stays so.
                self.register_silent().await;
                "register one that is silent".to_owned()
            }
            _ => {
                self.client.force_rotate_epoch(Uuid::new_v4(), None, "a test").await.unwrap();
                self.kept.clear();
                self.silent = 0;
                "rotate".to_owned()
            }
        }
    }

    async fn register_silent(&mut self) {
        let zone = self.dice.below(2);
        let request = RegisterRequest {
            logical_id: NAME.into(),
            node_id: format!("n{}", self.dice.below(3)),
            labels: [("zone".into(), format!("z{zone}"))].into(),
            ttl: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
            initial_status: InstanceStatus::Alive.into(),
            ..Default::default()
        };
        self.daemon.registry().await.register(request).await.unwrap();
        self.silent += 1;
        wait_until("it is suspect", BOUND, async || {
            let suspects = self.router.instances(NAME).iter().filter(|one| one.suspect).count();
            if suspects == self.silent { Ok(()) } else { Err(suspects) }
        })
        .await;
    }

    /// Waits until the cache holds what the daemon lists, and compares the answers to many choices.
    async fn compare(&mut self, told: &[String]) {
        let filter = musterd_client::Filter::logical_id(NAME).status(Status::Alive);
        wait_until("the cache holds what the daemon lists", BOUND, async || {
            let pages: Vec<_> = self.client.list(filter.clone()).collect().await;
            let listed = pages.into_iter().map(Result::unwrap);
            let listed: BTreeSet<_> = listed.map(|one| (one.instance_id, one.revision, one.suspect)).collect();
            let cached = self.router.instances(NAME);
            let cached: BTreeSet<_> = cached.iter().map(|one| (one.instance_id, one.revision, one.suspect)).collect();
            if listed == cached { Ok(()) } else { Err((listed, cached)) }
        })
        .await;
        self.compare_with_sql().await;
        let mut choices = vec![Choice::best(), Choice::best().label("zone", "z0"), Choice::best().label("zone", "z9")];
        choices.extend(["n0", "n1", "n2", "n9"].map(|node| Choice::by(Policy::Near(node.into()))));
        let keys = (0..8).map(|_| format!("key-{}", self.dice.next())).collect::<Vec<_>>();
        choices.extend(keys.iter().map(|key| Choice::by(Policy::Rendezvous(key.clone()))));
        choices.extend(keys.iter().map(|key| Choice::by(Policy::Rendezvous(key.clone())).label("zone", "z1")));
        let some = self.router.instances(NAME).first().map(|one| one.instance_id);
        choices.extend(some.map(|id| Choice::best().without(id)));
        for choice in choices {
            let picked = match self.router.pick(NAME, &choice) {
                Ok(target) => Some(target.instance().instance_id),
                Err(NoTarget::NoLiveInstance(_)) => None,
                Err(other) => panic!("{other}"),
            };
            let resolved = match self.client.resolve(NAME, &choice).await {
                Ok(resolved) => Some(resolved.instance.instance_id),
                Err(error) if matches!(error.reason(), Reason::NoLiveInstance | Reason::UnknownLogicalId) => None,
                Err(error) => panic!("{error}"),
            };
            assert_eq!(picked, resolved, "{choice:?} after {told:?}");
        }
    }
}

impl History {
    /// The views for SQL callers name the same instances, and the same one as the best. PostgreSQL counts beats that it was
    /// sent: an instance is overdue there a moment later than it is suspect.
    async fn compare_with_sql(&self) {
        let all = "SELECT instance_id FROM active_instances WHERE logical_id = 'organ'";
        let best = "SELECT instance_id FROM active_instance WHERE logical_id = 'organ'";
        wait_until("SQL names the same instances", BOUND, async || {
            let of_sql: BTreeSet<Uuid> = column(&self.sql, all).await.into_iter().collect();
            let of_router: BTreeSet<_> = self.router.instances(NAME).iter().map(|one| one.instance_id).collect();
            let picked = self.router.pick(NAME, &Choice::best()).ok().map(|target| target.instance().instance_id);
            let named = column::<Uuid>(&self.sql, best).await.first().copied();
            if (&of_sql, named) == (&of_router, picked) { Ok(()) } else { Err((of_sql, named, of_router, picked)) }
        })
        .await;
    }
}

#[tokio::test]
async fn router_answers_as_the_daemon_and_sql_over_random_histories() {
    let seed = 20_261_127;
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = client(&daemon);
    client.hold_expiry(Some(Duration::from_secs(3_600)), "a test").await.unwrap();
    let router = Router::new(&client);
    router.ready(NAME).await.unwrap();
    let sql = connect(database.url()).await;
    let mut history = History { daemon, client, router, dice: Dice::new(seed), sql, kept: Vec::new(), silent: 0 };
    let mut told = Vec::new();
    for _ in 0..60 {
        told.push(history.step().await);
        history.compare(&told).await;
    }
}

async fn next(changes: &mut Changes) -> (bool, Uuid) {
    match timeout(BOUND, changes.next()).await.unwrap().unwrap().unwrap() {
        TargetChange::Put(target) => (true, target.instance().instance_id),
        TargetChange::Gone(target) => (false, target.instance().instance_id),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn changes_print_each_instance_once_and_end_with_a_refusal() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = client(&daemon);
    let mut changes = Router::new(&client).changes(NAME);
    let first = client.register(Register::new(NAME)).await.unwrap();
    assert_eq!(next(&mut changes).await, (true, first.instance_id()));
    let second = client.register(Register::new(NAME)).await.unwrap();
    assert_eq!(next(&mut changes).await, (true, second.instance_id()));
    first.update(Update::new().version("2")).await.unwrap();
    assert_eq!(next(&mut changes).await, (true, first.instance_id()));
    first.set_status(Status::Draining).await.unwrap();
    assert_eq!(next(&mut changes).await, (false, first.instance_id()));
    let id = second.instance_id();
    second.close(Duration::ZERO).await.unwrap();
    assert_eq!(next(&mut changes).await, (false, id));
    let mut refused = Router::new(&client).changes(&"x".repeat(300));
    let refusal = timeout(BOUND, refused.next()).await.unwrap().unwrap();
    assert!(matches!(refusal, Err(NoTarget::Refused(_))), "{refusal:?}");
    assert!(timeout(BOUND, refused.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn directory_inserts_and_removes_instances_for_tower() {
    fn discover<D: tower::discover::Discover<Key = Uuid>>(discover: D) -> D {
        discover
    }
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let client = client(&daemon);
    let mut directory = discover(Router::new(&client).directory(NAME));
    let registration = client.register(Register::new(NAME).port(7)).await.unwrap();
    let id = registration.instance_id();
    let inserted = timeout(BOUND, directory.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(inserted, Discovered::Insert(key, target) if key == id && target.instance().port == Some(7)));
    registration.close(Duration::ZERO).await.unwrap();
    let removed = timeout(BOUND, directory.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(removed, Discovered::Remove(key) if key == id));
}

#[tokio::test]
async fn router_counts_the_time_since_its_daemon_lost_postgresql() {
    let mut cluster = OwnCluster::create().await;
    let daemon = Daemon::start(cluster.url()).await;
    let client = client(&daemon);
    let mut settings = RouterSettings::default();
    settings.max_stale = Duration::from_secs(9);
    let (router, patient) = (Router::with(&client, settings), Router::new(&client));
    let _kept = client.keep(Register::new(NAME)).unwrap();
    for each in [&router, &patient] {
        each.ready(NAME).await.unwrap();
        wait_until("it is known", BOUND, async || each.pick(NAME, &Choice::best()).map(drop)).await;
    }
    // The daemon answers all the while, with bookmarks every 5 s: what it knows is no younger for that.
    cluster.stop_immediate();
    wait_until("the router refuses", BOUND, async || match router.pick(NAME, &Choice::best()) {
        Err(NoTarget::Stale { age, .. }) => Ok(age),
        other => Err(format!("{other:?}")),
    })
    .await;
    patient.pick(NAME, &Choice::best()).unwrap();
    assert!(patient.stale_for(NAME).unwrap() > settings.max_stale);
    cluster.start().await;
    wait_until("the router knows again", BOUND, async || router.pick(NAME, &Choice::best()).map(drop)).await;
}
