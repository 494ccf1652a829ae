//! The SQL functions and the view, called directly: what an application without the daemon would do.
//!
//! In a database of its own, so that no daemon looks at what is registered here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls, Statement};
use uuid::Uuid;

/// Connections, and so calls at the same time: as many as the private PostgreSQL has room for beside two daemons.
const CONNECTIONS: usize = 32;
/// Instances that beats and lookups are about.
const INSTANCES: u64 = 1_000;

pub(crate) struct Sql {
    clients: Vec<Arc<Client>>,
    epoch: Uuid,
    instances: Arc<Vec<Uuid>>,
}

impl Sql {
    /// Connects and registers what is looked up.
    pub(crate) async fn start(url: &str) -> Self {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
            tokio::spawn(connection);
            clients.push(Arc::new(client));
        }
        let epoch = Uuid::new_v4();
        let first = &clients[0];
        first.execute("SELECT set_current_epoch($1)", &[&epoch]).await.unwrap();
        let mut instances = Vec::new();
        for number in 0..INSTANCES {
            let id = Uuid::new_v4();
            let name = format!("sql-{number}");
            let call = "SELECT register_instance($1, $2, $3, 'actor', '/route', 'node', '127.0.0.1', 1)";
            first.execute(call, &[&id, &name, &epoch]).await.unwrap();
            first.execute("SELECT set_instance_status($1, 'alive')", &[&id]).await.unwrap();
            instances.push(id);
        }
        Self { clients, epoch, instances: Arc::new(instances) }
    }

    /// `register_instance()` per second.
    pub(crate) async fn register(&self, seconds: u32) -> f64 {
        let epoch = self.epoch;
        let call = "SELECT register_instance($1, $2, $3, 'actor', '/route', 'node', '127.0.0.1', 1)";
        self.repeat(seconds, call, move |client, statement, number| async move {
            let (id, name) = (Uuid::new_v4(), format!("new-{number}"));
            client.execute(&statement, &[&id, &name, &epoch]).await.unwrap();
        })
        .await
    }

    /// `beat()` per second.
    pub(crate) async fn beat(&self, seconds: u32) -> f64 {
        let instances = Arc::clone(&self.instances);
        self.repeat(seconds, "SELECT beat($1)", move |client, statement, number| {
            let id = instances[usize::try_from(number % INSTANCES).unwrap()];
            async move {
                client.execute(&statement, &[&id]).await.unwrap();
            }
        })
        .await
    }

    /// Lookups in `active_instance` per second.
    pub(crate) async fn view(&self, seconds: u32) -> f64 {
        let query = "SELECT * FROM active_instance WHERE logical_id = $1";
        self.repeat(seconds, query, |client, statement, number| async move {
            let name = format!("sql-{}", number % INSTANCES);
            client.query_one(&statement, &[&name]).await.unwrap();
        })
        .await
    }

    async fn repeat<F, R>(&self, seconds: u32, sql: &str, call: F) -> f64
    where
        F: Fn(Arc<Client>, Statement, u64) -> R + Clone + Send + 'static,
        R: Future<Output = ()> + Send,
    {
        let next = Arc::new(AtomicU64::new(0));
        let mut prepared = Vec::new();
        for client in &self.clients {
            prepared.push((Arc::clone(client), client.prepare(sql).await.unwrap()));
        }
        let began = Instant::now();
        let ends = began + Duration::from_secs(seconds.into());
        let mut tasks = JoinSet::new();
        for (client, statement) in prepared {
            let (next, call) = (Arc::clone(&next), call.clone());
            tasks.spawn(async move {
                while Instant::now() < ends {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    call(Arc::clone(&client), statement.clone(), number).await;
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        #[expect(clippy::cast_precision_loss, reason = "some thousands")]
        let calls = next.load(Ordering::Relaxed) as f64;
        calls / began.elapsed().as_secs_f64()
    }

    /// Forgets what was registered.
    pub(crate) async fn clear(self) {
        self.clients[0].batch_execute("TRUNCATE registry_instance").await.unwrap();
    }
}
