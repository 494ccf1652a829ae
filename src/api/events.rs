//! The summary, pushed once a second as server-sent events.
//!
//! All readers are sent the same bytes, and nothing queues: a reader that falls behind gets the summary of the moment when it
//! reads again. Who does not read at all is closed by the listener; who comes when all places are taken is told so, and
//! asks for the summary now and then instead.

use std::convert::Infallible;

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};

use super::{
    asker::Asker,
    error::ApiError,
    status_cache::{STREAMS_MAX, StatusCache},
    summary::restricted,
};

/// How soon a browser connects again when the stream has ended.
const RETRY: Bytes = Bytes::from_static(b"retry: 2000\n\n");

struct Stream {
    cache: StatusCache,
    asker: Asker,
    next: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

/// `GET /api/v1/events`.
pub(super) async fn events(
    State(cache): State<StatusCache>,
    Extension(asker): Extension<Asker>,
) -> Result<Response, ApiError> {
    let Ok(place) = std::sync::Arc::clone(cache.streams()).try_acquire_owned() else {
        let problem = format!("{STREAMS_MAX} streams are open, which is the limit; ask for /api/v1/summary instead");
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED", problem));
    };
    let stream = stream::unfold(Stream { cache, asker, next: None, _place: place }, |mut stream| async {
        let Some(next) = stream.next else {
            stream.next = Some(Instant::now());
            return Some((Ok::<_, Infallible>(RETRY), stream));
        };
        let stop = stream.cache.stop().clone();
        let published = stop.run_until_cancelled(async {
            sleep_until(next).await;
            stream.cache.summary().await
        });
        // Told to stop: the stream ends, so that leaving need not wait for it.
        let published = published.await?.ok()?;
        stream.next = Some(Instant::from_std(published.due));
        // A caller that may read nothing any more, or whose credential has ended, is told no more.
        stream.asker = stream.asker.present()?;
        let names = stream.asker.names();
        if names.is_everything() {
            return Some((Ok(published.event.clone()), stream));
        }
        let event = format!("event: summary\ndata: {}\n\n", restricted(&published.partial, &names)?);
        Some((Ok(Bytes::from(event)), stream))
    });
    let mut response = Body::from_stream(stream).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Some proxies collect what is streamed until it is worth their while.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}
