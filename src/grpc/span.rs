//! Runs calls in the span of their registry, where a daemon serves several: what a handler logs then names it.
//!
//! The span is the one in which the server is started. A daemon with one registry has none, and pays nothing for it.

use std::task::{Context, Poll};

use futures_util::future::Either;
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, instrument::Instrumented};

/// The layer.
#[derive(Clone, Debug)]
pub(super) struct InSpan {
    span: Option<Span>,
}

impl InSpan {
    /// In the span of the task that starts the server.
    pub(super) fn current() -> Self {
        Self { span: Some(Span::current()).filter(|span| !span.is_none()) }
    }
}

impl<S> Layer<S> for InSpan {
    type Service = Spanned<S>;

    fn layer(&self, inner: S) -> Spanned<S> {
        Spanned { inner, span: self.span.clone() }
    }
}

/// A service whose calls run in a span.
#[derive(Clone, Debug)]
pub(super) struct Spanned<S> {
    inner: S,
    span: Option<Span>,
}

impl<S: Service<R>, R> Service<R> for Spanned<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Instrumented<S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        match &self.span {
            None => Either::Left(self.inner.call(request)),
            Some(span) => Either::Right(span.in_scope(|| self.inner.call(request)).instrument(span.clone())),
        }
    }
}
