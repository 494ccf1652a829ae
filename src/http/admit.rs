//! The caller of a request and what it may know. Every request passes here before a route.
//!
//! A caller shows a client certificate, `Authorization: Bearer TOKEN`, or Basic with any user name and a token as password:
//! browsers and Prometheus know Basic, so there is neither a login page nor a cookie. A token in the URL is not read: URLs
//! stand in logs and histories.
//!
//! `/livez` and `/readyz` are open, because probes have no credentials; a caller that may read metrics is told the details of
//! `/readyz`. `/metrics` needs the verb `metrics`, everything else `read` on a name at least; what of it a caller is shown
//! is decided by the routes, with [`Asker::readable`].
//!
//! A connection counts for the identities that call over it, together with those of gRPC; over the quota of an identity it
//! answers probes alone.

use axum::{
    extract::{ConnectInfo, MatchedPath, Request},
    http::{
        HeaderValue,
        header::{RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};

use super::{listener::Peer, page};
use crate::{
    access::{Access, Call, Caller, Exceeded, Verb, authorization},
    api::{asker::Asker, error::ApiError},
    audit::{Audit, Entry},
    metrics::RefusedMetrics,
};

/// What a path needs; `None`: it is open.
fn needed(path: &str) -> Option<Verb> {
    match path {
        "/livez" | "/readyz" => None,
        "/metrics" => Some(Verb::Metrics),
        _ => Some(Verb::Read),
    }
}

/// Puts the [`Asker`] into a request; the refusal if it may not ask this.
#[expect(clippy::result_large_err, reason = "an answer of axum, made where it is sent")]
pub(super) fn admit(
    (access, audit): (&Access, &Audit),
    request: &mut Request,
    refused: &RefusedMetrics,
) -> Result<(), Response> {
    let peer = request.extensions().get::<ConnectInfo<Peer>>();
    let known = access.authenticate(Call {
        certificate: peer.and_then(|info| info.0.certificate.as_deref()),
        authorization: authorization(request.headers()),
        address: peer.map_or(0, |info| info.0.origin),
        memory: None,
    });
    let caller = match (known, needed(request.uri().path())) {
        (Ok(caller), None) => caller,
        (Err(_), None) => Caller::without_rights(),
        (Ok(caller), Some(verb)) => match caller.require_anywhere(verb) {
            Ok(()) => {
                if let Some(Err(exceeded)) = peer.map(|info| info.0.callers.enter(&caller)) {
                    refused.quota_exceeded.increment(1);
                    return Err(over_quota(request, exceeded));
                }
                caller
            }
            Err(denied) => {
                refused.permission_denied.increment(1);
                let who = (caller.identity().as_str(), caller.kind().as_str());
                record(audit, request, who, ("PERMISSION_DENIED", &denied.to_string()));
                return Err(refusal(request, ApiError::from(denied)));
            }
        },
        (Err(unknown), Some(_)) => {
            refused.unauthenticated.increment(1);
            record(audit, request, ("", ""), (unknown.reason(), &unknown.to_string()));
            return Err(refusal(request, unknown.into()));
        }
    };
    request.extensions_mut().insert(Asker::new(access.clone(), caller));
    Ok(())
}

/// The refusal of a connection too many.
fn over_quota(request: &Request, exceeded: Exceeded) -> Response {
    let after = HeaderValue::from(exceeded.retry_after.as_secs().max(1));
    let mut response = refusal(request, ApiError::from(exceeded));
    response.headers_mut().insert(RETRY_AFTER, after);
    response
}

/// Records a refusal.
fn record(audit: &Audit, request: &Request, (identity, kind): (&str, &str), (reason, message): (&str, &str)) {
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|info| info.0.address.to_string());
    // The route and not the path, which may hold anything: a token, for example.
    let route = request.extensions().get::<MatchedPath>().map_or("(no route)", MatchedPath::as_str);
    let method = format!("GET {route}");
    let entry = Entry { identity, kind, peer: &peer.unwrap_or_default(), method: &method, object: "" };
    audit.refused(&entry, reason, message);
}

/// The refusal in the form of the path. Browsers are asked for a password, of which scripts of the page must not cause a dialog.
fn refusal(request: &Request, error: ApiError) -> Response {
    let is_page = page::wants_html(request.headers());
    let challenge = if is_page {
        r#"Basic realm="musterd: any user name, a token as password", charset="UTF-8""#
    } else {
        "Bearer"
    };
    let is_unknown = error.is_unauthenticated();
    let mut response =
        if request.uri().path().starts_with("/api/") { error.into_response() } else { error.into_text() };
    if is_unknown {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    response
}
