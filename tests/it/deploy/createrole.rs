//! `deploy/roles.sql` as run by the owner of a managed service: a role with CREATEROLE that is no superuser.

use std::future::poll_fn;

use musterd::migrate;
use tokio_postgres::{AsyncMessage, NoTls};

use super::{roles::OWNERS, text};
use crate::harness::{
    postgres::{OwnCluster, connect},
    registry::{column, get, run},
};

/// What the server says while `roles.sql` runs as a role.
async fn give_roles_and_listen(url: &str) -> Vec<String> {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let listening = tokio::spawn(async move {
        let mut said = Vec::new();
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notice(notice) = message.unwrap() {
                said.push(format!("{}: {}", notice.severity(), notice.message()));
            }
        }
        said
    });
    run(&client, &text("deploy/roles.sql")).await;
    drop(client);
    listening.await.unwrap()
}

#[tokio::test]
async fn owner_with_createrole_gives_roles_twice_and_public_is_named_once() {
    let cluster = OwnCluster::create().await;
    let admin = connect(cluster.url()).await;
    let database: String = get(&admin, "SELECT current_database()::text").await;
    let role = format!(
        "CREATE ROLE service LOGIN CREATEROLE; ALTER DATABASE {database} OWNER TO service;
         ALTER SCHEMA public OWNER TO service; GRANT CREATE ON SCHEMA public TO PUBLIC"
    );
    run(&admin, &role).await;
    let url = |role: &str| cluster.url().replace("//musterd@", &format!("//{role}@"));
    migrate::up(&url("service"), "test").await.unwrap();
    let warning = "WARNING: PUBLIC loses the right to create objects in schema public";
    let said = give_roles_and_listen(&url("service")).await;
    assert!(said.iter().any(|line| line == warning), "{said:?}");
    let said = give_roles_and_listen(&url("service")).await;
    assert!(!said.iter().any(|line| line == warning), "{said:?}");
    assert_eq!(column::<String>(&admin, OWNERS).await, ["musterd_owner"]);
    for role in ["service", "musterd_migrator"] {
        migrate::up(&url(role), "test").await.unwrap();
    }
    assert_eq!(migrate::verify(cluster.url()).await.unwrap(), [""; 0]);
}
