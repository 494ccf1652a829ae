//! The way from a path to its service, past the router.
//!
//! The router that comes with the server finds a service by matching patterns, takes the path apart, and boxes the call
//! on its way in and out: a twentieth of what a call of Resolve costs. The daemon's own services are known here and are
//! told apart by the beginning of the path; everything else (health, reflection, what does not exist) goes to the
//! router.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, Either};
use http::{Request, Response};
use tonic::{body::Body, server::NamedService};
use tower::{Layer, Service};

/// The services, each of which also knows what to say to a method that it does not have.
#[derive(Clone, Debug)]
pub(super) struct FastPath<R, D, C> {
    /// For actors.
    pub(super) registry: R,
    /// For routers.
    pub(super) discovery: D,
    /// For operators.
    pub(super) cluster: C,
}

impl<S, R: Clone, D: Clone, C: Clone> Layer<S> for FastPath<R, D, C> {
    type Service = FastPathService<S, R, D, C>;

    fn layer(&self, router: S) -> Self::Service {
        FastPathService { router, services: Arc::new(self.clone()) }
    }
}

/// The services in front of the router. The server clones it for each call, which needs one of them.
#[derive(Debug)]
pub(super) struct FastPathService<S, R, D, C> {
    router: S,
    services: Arc<FastPath<R, D, C>>,
}

impl<S: Clone, R, D, C> Clone for FastPathService<S, R, D, C> {
    fn clone(&self) -> Self {
        Self { router: self.router.clone(), services: Arc::clone(&self.services) }
    }
}

type Answer = Result<Response<Body>, Infallible>;

impl<S, R, D, C> Service<Request<Body>> for FastPathService<S, R, D, C>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    R: OwnService,
    D: OwnService,
    C: OwnService,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<BoxFuture<'static, Answer>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The services are always ready.
        self.router.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if is_of::<D>(path) {
            Either::Left(self.services.discovery.clone().call(request))
        } else if is_of::<R>(path) {
            Either::Left(self.services.registry.clone().call(request))
        } else if is_of::<C>(path) {
            Either::Left(self.services.cluster.clone().call(request))
        } else {
            Either::Right(self.router.call(request))
        }
    }
}

/// A service as it is generated.
pub(super) trait OwnService:
    Clone
    + NamedService
    + Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = BoxFuture<'static, Answer>>
{
}

impl<T> OwnService for T where
    T: Clone
        + NamedService
        + Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = BoxFuture<'static, Answer>>
{
}

/// Whether a path is `/` + the name of a service + `/`...
fn is_of<S: NamedService>(path: &str) -> bool {
    path.strip_prefix('/').and_then(|path| path.strip_prefix(S::NAME)).is_some_and(|method| method.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named;

    impl NamedService for Named {
        const NAME: &'static str = "a.B";
    }

    #[test]
    fn only_the_whole_name_counts() {
        assert!(is_of::<Named>("/a.B/C"));
        assert!(is_of::<Named>("/a.B/"));
        for path in ["", "/", "a.B/C", "/a.B", "/a.BC/D", "//a.B/C", "/x/a.B/C"] {
            assert!(!is_of::<Named>(path), "{path}");
        }
    }
}
