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
mod one;
mod parts;
mod policies;
mod preparation;
mod private;
mod reapers;
mod recorder;
mod security;
mod several;
pub(crate) mod share;

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;
use tokio::time::timeout;

pub use self::error::Error;
use self::{
    one::{Ports, assemble, ended, listen, run_until_shutdown, serve_grpc, serve_http},
    parts::Parts,
};
use crate::{
    config::ServeConfig,
    lifecycle::{Lifecycle, SHUTDOWN_LIMIT, ServiceManager, Stage, panic_message},
    local::LocalServer,
    metrics,
    postgres::pool,
    telemetry,
};

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// It could not start, or a part without which it cannot go on has ended.
pub async fn run(config: ServeConfig) -> Result<(), Error> {
    telemetry::init(config.log_format, &config.log_level, config.audit_file.as_deref())?;
    let metrics = metrics::install()?;
    metrics::publish_version(one::VERSION);
    let lifecycle = Lifecycle::new();
    lifecycle.watch_signals()?;
    lifecycle.arm_watchdog()?;
    // Kept here, so that every way out of what follows leads past its stop.
    let mut local = None;
    let living = async {
        if config.registries.is_empty() {
            let ports = listen(&config, &lifecycle).await?;
            Box::pin(live(config, &lifecycle, metrics, ports, &mut local)).await
        } else {
            Box::pin(several::live(&config, &lifecycle, &mut local)).await
        }
    };
    let living = Box::pin(living);
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
    if config.database_url.is_none() && !private::begin(&config, lifecycle, local).await? {
        return ended(lifecycle.run_until_shutdown().await);
    }
    let parts = Box::pin(start(config, lifecycle.clone(), metrics, ports, local.as_ref())).await?;
    let lifecycle = parts.lifecycle.clone();
    Box::pin(run_until_shutdown(&lifecycle, &[Arc::new(parts)])).await
}

/// Starts every part, in order; ready at its end.
async fn start(
    config: ServeConfig,
    lifecycle: Lifecycle,
    metrics: metrics::Handle,
    (grpc, http, security): Ports,
    local: Option<&LocalServer>,
) -> Result<Parts, Error> {
    let (parts, view_writer) = assemble(config, lifecycle, (&grpc, &http, security), local, pool::CONNECTIONS)?;
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
