//! An answer that may have to end before its stream does, with an error that says why.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use http::HeaderMap;
use http_body::Frame;
use tonic::{Status, body::Body};

use crate::wire::failure::Failure;

/// The answer of a stream, until a future is ready.
pub(crate) struct Ending {
    inner: Body,
    /// None once it has ended.
    ends: Option<Pin<Box<dyn Future<Output = Failure> + Send>>>,
}

impl Ending {
    /// An answer that ends with the error that `ends` gives.
    pub(crate) fn new(inner: Body, ends: impl Future<Output = Failure> + Send + 'static) -> Self {
        Self { inner, ends: Some(Box::pin(ends)) }
    }
}

impl http_body::Body for Ending {
    type Data = <Body as http_body::Body>::Data;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let Some(ends) = &mut self.ends else { return Poll::Ready(None) };
        if let Poll::Ready(failure) = ends.as_mut().poll(cx) {
            self.ends = None;
            let mut trailers = HeaderMap::new();
            // Fails for a text that is no header value, which a status escapes.
            let _ = Status::from(failure).add_header(&mut trailers);
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.ends.is_none() || self.inner.is_end_stream()
    }
}

impl fmt::Debug for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ending").field("has_ended", &self.ends.is_none()).finish_non_exhaustive()
    }
}
