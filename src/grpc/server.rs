//! Puts the services together: limits, counting, health, reflection; and serves them until told to stop.

use std::time::Duration;

use thiserror::Error;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{
    cluster::Cluster, discovery::Discovery, fast_path::FastPath, observe::Observe, registry::Registry, span::InSpan,
};
use crate::{
    access::Access,
    audit::Audit,
    connections::{
        admin::AdminSocket,
        incoming::{Incoming, Limits},
    },
    gate::Gate,
    metrics::IncomingMetrics,
    proto::{
        DESCRIPTORS,
        v1::{
            cluster_service_server::ClusterServiceServer, discovery_service_server::DiscoveryServiceServer,
            registry_service_server::RegistryServiceServer,
        },
    },
    tls,
    wire::bounds::{HTTP2_STREAMS_MAX, REQUEST_MAX_BYTES},
};

/// Streams of a connection that the daemon may have to reset because of the peer's frames before it closes the connection
/// (CVE-2025-8671): hyper's default, which tonic replaces by no limit unless it is set.
const PROVOKED_RESETS_MAX: usize = 1_024;
/// How often an idle connection is asked whether its client still exists.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long that may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the server ended.
#[derive(Debug, Error)]
pub enum Error {
    /// The connections could not be served.
    #[error("the gRPC server failed")]
    Serve(#[from] tonic::transport::Error),
    /// The embedded description of the protocol is broken.
    #[error("the embedded protocol description cannot be read")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The same, for counting.
    #[error("the embedded protocol description cannot be read")]
    Observe(#[from] prost::DecodeError),
}

/// The services of a daemon.
#[derive(Debug)]
pub struct Services {
    /// For actors.
    pub registry: Registry,
    /// For routers.
    pub discovery: Discovery,
    /// For operators.
    pub cluster: Cluster,
}

/// Serves callers that `access` knows, with `tls` over encrypted connections only, until told to stop, then ends the
/// connections when their calls have ended.
///
/// # Errors
/// See [`enum@Error`].
pub async fn serve(
    (listener, admin): (TcpListener, Option<AdminSocket>),
    tls: Option<tls::Acceptor>,
    (access, audit): (Access, Audit),
    services: Services,
    limits: Limits,
    ready: watch::Receiver<bool>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let health_service = health_service.max_decoding_message_size(REQUEST_MAX_BYTES);
    let descriptors = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let incoming = Incoming::new(listener, tls, limits, IncomingMetrics::new()).with_admin(admin);
    let fast_path = FastPath {
        registry: RegistryServiceServer::new(services.registry).max_decoding_message_size(REQUEST_MAX_BYTES),
        discovery: DiscoveryServiceServer::new(services.discovery).max_decoding_message_size(REQUEST_MAX_BYTES),
        cluster: ClusterServiceServer::new(services.cluster).max_decoding_message_size(REQUEST_MAX_BYTES),
    };
    let served = Server::builder()
        .layer(InSpan::current())
        .layer(Observe::new()?)
        .layer(Gate::new(access, audit))
        .layer(fast_path)
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .http2_max_local_error_reset_streams(Some(PROVOKED_RESETS_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(health_service)
        .add_service(descriptors().build_v1()?.max_decoding_message_size(REQUEST_MAX_BYTES))
        .add_service(descriptors().build_v1alpha()?.max_decoding_message_size(REQUEST_MAX_BYTES))
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    tokio::select! {
        served = served => Ok(served?),
        () = report_health(&health, ready) => Ok(()),
    }
}

/// Tells the health service what the daemon says of itself. Does not end.
async fn report_health(health: &HealthReporter, mut ready: watch::Receiver<bool>) {
    loop {
        let status = if *ready.borrow_and_update() { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in [
            "",
            RegistryServiceServer::<Registry>::NAME,
            DiscoveryServiceServer::<Discovery>::NAME,
            ClusterServiceServer::<Cluster>::NAME,
        ] {
            health.set_service_status(service, status).await;
        }
        if ready.changed().await.is_err() {
            // The daemon is gone from readiness for good; the server's own end follows.
            std::future::pending::<()>().await;
        }
    }
}
