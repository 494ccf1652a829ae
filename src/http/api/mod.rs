//! What the status page shows, as JSON: `GET` only, bounded, stable. `docs/http-api.md` describes each field.
//!
//! An instance looks as it does everywhere else: the proto3 JSON form of `muster.v1.Instance`, as `musterd list -o json`
//! prints it. The rest follows the same conventions: lowerCamelCase, durations like `1.5s`, times in RFC 3339; counts are
//! plain numbers. Fields are added, never renamed or removed.

pub mod error;
pub mod instance;
pub mod instances;
pub mod names;
pub mod summary;
pub mod value;

pub use error::ApiError;

use axum::{
    Router,
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;

use super::{board::Board, events, query::Query};
use crate::model::{InvalidInput, input::invalid};

/// Most rows of one answer.
pub const ROWS_MAX: usize = 500;
/// Rows where nothing is asked for.
pub const ROWS_DEFAULT: usize = 100;

/// The routes of the API.
pub(super) fn router(board: Board) -> Router {
    Router::new()
        .route("/api/v1/summary", get(summary))
        .route("/api/v1/names", get(names::names))
        .route("/api/v1/instances", get(instances::list))
        .route("/api/v1/explain", get(instances::explain))
        .route("/api/v1/events", get(events::events))
        .with_state(board)
}

async fn summary(State(board): State<Board>) -> Result<Response, ApiError> {
    Ok(json(board.summary().await?.json.clone()))
}

/// How many rows are asked for.
fn limit(query: &Query) -> Result<usize, InvalidInput> {
    match query.text("limit")? {
        "" => Ok(ROWS_DEFAULT),
        text => match text.parse() {
            Ok(limit @ 1..=ROWS_MAX) => Ok(limit),
            _ => invalid("limit", format!("is not a number of rows; choose 1 to {ROWS_MAX}")),
        },
    }
}

fn json(body: impl Into<Bytes>) -> Response {
    ([(CONTENT_TYPE, "application/json")], body.into()).into_response()
}
