//! Resolve by policy: what each policy chooses, what none may choose, and which choices are refused.

use std::collections::{BTreeMap, BTreeSet};

use musterd::proto::v1::{
    GetInstanceRequest, HoldExpiryRequest, RegisterRequest, ResolveChoice, ResolvePolicy, ResolveRequest,
    ResolveResponse, discovery_service_client::DiscoveryServiceClient, registry_service_client::RegistryServiceClient,
};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::harness::{
    daemon::{DAEMON_BOUND, Daemon},
    postgres::TestDatabase,
    wait::wait_until,
    wire::{BeatStream, alive, deregister, register, seconds},
};

/// A daemon and what its callers hold.
struct Setting {
    registry: RegistryServiceClient<Channel>,
    discovery: DiscoveryServiceClient<Channel>,
    daemon: Daemon,
    database: TestDatabase,
}

/// An instance of `organ`.
#[derive(Clone, Debug)]
struct Organ {
    id: String,
    lease_id: u64,
    registered: RegisterRequest,
}

impl Setting {
    async fn new() -> Self {
        let database = TestDatabase::create().await;
        let daemon = Daemon::start(database.url()).await;
        Self { registry: daemon.registry().await, discovery: daemon.discovery().await, daemon, database }
    }

    /// Registers one that does not fall silent during a test.
    async fn organ(&mut self, node_id: &str, zone: &str) -> Organ {
        let request = RegisterRequest {
            node_id: node_id.into(),
            labels: [("zone".to_owned(), zone.to_owned())].into(),
            ttl: seconds(300),
            ..alive("organ")
        };
        let lease = register(&mut self.registry, request.clone()).await;
        Organ { id: lease.instance_id, lease_id: lease.lease_id, registered: request }
    }

    async fn try_resolve(&mut self, choice: ResolveChoice) -> Result<ResolveResponse, Status> {
        let request = ResolveRequest { logical_id: "organ".into(), min_revision: 0, choice: Some(choice) };
        Ok(self.discovery.resolve(request).await?.into_inner())
    }

    /// The id of the one chosen.
    async fn resolve(&mut self, choice: ResolveChoice) -> String {
        self.try_resolve(choice).await.unwrap().instance.unwrap().instance_id
    }

    /// Beats for an organ on a stream, for as long as its end needs to count, and breaks it.
    async fn make_suspect(&mut self, organ: &Organ) {
        // With a short interval; that it is overdue soon must not end it.
        let hold = HoldExpiryRequest { duration: seconds(600), reason: "the test".into() };
        self.daemon.cluster().await.hold_expiry(hold).await.unwrap();
        let hasty = RegisterRequest { instance_id: organ.id.clone(), ttl: seconds(2), ..organ.registered.clone() };
        assert_eq!(register(&mut self.registry, hasty).await.lease_id, organ.lease_id);
        let mut stream = BeatStream::open(&self.daemon).await;
        stream.beat_for_an_interval(&[organ.lease_id]).await;
        drop(stream);
        wait_until("it is suspect", DAEMON_BOUND, async || {
            let request = GetInstanceRequest { instance_id: organ.id.clone(), min_revision: 0 };
            let instance = self.discovery.get_instance(request).await.unwrap().into_inner().instance.unwrap();
            instance.suspect.then_some(()).ok_or("it is not")
        })
        .await;
    }
}

fn best() -> ResolveChoice {
    ResolveChoice::default()
}

fn random() -> ResolveChoice {
    ResolveChoice { policy: ResolvePolicy::Random.into(), ..best() }
}

fn key(key: &str) -> ResolveChoice {
    ResolveChoice { policy: ResolvePolicy::Rendezvous.into(), key: key.into(), ..best() }
}

fn near(node_id: &str) -> ResolveChoice {
    ResolveChoice { policy: ResolvePolicy::Near.into(), near_node_id: node_id.into(), ..best() }
}

fn without(choice: ResolveChoice, organs: &[&Organ]) -> ResolveChoice {
    ResolveChoice { excluded_instance_ids: organs.iter().map(|organ| organ.id.clone()).collect(), ..choice }
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap().reason
}

#[tokio::test(flavor = "multi_thread")]
async fn random_reaches_every_instance_about_equally_often() {
    let mut setting = Setting::new().await;
    for _ in 0..5 {
        setting.organ("n", "z").await;
    }
    let mut times = BTreeMap::new();
    for _ in 0..500 {
        let response = setting.try_resolve(random()).await.unwrap();
        assert_eq!(response.alternatives, 4);
        *times.entry(response.instance.unwrap().instance_id).or_insert(0) += 1;
    }
    assert_eq!(times.len(), 5);
    // 100 expected; seven standard deviations off would be 37 or 163.
    assert!(times.values().all(|times| (37..163).contains(times)), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stays_with_its_instance_on_every_daemon_and_moves_only_when_that_dies() {
    let mut setting = Setting::new().await;
    let other = Daemon::start(setting.database.url()).await;
    let mut organs = Vec::new();
    for _ in 0..4 {
        organs.push(setting.organ("n", "z").await);
    }
    let keys: Vec<String> = (0..60).map(|number| format!("user-{number}")).collect();
    let mut owners = BTreeMap::new();
    for name in &keys {
        owners.insert(name.clone(), setting.resolve(key(name)).await);
    }
    assert_eq!(owners.values().collect::<BTreeSet<_>>().len(), 4, "60 keys fall to all of 4 instances");

    let gone = organs.remove(0);
    let revision = deregister(&mut setting.registry, gone.lease_id).await;
    let mut elsewhere = other.discovery().await;
    for (name, owner) in &owners {
        let request = ResolveRequest { logical_id: "organ".into(), min_revision: revision, choice: Some(key(name)) };
        let now = elsewhere.resolve(request).await.unwrap().into_inner().instance.unwrap().instance_id;
        assert_eq!(now == *owner, *owner != gone.id, "{name} was with {owner} and is with {now}");
        assert_eq!(setting.resolve(key(name)).await, now, "two daemons agree about {name}");
    }
    // Where it comes back under its id, its keys come back to it, and no other does.
    register(&mut setting.registry, RegisterRequest { instance_id: gone.id.clone(), ..alive("organ") }).await;
    for (name, owner) in &owners {
        assert_eq!(setting.resolve(key(name)).await, *owner, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn near_prefers_the_node_and_falls_back_to_the_best() {
    let mut setting = Setting::new().await;
    let first = setting.organ("n1", "z").await;
    let second = setting.organ("n1", "z").await;
    let third = setting.organ("n2", "z").await;
    assert_eq!(setting.resolve(best()).await, first.id, "the longest serving");
    assert_eq!(setting.resolve(near("n2")).await, third.id);
    assert_eq!(setting.resolve(near("n1")).await, first.id, "the best of the node");
    assert_eq!(setting.resolve(without(near("n1"), &[&first])).await, second.id, "the node before the rank");
    assert_eq!(setting.resolve(near("nowhere")).await, first.id);
    assert_eq!(setting.resolve(near("n")).await, first.id, "a node is not found by the beginning of its name");
    deregister(&mut setting.registry, third.lease_id).await;
    assert_eq!(setting.resolve(near("n2")).await, first.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_policy_chooses_an_excluded_instance_or_one_without_the_labels() {
    let mut setting = Setting::new().await;
    let (a, b) = (setting.organ("n1", "a").await, setting.organ("n2", "b").await);
    for choice in [best(), random(), key("k"), near("n1"), near("n2")] {
        let policy = choice.policy();
        for (out, left) in [(&a, &b), (&b, &a)] {
            for _ in 0..10 {
                let response = setting.try_resolve(without(choice.clone(), &[out])).await.unwrap();
                assert_eq!(response.instance.unwrap().instance_id, left.id, "{policy:?}");
                assert_eq!(response.alternatives, 0, "{policy:?}: an excluded instance is no alternative");
            }
        }
        for (zone, expected) in [("a", &a), ("b", &b)] {
            let labels = [("zone".to_owned(), zone.to_owned())].into();
            let chosen = setting.resolve(ResolveChoice { labels, ..choice.clone() }).await;
            assert_eq!(chosen, expected.id, "{policy:?}");
        }
        let nowhere = ResolveChoice { labels: [("zone".to_owned(), "c".to_owned())].into(), ..choice.clone() };
        for absent in [without(choice, &[&a, &b]), nowhere] {
            let refused = setting.try_resolve(absent).await.unwrap_err();
            assert_eq!((refused.code(), reason(&refused).as_str()), (Code::NotFound, "NO_LIVE_INSTANCE"), "{policy:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_policy_chooses_a_suspect_only_as_the_last_resort() {
    let mut setting = Setting::new().await;
    let doubtful = setting.organ("n1", "z").await;
    let sound = setting.organ("n2", "z").await;
    let mut mine = "key-0".to_owned();
    for number in 1.. {
        if setting.resolve(key(&mine)).await == doubtful.id {
            break;
        }
        mine = format!("key-{number}");
    }
    // Each of these would choose the doubtful one, or may.
    let choices = [best(), random(), key(&mine), near("n1")];
    setting.make_suspect(&doubtful).await;
    for choice in &choices {
        for _ in 0..20 {
            let response = setting.try_resolve(choice.clone()).await.unwrap();
            assert_eq!(response.instance.unwrap().instance_id, sound.id, "{:?}", choice.policy());
            assert_eq!(response.alternatives, 1, "the suspect is still an alternative");
        }
        let chosen = setting.try_resolve(without(choice.clone(), &[&sound])).await.unwrap().instance.unwrap();
        assert!(
            chosen.instance_id == doubtful.id && chosen.suspect,
            "{:?}: rather a suspect than none",
            choice.policy()
        );
    }
    setting.make_suspect(&sound).await;
    for choice in [best(), key(&mine), near("n1")] {
        let chosen = setting.try_resolve(choice).await.unwrap().instance.unwrap();
        assert!(chosen.instance_id == doubtful.id && chosen.suspect, "among suspects the policy decides again");
    }
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        seen.insert(setting.resolve(random()).await);
    }
    assert_eq!(seen.len(), 2);
    assert!(setting.daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_choice_that_makes_no_sense_is_refused_and_its_field_is_named() {
    let mut setting = Setting::new().await;
    setting.organ("n", "z").await;
    let ids = |count: usize| (0..count).map(|_| Uuid::new_v4().to_string()).collect();
    let labels = |count: usize| (0..count).map(|number| (format!("l{number}"), String::new())).collect();
    let cases = [
        (ResolveChoice { key: "k".into(), ..best() }, "choice.key"),
        (ResolveChoice { key: "k".into(), ..random() }, "choice.key"),
        (ResolveChoice { key: "k".into(), ..near("n") }, "choice.key"),
        (key(""), "choice.key"),
        (key(&"k".repeat(1_025)), "choice.key"),
        (ResolveChoice { near_node_id: "n".into(), ..best() }, "choice.near_node_id"),
        (ResolveChoice { near_node_id: "n".into(), ..key("k") }, "choice.near_node_id"),
        (near(""), "choice.near_node_id"),
        (near(&"n".repeat(254)), "choice.near_node_id"),
        (ResolveChoice { policy: 99, ..best() }, "choice.policy"),
        (ResolveChoice { policy: -1, ..best() }, "choice.policy"),
        (ResolveChoice { excluded_instance_ids: ids(65), ..best() }, "choice.excluded_instance_ids"),
        (ResolveChoice { excluded_instance_ids: vec!["x".into()], ..best() }, "choice.excluded_instance_ids"),
        (ResolveChoice { excluded_instance_ids: vec![String::new()], ..best() }, "choice.excluded_instance_ids"),
        (ResolveChoice { labels: labels(65), ..best() }, "choice.labels"),
    ];
    for (choice, field) in cases {
        let refused = setting.try_resolve(choice).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"), "{field}");
        let fields: Vec<_> = refused.get_details_bad_request().unwrap().field_violations;
        let fields: Vec<_> = fields.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, [field]);
    }
    // The limits themselves are accepted.
    setting.try_resolve(ResolveChoice { excluded_instance_ids: ids(64), ..key(&"k".repeat(1_024)) }).await.unwrap();
    setting.try_resolve(near(&"n".repeat(253))).await.unwrap();
    let two = ResolveChoice { policy: 99, excluded_instance_ids: vec!["x".into()], ..best() };
    let refused = setting.try_resolve(two).await.unwrap_err();
    assert_eq!(refused.get_details_bad_request().unwrap().field_violations.len(), 2, "all that is wrong is told");
}
