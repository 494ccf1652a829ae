//! Whatever the policy says: what a caller may not see changes nothing that it is told, on either port, and nothing tells what
//! exists from what does not.
//!
//! Policies are made by chance, of every part that rules can have. Of each caller the daemon is asked everything twice;
//! between that, all else is changed by others. `MUSTERD_POLICIES` sets how many policies, `MUSTERD_FAULTS_SEED` which.

use musterd::proto::v1;
use prost::Message as _;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use uuid::Uuid;

use super::{
    BOUND, Caller, Guarded, MASTER,
    chance::{CALLERS, MARKER, NAMES, hidden, policy},
    events,
    interference::{listed, masked, told, watched},
    rows::registration,
    secret, verdict, write_policy,
};
use crate::{
    faults::dice::Dice,
    harness::{registry::id, wait::wait_until},
};

/// No instance has it.
const ABSENT: u128 = 999_999;

/// What no caller is promised to be equal in the answers of the HTTP port: times and revisions, and the latest changes, of which
/// there are only so many of all.
fn timeless(value: &mut Value) {
    const OF_TIME: [&str; 19] = [
        "revision",
        "now",
        "asOf",
        "staleFor",
        "flushLag",
        "databaseLatency",
        "lastReapAge",
        "statsAge",
        "leaseRemaining",
        "silentFor",
        "lastBeat",
        "lastFlushAge",
        "epochStartedAt",
        "startedAt",
        "at",
        "statusSince",
        "latest",
        "deadline",
        "late",
    ];
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !OF_TIME.contains(&name.as_str()));
            fields.values_mut().for_each(timeless);
        }
        Value::Array(values) => values.iter_mut().for_each(timeless),
        _ => {}
    }
}

/// An answer of the HTTP port, as it came.
async fn asked(guarded: &Guarded, caller: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(&guarded.daemon.http_addr).await.unwrap();
    let token = secret(caller);
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(BOUND, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

/// The same without what is of time: the status, and the body.
async fn page(guarded: &Guarded, caller: &str, path: &str) -> String {
    let answer = asked(guarded, caller, path).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    match serde_json::from_str::<Value>(body) {
        Ok(mut value) => {
            timeless(&mut value);
            format!("{path}: {status} {value}")
        }
        Err(_) => format!("{path}: {status} {body}"),
    }
}

/// Everything that a caller is told, of these instances among others.
async fn learned(guarded: &Guarded, name: &str, caller: &Caller, instances: &[(Uuid, u64)]) -> Vec<String> {
    let (discovery, mut learned) = (&caller.discovery, Vec::new());
    for (instance, lease_id) in instances {
        let get = v1::GetInstanceRequest { instance_id: instance.to_string(), min_revision: 0 };
        learned.push(told(discovery.clone().get_instance(get).await, |found| found.instance.map(masked)));
        let check = v1::CheckLeaseRequest { lease_id: *lease_id, min_revision: 0 };
        learned.push(told(discovery.clone().check_lease(check).await, |found| found.instance.map(masked)));
        learned.push(page(guarded, name, &format!("/api/v1/ended?instance={instance}")).await);
    }
    for logical_id in NAMES.into_iter().chain(["zz"]) {
        let request = v1::ResolveRequest { logical_id: logical_id.to_owned(), ..Default::default() };
        let resolved = discovery.clone().resolve(request).await;
        learned.push(told(resolved, |found| (found.instance.map(masked), found.alternatives)));
        let request = v1::WatchRequest { logical_id: logical_id.to_owned(), ..Default::default() };
        learned.push(watched(caller, request).await);
        learned.push(page(guarded, name, &format!("/api/v1/explain?name={logical_id}")).await);
        learned.push(page(guarded, name, &format!("/api/v1/ended?name={logical_id}")).await);
    }
    let batch = v1::BatchResolveRequest { logical_ids: NAMES.map(str::to_owned).to_vec(), ..Default::default() };
    learned.push(told(discovery.clone().batch_resolve(batch).await, |found| {
        let results = found.results.into_iter().map(|one| v1::BatchResolveResult::decode(one).unwrap());
        results.map(|one| (one.instance.map(masked), one.reason, one.alternatives)).collect::<Vec<_>>()
    }));
    for prefix in ["", "a", "an", "ann_", "svc-", "b", "zz"] {
        learned.push(listed(caller, prefix).await);
        let request = v1::WatchRequest { logical_id_prefix: prefix.to_owned(), ..Default::default() };
        learned.push(watched(caller, request).await);
    }
    let request = v1::GetClusterRequest { unserved_limit: 1_000, min_revision: 0 };
    learned.push(told(caller.cluster.clone().get_cluster(request).await, |found| {
        let problems: Vec<_> = found.problems.into_iter().map(|one| (one.code, one.summary)).collect();
        (found.counts, found.unserved_logical_ids, found.severity, problems, found.brake)
    }));
    for path in [
        "/api/v1/summary",
        "/api/v1/names?limit=500",
        "/api/v1/names?search=10.0.0",
        "/api/v1/instances?status=any&limit=500",
        "/sd/prometheus",
        "/metrics/logical-ids",
        "/metrics",
        "/readyz",
        "/",
    ] {
        learned.push(page(guarded, name, path).await);
    }
    learned
}

/// What a caller is told that asks for no name: none that is hidden from it may be there, not even where what is told changes by
/// itself.
async fn overview(guarded: &Guarded, name: &str, caller: &Caller) -> Vec<String> {
    let mut seen = Vec::new();
    for path in [
        "/api/v1/summary",
        "/api/v1/names?limit=500",
        "/api/v1/instances?status=any&limit=500",
        "/sd/prometheus?status=any",
        "/metrics/logical-ids",
    ] {
        seen.push(asked(guarded, name, path).await);
    }
    let request = v1::GetClusterRequest { unserved_limit: 1_000, min_revision: 0 };
    seen.push(told(caller.cluster.clone().get_cluster(request).await, |found| {
        let problems: Vec<_> = found.problems.into_iter().map(|one| (one.code, one.summary)).collect();
        (found.unserved_logical_ids, problems)
    }));
    seen.push(listed(caller, "").await);
    seen.push(watched(caller, v1::WatchRequest::default()).await);
    seen
}

/// A world whose names each have two instances, which are kept alive.
struct World {
    guarded: Guarded,
    master: Caller,
    /// Of each instance on record, in order: its name, its id, its lease.
    rows: Vec<(&'static str, Uuid, u64)>,
    next: u128,
    /// A revision that is no lease.
    absent: u64,
}

impl World {
    async fn start() -> Self {
        let names: Vec<&str> = CALLERS.into_iter().chain([MARKER]).collect();
        let guarded = Guarded::start_with("", &names, &[]).await;
        let master = guarded.caller(MASTER).await;
        let mut world = Self { guarded, master, rows: Vec::new(), next: 1, absent: 0 };
        for name in NAMES {
            world.register(name).await;
            world.register(name).await;
        }
        world.register("ended").await;
        let (_, instance, _) = world.rows.pop().unwrap();
        let end = v1::DeregisterRequest { instance_id: instance.to_string(), ..Default::default() };
        world.absent = world.master.registry.deregister(end).await.unwrap().into_inner().revision;
        world
    }

    async fn register(&mut self, name: &'static str) -> Uuid {
        let instance = id(self.next);
        self.next += 1;
        let registered = self.master.registry.register(registration(instance, name)).await.unwrap();
        self.rows.push((name, instance, registered.into_inner().lease_id));
        instance
    }

    /// Puts these rules in use, and waits until they are.
    async fn follow(&self, text: &str, number: usize) {
        write_policy(&self.guarded.files, text);
        self.guarded.daemon.signal(nix::sys::signal::Signal::SIGHUP);
        let marker = self.guarded.caller(MARKER).await;
        wait_until("the policy is in use", BOUND, async || {
            let request = v1::ResolveRequest { logical_id: format!("policy-{number}"), ..Default::default() };
            match verdict(&marker.discovery.clone().resolve(request).await).as_str() {
                "UNKNOWN_LOGICAL_ID" => Ok(()),
                other => Err(other.to_owned()),
            }
        })
        .await;
    }

    /// No instance becomes suspect while it is looked at.
    async fn beat(&mut self) {
        for (_, instance, _) in &self.rows {
            let beat = v1::BeatRequest { instance_id: instance.to_string(), lease_id: 0 };
            self.master.registry.beat(beat).await.unwrap();
        }
    }

    /// Ends all instances of a name, which is unserved from then on.
    async fn end_all(&mut self, name: &str) {
        let (ended, left) = self.rows.iter().copied().partition::<Vec<_>, _>(|row| row.0 == name);
        self.rows = left;
        for (_, instance, _) in ended {
            let expire = v1::ExpireInstanceRequest { instance_id: instance.to_string(), lease_id: 0 };
            self.master.cluster.expire_instance(expire).await.unwrap();
        }
    }

    /// Others change what is under these names, end all instances of the first of them, and use what they may.
    async fn stir(&mut self, names: &[&'static str], other: &str, dice: &mut Dice) {
        for name in names {
            let instance = self.register(name).await;
            let status = v1::InstanceStatus::Draining.into();
            let drain = v1::SetStatusRequest { instance_id: instance.to_string(), status, ..Default::default() };
            match dice.below(3) {
                0 => drop(self.master.registry.set_status(drain).await.unwrap()),
                1 => {
                    let end = v1::DeregisterRequest { instance_id: instance.to_string(), ..Default::default() };
                    self.master.registry.deregister(end).await.unwrap();
                    self.rows.pop();
                }
                _ => {}
            }
        }
        self.end_all(names[0]).await;
        let mut other = self.guarded.caller(other).await;
        for number in 0..20 {
            let name = names[dice.below(names.len())];
            let address = ["10.0.0.9", "192.0.2.7", "2001:db8::7", "127.0.0.9"][dice.below(4)].to_owned();
            let asked = v1::RegisterRequest { ip_address: address, ..registration(id(500_000 + number), name) };
            // Whether it may is not what this is about.
            if let Ok(registered) = other.registry.register(asked).await {
                let lease_id = registered.into_inner().lease_id;
                let end = v1::DeregisterRequest { lease_id, ..Default::default() };
                let _ = other.registry.deregister(end).await;
            }
            let _ = other.cluster.rotate_epoch(v1::RotateEpochRequest { force: true, ..Default::default() }).await;
        }
        self.guarded.caught_up().await;
    }
}

/// Calls that are aimed at an instance and its lease; what they are told, without the numbers that the caller has named.
async fn aimed(caller: &Caller, instance: Uuid, lease_id: u64) -> Vec<String> {
    let (mut registry, mut told_all) = (caller.registry.clone(), Vec::new());
    let status = v1::InstanceStatus::Draining.into();
    for (instance_id, lease_id) in
        [(instance.to_string(), 0), (String::new(), lease_id), (instance.to_string(), lease_id)]
    {
        let beat = v1::BeatRequest { instance_id: instance_id.clone(), lease_id };
        told_all.push(told(registry.beat(beat).await, |_| ()));
        let set = v1::SetStatusRequest { instance_id: instance_id.clone(), lease_id, status, ..Default::default() };
        told_all.push(told(registry.set_status(set).await, |_| ()));
        let end = v1::DeregisterRequest { instance_id: instance_id.clone(), lease_id };
        told_all.push(told(registry.deregister(end).await, |_| ()));
        let expire = v1::ExpireInstanceRequest { instance_id: instance_id.clone(), lease_id };
        told_all.push(told(caller.cluster.clone().expire_instance(expire).await, |_| ()));
        let get = v1::GetInstanceRequest { instance_id, min_revision: 0 };
        told_all.push(told(caller.discovery.clone().get_instance(get).await, |_| ()));
        let check = v1::CheckLeaseRequest { lease_id, min_revision: 0 };
        told_all.push(told(caller.discovery.clone().check_lease(check).await, |_| ()));
    }
    let (id, lease) = (instance.to_string(), lease_id.to_string());
    told_all
        .into_iter()
        .map(|told| {
            told.replace(&id, "ID").replace(&format!("\"{lease}\""), "\"N\"").replace(&format!(" {lease} "), " N ")
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_names_change_no_answer_under_any_policy() {
    let number = |name: &str, otherwise| std::env::var(name).ok().and_then(|it| it.parse().ok()).unwrap_or(otherwise);
    let (policies, seed) = (number("MUSTERD_POLICIES", 6), number("MUSTERD_FAULTS_SEED", 1));
    let (mut world, mut dice) = (World::start().await, Dice::new(seed));
    let (mut compared, mut shown) = (0, 0);
    for round in 0..usize::try_from(policies).unwrap() {
        let (rules, text) = policy(&mut dice, round);
        world.follow(&text, round).await;
        for (name, other) in [(CALLERS[0], CALLERS[1]), (CALLERS[1], CALLERS[0])] {
            let hidden = hidden(&rules, name);
            if hidden.is_empty() {
                continue;
            }
            world.beat().await;
            let caller = world.guarded.caller(name).await;
            let is_hidden = |row: &&(&str, Uuid, u64)| hidden.contains(&row.0);
            let target = *world.rows.iter().find(is_hidden).unwrap();
            let instances: Vec<_> = world.rows.iter().map(|(_, instance, lease_id)| (*instance, *lease_id)).collect();
            let absent = (id(ABSENT), world.absent);
            let instances = [&instances[..], &[absent]].concat();

            let mut stream = follow_all(&caller).await;
            let before = learned(&world.guarded, name, &caller, &instances).await;
            world.stir(&hidden, other, &mut dice).await;
            let after = learned(&world.guarded, name, &caller, &instances).await;
            for (before, after) in before.iter().zip(&after) {
                assert_eq!(before, after, "{name} under policy {round} of seed {seed}:\n{text}");
            }
            let seen = overview(&world.guarded, name, &caller).await;
            for hidden in &hidden {
                let quoted = format!("\"{hidden}\"");
                let shown = seen.iter().find(|told| told.contains(&quoted));
                assert_eq!(shown, None, "{hidden} is shown to {name} under policy {round} of seed {seed}:\n{text}");
            }
            for _ in 0..2 {
                world.register(hidden[0]).await;
            }
            compared += before.len();
            shown += before.iter().filter(|told| told.contains("10.0.0.1")).count();
            let (foreign, gone) = (aimed(&caller, target.1, target.2).await, aimed(&caller, absent.0, absent.1).await);
            assert_eq!(foreign, gone, "{name} under policy {round} of seed {seed}, {target:?}:\n{text}");
            let readable = NAMES.into_iter().find(|it| rules.iter().any(|rule| rule.allows(name, Some("read"), it)));
            if let Some((stream, readable)) = stream.as_mut().zip(readable) {
                let sentinel = world.register(readable).await;
                assert_eq!(next_change(stream).await, sentinel, "{name} under policy {round} of seed {seed}:\n{text}");
            }
        }
    }
    assert!(compared > 200 && shown > 50, "{compared} answers were compared, {shown} of them with an instance");
}

/// A watch of all that a caller may read, up to the present.
async fn follow_all(caller: &Caller) -> Option<tonic::Streaming<musterd::proto::encoded::WatchResponse>> {
    let mut stream = caller.discovery.clone().watch(v1::WatchRequest::default()).await.ok()?.into_inner();
    while !timeout(BOUND, stream.message()).await.unwrap().unwrap().unwrap().snapshot_complete {}
    Some(stream)
}

/// The instance of the next event.
async fn next_change(stream: &mut tonic::Streaming<musterd::proto::encoded::WatchResponse>) -> Uuid {
    loop {
        let response = timeout(BOUND, stream.message()).await.unwrap().unwrap().unwrap();
        if let Some(event) = events(&response).next() {
            return event.instance.unwrap().instance_id.parse().unwrap();
        }
    }
}
