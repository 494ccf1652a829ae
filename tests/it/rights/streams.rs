//! Streams that outlive a change of the policy, of the tokens, or their own credential.

use std::{fs, time::Duration};

use futures_util::stream;
use musterd::{
    access::tokens::Digest,
    proto::{encoded::WatchResponse, v1},
};
use tokio::{sync::mpsc, time::timeout};
use tonic::{Status, Streaming};
use tonic_types::StatusExt as _;

use super::{BOUND, Caller, Guarded, MASTER, events, rows::registration, rules::Rule, secret};
use crate::harness::registry::id;

const READS_A: Rule = Rule { who: "reader", may: &["read"], on: &["svc-a"] };
const READS_B: Rule = Rule { who: "reader", may: &["read"], on: &["svc-b*"] };
const ACTOR: Rule = Rule { who: "actor", may: &["register"], on: &["svc-a"] };
const OTHER: Rule = Rule { who: "actor", may: &["register"], on: &["svc-z"] };

/// One instance of each of these names, registered by the master.
async fn populated(rules: &[Rule], names: &[&str]) -> Guarded {
    let guarded = Guarded::start(rules).await;
    let mut master = guarded.caller(MASTER).await.registry;
    for (at, name) in names.iter().enumerate() {
        master.register(registration(id(u128::try_from(at).unwrap() + 1), name)).await.unwrap();
    }
    guarded
}

async fn watch(caller: &Caller, prefix: &str) -> Streaming<WatchResponse> {
    let request = v1::WatchRequest { logical_id_prefix: prefix.to_owned(), ..Default::default() };
    caller.discovery.clone().watch(request).await.unwrap().into_inner()
}

/// The next response with this, within the bound.
async fn until(
    watch: &mut Streaming<WatchResponse>,
    what: impl Fn(&WatchResponse) -> bool,
) -> Result<WatchResponse, Status> {
    let found = async {
        loop {
            let response = watch.message().await?.unwrap();
            if what(&response) {
                return Ok(response);
            }
        }
    };
    timeout(BOUND, found).await.unwrap_or_else(|_| panic!("no such response"))
}

fn names(response: &WatchResponse) -> Vec<String> {
    events(response).map(|event| event.instance.unwrap().logical_id).collect()
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_follows_the_rules_and_ends_with_the_last_right() {
    let guarded = populated(&[READS_A], &["svc-a", "svc-b1", "svc-b2"]).await;
    let reader = guarded.caller("reader").await;
    let mut stream = watch(&reader, "svc-").await;
    let first = until(&mut stream, |response| response.snapshot_complete).await.unwrap();
    assert_eq!(names(&first), ["svc-a"]);
    assert!(first.filtered);
    guarded.set_rules(&[READS_B]);
    let again = until(&mut stream, |response| response.reset).await.unwrap();
    assert_eq!(names(&again), ["svc-b1", "svc-b2"]);
    assert!(again.filtered);
    guarded.set_rules(&[Rule { on: &["svc-*"], ..READS_A }]);
    let all = until(&mut stream, |response| response.reset).await.unwrap();
    assert_eq!((names(&all).len(), all.filtered), (3, false));
    guarded.set_rules(&[Rule { on: &["out"], ..READS_A }]);
    let ended = until(&mut stream, |_| false).await.unwrap_err();
    assert_eq!((ended.code(), reason(&ended)), (tonic::Code::PermissionDenied, "PERMISSION_DENIED".to_owned()));
    assert!(stream.message().await.unwrap().is_none(), "nothing follows");
}

#[tokio::test(flavor = "multi_thread")]
async fn resumed_watch_and_changes_show_readable_names_only() {
    let guarded = populated(&[READS_A], &["svc-a", "svc-b1"]).await;
    let (reader, master) = (guarded.caller("reader").await, guarded.caller(MASTER).await);
    let mut stream = watch(&reader, "").await;
    let first = until(&mut stream, |response| response.snapshot_complete).await.unwrap();
    // The instance of the reader's name ends, and its id registers under a name that the reader may not read.
    for (instance, name) in [(2, "svc-b1"), (1, "secret"), (3, "svc-a")] {
        let end = v1::DeregisterRequest { instance_id: id(instance).to_string(), ..Default::default() };
        if instance < 3 {
            master.registry.clone().deregister(end).await.unwrap();
        }
        let again = v1::RegisterRequest { ip_address: "10.7.7.7".to_owned(), ..registration(id(instance), name) };
        master.registry.clone().register(again).await.unwrap();
    }
    let resumed = v1::WatchRequest { resume_after: first.revision, history_id: first.history_id, ..Default::default() };
    let mut resumed = reader.discovery.clone().watch(resumed).await.unwrap().into_inner();
    for stream in [&mut stream, &mut resumed] {
        let (mut seen, mut last) = (Vec::new(), false);
        while !last {
            let response = until(stream, |response| !response.events.is_empty()).await.unwrap();
            for event in events(&response) {
                let kind = event.r#type();
                let one = event.instance.unwrap();
                last |= one.instance_id == id(3).to_string();
                seen.push((kind, one));
            }
        }
        for (kind, one) in seen {
            let told = format!("{kind:?} {one:?}");
            assert!(!told.contains("secret") && !told.contains("svc-b1"), "{told}");
            assert_eq!(
                one.ip_address == "10.7.7.7",
                one.logical_id == "svc-a" && one.instance_id == id(3).to_string(),
                "{told}"
            );
        }
    }
}

/// A stream of beats, and the end for its requests.
async fn beats(caller: &Caller) -> (mpsc::Sender<v1::BeatStreamRequest>, Streaming<v1::BeatStreamResponse>) {
    let (sender, requests) = mpsc::channel(1);
    let requests = stream::unfold(requests, async |mut requests| Some((requests.recv().await?, requests)));
    let answers = caller.registry.clone().beat_stream(requests).await.unwrap().into_inner();
    (sender, answers)
}

async fn beat(
    (sender, answers): &mut (mpsc::Sender<v1::BeatStreamRequest>, Streaming<v1::BeatStreamResponse>),
    lease_id: u64,
) -> Result<String, Status> {
    let request = v1::BeatStreamRequest { lease_ids: vec![lease_id], goodbye: false };
    // If the stream has ended, its answer says why.
    let _ = sender.send(request).await;
    let answer = answers.message().await?.unwrap();
    Ok(answer.exceptions.first().map_or("OK".to_owned(), |one| one.reason().as_str_name().to_owned()))
}

/// Beats until there is another verdict than before.
async fn next_verdict(
    stream: &mut (mpsc::Sender<v1::BeatStreamRequest>, Streaming<v1::BeatStreamResponse>),
    lease_id: u64,
    before: &str,
) -> Result<String, Status> {
    let other = async {
        loop {
            match beat(stream, lease_id).await {
                Ok(verdict) if verdict == before => tokio::time::sleep(Duration::from_millis(50)).await,
                other => return other,
            }
        }
    };
    timeout(BOUND, other).await.unwrap_or_else(|_| panic!("still {before}"))
}

async fn is_suspect(guarded: &Guarded, instance: u128) -> bool {
    let request = v1::GetInstanceRequest { instance_id: id(instance).to_string(), min_revision: 0 };
    let master = guarded.caller(MASTER).await;
    master.discovery.clone().get_instance(request).await.unwrap().into_inner().instance.unwrap().suspect
}

#[tokio::test(flavor = "multi_thread")]
async fn beat_stream_compares_rules_and_owner_at_each_request() {
    let guarded = Guarded::start(&[ACTOR]).await;
    let actor = guarded.caller("actor").await;
    let mut stream = beats(&actor).await;
    let lease = actor.registry.clone().register(registration(id(1), "svc-a")).await.unwrap().into_inner().lease_id;
    assert_eq!(beat(&mut stream, lease).await.unwrap(), "OK", "a lease that began after the stream");
    guarded.set_rules(&[OTHER]);
    let lost = next_verdict(&mut stream, lease, "OK").await.unwrap();
    assert_eq!(lost, "ERROR_REASON_PERMISSION_DENIED", "its own, and no right to the name any more");
    guarded.set_rules(&[ACTOR]);
    assert_eq!(next_verdict(&mut stream, lease, &lost).await.unwrap(), "OK");
    let given = "UPDATE registry_instance SET owner = 'token/stranger'";
    guarded.sql.client.batch_execute(given).await.unwrap();
    assert_eq!(next_verdict(&mut stream, lease, "OK").await.unwrap(), "ERROR_REASON_UNKNOWN_LEASE");
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_of_a_revoked_token_ends_and_suspects_no_lease() {
    let guarded = Guarded::start(&[ACTOR, READS_A]).await;
    let (actor, reader) = (guarded.caller("actor").await, guarded.caller("reader").await);
    let lease = actor.registry.clone().register(registration(id(1), "svc-a")).await.unwrap().into_inner().lease_id;
    let (mut stream, mut watched) = (beats(&actor).await, watch(&reader, "svc-a").await);
    assert_eq!(beat(&mut stream, lease).await.unwrap(), "OK");
    guarded.revoke("actor");
    guarded.revoke("reader");
    // Without a request: the stream waits for one.
    let ended = timeout(BOUND, stream.1.message()).await.unwrap().unwrap_err();
    assert_eq!((ended.code(), reason(&ended)), (tonic::Code::Unauthenticated, "UNAUTHENTICATED".to_owned()));
    let ended = until(&mut watched, |_| false).await.unwrap_err();
    assert_eq!((ended.code(), reason(&ended)), (tonic::Code::Unauthenticated, "UNAUTHENTICATED".to_owned()));
    assert!(!is_suspect(&guarded, 1).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_of_an_expired_token_ends_with_that_reason() {
    let guarded = Guarded::start(&[ACTOR, READS_A]).await;
    let (actor, reader) = (guarded.caller("actor").await, guarded.caller("reader").await);
    let lease = actor.registry.clone().register(registration(id(1), "svc-a")).await.unwrap().into_inner().lease_id;
    let (mut stream, mut watched) = (beats(&actor).await, watch(&reader, "svc-a").await);
    assert_eq!(beat(&mut stream, lease).await.unwrap(), "OK");
    // The tokens get an end while the streams run.
    let ends = chrono::Utc::now() + Duration::from_secs(3);
    let ends = ends.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let lines =
        ["actor", "reader"].map(|name| format!("{name} {} expires={ends}\n", Digest::of(&secret(name)))).concat();
    let master = format!("{MASTER} {}\n", Digest::of(&secret(MASTER)));
    fs::write(guarded.files.path().join("tokens"), lines + &master).unwrap();
    guarded.daemon.signal(nix::sys::signal::Signal::SIGHUP);
    for ended in [
        timeout(BOUND, stream.1.message()).await.unwrap().unwrap_err(),
        until(&mut watched, |_| false).await.unwrap_err(),
    ] {
        assert_eq!((ended.code(), reason(&ended)), (tonic::Code::Unauthenticated, "CREDENTIAL_EXPIRED".to_owned()));
        assert!(ended.message().contains("renew it"), "{}", ended.message());
    }
    assert!(!is_suspect(&guarded, 1).await);
}
