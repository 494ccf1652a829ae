//! A bare tonic server that answers with messages made beforehand: what gRPC itself costs on this machine.

use std::{
    io::Read as _,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::stream::Empty;
use musterd::proto::{
    shared,
    v1::{
        self,
        discovery_service_server::{DiscoveryService, DiscoveryServiceServer},
        registry_service_server::{RegistryService, RegistryServiceServer},
    },
};
use prost::Message as _;
use tonic::{
    Request, Response, Status, Streaming,
    transport::server::{Server, TcpIncoming},
};

/// The variable that makes this program the echo server, and carries its answers.
pub(crate) const ANSWERS: &str = "MUSTERD_WIRE_ECHO_ANSWERS";

/// What is answered: messages of a daemon.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    pub(crate) resolve: v1::ResolveResponse,
    pub(crate) beat: v1::BeatResponse,
    pub(crate) register: v1::RegisterResponse,
}

impl Answers {
    pub(crate) fn to_text(&self) -> String {
        let parts = [self.resolve.encode_to_vec(), self.beat.encode_to_vec(), self.register.encode_to_vec()];
        parts.map(|part| STANDARD.encode(part)).join(" ")
    }

    fn from_text(text: &str) -> Self {
        let parts: Vec<_> = text.split(' ').map(|part| STANDARD.decode(part).unwrap()).collect();
        Self {
            resolve: v1::ResolveResponse::decode(parts[0].as_slice()).unwrap(),
            beat: v1::BeatResponse::decode(parts[1].as_slice()).unwrap(),
            register: v1::RegisterResponse::decode(parts[2].as_slice()).unwrap(),
        }
    }
}

#[derive(Debug)]
struct Echo {
    answers: Answers,
    leases: AtomicU64,
}

/// Serves until standard input ends, which it does with the parent, and prints its address first.
pub(crate) async fn serve(answers: &str) {
    let answers = Answers::from_text(answers);
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
    println!("{}", incoming.local_addr().unwrap());
    let echo = || Echo { answers: answers.clone(), leases: AtomicU64::new(1) };
    // The settings of src/grpc/server.rs.
    let served = Server::builder()
        .max_concurrent_streams(256)
        .timeout(Duration::from_secs(5))
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(RegistryServiceServer::new(echo()))
        .add_service(DiscoveryServiceServer::new(echo()))
        .serve_with_incoming(incoming);
    let parent = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    tokio::select! {
        served = served => served.unwrap(),
        _ = parent => {}
    }
}

#[tonic::async_trait]
impl RegistryService for Echo {
    async fn register(&self, _: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterResponse>, Status> {
        let lease_id = self.leases.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(v1::RegisterResponse { lease_id, ..self.answers.register.clone() }))
    }

    async fn beat(&self, _: Request<v1::BeatRequest>) -> Result<Response<v1::BeatResponse>, Status> {
        Ok(Response::new(self.answers.beat.clone()))
    }

    type BeatStreamStream = Empty<Result<v1::BeatStreamResponse, Status>>;

    async fn beat_stream(
        &self,
        _: Request<Streaming<v1::BeatStreamRequest>>,
    ) -> Result<Response<Self::BeatStreamStream>, Status> {
        Err(Status::unimplemented("echo"))
    }

    async fn set_status(&self, _: Request<v1::SetStatusRequest>) -> Result<Response<v1::SetStatusResponse>, Status> {
        Err(Status::unimplemented("echo"))
    }

    async fn deregister(&self, _: Request<v1::DeregisterRequest>) -> Result<Response<v1::DeregisterResponse>, Status> {
        Ok(Response::new(v1::DeregisterResponse::default()))
    }
}

#[tonic::async_trait]
impl DiscoveryService for Echo {
    async fn resolve(&self, _: Request<v1::ResolveRequest>) -> Result<Response<v1::ResolveResponse>, Status> {
        Ok(Response::new(self.answers.resolve.clone()))
    }

    async fn batch_resolve(
        &self,
        _: Request<v1::BatchResolveRequest>,
    ) -> Result<Response<shared::BatchResolveResponse>, Status> {
        Err(Status::unimplemented("echo"))
    }

    async fn get_instance(
        &self,
        _: Request<v1::GetInstanceRequest>,
    ) -> Result<Response<v1::GetInstanceResponse>, Status> {
        Err(Status::unimplemented("echo"))
    }

    async fn check_lease(&self, _: Request<v1::CheckLeaseRequest>) -> Result<Response<v1::CheckLeaseResponse>, Status> {
        Err(Status::unimplemented("echo"))
    }

    async fn list_instances(
        &self,
        _: Request<v1::ListInstancesRequest>,
    ) -> Result<Response<v1::ListInstancesResponse>, Status> {
        Err(Status::unimplemented("echo"))
    }

    type WatchStream = Empty<Result<shared::WatchResponse, Status>>;

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("echo"))
    }
}
