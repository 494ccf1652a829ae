//! One registry of a daemon: its ports, its parts, in the order of starting, and its end.
//!
//! Nothing here knows whether there are others: what must carry the name of a registry is made in the scope of the task that
//! calls this.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{net::TcpListener, sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    applier::Applier, budget, drift, error::Error, facts, gauges, parts::Parts, policies, reapers, recorder,
    security::Security,
};
use crate::{
    api::{
        status_cache::{Sources, StatusCache},
        summary,
    },
    clock::{Clock, DatabaseClock},
    config::{DatabaseUrl, ServeConfig, Source},
    connections::{admin::AdminSocket, incoming::Limits},
    feed::{Feed, PREFETCHED_MAX},
    grpc::{
        cluster::{Cluster, ThisDaemon},
        discovery::Discovery,
        registry::Registry as RegistryRpc,
        server::{self, Services},
    },
    http::{
        self,
        host::{Hosts, name_of},
        routes::Http,
    },
    lifecycle::{Condition, Lifecycle, Readiness, Reason, Reload, Stage},
    local::LocalServer,
    metrics,
    model::{Lease, Revision},
    postgres::{connect::ConnectError, search},
    registry::{
        Epochs, Health, History, Leases, Writer,
        alarm::Alarm,
        blocking,
        flusher::{Flusher, Identity},
        operators::Operators,
        overdue,
        suspicion::Suspicions,
    },
    stats::StatsCache,
    store::{self, Database, Pool, prefetch::Prefetch},
    telemetry::chain,
    tls::Port,
    view::{View, ViewWriter},
};

pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How long removing this daemon's row may take.
const SIGN_OFF_TIMEOUT: Duration = Duration::from_millis(500);

/// The listeners of gRPC and HTTP, and what protects them.
pub(super) type Ports = (TcpListener, TcpListener, Security);

/// Takes the ports of a registry and what protects them.
pub(super) async fn listen(config: &ServeConfig, lifecycle: &Lifecycle) -> Result<Ports, Error> {
    let security = Security::start(config, lifecycle)?;
    let grpc = bind(config.grpc_addr).await?;
    let http = bind(config.http_addr).await?;
    // The addresses as bound: with port 0 only this line tells which port it became.
    let (grpc_addr, http_addr) = (grpc.local_addr()?, http.local_addr()?);
    tracing::info!(version = VERSION, grpc.addr = %grpc_addr, http.addr = %http_addr, "musterd is starting");
    if let Some(warning) = config.database_url.as_ref().and_then(|source| source.current().warning()) {
        tracing::warn!(warning, "insecure database connection");
    }
    Ok((grpc, http, security))
}

/// What operators are told about this daemon.
fn this_daemon(parts: &Parts) -> ThisDaemon {
    ThisDaemon {
        daemon_id: parts.identity.daemon_id,
        http_addr: parts.http_addr,
        leases: Arc::clone(&parts.leases),
        facts: facts::gather(parts),
        stats: parts.stats.clone(),
    }
}

/// The parts of one registry, of which none runs yet, with at most so many connections.
pub(super) fn assemble(
    config: ServeConfig,
    lifecycle: Lifecycle,
    (grpc, http, security): (&TcpListener, &TcpListener, Security),
    local: Option<&LocalServer>,
    connections: usize,
) -> Result<(Parts, ViewWriter), Error> {
    let source = match (&config.database_url, local) {
        (Some(source), _) => source.clone(),
        (None, local) => {
            let url = local.map(LocalServer::database_url).unwrap_or_default();
            let url = DatabaseUrl::parse(url).map_err(|error| Error::Database(ConnectError::from(error).into()))?;
            Source::fixed(url)
        }
    };
    let database = Database::new(source, config.schema.as_deref());
    let clock = Clock::new();
    let (view, view_writer) = View::new(clock);
    let daemon_id = Uuid::new_v4();
    let address = config.advertise_addr.clone().map_or_else(|| grpc.local_addr().map(|at| at.to_string()), Ok)?;
    let id = daemon_id.simple().to_string();
    let reread = database.clone();
    lifecycle.on_reload("database url", move || {
        reread.reread().map(|changed| if changed { Reload::Changed } else { Reload::Unchanged })
    });
    let pool = Pool::with(&database, connections).map_err(Error::Database)?;
    let parts = Parts {
        name: format!("{address}/{}", id.get(..8).unwrap_or(&id)).into(),
        history: History::new(pool.clone()),
        pool,
        leases: Arc::new(Leases::new(clock)),
        readiness: Readiness::new(),
        health: Arc::new(Health::new(clock)),
        http_addr: http.local_addr()?,
        config,
        database,
        identity: Identity { daemon_id, address, version: VERSION, host: hostname() },
        clock,
        stats: StatsCache::new(view.clone()),
        view,
        lifecycle,
        security,
    };
    Ok((parts, view_writer))
}

/// The name of this machine; empty if it has none.
fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })
}

pub(super) fn serve_http(parts: &Parts, handle: metrics::Handle, listener: TcpListener) {
    let stop = parts.lifecycle.token(Stage::Servers);
    let cache = StatusCache::new(sources(parts), summary::render, stop.clone());
    let tls = parts.security.acceptor(Port::Http);
    let routes = Http::new(
        handle.clone(),
        parts.readiness.clone(),
        cache,
        (hosts(parts), parts.security.access(), parts.security.audit()),
        gauges::refresh(parts),
    );
    parts.lifecycle.spawn_essential(Stage::Servers, "http", http::server::serve(listener, tls, routes, stop.clone()));
    parts.lifecycle.spawn_essential(Stage::Servers, "metrics upkeep", metrics::upkeep(handle, stop));
}

/// The names under which the HTTP port answers: those it was told, and those that are surely its own.
fn hosts(parts: &Parts) -> Hosts {
    let (told, own) = (&parts.config.http_hosts, &parts.identity.host);
    let advertised = name_of(&parts.identity.address);
    Hosts::new(
        told.iter().chain(&advertised).chain([own].into_iter().filter(|own| !own.is_empty())).map(String::as_str),
    )
}

/// What the status page shows.
fn sources(parts: &Parts) -> Sources {
    let leases = Arc::clone(&parts.leases);
    let epochs = Arc::new(Epochs::new(parts.pool.clone(), Arc::clone(&parts.name), parts.health.clone()));
    let history = parts.history.clone();
    Sources {
        view: parts.view.clone(),
        stats: parts.stats.clone(),
        facts: facts::gather(parts),
        daemon_id: parts.identity.daemon_id,
        grpc_address: parts.identity.address.clone(),
        beats_received: Arc::new(move || leases.renewed()),
        epoch: Arc::new(move || {
            let epochs = Arc::clone(&epochs);
            Box::pin(async move { epochs.list(u64::MAX >> 1, 1).await.ok()?.into_iter().next() })
        }),
        ended: Arc::new(move |ended, names| {
            let history = history.clone();
            Box::pin(async move { history.ended(&ended, |name| names.contains(name)).await.ok() })
        }),
    }
}

/// Starts the engine, waits for the registry to be loaded, then serves.
pub(super) async fn serve_grpc(parts: &Parts, view_writer: ViewWriter, listeners: (TcpListener, Option<AdminSocket>)) {
    let Parts { lifecycle, pool, leases, view, clock, .. } = parts;
    let stop = lifecycle.token(Stage::Engine);
    let alarm = Arc::new(Alarm::default());
    let database_clock = DatabaseClock::new(*clock);
    let (readiness, admission) = (parts.readiness.clone(), budget::admission(parts));
    let applier =
        Applier::new(view_writer, Arc::clone(leases), Arc::clone(&alarm), readiness, *clock, database_clock.clone())
            .with_budget(parts.config.budget, Arc::clone(&admission));
    let (changes, prefetched) = mpsc::channel(PREFETCHED_MAX);
    let feed = Feed::new(parts.database.clone(), applier, *clock, view.wanted(), prefetched);
    lifecycle.spawn_essential(Stage::Engine, "feed", feed.run(stop.clone()));

    drift::start(parts, stop.clone());
    recorder::start(parts, stop.clone());
    policies::start(parts, stop.clone());
    let searching = search::run(parts.database.clone(), stop.clone());
    lifecycle.spawn_essential(Stage::Engine, "search for a newer primary", searching);
    let (name, health) = (Arc::clone(&parts.name), Arc::clone(&parts.health));
    let prefetch = Prefetch::new(*clock, view.applied_receiver(), changes);
    let (writer, writer_task) = Writer::new(pool.clone(), name, database_clock, prefetch, health, admission);
    lifecycle.spawn_essential(Stage::Engine, "writer", writer_task.run(stop.clone()));
    let looking = blocking::run(pool.clone(), Arc::clone(&parts.health), stop.clone());
    lifecycle.spawn_essential(Stage::Engine, "blocking session", looking);
    let (identity, health) = (parts.identity.clone(), Arc::clone(&parts.health));
    let flusher = Flusher::new(pool.clone(), Arc::clone(leases), *clock, identity, health);
    lifecycle.spawn_essential(Stage::Engine, "flusher", flusher.run(stop.clone()));
    let told = view.clone();
    let tell = move |leases: &[Arc<Lease>], suspect| told.hint(leases, suspect);
    let suspicions = Suspicions::new(pool.clone(), Arc::clone(leases), *clock);
    lifecycle.spawn_essential(Stage::Engine, "suspicions", suspicions.run(tell.clone(), stop.clone()));
    lifecycle.spawn_essential(
        Stage::Engine,
        "overdue",
        overdue::run(pool.clone(), Arc::clone(leases), *clock, tell, stop.clone()),
    );

    tokio::select! {
        () = lifecycle.stopping().cancelled_owned() => return,
        _ = view.wait_for(Revision(0), Duration::MAX) => {}
    }
    reapers::start(parts, alarm, stop);

    let (stop, access) = (lifecycle.token(Stage::Servers), parts.security.access());
    let services = services(parts, writer, &stop);
    let limits = Limits { per_address: parts.config.grpc_connections_per_address, ..Limits::default() };
    // Before the first call is answered: a caller that got an answer finds the daemon ready.
    parts.readiness.set(Condition::Flush, true, "beats are saved");
    parts.readiness.set(Condition::NotShuttingDown, true, "running");
    let tls = parts.security.acceptor(Port::Grpc);
    let serving = server::serve(
        listeners,
        tls,
        (access, parts.security.audit()),
        services,
        limits,
        parts.readiness.subscribe(),
        stop,
    );
    lifecycle.spawn_essential(Stage::Servers, "grpc", serving);
    announce_ready(parts);
}

/// What answers the calls.
fn services(parts: &Parts, writer: Writer, stop: &CancellationToken) -> Services {
    let Parts { pool, view, leases, .. } = parts;
    let (access, history) = (parts.security.access(), parts.history.clone());
    let operators = Operators::new(pool.clone(), writer.clone(), Arc::clone(&parts.name));
    let epochs = Epochs::new(pool.clone(), Arc::clone(&parts.name), parts.health.clone());
    let (of_registry, of_discovery) = (Arc::clone(leases), Arc::clone(leases));
    Services {
        registry: RegistryRpc::new(writer, of_registry, view.clone(), access.clone(), stop.clone()),
        discovery: Discovery::new(view.clone(), of_discovery, history, access.clone(), stop.clone()),
        cluster: Cluster::new(view.clone(), epochs, operators, this_daemon(parts), access),
    }
}

/// Logs once that the daemon is ready, when it is.
fn announce_ready(parts: &Parts) {
    let mut ready = parts.readiness.subscribe();
    let Identity { daemon_id, address, .. } = parts.identity.clone();
    let stopping = parts.lifecycle.token(Stage::Readiness);
    parts.lifecycle.spawn_background(Stage::Readiness, "ready", async move {
        // The feed says so in its own time.
        if let Some(Ok(_)) = stopping.run_until_cancelled(ready.wait_for(|ready| *ready)).await {
            tracing::info!(daemon.id = %daemon_id, address, "musterd is ready");
        }
    });
}

pub(super) async fn run_until_shutdown(lifecycle: &Lifecycle, registries: &[Arc<Parts>]) -> Result<(), Error> {
    let reason = lifecycle.run_until_shutdown().await;
    for parts in registries {
        parts.readiness.set(Condition::NotShuttingDown, false, "shutting down");
    }
    for stage in [Stage::Readiness, Stage::Servers, Stage::Engine] {
        lifecycle.end(stage, stage.budget()).await;
    }
    join_all(registries.iter().map(|parts| sign_off(parts))).await;
    ended(reason)
}

/// Takes this daemon off the list of daemons.
async fn sign_off(parts: &Parts) {
    let until = Instant::now() + SIGN_OFF_TIMEOUT;
    if let Err(error) = store::expiry::daemon_stopped(&parts.pool, parts.identity.daemon_id, until).await {
        tracing::warn!(error = %chain(&error), "this daemon could not be taken off the list of daemons");
    }
    parts.pool.close();
}

/// A reason to leave as the outcome of the process.
pub(super) fn ended(reason: Reason) -> Result<(), Error> {
    if reason.exit_code() == 0 { Ok(()) } else { Err(Error::Ended(reason.to_string())) }
}
