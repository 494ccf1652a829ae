//! Refusals, in one form: `{"error": {"reason": "INVALID_FIELD", "field": "limit", "message": "..."}}`, with the
//! reasons of gRPC.

use axum::{
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::model::InvalidInput;

/// Why a question is not answered.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    reason: &'static str,
    field: Option<String>,
    message: String,
}

impl ApiError {
    /// A refusal that is not about one parameter.
    #[must_use]
    pub fn new(status: StatusCode, reason: &'static str, message: String) -> Self {
        Self { status, reason, field: None, message }
    }

    /// It as plain text, for paths that answer in text.
    pub(crate) fn into_text(self) -> Response {
        let body = format!("{}\n", self.message);
        (self.status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
    }

    /// Whether a credential may help.
    pub(crate) fn is_unauthenticated(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }

    /// A fault in the program, which the log has.
    #[must_use]
    pub fn fault(what: &str, error: &tokio::task::JoinError) -> Self {
        tracing::error!(%error, what, "an answer failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", "the daemon's log has the cause".to_owned())
    }

    /// The registry is not loaded yet.
    #[must_use]
    pub fn not_yet_seen() -> Self {
        let message = "the registry is not loaded yet; ask again in a moment".to_owned();
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "NOT_YET_SEEN", message)
    }
}

impl From<InvalidInput> for ApiError {
    fn from(invalid: InvalidInput) -> Self {
        let message = invalid.to_string();
        Self { status: StatusCode::BAD_REQUEST, reason: "INVALID_FIELD", field: Some(invalid.field), message }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut error = json!({"reason": self.reason, "message": self.message});
        if let (Some(field), Some(error)) = (self.field, error.as_object_mut()) {
            error.insert("field".to_owned(), field.into());
        }
        (self.status, [(CONTENT_TYPE, "application/json")], json!({"error": error}).to_string()).into_response()
    }
}
