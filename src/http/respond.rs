//! How an answer of the HTTP port is put together: a status, a content type, a body.

use axum::{
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
pub(super) const JSON: &str = "application/json";

/// An answer in plain text.
pub(super) fn text(status: StatusCode, body: String) -> Response {
    respond(status, TEXT, body)
}

/// An answer of any content type.
pub(super) fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response {
    (status, [(CONTENT_TYPE, content_type)], body).into_response()
}
