//! Counts and times every RPC, around all services at once.
//!
//! One layer around the routes sees what no handler sees: calls of unknown methods, calls that are refused before
//! their handler runs, and calls whose client went away. It answers three questions under the names that dashboards
//! already know: how many calls began, how they ended, how long they took (for a stream: how long it lived).
//!
//! The label values come from the protocol's own descriptors and never from a request, so that nobody can grow the set
//! of time series by calling names that do not exist: those are `unknown`/`unknown`.
//!
//! How a call ends is found out where it shows:
//!
//! ```text
//!  response headers carry grpc-status -> that (an error before any message)
//!  trailers carry grpc-status         -> that
//!  the answer ends without one        -> Unknown
//!  the answer is dropped before       -> Canceled
//! ```

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Code;
use tower::{Layer, Service};

use crate::{metrics::MethodMetrics, proto};

/// Service and method of calls that no service has.
const UNKNOWN: &str = "unknown";

/// Methods that are served beside those of the protocol.
const STANDARD: [(&str, &str); 4] = [
    ("grpc.health.v1.Health", "Check"),
    ("grpc.health.v1.Health", "Watch"),
    ("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo"),
    ("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo"),
];

/// The layer. Make it once; clones share the handles.
#[derive(Clone, Debug)]
pub struct Observe {
    methods: Arc<Methods>,
}

#[derive(Debug)]
struct Methods {
    /// By path, `/package.Service/Method`.
    by_path: HashMap<String, Arc<MethodMetrics>>,
    unknown: Arc<MethodMetrics>,
}

impl Observe {
    /// Registers the metrics of every method that is served.
    ///
    /// # Errors
    ///
    /// The descriptors built into the daemon cannot be decoded, which a test rules out.
    pub fn new() -> Result<Self, prost::DecodeError> {
        let descriptors = FileDescriptorSet::decode(proto::DESCRIPTORS)?;
        let own = descriptors.file.iter().flat_map(|file| {
            file.service.iter().flat_map(move |service| {
                let name = format!("{}.{}", file.package(), service.name());
                service.method.iter().map(move |method| (name.clone(), method.name().to_owned()))
            })
        });
        let standard = STANDARD.iter().map(|(service, method)| ((*service).to_owned(), (*method).to_owned()));
        let by_path = own
            .chain(standard)
            .map(|(service, method)| (format!("/{service}/{method}"), Arc::new(MethodMetrics::new(&service, &method))))
            .collect();
        let unknown = Arc::new(MethodMetrics::new(UNKNOWN, UNKNOWN));
        Ok(Self { methods: Arc::new(Methods { by_path, unknown }) })
    }
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner, methods: Arc::clone(&self.methods) }
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub struct Observed<S> {
    inner: S,
    methods: Arc<Methods>,
}

impl<S, Req, Res> Service<Request<Req>> for Observed<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
    S::Future: Unpin,
{
    type Response = Response<ObservedBody<Res>>;
    type Error = S::Error;
    type Future = ObservedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        let method = self.methods.by_path.get(request.uri().path()).unwrap_or(&self.methods.unknown);
        let call = Call::start(Arc::clone(method));
        ObservedFuture { inner: self.inner.call(request), call: Some(call) }
    }
}

/// One call, from its start to the one moment at which it is counted as ended.
#[derive(Debug)]
struct Call {
    method: Arc<MethodMetrics>,
    started: Instant,
    ended: bool,
}

impl Call {
    fn start(method: Arc<MethodMetrics>) -> Self {
        method.started();
        Self { method, started: Instant::now(), ended: false }
    }

    fn end(&mut self, code: Code) {
        if !std::mem::replace(&mut self.ended, true) {
            self.method.handled(code as usize, self.started.elapsed());
        }
    }

    fn end_by(&mut self, headers: &HeaderMap) -> bool {
        let status = headers.get(tonic::Status::GRPC_STATUS);
        if let Some(status) = status {
            self.end(Code::from_bytes(status.as_bytes()));
        }
        status.is_some()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The answer that is being prepared.
///
/// Needs the inner future to be `Unpin`, as that of tonic's routes is, so that no call pays for a box; put a layer whose
/// future is not outside of this one, or box it there.
#[derive(Debug)]
pub struct ObservedFuture<F> {
    inner: F,
    call: Option<Call>,
}

impl<F, B, E> Future for ObservedFuture<F>
where
    F: Future<Output = Result<Response<B>, E>> + Unpin,
{
    type Output = Result<Response<ObservedBody<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.inner).poll(cx));
        let mut call = self.call.take();
        Poll::Ready(match answer {
            Ok(response) => {
                if call.as_mut().is_some_and(|call| call.end_by(response.headers())) {
                    call = None;
                }
                Ok(response.map(|inner| ObservedBody { inner, call }))
            }
            Err(error) => {
                if let Some(call) = &mut call {
                    call.end(Code::Unknown);
                }
                Err(error)
            }
        })
    }
}

/// The answer that is being sent.
#[derive(Debug)]
pub struct ObservedBody<B> {
    inner: B,
    /// None once it is known how the call ended.
    call: Option<Call>,
}

impl<B> Body for ObservedBody<B>
where
    B: Body + Unpin,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(call) = &mut self.call {
            let ended = match &frame {
                Some(Ok(frame)) => frame.trailers_ref().is_some_and(|trailers| call.end_by(trailers)),
                Some(Err(_)) | None => {
                    call.end(Code::Unknown);
                    true
                }
            };
            if ended {
                self.call = None;
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
