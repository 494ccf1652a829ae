//! What the gate records of a call when it is answered: whether it was refused, and whether it was one of an operator.
//!
//! Here and nowhere else, so that a handler that refuses a call, or one that is added, cannot be forgotten: a refusal is
//! known by the status of the answer.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Response};
use http_body::Frame;
use tonic::{Code, Status, body::Body};

use crate::{
    access::{Caller, Verb},
    audit::{Audit, Audited, Entry},
    connections::limits::PeerAddress,
    metrics::RefusedMetrics,
    wire::failure::reason_of,
};

/// Which answers of a method are recorded, besides refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// All: what an operator does.
    Always,
    /// Those that needed the right to operate on what others own, and all if registrations are recorded.
    OfOthers,
    /// None, unless registrations are recorded.
    Membership,
    /// None.
    Refusals,
}

impl Class {
    /// By what callers need for a method: what only operators may do is recorded, and a method that is added cannot be
    /// forgotten.
    pub(super) fn of(needs: &[Verb]) -> Self {
        match needs {
            [Verb::Cluster | Verb::Operate] => Self::Always,
            [Verb::Register, Verb::Operate] => Self::OfOthers,
            [Verb::Register] => Self::Membership,
            _ => Self::Refusals,
        }
    }
}

/// Where it is recorded.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) audit: Audit,
    pub(super) refused: RefusedMetrics,
}

/// A call whose answer is to be judged.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub(super) record: Arc<Record>,
    /// `None`: the caller is not known.
    pub(super) caller: Option<Caller>,
    pub(super) peer: Option<PeerAddress>,
    pub(super) method: &'static str,
    pub(super) class: Class,
}

impl Judged {
    pub(super) fn judge(&self, response: &Response<Body>) {
        let (audit, audited) = (&self.record.audit, response.extensions().get::<Audited>());
        let status = failed(response.headers());
        let is_recorded = status.is_some()
            || match self.class {
                Class::Always => true,
                Class::OfOthers => audit.is_of_all() || audited.is_some_and(|audited| audited.as_operator),
                Class::Membership => audit.is_of_all(),
                Class::Refusals => false,
            };
        // Most calls end here, and the address of none of them is written out.
        if !is_recorded {
            return;
        }
        let peer = self.peer();
        let entry = self.entry(&peer, audited.map_or("", |audited| &audited.object));
        match status {
            None => audit.allowed(&entry),
            Some(status) => {
                if !self.refuse(&entry, &status) && self.class == Class::Always {
                    audit.failed(&entry, &reason_of(&status), status.message());
                }
            }
        }
    }

    fn peer(&self) -> String {
        self.peer.map(|peer| peer.to_string()).unwrap_or_default()
    }

    fn entry<'a>(&'a self, peer: &'a str, object: &'a str) -> Entry<'a> {
        let identity = self.caller.as_ref().map_or("", |caller| caller.identity().as_str());
        let kind = self.caller.as_ref().map_or("", |caller| caller.kind().as_str());
        Entry { identity, kind, peer, method: self.method, object }
    }

    /// Records a status that refuses the caller. Returns whether it does.
    fn refuse(&self, entry: &Entry<'_>, status: &Status) -> bool {
        match status.code() {
            Code::Unauthenticated => self.record.refused.unauthenticated.increment(1),
            Code::PermissionDenied => self.record.refused.permission_denied.increment(1),
            _ => return false,
        }
        self.record.audit.refused(entry, &reason_of(status), status.message());
        true
    }
}

fn failed(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

/// The answer of a stream, which is refused at its end if its caller has lost its right or its credential meanwhile.
pub(super) struct JudgedStream {
    inner: Body,
    /// None once it has ended.
    judged: Option<Judged>,
}

impl JudgedStream {
    /// The same answer, whose end is judged.
    pub(super) fn of(response: Response<Body>, judged: Judged) -> Response<Body> {
        response.map(|inner| Body::new(Self { inner, judged: Some(judged) }))
    }
}

impl http_body::Body for JudgedStream {
    type Data = <Body as http_body::Body>::Data;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
            && let Some(judged) = self.judged.take()
            && let Some(status) = failed(trailers)
        {
            judged.refuse(&judged.entry(&judged.peer(), ""), &status);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

/// The answer of a call that came through the gate.
#[derive(Debug)]
pub(crate) struct JudgedFuture<F> {
    pub(super) inner: F,
    pub(super) judged: Option<Judged>,
    /// Whether the end of the answer, a stream, is judged as well as its beginning.
    pub(super) is_watched: bool,
}

impl<F> Future for JudgedFuture<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let answer = ready!(Pin::new(&mut self.inner).poll(cx));
        let Some(judged) = self.judged.take() else { return Poll::Ready(answer) };
        Poll::Ready(answer.map(|response| {
            judged.judge(&response);
            if self.is_watched { JudgedStream::of(response, judged) } else { response }
        }))
    }
}
