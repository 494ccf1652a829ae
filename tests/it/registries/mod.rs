//! Several registries in one daemon: each answers for itself, and fails for itself.

use std::{net::TcpListener, time::Duration};

use nix::sys::signal::Signal;

use crate::{
    cli::musterd,
    harness::{
        actor::{Caller, alive},
        daemon::Daemon,
        postgres::{OwnCluster, TestDatabase, connect},
        registry::{column, get},
        scratch::Scratch,
        wait::wait_until,
    },
};

const BOUND: Duration = Duration::from_secs(30);

/// A table of a registry on any free ports.
fn table(name: &str, rest: &str) -> String {
    format!("[[registry]]\nname = '{name}'\ngrpc-addr = '127.0.0.1:0'\nhttp-addr = '127.0.0.1:0'\n{rest}\n")
}

fn of(database: &TestDatabase, name: &str) -> String {
    table(name, &format!("database-url = '{}'", database.url()))
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_in_two_schemas_of_a_database_answer_for_themselves() {
    let database = TestDatabase::create().await;
    let (mut daemon, ports) = Daemon::several(&(of(&database, "a") + &of(&database, "b"))).await;
    let mut callers = Vec::new();
    for name in ["a", "b"] {
        daemon.choose(&ports[name]);
        daemon.wait_ready().await;
        callers.push(Caller::of(&daemon));
    }
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
async fn wrong_tables_are_refused_with_line_and_column() {
    let scratch = Scratch::in_memory();
    let file = scratch.path().join("m.toml");
    let path = file.to_str().unwrap();
    for (text, place) in [
        (table("a", "shema = 'a'"), ":5:1: unknown key \"shema\"; did you mean schema?"),
        (table("a", "") + &table("a", ""), ":7:1: two registries have the name a; "),
        (table("a", "schema = 's'") + &table("b", "schema = 's'"), ":10:1: registry a is in the same schema s "),
        (table("a", "database-url = 'host=h'\ndatabase-url-file = '/f'"), ":6:1: database-url-file stands beside "),
        ("grpc-addr = '127.0.0.1:7'\n".to_owned() + &table("a", ""), ":1 is given beside [[registry]]; "),
    ] {
        std::fs::write(&file, &text).unwrap();
        for command in [&["serve", "--config", path][..], &["config", "check", "--config", path]] {
            let ended = musterd(command).await;
            assert_eq!(ended.code, Some(78), "{text}: {ended:?}");
            assert!(ended.complaint().starts_with(&format!("{path}{place}")), "{text}: {ended:?}");
        }
    }
    std::fs::write(&file, table("a", "schema = 's'")).unwrap();
    let shown = musterd(&["config", "show", "--config", path]).await;
    assert!(
        shown
            .stdout
            .lines()
            .any(|line| line.starts_with("registry.a.schema") && line.contains(&format!("file {path}:1"))),
        "{shown:?}"
    );
    let several = musterd(&["migrate", "status", "--config", path]).await;
    assert_eq!(several.code, Some(78), "{several:?}");
}
