//! Several registries in one daemon, each with ports, a database or schema, connections, and metrics of its own.
//!
//! They share the process: its end, its private PostgreSQL and the files that protect the ports. Nothing of one is reached
//! through the ports of another. A registry that cannot start, because its database is away or not fit, says so at its own
//! ports and tries again; the others do not wait for it.

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpListener, time::sleep};
use tracing::Span;

use super::{
    error::Error,
    one::{Ports, VERSION, assemble, ended, listen, run_until_shutdown, serve_grpc, serve_http},
    parts::Parts,
    preparation, private, security,
    share::share,
};
use crate::{
    config::{RegistryConfig, ServeConfig},
    lifecycle::{Condition, Lifecycle, Readiness, Scope, ServiceManager, Stage},
    local::LocalServer,
    metrics,
    telemetry::chain,
    view::ViewWriter,
};

/// When a registry that could not start tries again.
const RETRY: Duration = Duration::from_secs(5);
/// How often the service manager is told which registries are ready.
const TELL_PERIOD: Duration = Duration::from_millis(500);

/// As what the tasks of a registry run: its span, and the recorder of its metrics.
#[derive(Clone)]
struct Named {
    span: Span,
    recorder: metrics::Scope,
}

impl Named {
    fn run<T>(&self, step: impl FnOnce() -> T) -> T {
        self.span.in_scope(|| self.recorder.within(step))
    }

    fn scope(&self) -> Scope {
        let named = self.clone();
        Scope::new(move |step| named.run(step))
    }
}

/// A registry whose ports are taken.
struct Listening {
    name: String,
    config: ServeConfig,
    named: Named,
    lifecycle: Lifecycle,
    metrics: metrics::Handle,
    ports: Ports,
}

/// From the ports of all registries to the end of all stages.
pub(super) async fn live(
    config: &ServeConfig,
    lifecycle: &Lifecycle,
    local: &mut Option<LocalServer>,
) -> Result<(), Error> {
    // All ports first: one that is in use is found out before anything is begun.
    let mut listening = Vec::new();
    for registry in &config.registries {
        listening.push(Box::pin(take_ports(config, registry, lifecycle)).await?);
    }
    let needs_private = config.registries.iter().any(|registry| registry.database_url.is_none());
    if needs_private && !private::begin(config, lifecycle, local).await? {
        return ended(lifecycle.run_until_shutdown().await);
    }
    let connections = share(listening.len());
    let start_one = |one: Listening| one.named.clone().run(|| start(one, local.as_ref(), connections));
    let registries = listening.into_iter().map(start_one).collect::<Result<Vec<_>, _>>()?;
    inform(lifecycle, &registries);
    let parts: Vec<_> = registries.into_iter().map(|(_, parts)| parts).collect();
    Box::pin(run_until_shutdown(lifecycle, &parts)).await
}

async fn take_ports(
    config: &ServeConfig,
    registry: &RegistryConfig,
    lifecycle: &Lifecycle,
) -> Result<Listening, Error> {
    let (recorder, metrics) = metrics::of_registry(&registry.name)?;
    let named = Named { span: tracing::error_span!("registry", registry = registry.name.as_str()), recorder };
    let (lifecycle, config) = (lifecycle.within(named.scope()), config.of_registry(registry));
    named.run(|| metrics::publish_version(VERSION));
    let ports = named.scope().task(listen(&config, &lifecycle)).await?;
    Ok(Listening { name: registry.name.clone(), config, named, lifecycle, metrics, ports })
}

/// Starts what answers at once, and a task that does the rest in its own time.
fn start(one: Listening, local: Option<&LocalServer>, connections: usize) -> Result<(String, Arc<Parts>), Error> {
    let Listening { name, config, lifecycle, metrics, ports: (grpc, http, security), .. } = one;
    let (parts, view_writer) = assemble(config, lifecycle.clone(), (&grpc, &http, security), local, connections)?;
    let parts = Arc::new(parts);
    serve_http(&parts, metrics, http);
    let beginning = begin(Arc::clone(&parts), view_writer, grpc);
    lifecycle.spawn_background(Stage::Engine, "start of a registry", beginning);
    Ok((name, parts))
}

/// Prepares the database until that succeeds, then serves gRPC.
async fn begin(parts: Arc<Parts>, view_writer: ViewWriter, grpc: TcpListener) {
    loop {
        let error = match Box::pin(preparation::run(&parts)).await {
            Ok(true) => break,
            Ok(false) => return,
            Err(error) => chain(&error),
        };
        tracing::error!(error, "registry cannot start, trying again");
        parts.readiness.set(Condition::Database, false, error);
        if parts.lifecycle.stopping().run_until_cancelled(sleep(RETRY)).await.is_none() {
            return;
        }
        parts.database.reload();
    }
    match security::admin_socket(&parts.config) {
        Ok(admin) => serve_grpc(&parts, view_writer, (grpc, admin)).await,
        Err(error) => {
            let error = chain(&error);
            tracing::error!(error, "registry is not served");
            parts.readiness.set(Condition::Database, false, error);
        }
    }
}

/// Tells the service manager how the registries stand. The daemon is ready when one of them is: a unit that waits for the
/// database of another would be ended, and with it all that work.
fn inform(lifecycle: &Lifecycle, registries: &[(String, Arc<Parts>)]) {
    let Some(manager) = ServiceManager::from_environment() else { return };
    let (readiness, stop) = (Readiness::new(), lifecycle.token(Stage::Store));
    let informing = manager.keep_informed(readiness.clone(), lifecycle.clone(), stop.clone());
    lifecycle.spawn_essential(Stage::Store, "service manager", informing);
    let known: Vec<_> = registries.iter().map(|(name, parts)| (name.clone(), parts.readiness.clone())).collect();
    lifecycle.spawn_essential(Stage::Store, "readiness of the registries", async move {
        loop {
            let waiting: Vec<_> =
                known.iter().filter(|(_, one)| !one.is_ready()).map(|(name, _)| name.as_str()).collect();
            let (ok, detail) = (waiting.len() < known.len(), format!("not ready: {}", waiting.join(", ")));
            for condition in Condition::ALL.into_iter().filter(|one| *one != Condition::NotShuttingDown) {
                readiness.set(condition, ok, detail.clone());
            }
            if stop.run_until_cancelled(sleep(TELL_PERIOD)).await.is_none() {
                return;
            }
        }
    });
}
