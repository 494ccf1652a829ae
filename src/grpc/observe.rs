//! Counts and times every RPC, holds it to its limits, and completes its error, around all services at once.
//!
//! One layer around the routes sees what no handler sees: calls of unknown methods, calls that are refused before
//! their handler runs, and calls whose client went away. It answers three questions under the names that dashboards
//! already know: how many calls began, how they ended, how long they took (for a stream: how long it lived). For the same
//! reason the rules of [`crate::connections::limits`] are applied here: a call that is too late, a stream over the limit of its
//! connection, and an error that the transport or the generated code made without saying why.
//!
//! The label values come from the protocol's own descriptors and never from a request, so that no client can grow the set
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
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::time::{Sleep, sleep_until};
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::{
    connections::limits::{CALL_TIMEOUT, OpenStream, Peer, TIMEOUT_HEADER, explain, own_timeout},
    metrics::{MethodMetrics, RefusedMetrics},
    proto,
    wire::failure::Failure,
};

/// Service and method of calls that no service has.
const UNKNOWN: &str = "unknown";

/// Methods that are served beside those of the protocol, and whether they are streams.
const STANDARD: [(&str, &str, bool); 4] = [
    ("grpc.health.v1.Health", "Check", false),
    ("grpc.health.v1.Health", "Watch", true),
    ("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo", true),
    ("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo", true),
];

/// The layer. Make it once; clones share the handles.
#[derive(Clone, Debug)]
pub struct Observe {
    methods: Arc<Methods>,
}

#[derive(Debug)]
struct Methods {
    /// By path, `/package.Service/Method`.
    by_path: HashMap<String, Arc<Method>>,
    unknown: Arc<Method>,
}

#[derive(Debug)]
struct Method {
    metrics: MethodMetrics,
    /// Of all methods.
    refused: RefusedMetrics,
    /// Whether it has no end of its own.
    is_stream: bool,
}

impl Method {
    fn new(service: &str, method: &str, is_stream: bool, refused: &RefusedMetrics) -> Arc<Self> {
        Arc::new(Self { metrics: MethodMetrics::new(service, method), refused: refused.clone(), is_stream })
    }
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
                service
                    .method
                    .iter()
                    .map(move |method| (name.clone(), method.name().to_owned(), method.server_streaming()))
            })
        });
        let standard = STANDARD
            .iter()
            .map(|(service, method, is_stream)| ((*service).to_owned(), (*method).to_owned(), *is_stream));
        let refused = RefusedMetrics::new();
        let by_path = own
            .chain(standard)
            .map(|(service, method, is_stream)| {
                (format!("/{service}/{method}"), Method::new(&service, &method, is_stream, &refused))
            })
            .collect();
        let unknown = Method::new(UNKNOWN, UNKNOWN, false, &refused);
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
        let path = request.uri().path();
        let known = self.methods.by_path.get(path);
        let method = known.unwrap_or(&self.methods.unknown);
        let unknown_path = known.is_none().then(|| path.into());
        let call = Call::start(Arc::clone(method));
        // Looked at only if the call is not answered at once.
        let own_timeout = request.headers().get(TIMEOUT_HEADER).cloned();
        let place =
            if method.is_stream { request.extensions().get::<Peer>().map(|peer| peer.streams.open()) } else { None };
        let (inner, place) = match place.transpose() {
            Ok(place) => (Inner::Asked(self.inner.call(request)), place),
            Err(failure) => (Inner::Refused(failure), None),
        };
        ObservedFuture { inner, call: Some(call), place, unknown_path, own_timeout, deadline: None }
    }
}

/// One call, from its start to the one moment at which it is counted as ended.
#[derive(Debug)]
struct Call {
    method: Arc<Method>,
    started: Instant,
    ended: bool,
}

impl Call {
    fn start(method: Arc<Method>) -> Self {
        method.metrics.started();
        Self { method, started: Instant::now(), ended: false }
    }

    fn end(&mut self, code: Code) {
        if !std::mem::replace(&mut self.ended, true) {
            self.method.metrics.handled(code as usize, self.started.elapsed());
        }
    }

    /// Ends the call if these headers do, and completes what they say of an error.
    fn end_by(&mut self, headers: &mut HeaderMap, unknown_path: Option<&str>) -> bool {
        let Some(status) = headers.get(Status::GRPC_STATUS) else { return false };
        let mut code = Code::from_bytes(status.as_bytes());
        if code != Code::Ok
            && let Some(failure) = explain(headers, unknown_path)
        {
            code = self.fail(failure, headers);
        }
        self.end(code);
        true
    }

    /// Writes an error that no handler has made.
    fn fail(&self, failure: Failure, headers: &mut HeaderMap) -> Code {
        match failure {
            Failure::TooManyStreams => self.method.refused.streams_of_connection.increment(1),
            Failure::RequestTooLarge => self.method.refused.request_too_large.increment(1),
            _ => {}
        }
        let status = Status::from(failure);
        // Fails for a text that is no header value, which a status escapes.
        let _ = status.add_header(headers);
        status.code()
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
    inner: Inner<F>,
    call: Option<Call>,
    /// Of a stream.
    place: Option<OpenStream>,
    /// Of a call whose method does not exist.
    unknown_path: Option<Box<str>>,
    own_timeout: Option<HeaderValue>,
    /// Made when the answer is first waited for: most calls are answered at once and need no timer.
    deadline: Option<(Duration, Pin<Box<Sleep>>)>,
}

#[derive(Debug)]
enum Inner<F> {
    Asked(F),
    /// Before it was asked.
    Refused(Failure),
    Done,
}

impl<F> ObservedFuture<F> {
    /// Returns the limit if it has passed without an answer.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let (own, started) = (&self.own_timeout, self.call.as_ref().map_or_else(Instant::now, |call| call.started));
        let (limit, deadline) = self.deadline.get_or_insert_with(|| {
            let own = own.as_ref().and_then(|value| own_timeout(value.as_bytes()));
            let limit = own.map_or(CALL_TIMEOUT, |own| own.min(CALL_TIMEOUT));
            (limit, Box::pin(sleep_until((started + limit).into())))
        });
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(*limit)
    }

    /// The end of a call that was not answered.
    fn refuse<B>(&mut self, failure: Failure) -> Response<ObservedBody<B>> {
        self.inner = Inner::Done;
        let mut response = Response::new(ObservedBody { inner: None, call: None, place: None });
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        if let Some(mut call) = self.call.take() {
            let code = call.fail(failure, response.headers_mut());
            call.end(code);
        }
        response
    }
}

impl<F, B, E> Future for ObservedFuture<F>
where
    F: Future<Output = Result<Response<B>, E>> + Unpin,
{
    type Output = Result<Response<ObservedBody<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let polled = match &mut this.inner {
            Inner::Asked(inner) => Pin::new(inner).poll(cx),
            Inner::Refused(failure) => {
                let failure = failure.clone();
                return Poll::Ready(Ok(this.refuse(failure)));
            }
            Inner::Done => Poll::Pending,
        };
        let Poll::Ready(answer) = polled else {
            let limit = ready!(this.poll_deadline(cx));
            return Poll::Ready(Ok(this.refuse(Failure::DeadlineExceeded(limit))));
        };
        this.inner = Inner::Done;
        let mut call = this.call.take();
        Poll::Ready(match answer {
            Ok(mut response) => {
                let path = this.unknown_path.as_deref();
                if call.as_mut().is_some_and(|call| call.end_by(response.headers_mut(), path)) {
                    call = None;
                }
                let place = this.place.take();
                Ok(response.map(|inner| ObservedBody { inner: Some(inner), call, place }))
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
    /// None if the headers said it all.
    inner: Option<B>,
    /// None once it is known how the call ended.
    call: Option<Call>,
    /// Of a stream, as long as it lasts.
    place: Option<OpenStream>,
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
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let mut frame = ready!(Pin::new(inner).poll_frame(cx));
        if let Some(call) = &mut this.call {
            let ended = match &mut frame {
                Some(Ok(frame)) => frame.trailers_mut().is_some_and(|trailers| call.end_by(trailers, None)),
                Some(Err(_)) | None => {
                    call.end(Code::Unknown);
                    true
                }
            };
            if ended {
                (this.call, this.place) = (None, None);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
