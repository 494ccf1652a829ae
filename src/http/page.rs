//! The status page: a few hand-written files inside the binary, for browsers.
//!
//! It is read-only and has no secrets, but what it shows (names, labels, reasons) comes from strangers. So it runs under
//! a policy that allows nothing but its own files: no inline script, no markup from text (Trusted Types without any
//! policy), no other origin, no frame.

use axum::{
    Router,
    http::{
        HeaderMap,
        header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::get,
};

const HTML: &str = include_str!("page/index.html");
const SCRIPT: &str = include_str!("page/app.js");
const SCRIPT_NAMES: &str = include_str!("page/names.js");
const SCRIPT_SEARCH: &str = include_str!("page/search.js");
const SCRIPT_WATCH: &str = include_str!("page/watch.js");
const SCRIPT_DOM: &str = include_str!("page/dom.js");
const STYLE: &str = include_str!("page/style.css");
const ICON: &str = include_str!("page/icon.svg");

const SCRIPT_TYPE: &str = "text/javascript; charset=utf-8";

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// The files of the page.
pub(super) fn router() -> Router {
    Router::new()
        .route("/ui/app.js", get(|| async { file(SCRIPT_TYPE, SCRIPT) }))
        .route("/ui/names.js", get(|| async { file(SCRIPT_TYPE, SCRIPT_NAMES) }))
        .route("/ui/search.js", get(|| async { file(SCRIPT_TYPE, SCRIPT_SEARCH) }))
        .route("/ui/watch.js", get(|| async { file(SCRIPT_TYPE, SCRIPT_WATCH) }))
        .route("/ui/dom.js", get(|| async { file(SCRIPT_TYPE, SCRIPT_DOM) }))
        .route("/ui/style.css", get(|| async { file("text/css; charset=utf-8", STYLE) }))
        .route("/ui/icon.svg", get(|| async { file("image/svg+xml", ICON) }))
}

/// The page itself.
pub(super) fn html() -> Response {
    file("text/html; charset=utf-8", HTML)
}

/// Whether it is a browser that asks.
pub(super) fn wants_html(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| value.contains("text/html"))
}

fn file(content_type: &'static str, body: &'static str) -> Response {
    // What else a browser has to keep to is the same for every answer: `guard`.
    ([(CONTENT_TYPE, content_type), (CONTENT_SECURITY_POLICY, POLICY)], body).into_response()
}
