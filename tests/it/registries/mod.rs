//! Several registries in one daemon: each answers for itself, and fails for itself.

mod commands;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::TcpListener,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{
    actor::{Caller, alive},
    daemon::Daemon,
    postgres::{OwnCluster, TestDatabase, connect},
    registry::{column, get},
    wait::wait_until,
};

const BOUND: Duration = Duration::from_secs(30);

/// A table of a registry on any free ports.
fn table(name: &str, rest: &str) -> String {
    format!("[[registry]]\nname = '{name}'\ngrpc-addr = '127.0.0.1:0'\nhttp-addr = '127.0.0.1:0'\n{rest}\n")
}

fn of(database: &TestDatabase, name: &str) -> String {
    table(name, &format!("database-url = '{}'", database.url()))
}

/// A caller of each registry, once it is ready.
async fn callers(daemon: &mut Daemon, ports: &BTreeMap<String, (String, String)>) -> BTreeMap<String, Caller> {
    let mut callers = BTreeMap::new();
    for (name, addresses) in ports {
        daemon.choose(addresses);
        daemon.wait_ready().await;
        callers.insert(name.clone(), Caller::of(daemon));
    }
    callers
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_in_two_schemas_of_a_database_answer_for_themselves() {
    let database = TestDatabase::create().await;
    let (mut daemon, ports) = Daemon::several(&(of(&database, "a") + &of(&database, "b"))).await;
    let callers: Vec<_> = callers(&mut daemon, &ports).await.into_values().collect();
    let same = alive("organ", Duration::from_secs(300));
    let in_a = callers[0].register(same.clone()).await.unwrap();
    assert_eq!(callers[1].resolve("organ").await.map(drop), Err("UNKNOWN_LOGICAL_ID".to_owned()));
    // The same instance id is another instance there.
    let in_b = callers[1].register(same).await.unwrap();
    callers[1].deregister(&in_b.instance_id).await.unwrap();
    assert_eq!(callers[0].best("organ").await, in_a.instance_id);
    callers[1].rotate("of one alone").await.unwrap();
    assert_eq!(callers[0].beat(in_a.lease_id).await.map(drop), Ok(()));

    let sql = connect(database.url()).await;
    let dead = "SELECT (SELECT count(*) FROM a.registry_death) * 10 + (SELECT count(*) FROM b.registry_death)";
    assert_eq!(get::<i64>(&sql, dead).await, 1);
    for (name, other, registered) in [("a", "b", "1"), ("b", "a", "1")] {
        daemon.choose(&ports[name]);
        let metrics = daemon.http_get("/metrics").await.unwrap().1;
        let created = format!("musterd_registrations_total{{registry=\"{name}\",outcome=\"created\"}} {registered}");
        assert!(metrics.lines().any(|line| line == created), "{created} is not in\n{metrics}");
        let samples = metrics.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let label = format!("registry=\"{name}\"");
        let without: Vec<_> = samples.filter(|line| !line.contains(&label)).collect();
        assert!(without.is_empty(), "{without:?}");
        assert!(!metrics.contains(&format!("registry=\"{other}\"")));
    }
    assert!(daemon.terminate().await.success());
    for schema in ["a", "b"] {
        let left = column::<String>(&sql, &format!("SELECT address FROM {schema}.registry_daemon")).await;
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_that_cannot_start_leaves_the_others_untouched() {
    let database = TestDatabase::create().await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let away = table("away", &format!("database-url = 'postgres://u@{}/d'", silent.local_addr().unwrap()));
    let wrong = table("wrong", &format!("database-url = '{}'", database.url().replace(database.name(), "t_none")));
    let (mut daemon, ports) = Daemon::several(&(away + &of(&database, "good") + &wrong)).await;
    daemon.choose(&ports["good"]);
    daemon.wait_ready().await;
    Caller::of(&daemon).register(alive("organ", Duration::from_secs(300))).await.unwrap();
    for name in ["away", "wrong"] {
        daemon.choose(&ports[name]);
        wait_until("the registry says what it lacks", BOUND, async || match daemon.http_get("/readyz").await {
            Ok((503, text)) if !text.contains("database: not yet") => Ok(()),
            other => Err(other),
        })
        .await;
        assert_eq!(daemon.http_get("/livez").await.unwrap().0, 200);
    }
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait_exit().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_whose_database_freezes_leaves_the_other_untouched() {
    let (cluster, database) = (OwnCluster::create().await, TestDatabase::create().await);
    let frozen = table("frozen", &format!("database-url = '{}'", cluster.url()));
    let (mut daemon, ports) = Daemon::several(&(frozen + &of(&database, "good"))).await;
    for name in ["frozen", "good"] {
        daemon.choose(&ports[name]);
        daemon.wait_ready().await;
    }
    let caller = Caller::of(&daemon);
    cluster.signal_all(Signal::SIGSTOP);
    daemon.choose(&ports["frozen"]);
    wait_until("the frozen registry says so", BOUND, async || match daemon.http_get("/readyz").await {
        Ok((_, text)) if text.contains("database_away") => Ok(()),
        other => Err(other),
    })
    .await;
    let lease = caller.register(alive("organ", Duration::from_secs(300))).await.unwrap();
    assert_eq!(caller.beat(lease.lease_id).await.map(drop), Ok(()));
    daemon.choose(&ports["good"]);
    let (status, text) = daemon.http_get("/readyz").await.unwrap();
    assert!(status == 200 && !text.contains("database_away"), "{text}");
    let ended = daemon.terminate().await;
    cluster.signal_all(Signal::SIGCONT);
    assert!(ended.success(), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_of_each_registry_outlive_their_daemon() {
    let database = TestDatabase::create().await;
    let config = of(&database, "a") + &of(&database, "b");
    let (mut daemon, ports) = Daemon::several(&config).await;
    let former = callers(&mut daemon, &ports).await;
    let mut leases = BTreeMap::new();
    for (name, caller) in &former {
        leases.insert(name.clone(), caller.register(alive(name, Duration::from_secs(300))).await.unwrap());
    }
    daemon.kill9();
    let (mut daemon, ports) = Daemon::several(&config).await;
    for (name, caller) in callers(&mut daemon, &ports).await {
        let lease = &leases[&name];
        assert_eq!(caller.beat(lease.lease_id).await.map(drop), Ok(()), "{name}");
        assert_eq!(caller.best(&name).await, lease.instance_id, "{name}");
        let other = leases.keys().find(|other| **other != name).unwrap();
        assert_eq!(caller.resolve(other).await.map(drop), Err("UNKNOWN_LOGICAL_ID".to_owned()), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_with_the_same_tables_serve_the_same_registries() {
    let database = TestDatabase::create().await;
    let config = of(&database, "a") + &of(&database, "b");
    let ((mut first, of_first), (mut second, of_second)) =
        tokio::join!(Daemon::several(&config), Daemon::several(&config));
    let (of_first, of_second) = tokio::join!(callers(&mut first, &of_first), callers(&mut second, &of_second));
    let in_a = of_first["a"].register(alive("organ", Duration::from_secs(300))).await.unwrap();
    let found = of_second["a"].resolve_at("organ", in_a.revision).await.unwrap();
    assert_eq!(found.instance.instance_id.to_string(), in_a.instance_id);
    assert_eq!(of_second["b"].resolve("organ").await.map(drop), Err("UNKNOWN_LOGICAL_ID".to_owned()));
    first.kill9();
    assert_eq!(of_second["a"].beat(in_a.lease_id).await.map(drop), Ok(()));
    of_second["b"].register(alive("organ", Duration::from_secs(300))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_of_a_server_hold_no_more_connections_than_their_shares() {
    let database = TestDatabase::create().await;
    let names = ["a", "b", "c"];
    let config: String = names.iter().map(|name| of(&database, name)).collect();
    let (mut daemon, ports) = Daemon::several(&config).await;
    let callers = callers(&mut daemon, &ports).await;
    for caller in callers.values() {
        for number in 0..20 {
            caller.register(alive(&format!("organ_{number}"), Duration::from_secs(300))).await.unwrap();
        }
    }
    let sql = connect(database.url()).await;
    let held = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let held = get::<i64>(&sql, held).await;
    // Each needs its feed and a session that writes; eight are its share.
    assert!((6..=24).contains(&held), "{held}");
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_of_several_exports_every_metric_of_a_single_one() {
    let database = TestDatabase::create().await;
    let (mut daemon, ports) = Daemon::several(&of(&database, "a")).await;
    let in_a = callers(&mut daemon, &ports).await;
    let alone = TestDatabase::create().await;
    let alone = Daemon::start(alone.url()).await;
    let caller = Caller::of(&alone);
    for caller in [&in_a["a"], &caller] {
        let lease = caller.register(alive("organ", Duration::from_secs(300))).await.unwrap();
        caller.beat(lease.lease_id).await.unwrap();
        caller.best("organ").await;
    }
    let series = async |daemon: &Daemon| {
        let text = daemon.http_get("/metrics").await.unwrap().1;
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let names = lines.map(|line| line.rsplit_once(' ').unwrap().0.replace("registry=\"a\",", ""));
        names.map(|name| name.replace("{registry=\"a\"}", "")).collect::<BTreeSet<_>>()
    };
    // A call is counted when it has ended, which its caller may see before.
    wait_until("both export the same series", BOUND, async || {
        let (one, other) = (series(&daemon).await, series(&alone).await);
        let differ: Vec<_> = one.symmetric_difference(&other).cloned().collect();
        if differ.is_empty() { Ok(()) } else { Err(differ) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_span_of_a_query_names_its_registry() {
    let database = TestDatabase::create().await;
    let config = "log-level = 'debug'\n".to_owned() + &of(&database, "a") + &of(&database, "b");
    let (mut daemon, ports) = Daemon::several(&config).await;
    for caller in callers(&mut daemon, &ports).await.values() {
        caller.register(alive("organ", Duration::from_secs(300))).await.unwrap();
    }
    let registry = |line: &Value| {
        let spans = line["spans"].as_array().into_iter().flatten();
        spans.filter_map(|span| span["registry"].as_str()).next().map(str::to_owned)
    };
    let named = wait_until("a change of each registry is logged", BOUND, async || {
        let log = daemon.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let queries = lines.filter_map(|line| {
            let query = line["span"]["name"].as_str().filter(|name| name.starts_with("db."))?.to_owned();
            Some((query, registry(&line)))
        });
        let named: BTreeSet<_> = queries.collect();
        let has = |name: &str| named.contains(&("db.apply".to_owned(), Some(name.to_owned())));
        if has("a") && has("b") { Ok(named) } else { Err(named) }
    })
    .await;
    let unnamed: Vec<_> = named.iter().filter(|(_, registry)| registry.is_none()).collect();
    assert!(unnamed.is_empty(), "{unnamed:?}");
}
