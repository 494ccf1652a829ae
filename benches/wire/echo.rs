//! A bare tonic server that answers with messages made beforehand: what gRPC itself costs on this machine.
//!
//! It is put together by hand from what tonic itself has, its router and its codec included: the services that are
//! generated for the daemon bring the daemon's own.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io::Read as _,
    marker::PhantomData,
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::future::BoxFuture;
use http::Request;
use musterd::proto::v1::{
    self, discovery_service_server::DiscoveryServiceServer, registry_service_server::RegistryServiceServer,
};
use prost::Message;
use tonic::{
    Response, Status,
    body::Body,
    server::{Grpc, NamedService, UnaryService},
    transport::server::{Server, TcpIncoming},
};
use tonic_prost::ProstCodec;
use tower::Service;

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

/// Serves until standard input ends, which it does with the parent, and prints its address first.
pub(crate) async fn serve(answers: &str) {
    let answers = Answers::from_text(answers);
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
    println!("{}", incoming.local_addr().unwrap());
    // The settings of src/grpc/server.rs.
    let served = Server::builder()
        .max_concurrent_streams(256)
        .timeout(Duration::from_secs(5))
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(Echo::<RegistryServiceServer<()>>(answers.clone(), PhantomData))
        .add_service(Echo::<DiscoveryServiceServer<()>>(answers.clone(), PhantomData))
        .serve_with_incoming(incoming);
    let parent = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    tokio::select! {
        served = served => served.unwrap(),
        _ = parent => {}
    }
}

/// A service with the name of `S`.
#[derive(Debug)]
struct Echo<S>(Answers, PhantomData<fn() -> S>);

impl<S> Clone for Echo<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

impl<S: NamedService> NamedService for Echo<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Echo<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match request.uri().path().rsplit('/').next() {
            Some("Resolve") => answer::<v1::ResolveRequest, _>(self.0.resolve.clone(), request),
            Some("Beat") => answer::<v1::BeatRequest, _>(self.0.beat.clone(), request),
            Some("Register") => answer::<v1::RegisterRequest, _>(self.0.register.clone(), request),
            Some("Deregister") => answer::<v1::DeregisterRequest, _>(v1::DeregisterResponse::default(), request),
            _ => Box::pin(ready(Ok(Status::unimplemented("echo").into_http()))),
        }
    }
}

fn answer<Q, A>(answer: A, request: Request<Body>) -> BoxFuture<'static, Result<http::Response<Body>, Infallible>>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    Box::pin(async move { Ok(Grpc::new(ProstCodec::<A, Q>::default()).unary(Answer(Some(answer)), request).await) })
}

/// A method that gives its answer whatever it is asked.
struct Answer<A>(Option<A>);

impl<A, Q> UnaryService<Q> for Answer<A>
where
    A: Default,
{
    type Response = A;
    type Future = Ready<Result<Response<A>, Status>>;

    fn call(&mut self, _: tonic::Request<Q>) -> Self::Future {
        ready(Ok(Response::new(self.0.take().unwrap_or_default())))
    }
}
