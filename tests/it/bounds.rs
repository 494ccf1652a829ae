//! Promise 11: memory stays bounded whatever clients do, each refusal has its reason, and no other client is affected.
//!
//! Memory is what the system says the daemon occupies. The bounds leave room for allocators and debug builds; what they
//! rule out are many times as much: a queue without an end, a registry pinned by each client that does not read.

use std::fs;

use futures_util::{StreamExt as _, future::join_all, stream};
use http::uri::PathAndQuery;
use musterd::{
    grpc::{beat_stream::LEASES_MAX, watch::WATCHERS_MAX},
    proto::{
        encoded::WatchResponse,
        v1::{self, BeatStreamRequest, ErrorReason, RegisterRequest, WatchRequest},
    },
    view::hub::BYTES_MAX,
};
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::harness::{
    daemon::Daemon,
    postgres::BOUND,
    registry::{Registry, run},
    served::{Served, refusal, registration},
    wait::wait_until,
    wire::{BeatStream, Watcher, Wire},
};

const MIB: usize = 1024 * 1024;

/// What the daemon occupies, in bytes.
fn memory(daemon: &Daemon) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024 * line.trim().strip_suffix("kB").unwrap().trim().parse::<usize>().unwrap()
}

/// What is free the allocator gives back in its own time.
async fn grows_by_less_than(daemon: &Daemon, before: usize, most: usize) {
    wait_until("it has grown by little", BOUND, async || {
        let grown = memory(daemon).saturating_sub(before);
        if grown < most { Ok(()) } else { Err(format!("by {} KiB, {} KiB are allowed", grown / 1024, most / 1024)) }
    })
    .await;
}

/// A registration whose labels are nearly as large as they may be, and others each round.
fn large(instance: u128, round: usize) -> RegisterRequest {
    let labels = (0..30).map(|at| (format!("label-{at}"), format!("{round:0>500}"))).collect();
    RegisterRequest { labels, ..registration(instance, "large") }
}

/// What a watcher knows.
fn told(watcher: &Watcher) -> Vec<(&str, u64)> {
    watcher.known.iter().map(|(instance_id, instance)| (instance_id.as_str(), instance.revision)).collect()
}

async fn resolves(served: &Served, name: &str) {
    served.clients.resolve(name, 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_stop_reading_cost_bounded_memory_and_delay_no_other() {
    const INSTANCES: u128 = 256;
    const ROUNDS: usize = 16;
    let served = Served::start().await;
    let change_all = async |round| {
        // Some at a time: PostgreSQL is to answer each group soon, on any machine.
        let changes = (1..=INSTANCES).map(|instance| served.clients.register(large(instance, round)));
        let changed = stream::iter(changes).buffer_unordered(16).map(|registered| registered.revision);
        changed.fold(0, async |last, revision| revision.max(last)).await
    };
    let first = change_all(0).await;
    let everything = WatchRequest::default();
    let mut steady = Watcher::open(&served.daemon, everything.clone()).await.unwrap();
    steady.reach(first).await;
    // Some stop after their snapshot...
    let mut deaf = Vec::new();
    for _ in 0..5 {
        let mut watcher = Watcher::open(&served.daemon, everything.clone()).await.unwrap();
        watcher.reach(first).await;
        deaf.push(watcher);
    }
    let before = memory(&served.daemon);
    let mut last = 0;
    let mut in_snapshot = Vec::new();
    for round in 1..=ROUNDS {
        // ...and some within it, each when the registry is another one: 4 MiB, more than is sent without a reader.
        in_snapshot.push(Watcher::open(&served.daemon, everything.clone()).await.unwrap());
        last = change_all(round).await;
        steady.reach(last).await;
    }
    assert_eq!(steady.seen.len(), ROUNDS * usize::try_from(INSTANCES).unwrap(), "a reading watcher gets each change");
    resolves(&served, "large").await;
    // The buffer once, for all; of each watcher a response and what its connection holds.
    grows_by_less_than(&served.daemon, before, BYTES_MAX + deaf.len() * MIB + in_snapshot.len() * MIB).await;

    // They are told so, and find out by resuming what they have missed.
    for mut watcher in deaf {
        let ended = loop {
            if let Err(status) = watcher.step().await {
                break refusal(Err::<(), _>(status));
            }
        };
        assert_eq!(ended.verdict(), (Code::ResourceExhausted, "OVERLOADED"));
        let mut resumed = Watcher::open(&served.daemon, watcher.resumption(everything.clone())).await.unwrap();
        (resumed.known, resumed.revision) = (watcher.known, watcher.revision);
        resumed.reach(last).await;
        assert_eq!((resumed.resets, told(&resumed)), (0, told(&steady)));
    }
    // Those within their snapshot have missed nothing: it ends with what it has become.
    for mut watcher in in_snapshot {
        watcher.reach(last).await;
        assert_eq!(told(&watcher), told(&steady));
    }
}

/// A watcher of one name that has got its snapshot.
async fn watch(clients: &Wire) -> Result<Streaming<WatchResponse>, Status> {
    let request = WatchRequest { logical_id: "organ".into(), ..Default::default() };
    let mut stream = clients.discovery.clone().watch(request).await?.into_inner();
    assert!(stream.message().await?.unwrap().snapshot_complete);
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_watchers_are_served_and_one_more_is_refused() {
    /// Fewer than the calls that a connection may have at the same time.
    const PER_CONNECTION: usize = 250;
    /// With room for what a connection costs.
    const BYTES_PER_WATCHER: usize = 24 * 1024;
    let served = Served::start().await;
    served.clients.register(registration(1, "organ")).await;
    let before = memory(&served.daemon);
    let connections = (WATCHERS_MAX + 10).div_ceil(PER_CONNECTION);
    let opened = join_all((0..connections).map(async |_| {
        let clients = Wire::of(&served.daemon).await;
        let mut opened = Vec::new();
        for _ in 0..PER_CONNECTION {
            opened.push(watch(&clients).await);
        }
        opened
    }))
    .await;
    let (mut watching, mut refused) = (Vec::new(), Vec::new());
    for stream in opened.into_iter().flatten() {
        match stream {
            Ok(stream) => watching.push(stream),
            Err(status) => refused.push(refusal(Err::<(), _>(status))),
        }
    }
    assert_eq!((watching.len(), refused.len()), (WATCHERS_MAX, connections * PER_CONNECTION - WATCHERS_MAX));
    for refused in &refused {
        assert_eq!(refused.verdict(), (Code::ResourceExhausted, "OVERLOADED"), "{refused:?}");
    }
    grows_by_less_than(&served.daemon, before, WATCHERS_MAX * BYTES_PER_WATCHER).await;

    // Others are served, every watcher is told of a change, and a place that becomes free is given away.
    let revision = served.clients.register(registration(2, "organ")).await.revision;
    resolves(&served, "organ").await;
    for stream in &mut watching {
        let mut reached = 0;
        while reached < revision {
            reached = stream.message().await.unwrap().unwrap().revision;
        }
    }
    watching.pop();
    wait_until("a free place", BOUND, async || watch(&served.clients).await.map_err(|status| status.code())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_never_read_their_answers_cost_bounded_memory() {
    const STREAMS: usize = 4;
    let served = Served::start().await;
    let lease_id = served.clients.register(registration(1, "organ")).await.lease_id;
    let before = memory(&served.daemon);
    // Each answer names all of them: 0.4 MiB to send, and four times that in memory before; 20 of them for each stream.
    let unknown = BeatStreamRequest { lease_ids: vec![0; LEASES_MAX], goodbye: false };
    let mut deaf = Vec::new();
    for _ in 0..STREAMS {
        let stream = BeatStream::open(&served.daemon).await;
        for _ in 0..20 {
            stream.requests.try_send(unknown.clone()).unwrap();
        }
        deaf.push(stream);
    }
    let mut good = BeatStream::open(&served.daemon).await;
    for _ in 0..20 {
        assert_eq!(good.beat(&[lease_id]).await.unwrap().renewed, 1);
    }
    wait_until("it has read what it takes from them", BOUND, async || {
        let counted = served.daemon.metric("musterd_beats_total{verdict=\"unknown\"}").await.unwrap();
        if counted >= (STREAMS * LEASES_MAX) as f64 { Ok(()) } else { Err(counted) }
    })
    .await;
    // Were nothing bounded, each stream would cost 20 times 2 MiB. The allocator keeps some of what is free.
    grows_by_less_than(&served.daemon, before, STREAMS * 16 * MIB).await;
    drop(deaf);
    assert!(served.daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_that_are_named_again_and_again_or_do_not_exist_are_answered_one_by_one() {
    let served = Served::start().await;
    let lease_id = served.clients.register(registration(1, "organ")).await.lease_id;
    let mut stream = BeatStream::open(&served.daemon).await;
    let answer = stream.beat(&vec![lease_id; LEASES_MAX]).await.unwrap();
    assert_eq!((answer.renewed, answer.exceptions.len()), (100_000, 0));
    let answer = stream.beat(&vec![0; LEASES_MAX]).await.unwrap();
    assert_eq!((answer.renewed, answer.exceptions.len()), (0, LEASES_MAX));
    // No lease has these numbers; the daemon says so once PostgreSQL has confirmed that there is nothing newer.
    let asked = [u64::MAX, lease_id, 1 << 63, lease_id, u64::MAX];
    let answer = stream.beat(&asked).await.unwrap();
    let unknown = |it: &v1::BeatException| it.reason() == ErrorReason::UnknownLease;
    assert_eq!((answer.renewed, answer.exceptions.iter().filter(|it| unknown(it)).count()), (2, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_1_mib_on_a_stream_ends_that_stream_alone() {
    let served = Served::start().await;
    let lease_id = served.clients.register(registration(1, "organ")).await.lease_id;
    let (mut good, mut bad) = (BeatStream::open(&served.daemon).await, BeatStream::open(&served.daemon).await);
    let refused = bad.beat(&vec![u64::MAX; 110_000]).await.unwrap_err();
    assert!(refused.message().contains("1048576"), "{}", refused.message());
    assert_eq!(refusal(Err::<(), _>(refused)).verdict(), (Code::OutOfRange, "REQUEST_TOO_LARGE"));
    assert_eq!(good.beat(&[lease_id]).await.unwrap().renewed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_behind_does_not_call_a_lease_unknown_on_a_stream_either() {
    let served = Served::start().await;
    let lease_id = served.clients.register(registration(1, "organ")).await.lease_id;
    let mut stream = BeatStream::open(&served.daemon).await;
    assert_eq!(stream.beat(&[lease_id]).await.unwrap().renewed, 1);
    // Whatever the feed asks for is not answered.
    let blocker = served.sql.connect().await;
    run(&blocker, "BEGIN; LOCK TABLE cluster_metadata IN ACCESS EXCLUSIVE MODE").await;
    let newer = lease_id + 1_000;
    let answer = stream.beat(&[lease_id, newer, 0]).await.unwrap();
    let reasons: Vec<_> = answer.exceptions.iter().map(|it| (it.lease_id, it.reason())).collect();
    assert_eq!(answer.renewed, 1);
    assert_eq!(reasons, [(newer, ErrorReason::NotYetSeen), (0, ErrorReason::UnknownLease)]);

    run(&blocker, "ROLLBACK").await;
    wait_until("no instance has that lease", BOUND, async || {
        let answer = stream.beat(&[newer]).await.unwrap();
        let reason = answer.exceptions[0].reason();
        if reason == ErrorReason::UnknownLease { Ok(()) } else { Err(reason) }
    })
    .await;
}

/// As `muster.v1.WatchRequest`, with bytes where that has text.
#[derive(Clone, PartialEq, prost::Message)]
struct HostileWatch {
    #[prost(uint64, tag = "6")]
    resume_after: u64,
    #[prost(bytes = "vec", tag = "7")]
    history_id: Vec<u8>,
}

async fn hostile_watch(served: &Served, request: HostileWatch) -> Result<WatchResponse, Status> {
    let mut client = tonic::client::Grpc::new(served.daemon.channel().await);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/muster.v1.DiscoveryService/Watch");
    let codec = ProstCodec::<HostileWatch, WatchResponse>::default();
    let mut stream = client.server_streaming(tonic::Request::new(request), path, codec).await?.into_inner();
    Ok(stream.message().await?.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_resume_position_is_refused_or_reset_without_harm() {
    let served = Served::start().await;
    served.clients.register(registration(1, "organ")).await;
    let own = hostile_watch(&served, HostileWatch::default()).await.unwrap();
    let texts: [&[u8]; 7] =
        [b"", b"x", &[0xff; 16], &[b'-'; 36], &[0; 36], &[b'a'; 100_000], own.cluster_epoch.as_bytes()];
    for (at, history_id) in texts.into_iter().enumerate() {
        for resume_after in [1, 1 << 63, u64::MAX] {
            let request = HostileWatch { resume_after, history_id: history_id.to_vec() };
            let answer = hostile_watch(&served, request).await;
            match answer {
                // A history, if not this one.
                Ok(answer) => assert!(at == 6 && answer.reset, "{at} {resume_after}"),
                // What is no text is refused by the decoder.
                Err(status) if at == 2 => {
                    let refused = refusal(Err::<(), _>(status));
                    assert_eq!(refused.verdict(), (Code::InvalidArgument, "MALFORMED_REQUEST"), "{refused:?}");
                }
                Err(status) => assert_eq!(refusal(Err::<(), _>(status)).fields[0].0, "history_id"),
            }
        }
    }
    // This history, but not that far.
    for resume_after in [own.revision + 1, 1 << 63, u64::MAX] {
        let request = HostileWatch { resume_after, history_id: own.history_id.clone().into() };
        let refused = refusal(hostile_watch(&served, request).await);
        assert_eq!(refused.verdict(), (Code::Unavailable, "NOT_YET_SEEN"));
    }
    resolves(&served, "organ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_costs_at_most_two_kilobytes() {
    const INSTANCES: usize = 20_000;
    let sql = Registry::head().await;
    let empty = Daemon::start(sql.database.url()).await;
    let before = memory(&empty);
    assert!(empty.terminate().await.success());
    // As registrations would have left them.
    run(
        &sql.client,
        &format!(
            "INSERT INTO registry_instance (instance_id, logical_id, cluster_epoch, epoch_number, status, actor_name,
                 serve_route, node_id, ip_address, port, pid, version, ttl_ms, started_at, last_heartbeat, lease_id,
                 revision)
             SELECT gen_random_uuid(), 'organ-' || n, current_epoch, epoch_number, 'alive', 'actor', '/organ',
                 'node-' || n % 100, '10.0.0.1', 8000, n, '1.0.0', 300000, now(), now(), revision + n, revision + n
             FROM cluster_metadata, generate_series(1, {INSTANCES}) n;
             SELECT muster_advance(revision + {INSTANCES}) FROM cluster_metadata;"
        ),
    )
    .await;
    let loaded = Daemon::start(sql.database.url()).await;
    assert_eq!(loaded.metric("musterd_instances{status=\"alive\"}").await, Some(INSTANCES as f64));
    grows_by_less_than(&loaded, before, INSTANCES * 2_000).await;
}
