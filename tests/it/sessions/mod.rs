//! Sessions with PostgreSQL: what role, database and environment give them must not change what the registry does, and
//! what cannot be worked with is refused by name.

mod settings;
mod start;

use musterd::postgres::pool::CONNECTIONS;

use crate::harness::{
    postgres::{OwnCluster, connect},
    registry::run,
};

/// A cluster with an ordinary role `app` that owns the database `registry`, and the URL for it.
async fn owned_by_app() -> (OwnCluster, String) {
    let cluster = OwnCluster::create().await;
    run(&connect(cluster.url()).await, "CREATE ROLE app LOGIN").await;
    run(&connect(cluster.url()).await, "CREATE DATABASE registry OWNER app").await;
    let url = as_role(&cluster, "app");
    (cluster, url)
}

/// The database `registry` of a cluster, as a role.
fn as_role(cluster: &OwnCluster, role: &str) -> String {
    with_database(&cluster.url().replace("//musterd@", &format!("//{role}@")), "registry")
}

/// The same server and role, another database.
fn with_database(url: &str, database: &str) -> String {
    let (server, rest) = url.rsplit_once('/').unwrap();
    let options = rest.split_once('?').map(|(_, options)| format!("?{options}")).unwrap_or_default();
    format!("{server}/{database}{options}")
}

#[test]
fn docs_name_as_many_connections_as_a_daemon_holds() {
    for (file, before, after) in [
        ("README.md", "Each daemon holds up to ", " connections to PostgreSQL"),
        ("docs/operating.md", "| `max_connections` | ", " for each daemon"),
        ("deploy/runbook/MusterdFeedLagging.md", "`max_connections`: each daemon needs ", " |"),
        ("deploy/runbook/MusterdPoolExhausted.md", "end other sessions: each daemon needs ", " |"),
    ] {
        let text = std::fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let stated = format!("{before}{CONNECTIONS}{after}");
        assert!(text.contains(&stated), "{file}: {stated}");
    }
}
