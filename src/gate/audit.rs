//! What the gate records of a call when it is answered: whether it was refused, and whether it was one of an operator.
//!
//! Here and nowhere else, so that a handler that refuses a call, or one that is added, cannot be forgotten: a refusal is
//! known by the status of the answer.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
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

/// A call whose answer is to be judged.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) audit: Audit,
    pub(super) refused: RefusedMetrics,
    /// `None`: the caller is not known.
    pub(super) caller: Option<Caller>,
    pub(super) peer: Option<PeerAddress>,
    pub(super) method: &'static str,
    pub(super) class: Class,
}

impl Judged {
    pub(super) fn judge(&self, response: &Response<Body>) {
        let audited = response.extensions().get::<Audited>();
        let peer = self.peer.map(|peer| peer.to_string()).unwrap_or_default();
        let entry = Entry {
            identity: self.caller.as_ref().map_or("", |caller| caller.identity().as_str()),
            kind: self.caller.as_ref().map_or("", |caller| caller.kind().as_str()),
            peer: &peer,
            method: self.method,
            object: audited.map_or("", |audited| &audited.object),
        };
        let status = Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok);
        let Some(status) = status else {
            let is_recorded = match self.class {
                Class::Always => true,
                Class::OfOthers => self.audit.is_of_all() || audited.is_some_and(|audited| audited.as_operator),
                Class::Membership => self.audit.is_of_all(),
                Class::Refusals => false,
            };
            if is_recorded {
                self.audit.allowed(&entry);
            }
            return;
        };
        match status.code() {
            Code::Unauthenticated => self.refused.unauthenticated.increment(1),
            Code::PermissionDenied => self.refused.permission_denied.increment(1),
            _ if self.class == Class::Always => {
                return self.audit.failed(&entry, &reason_of(&status), status.message());
            }
            _ => return,
        }
        self.audit.refused(&entry, &reason_of(&status), status.message());
    }
}

/// The answer of a call that came through the gate.
#[derive(Debug)]
pub(crate) struct JudgedFuture<F> {
    pub(super) inner: F,
    pub(super) judged: Option<Judged>,
}

impl<F> Future for JudgedFuture<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let answer = ready!(Pin::new(&mut self.inner).poll(cx));
        if let (Some(judged), Ok(response)) = (self.judged.take(), &answer) {
            judged.judge(response);
        }
        Poll::Ready(answer)
    }
}
