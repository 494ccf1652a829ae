//! How many round trips to PostgreSQL a start takes: with a database far away, they are its duration.

use crate::{
    faults::proxy::{Counts, Link, Upstream},
    harness::{
        daemon::Daemon,
        postgres::{OwnCluster, connect},
        registry::{column, get},
    },
};

/// Over all connections, some of which are opened side by side; what runs once a second is among them on a slow machine.
const MOST: u64 = 25;
/// With all migrations: one by one they take more than a hundred. How many answers are read while statements are still being sent
/// is different each time. About 20 of these follow each other; sessions of the start that are opened again, or a history
/// that is read twice, make it 33 to 39.
const MOST_EMPTY: u64 = 32;

#[tokio::test(flavor = "multi_thread")]
async fn start_on_a_migrated_database_takes_few_round_trips() {
    let cluster = OwnCluster::create().await;
    let (link, url) = through_a_link(&cluster).await;
    assert!(Daemon::start(&url).await.terminate().await.success());
    let before = Counts::of(&link.counts().round_trips);
    let daemon = Daemon::start(&url).await;
    let taken = Counts::of(&link.counts().round_trips) - before;
    assert!(taken <= MOST, "{taken} round trips until {} was ready", daemon.grpc_addr);
}

#[tokio::test(flavor = "multi_thread")]
async fn first_start_takes_few_round_trips_more() {
    let cluster = OwnCluster::create().await;
    let (link, url) = through_a_link(&cluster).await;
    let daemon = Daemon::start(&url).await;
    let taken = Counts::of(&link.counts().round_trips);
    assert!(taken <= MOST_EMPTY, "{taken} round trips until {} was ready", daemon.grpc_addr);
    let recorded = "SELECT count(*) FILTER (WHERE applied_by <> '' AND duration_ms BETWEEN 0 AND 600000)
                    = max(version) - 10 FROM muster_migration";
    let sql = connect(cluster.url()).await;
    let shown: Vec<String> = column(&sql, "SELECT m::text FROM muster_migration AS m").await;
    assert!(get::<bool>(&sql, recorded).await, "{shown:?}");
    assert_eq!(musterd::migrate::verify(cluster.url()).await.unwrap(), Vec::<String>::new());
}

async fn through_a_link(cluster: &OwnCluster) -> (Link, String) {
    let link = Link::to(Upstream::Unix(cluster.socket())).await;
    let (host, port) = link.addr.split_once(':').unwrap();
    let url = format!("host={host} port={port} user=musterd dbname=musterd sslmode=disable");
    (link, url)
}
