//! What every request passes before a route, and what every answer carries: one layer, so that a new route cannot forget
//! it.
//!
//! - A connection over the limits is answered on the paths of probes alone ([`super::places`]).
//! - The host that a request names must be this daemon ([`super::host`]).
//! - The caller must be known, and may ask this ([`super::admit`]).
//! - Only `GET` and `HEAD` read; `OPTIONS` tells so with 204, which is what the default check of HAProxy asks for. Other
//!   methods are refused with 405.
//! - Answers hold what strangers wrote (names, labels, reasons). Whatever a browser takes an answer for, it may not guess
//!   its type, run it, frame it, store it, or give it to another origin.

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, REFERRER_POLICY, RETRY_AFTER,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    admit::admit,
    host::{Hosts, Refused},
    listener::Peer,
    places::Admission,
    respond::text,
};
use crate::{access::Access, audit::Audit, metrics::RefusedMetrics};

/// The methods that are served.
const METHODS: &str = "GET, HEAD, OPTIONS";
/// The paths that are answered also when no connection is free.
const PROBES: [&str; 2] = ["/livez", "/readyz"];
/// What a browser may do with an answer that is not the page: nothing.
const POLICY: &str = "default-src 'none'; frame-ancestors 'none'";
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// What requests are checked against.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    pub(super) hosts: Hosts,
    pub(super) access: Access,
    pub(super) audit: Audit,
    pub(super) refused: RefusedMetrics,
}

/// The layer.
pub(super) async fn guard(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<Peer>>();
    let admission = peer.map_or(Admission::Full, |info| info.0.admission);
    let mut response = match guard.refuse(admission, &request) {
        Some(refusal) => refusal,
        None if [Method::GET, Method::HEAD].contains(request.method()) => {
            match admit((&guard.access, &guard.audit), &mut request, &guard.refused) {
                Ok(()) => next.run(request).await,
                Err(refusal) => refusal,
            }
        }
        None if request.method() == Method::OPTIONS => (StatusCode::NO_CONTENT, [(ALLOW, METHODS)]).into_response(),
        None => {
            let refusal = format!("{} is not served; use one of {METHODS}\n", request.method());
            ([(ALLOW, METHODS)], text(StatusCode::METHOD_NOT_ALLOWED, refusal)).into_response()
        }
    };
    protect(response.headers_mut());
    if admission != Admission::Full {
        // The place is for the next probe.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

impl Guard {
    fn refuse(&self, admission: Admission, request: &Request) -> Option<Response> {
        if let Some(limit) = admission.limit().filter(|_| !PROBES.contains(&request.uri().path())) {
            let refusal = format!("{limit}; close connections that are not in use, or try again later\n");
            let refusal = text(StatusCode::SERVICE_UNAVAILABLE, refusal);
            return Some(([(RETRY_AFTER, "1")], refusal).into_response());
        }
        match self.hosts.check(request.version(), request.uri(), request.headers()) {
            Ok(()) => None,
            Err(refused) => {
                self.refused.http_host.increment(1);
                Some(match refused {
                    Refused::Malformed(what) => text(StatusCode::BAD_REQUEST, format!("{what}\n")),
                    Refused::Unknown(name) => text(StatusCode::MISDIRECTED_REQUEST, unknown_host(&name)),
                })
            }
        }
    }
}

fn unknown_host(name: &str) -> String {
    // A name is at most as long as a request head; an answer need not repeat all of it.
    let shown: String = name.chars().take(253).collect();
    format!(
        "this daemon does not answer as {shown}; use its IP address, or start it with --http-host {shown} \
         (MUSTERD_HTTP_HOST)\n"
    )
}

/// Sets the headers of every answer. The page brings a policy of its own, for its own files.
fn protect(headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
}
