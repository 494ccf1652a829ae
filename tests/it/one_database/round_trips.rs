//! How many round trips to PostgreSQL a start takes: with a database far away, they are its duration.

use crate::{
    faults::proxy::{Counts, Link, Upstream},
    harness::{daemon::Daemon, postgres::OwnCluster},
};

/// Over all connections, some of which are opened side by side; what runs once a second is among them on a slow machine.
const MOST: u64 = 25;

#[tokio::test(flavor = "multi_thread")]
async fn start_on_a_migrated_database_takes_few_round_trips() {
    let cluster = OwnCluster::create().await;
    let link = Link::to(Upstream::Unix(cluster.socket())).await;
    let (host, port) = link.addr.split_once(':').unwrap();
    let url = format!("host={host} port={port} user=musterd dbname=musterd sslmode=disable");
    assert!(Daemon::start(&url).await.terminate().await.success());
    let before = Counts::of(&link.counts().round_trips);
    let daemon = Daemon::start(&url).await;
    let taken = Counts::of(&link.counts().round_trips) - before;
    assert!(taken <= MOST, "{taken} round trips until {} was ready", daemon.grpc_addr);
}
