//! The composition root: the one place that knows every part, reads as the order of starting, and ends in the order
//! of leaving.
//!
//! Listeners are bound before anything serious happens, so that a port in use is found out at once and leaves nothing
//! half made. The probes answer from then on; gRPC is served once the registry is loaded.
//!
//! Leaving (promise 12): not ready; servers end; what is queued is applied and the last beats are saved; the daemon's
//! row is removed; the private PostgreSQL stops. All of it within 10 s, whatever clients do.

mod applier;
mod budget;
mod drift;
mod error;
mod facts;
mod gauges;
mod parts;
mod preparation;
mod reapers;
mod recorder;
mod security;

use std::{net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::error::Error;
use self::{applier::Applier, parts::Parts, security::Security};
use crate::{
    api::{
        status_cache::{Sources, StatusCache},
        summary,
    },
    clock::{Clock, DatabaseClock},
    config::ServeConfig,
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
    lifecycle::{
        Condition, Lifecycle, Readiness, Reason, Reload, SHUTDOWN_LIMIT, ServiceManager, Stage, panic_message,
    },
    local::{Durability, LocalServer, Options},
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
    telemetry::{self, chain},
    tls::Port,
    view::{View, ViewWriter},
};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How long removing this daemon's row may take.
const SIGN_OFF_TIMEOUT: Duration = Duration::from_millis(500);

/// The listeners of gRPC and HTTP, and what protects them.
type Ports = (TcpListener, TcpListener, Security);

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

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// It could not start, or a part without which it cannot go on has ended.
pub async fn run(config: ServeConfig) -> Result<(), Error> {
    telemetry::init(config.log_format, &config.log_level, config.audit_file.as_deref())?;
    let metrics = metrics::install()?;
    metrics::publish_version(VERSION);
    let lifecycle = Lifecycle::new();
    lifecycle.watch_signals()?;
    lifecycle.arm_watchdog()?;
    let security = Security::start(&config, &lifecycle)?;
    let grpc = bind(config.grpc_addr).await?;
    let http = bind(config.http_addr).await?;
    // The addresses as bound: with port 0 only this line tells which port it became.
    let (grpc_addr, http_addr) = (grpc.local_addr()?, http.local_addr()?);
    tracing::info!(version = VERSION, grpc.addr = %grpc_addr, http.addr = %http_addr, "musterd is starting");
    if let Some(warning) = config.database_url.as_ref().and_then(|source| source.current().warning()) {
        tracing::warn!(warning, "insecure database connection");
    }

    // Kept here, so that every way out of what follows leads past its stop.
    let mut local = None;
    let living = Box::pin(live(config, &lifecycle, metrics, (grpc, http, security), &mut local));
    // Unwind safety: after a panic nothing of it is used again but the private server, which is stopped.
    let outcome = AssertUnwindSafe(living).catch_unwind().await;
    let outcome = outcome.unwrap_or_else(|panic| Err(Error::Panicked(panic_message(panic.as_ref()))));
    if outcome.is_err() {
        lifecycle.abort_all();
    }
    lifecycle.drain(SHUTDOWN_LIMIT).await;
    if let Some(local) = local {
        // It stops even if the wait for it is cut short.
        let _ = timeout(Stage::Store.budget(), local.stop()).await;
    }
    if outcome.is_ok() {
        tracing::info!("musterd has stopped");
    }
    outcome
}

/// From the private PostgreSQL, if there is to be one, to the end of all stages.
async fn live(
    config: ServeConfig,
    lifecycle: &Lifecycle,
    metrics: metrics::Handle,
    ports: Ports,
    local: &mut Option<LocalServer>,
) -> Result<(), Error> {
    if config.database_url.is_none() {
        // Its recovery after a crash may take minutes, in which the daemon can be told to stop. Dropping the start stops it.
        let Some(started) = lifecycle.stopping().run_until_cancelled(Box::pin(start_local(&config))).await else {
            return ended(lifecycle.run_until_shutdown().await);
        };
        let server = local.insert(started?);
        lifecycle.on_watchdog_exit(server.emergency_stop());
        let (stop, supervision) = (lifecycle.token(Stage::Store), server.supervision_ended());
        lifecycle.spawn_essential(Stage::Store, "private postgresql", async move {
            let _ = stop.run_until_cancelled(supervision).await;
        });
    }
    let parts = Box::pin(start(config, lifecycle.clone(), metrics, ports, local.as_ref())).await?;
    Box::pin(run_until_shutdown(&parts)).await
}

/// The name of this machine; empty if it has none.
fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })
}

async fn start_local(config: &ServeConfig) -> Result<LocalServer, Error> {
    let options = Options {
        data_dir: config.data_dir.clone(),
        bin_dir: config.postgres_bin_dir.clone(),
        run_as: None,
        durability: Durability::Full,
    };
    let local = LocalServer::start(options).await?;
    tracing::info!(version = local.server_version(), data_dir = %config.data_dir.display(), "private postgresql is running");
    Ok(local)
}

/// Starts every part, in order; ready at its end.
async fn start(
    config: ServeConfig,
    lifecycle: Lifecycle,
    metrics: metrics::Handle,
    (grpc, http, security): Ports,
    local: Option<&LocalServer>,
) -> Result<Parts, Error> {
    let database = match (&config.database_url, local) {
        (Some(source), _) => Database::new(source.clone()),
        (None, local) => {
            let url = local.map(LocalServer::database_url).unwrap_or_default();
            Database::at(url).map_err(|error| Error::Database(ConnectError::from(error).into()))?
        }
    };
    let clock = Clock::new();
    let (view, view_writer) = View::new(clock);
    let daemon_id = Uuid::new_v4();
    let address = config.advertise_addr.clone().map_or_else(|| grpc.local_addr().map(|at| at.to_string()), Ok)?;
    let id = daemon_id.simple().to_string();
    let reread = database.clone();
    lifecycle.on_reload("database url", move || {
        reread.reread().map(|changed| if changed { Reload::Changed } else { Reload::Unchanged })
    });
    let parts = Parts {
        name: format!("{address}/{}", id.get(..8).unwrap_or(&id)).into(),
        pool: Pool::new(&database).map_err(Error::Database)?,
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
    if let Some(manager) = ServiceManager::from_environment() {
        let stop = parts.lifecycle.token(Stage::Store);
        let informing = manager.keep_informed(parts.readiness.clone(), parts.lifecycle.clone(), stop);
        parts.lifecycle.spawn_essential(Stage::Store, "service manager", informing);
    }
    // After the private PostgreSQL, which makes the data directory and holds its lock.
    let admin = security::admin_socket(&parts.config)?;
    serve_http(&parts, metrics, http);
    if preparation::run(&parts).await? {
        serve_grpc(&parts, view_writer, (grpc, admin)).await;
    }
    Ok(parts)
}

fn serve_http(parts: &Parts, handle: metrics::Handle, listener: TcpListener) {
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
    }
}

/// Starts the engine, waits for the registry to be loaded, then serves.
async fn serve_grpc(parts: &Parts, view_writer: ViewWriter, listeners: (TcpListener, Option<AdminSocket>)) {
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
    let (access, history) = (parts.security.access(), History::new(pool.clone()));
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

async fn run_until_shutdown(parts: &Parts) -> Result<(), Error> {
    let reason = parts.lifecycle.run_until_shutdown().await;
    parts.readiness.set(Condition::NotShuttingDown, false, "shutting down");
    for stage in [Stage::Readiness, Stage::Servers, Stage::Engine] {
        parts.lifecycle.end(stage, stage.budget()).await;
    }
    let until = Instant::now() + SIGN_OFF_TIMEOUT;
    if let Err(error) = store::expiry::daemon_stopped(&parts.pool, parts.identity.daemon_id, until).await {
        tracing::warn!(error = %chain(&error), "this daemon could not be taken off the list of daemons");
    }
    parts.pool.close();
    ended(reason)
}

/// A reason to leave as the outcome of the process.
fn ended(reason: Reason) -> Result<(), Error> {
    if reason.exit_code() == 0 { Ok(()) } else { Err(Error::Ended(reason.to_string())) }
}
