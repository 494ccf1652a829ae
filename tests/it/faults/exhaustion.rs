//! Something has run out: room on the disk of PostgreSQL, its connections, the file descriptors of a daemon. Each is
//! refused definitely while it lasts, ends no lease, and recovery needs an operator only to make room.

use std::{
    fs::File,
    io::Write as _,
    process::Command,
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use musterd_client::Choice;

use crate::harness::{
    actor::{Actor, Caller, alive},
    daemon::Daemon,
    postgres::{BOUND, OwnCluster, connect},
    registry::{Registry, get, run},
    scratch::Scratch,
    wait::wait_until,
};

const TTL: Duration = Duration::from_secs(4);
const LONG: Duration = Duration::from_secs(300);
const DEAD: &str = "SELECT count(*) FROM registry_instance WHERE status = 'dead'";

/// Says that a test could not be done here; a run in which that is not noticed proves less than it seems to.
#[expect(clippy::print_stderr, reason = "the output of the tests has to show it")]
fn not_possible(what: &str) {
    eprintln!("\n*** NOT TESTED: {what} ***\n");
}

fn noise() -> String {
    (0..6).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect()
}

/// So many more beats are accepted; meanwhile nothing was said that would end the lease.
async fn goes_on(actor: &Actor, beats: u64) {
    actor.accepted(actor.told().accepted + beats).await;
    let refused = actor.told().refused;
    assert!(refused.iter().all(|reason| reason == "BEATS_NOT_SAVED"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_changes_and_loses_none() {
    let Some(scratch) = Scratch::with_small(192) else {
        return not_possible("a full disk: a file system of limited size takes root to mount");
    };
    let small = scratch.path().join("small");
    let cluster = OwnCluster::create_in(scratch, small).await;
    let daemon = Daemon::start_as_asked(&["--database-url", cluster.url()]).await;
    let caller = Caller::of(&daemon);
    let actor = Actor::start(std::slice::from_ref(&caller), "kept", TTL).await;
    let filler = cluster.data_dir().join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[0; 4_096]).is_ok() {}

    let mut acknowledged = vec![actor.lease.clone()];
    let refused = wait_until("a registration is refused", BOUND, async || {
        // Fat rows that do not compress: the room that pages have left is soon gone.
        let labels = (0..20).map(|key| (format!("key-{key}"), noise())).collect();
        let request = musterd::proto::v1::RegisterRequest { labels, ..alive("fat", LONG) };
        match caller.register(request).await {
            Ok(lease) => {
                acknowledged.push(lease);
                Err(acknowledged.len())
            }
            Err(reason) => Ok(reason),
        }
    })
    .await;
    assert!(["INTERNAL", "MAYBE_APPLIED", "DATABASE_UNAVAILABLE"].contains(&refused.as_str()), "{refused}");
    assert_eq!(caller.best("kept").await, actor.id(), "reads go on");

    drop(file);
    std::fs::remove_file(&filler).unwrap();
    wait_until("registrations are accepted", BOUND, async || {
        acknowledged.push(caller.register(alive("late", LONG)).await?);
        Ok::<_, String>(())
    })
    .await;
    goes_on(&actor, 5).await;
    let client = connect(cluster.url()).await;
    for lease in &acknowledged {
        let (instance_id, lease_id) = (&lease.instance_id, lease.lease_id);
        let sql = format!(
            "SELECT count(*) FROM registry_instance WHERE instance_id = '{instance_id}' AND lease_id = {lease_id}"
        );
        assert_eq!(get::<i64>(&client, &sql).await, 1, "{instance_id} was acknowledged");
    }
    assert_eq!(get::<i64>(&client, DEAD).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_connections_refuse_changes_definitely_and_reads_continue() {
    let sql = Registry::head().await;
    // A role that is no superuser: only those are held to limits.
    let role = format!("limited_{}", uuid::Uuid::new_v4().simple());
    let grants = format!(
        "CREATE ROLE {role} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
         GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {role}"
    );
    run(&sql.client, &grants).await;
    let url = sql.database.url().replace("musterd@", &format!("{role}@"));
    let daemon = Daemon::start_as_asked(&["--database-url", &url, "--no-migrate"]).await;
    let caller = Caller::of(&daemon);
    let actor = Actor::start(std::slice::from_ref(&caller), "kept", TTL).await;
    let take_all = format!(
        "ALTER ROLE {role} CONNECTION LIMIT 0;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"
    );
    run(&sql.client, &take_all).await;
    wait_until("registrations are refused", BOUND, async || {
        let asked = Instant::now();
        let refused = caller.register(alive("late", LONG)).await.err();
        assert!(asked.elapsed() < Duration::from_secs(4), "it takes 2 s, here {:?}", asked.elapsed());
        // The first of them may still find its connection cut.
        if refused.as_deref() == Some("DATABASE_UNAVAILABLE") { Ok(()) } else { Err(refused) }
    })
    .await;
    wait_until("beats are refused", BOUND, async || match actor.told().refused {
        reasons if reasons.contains(&"BEATS_NOT_SAVED".to_owned()) => Ok(()),
        reasons => Err(reasons),
    })
    .await;
    assert_eq!(caller.best("kept").await, actor.id());
    let mine = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'");
    assert_eq!(get::<i64>(&sql.client, &mine).await, 0);

    run(&sql.client, &format!("ALTER ROLE {role} CONNECTION LIMIT 8")).await;
    wait_until("registrations are accepted", BOUND, async || caller.register(alive("late", LONG)).await).await;
    goes_on(&actor, 8).await;
    assert!(get::<i64>(&sql.client, &mine).await <= 8);
    assert_eq!(get::<i64>(&sql.client, DEAD).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_without_file_descriptors_serves_the_connections_it_has() {
    let sql = Registry::head().await;
    let daemon = Daemon::start_as_asked(&["--database-url", sql.database.url()]).await;
    let caller = Caller::of(&daemon);
    let actor = Actor::start(std::slice::from_ref(&caller), "kept", TTL).await;
    // Connected while there are descriptors.
    let reader = caller.client();
    reader.cluster(0).await.unwrap();
    let pid = daemon.pid().to_string();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let limit = format!("--nofile={}:", open + 10);
    match Command::new("prlimit").args(["--pid", &pid, &limit]).output() {
        Ok(limited) if limited.status.success() => {}
        other => return not_possible(&format!("exhausted file descriptors: prlimit is missing or refused: {other:?}")),
    }
    let mut sockets = Vec::new();
    for _ in 0..40 {
        sockets.push(TcpStream::connect(&daemon.grpc_addr).await.unwrap());
    }
    wait_until("the log says what is wrong", BOUND, async || {
        if daemon.log().contains("cannot accept connections") { Ok(()) } else { Err("not yet") }
    })
    .await;
    goes_on(&actor, 5).await;
    let resolved = reader.resolve("kept", &Choice::best()).await.unwrap();
    assert_eq!(resolved.instance.instance_id.to_string(), actor.id());
    caller.register(alive("late", LONG)).await.unwrap();
    drop(sockets);
    wait_until("new callers are served", BOUND, async || Caller::of(&daemon).resolve("kept").await).await;
    assert!(daemon.metric("musterd_grpc_accept_errors_total").await.unwrap() > 0.0);
    goes_on(&actor, 2).await;
    assert_eq!(get::<i64>(&sql.client, DEAD).await, 0);
}
