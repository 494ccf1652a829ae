//! A small world: PostgreSQL, one or three daemons on it, a link in front of everything, and its clients.
//!
//! A world runs, is disrupted ([`super::nemesis`]), recovers, comes to rest, and is judged ([`super::checker`]).

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use musterd::migrate;
use musterd_client::Tls;
use nix::unistd::Pid;
use tokio::{task::JoinSet, time::timeout};
use tokio_postgres::{Client as Sql, Config, config::Host};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use uuid::Uuid;

use super::{
    audit::{self, DatabaseClock},
    client::{self, Client, channel, endpoint},
    dice::Dice,
    history::{Disruption, History, Micros},
    patroni::Cluster,
    proxy::{Link, Upstream},
    roles::{Kept, Role},
    security::Security,
};
use crate::harness::{
    daemon::Daemon,
    postgres::{OwnCluster, connect},
    registry::{Registry, get},
};

/// The TTL of every instance, if a world has no other: short, and with room for two beats to be late.
pub(crate) const TTL: Duration = Duration::from_secs(3);

/// A link to a database, and the URL that leads through it.
pub(crate) async fn database_link(url: &str) -> (String, Link) {
    let config: Config = url.parse().unwrap();
    let Some(Host::Unix(directory)) = config.get_hosts().first() else { panic!("{url} names no socket") };
    let socket: PathBuf = directory.join(format!(".s.PGSQL.{}", config.get_ports().first().unwrap_or(&5432)));
    let link = Link::to(Upstream::Unix(socket)).await;
    let (user, name) = (config.get_user().unwrap(), config.get_dbname().unwrap());
    // A link understands what passes, as long as it is not encrypted.
    (format!("postgres://{user}@{}/{name}?sslmode=disable", link.addr), link)
}

/// Where the registry is.
#[derive(Debug)]
pub(crate) enum Database {
    /// A database of the cluster that all tests share.
    Shared(Registry),
    /// A cluster that may be disrupted.
    Own(Box<OwnCluster>),
    /// Three nodes, one of which leads.
    Patroni(Box<Cluster>),
}

impl Database {
    /// Its address, past every link.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Shared(registry) => registry.database.url().to_owned(),
            Self::Own(cluster) => cluster.url().to_owned(),
            Self::Patroni(cluster) => cluster.url(false),
        }
    }
}

/// Where a daemon runs, if not beside the test: the command that starts it there, and its flags.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) within: Vec<String>,
    pub(crate) flags: Vec<String>,
    /// What its callers are known by; `None`: they are not, and nothing is encrypted.
    pub(crate) security: Option<Arc<Security>>,
}

impl Place {
    /// Beside the test, with these files if there are any.
    pub(crate) fn secured_by(security: Option<&Arc<Security>>) -> Self {
        let flags = security.map(|security| security.flags()).unwrap_or_default();
        Self { within: Vec::new(), flags, security: security.map(Arc::clone) }
    }
}

/// A daemon and its links.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) daemon: Option<Daemon>,
    pub(crate) to_daemon: Link,
    pub(crate) to_database: Link,
    pub(crate) url: String,
    /// How the daemon is started: in which network.
    pub(crate) place: Place,
    /// Threads and file descriptors while all was well.
    pub(crate) baseline: Option<(usize, usize)>,
    /// What daemons that are gone wrote to their logs.
    pub(crate) old_logs: String,
}

impl Node {
    /// Starts its daemon and leads the link to it.
    pub(crate) async fn start(&mut self) {
        let flags = self.place.flags.iter().map(String::as_str);
        let flags: Vec<&str> = ["--database-url", &self.url].into_iter().chain(flags).collect();
        let daemon = Daemon::spawn_within(&self.place.within, &[], &flags).await;
        match &self.place.security {
            Some(security) => security.wait_ready(&daemon).await,
            None => daemon.wait_ready().await,
        }
        self.to_daemon.lead_to(Upstream::Tcp(daemon.grpc_addr.clone()));
        self.daemon = Some(daemon);
    }

    /// A connection of a client to its daemon, by way of the link.
    pub(crate) fn channel(&self, client: u32) -> Channel {
        let addr = &self.to_daemon.addr;
        match &self.place.security {
            Some(security) => security.connect(&endpoint(addr), addr, client),
            None => channel(addr),
        }
    }

    /// The certificate that a client shows, if its daemon asks for one.
    pub(super) fn tls(&self, client: u32) -> Option<Tls> {
        self.place.security.as_ref().map(|security| security.tls(client))
    }

    /// The process, if it runs.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    /// Kills its daemon.
    pub(crate) fn kill9(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            self.old_logs.push_str(&daemon.log());
            daemon.kill9();
        }
        self.baseline = None;
    }
}

/// Which clients there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Population {
    pub(crate) daemons: usize,
    pub(crate) actors: usize,
    /// Of these, how many fall silent within the first seconds.
    pub(crate) quitters: usize,
    pub(crate) writers: usize,
    pub(crate) routers: usize,
    pub(crate) watchers: usize,
}

impl Default for Population {
    fn default() -> Self {
        Self { daemons: 3, actors: 30, quitters: 3, writers: 4, routers: 2, watchers: 4 }
    }
}

/// The world.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) database: Database,
    pub(crate) nodes: Vec<Node>,
    pub(crate) history: History,
    pub(crate) dice: Dice,
    /// The TTL of every instance.
    pub(crate) ttl: Duration,
    pub(crate) kept: Kept,
    pub(crate) disruptions: Vec<Disruption>,
    pub(crate) clock: DatabaseClock,
    /// The first epoch, which writers name until it is over.
    pub(crate) epoch: Option<Uuid>,
    pub(crate) complaints: Vec<String>,
    /// No fault keeps callers from daemons.
    pub(crate) are_daemons_left_alone: bool,
    /// Ends the clients that make changes: writers.
    pub(crate) quiet: CancellationToken,
    /// Ends all clients.
    pub(crate) stop: CancellationToken,
    pub(crate) crowd: JoinSet<()>,
    clients: AtomicU32,
}

impl World {
    /// A world on a database of the shared cluster.
    pub(crate) async fn shared(daemons: usize, seed: u64) -> Self {
        Self::on(Database::Shared(Registry::head().await), daemons, seed).await
    }

    /// A world on a database of the shared cluster, in which every caller shows a certificate.
    pub(crate) async fn secured(daemons: usize, seed: u64) -> Self {
        let (mut world, security) = (Self::shared(daemons, seed).await, Arc::new(Security::new(&[]).await));
        for node in &mut world.nodes {
            node.place = Place::secured_by(Some(&security));
        }
        world
    }

    /// A world on a cluster of its own.
    pub(crate) async fn own(daemons: usize, seed: u64) -> Self {
        let cluster = OwnCluster::create().await;
        migrate::up_to(cluster.url(), i32::MAX).await.unwrap();
        Self::on(Database::Own(Box::new(cluster)), daemons, seed).await
    }

    /// A world on a cluster of Patroni, with two daemons that name its nodes in opposite orders and reach them directly.
    pub(crate) async fn patroni(cluster: Cluster, seed: u64) -> Self {
        migrate::up_to(&cluster.url(false), i32::MAX).await.unwrap();
        let mut places = Vec::new();
        for is_reversed in [false, true] {
            places.push((cluster.url(is_reversed), Link::to(Upstream::Tcp("127.0.0.1:1".to_owned())).await));
        }
        Self::with(Database::Patroni(Box::new(cluster)), places, seed).await
    }

    /// A world with one daemon in another network, which reaches its database directly.
    pub(crate) async fn elsewhere(cluster: OwnCluster, url: &str, place: Place, seed: u64) -> Self {
        migrate::up_to(cluster.url(), i32::MAX).await.unwrap();
        let link = Link::to(Upstream::Tcp("127.0.0.1:1".to_owned())).await;
        let mut world = Self::with(Database::Own(Box::new(cluster)), vec![(url.to_owned(), link)], seed).await;
        world.nodes[0].place = place;
        world
    }

    async fn on(database: Database, daemons: usize, seed: u64) -> Self {
        let mut places = Vec::new();
        for _ in 0..daemons {
            places.push(database_link(&database.url()).await);
        }
        Self::with(database, places, seed).await
    }

    /// With a daemon for each of these addresses and links.
    async fn with(database: Database, places: Vec<(String, Link)>, seed: u64) -> Self {
        let history = History::begin();
        let sql = connect(&database.url()).await;
        audit::install(&sql).await;
        let clock = DatabaseClock::read(&sql, &history).await;
        let (mut nodes, security) = (Vec::new(), Security::if_asked_for(&[]).await);
        for (url, to_database) in places {
            let to_daemon = Link::to(Upstream::Tcp("127.0.0.1:1".to_owned())).await;
            let (place, old_logs) = (Place::secured_by(security.as_ref()), String::new());
            nodes.push(Node { daemon: None, to_daemon, to_database, url, place, baseline: None, old_logs });
        }
        Self {
            database,
            nodes,
            history,
            dice: Dice::new(seed),
            ttl: TTL,
            kept: Kept::default(),
            disruptions: Vec::new(),
            clock,
            epoch: None,
            complaints: Vec::new(),
            are_daemons_left_alone: false,
            quiet: CancellationToken::new(),
            stop: CancellationToken::new(),
            crowd: JoinSet::new(),
            clients: AtomicU32::new(0),
        }
    }

    /// A connection to the database, past every link.
    pub(crate) async fn sql(&self) -> Sql {
        connect(&self.database.url()).await
    }

    /// Starts the daemons that do not run, all at once.
    pub(crate) async fn start_daemons(&mut self) {
        let missing = self.nodes.iter_mut().filter(|node| node.daemon.is_none());
        futures_util::future::join_all(missing.map(Node::start)).await;
        if self.epoch.is_none() {
            self.epoch = Some(get(&self.sql().await, "SELECT current_epoch FROM cluster_metadata").await);
        }
    }

    /// A further client of the daemons.
    pub(crate) fn client(&self) -> Client {
        let id = self.clients.fetch_add(1, Ordering::Relaxed) + 1;
        Client::new(id, self.nodes.iter().map(|node| node.channel(id)).collect(), &self.history)
    }

    pub(super) fn addrs(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.to_daemon.addr.clone()).collect()
    }

    /// The client crate of a new process, which asks this daemon first.
    pub(super) fn member(&self, addrs: &[String], first: usize) -> musterd_client::Client {
        let id = self.clients.fetch_add(1, Ordering::Relaxed) + 1;
        client::member(id, addrs, first, &self.history, self.nodes[0].tls(id))
    }

    pub(super) fn role(&mut self, stop: &CancellationToken) -> Role {
        let (client, dice) = (self.client(), self.dice.fork());
        Role { client, dice, stop: stop.clone(), kept: self.kept.clone(), ttl: self.ttl }
    }

    /// Ends all clients, and waits for them.
    pub(crate) async fn end_crowd(&mut self) {
        self.quiet.cancel();
        self.stop.cancel();
        let ended = timeout(Duration::from_secs(10), async { while self.crowd.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            self.complaints.push("a client did not come to an end".to_owned());
        }
    }

    /// Records a fault.
    pub(crate) fn disrupted(&mut self, fault: String, from: Micros, until: Micros, effect: String, recovery: Micros) {
        self.disruptions.push(Disruption { fault, from, until, effect, recovery });
    }
}
