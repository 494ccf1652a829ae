//! What the answers of the API share: how many rows, and the content type.

use axum::{
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use super::query::Query;
use crate::model::{InvalidInput, input::invalid};

/// Most rows of one answer.
pub(super) const ROWS_MAX: usize = 500;
/// Rows where nothing is asked for.
const ROWS_DEFAULT: usize = 100;

/// How many rows are asked for.
pub(super) fn limit(query: &Query) -> Result<usize, InvalidInput> {
    match query.text("limit")? {
        "" => Ok(ROWS_DEFAULT),
        text => match text.parse() {
            Ok(limit @ 1..=ROWS_MAX) => Ok(limit),
            _ => invalid("limit", format!("is not a number of rows; choose 1 to {ROWS_MAX}")),
        },
    }
}

pub(super) fn json(body: impl Into<Bytes>) -> Response {
    ([(CONTENT_TYPE, "application/json")], body.into()).into_response()
}
