//! The layer around a service made for the purpose, and around a real server.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    time::Duration,
};

use futures_util::FutureExt;
use http::HeaderValue;
use prost::bytes::Bytes;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::{self, Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::*;
use crate::{
    connections::incoming::{Incoming, Limits},
    lifecycle::{Lifecycle, Stage},
    metrics,
};

/// A body of given frames.
struct Frames(VecDeque<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

/// Answers every call with these headers, one message and these trailers.
#[derive(Clone)]
struct Answer {
    headers: HeaderMap,
    trailers: Option<HeaderMap>,
}

impl Service<Request<()>> for Answer {
    type Response = Response<Frames>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Frames>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        let mut frames = VecDeque::from([Frame::data(Bytes::from_static(b"message"))]);
        frames.extend(self.trailers.clone().map(Frame::trailers));
        let mut response = Response::new(Frames(frames));
        response.headers_mut().extend(self.headers.clone());
        ready(Ok(response))
    }
}

fn status(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from_static(code))])
}

/// Calls `path` once, reads so many frames of the answer, drops the rest, and returns the metrics that are not zero.
fn counted(path: &str, answer: Answer, frames: usize) -> String {
    let (recorder, handle) = metrics::build().unwrap();
    ::metrics::with_local_recorder(&recorder, || {
        let mut service = Observe::new().unwrap().layer(answer);
        let request = Request::builder().uri(path).body(()).unwrap();
        let mut body = service.call(request).now_or_never().unwrap().unwrap().into_body();
        for _ in 0..frames {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            assert!(Pin::new(&mut body).poll_frame(&mut cx).is_ready());
        }
    });
    handle.render().lines().filter(|line| line.starts_with("grpc_") && !line.ends_with(" 0")).collect()
}

const BEAT: &str = "/muster.v1.RegistryService/Beat";

#[test]
fn the_status_in_the_trailers_counts() {
    let answer = Answer { headers: HeaderMap::new(), trailers: Some(status("0")) };
    let text = counted(BEAT, answer, 2);
    let labels = r#"grpc_service="muster.v1.RegistryService",grpc_method="Beat""#;
    assert!(text.contains(&format!("grpc_server_started_total{{{labels}}} 1")), "{text}");
    assert!(text.contains(&format!(r#"grpc_server_handled_total{{{labels},grpc_code="OK"}} 1"#)), "{text}");
    assert!(text.contains(&format!("grpc_server_handling_seconds_count{{{labels}}} 1")), "{text}");
    assert_eq!(text.matches("handled_total").count(), 1, "{text}");
}

#[test]
fn the_status_in_the_headers_counts_at_once() {
    let text = counted(BEAT, Answer { headers: status("5"), trailers: None }, 0);
    assert!(text.contains(r#"grpc_code="NotFound"} 1"#), "{text}");
    assert_eq!(text.matches("handled_total").count(), 1, "{text}");
}

#[test]
fn answer_without_a_waiting_caller_counts_as_canceled() {
    let answer = Answer { headers: HeaderMap::new(), trailers: Some(status("0")) };
    assert!(counted(BEAT, answer, 1).contains(r#"grpc_code="Canceled"} 1"#));
}

#[test]
fn an_answer_without_a_status_counts_as_unknown() {
    let answer = Answer { headers: HeaderMap::new(), trailers: None };
    assert!(counted(BEAT, answer, 2).contains(r#"grpc_code="Unknown"} 1"#));
}

#[test]
fn a_path_that_does_not_exist_adds_no_series() {
    let text = counted("/made.up/Name", Answer { headers: status("12"), trailers: None }, 0);
    assert!(text.contains(r#"grpc_service="unknown",grpc_method="unknown",grpc_code="Unimplemented"} 1"#), "{text}");
    assert!(!text.contains("made"), "{text}");
}

/// A server of the health service behind both, as the daemon has it, and its address.
async fn health_server(
    observe: Observe,
    stop: CancellationToken,
) -> (String, impl Future<Output = Result<(), transport::Error>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (_, health) = tonic_health::server::health_reporter();
    let incoming = Incoming::new(listener, None, Limits::default(), metrics::IncomingMetrics::new());
    let server = transport::Server::builder().layer(observe).add_service(health);
    (address, server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()))
}

async fn connect(address: String) -> HealthClient<Channel> {
    HealthClient::new(Channel::from_shared(address).unwrap().connect().await.unwrap())
}

fn any() -> HealthCheckRequest {
    HealthCheckRequest { service: String::new() }
}

#[tokio::test]
async fn calls_to_a_real_server_are_counted_by_how_they_ended() {
    let (recorder, handle) = metrics::build().unwrap();
    let observe = ::metrics::with_local_recorder(&recorder, || Observe::new().unwrap());
    let stop = CancellationToken::new();
    let (address, server) = health_server(observe, stop.clone()).await;
    let server = tokio::spawn(server);

    let mut client = connect(address).await;
    client.check(any()).await.unwrap();
    client.check(HealthCheckRequest { service: "nobody".to_owned() }).await.unwrap_err();
    let mut watch = client.watch(any()).await.unwrap().into_inner();
    watch.message().await.unwrap();
    drop((watch, client));
    stop.cancel();
    server.await.unwrap().unwrap();

    let text = handle.render();
    for (method, code) in [("Check", "OK"), ("Check", "NotFound"), ("Watch", "Canceled")] {
        let line = format!(
            r#"handled_total{{grpc_service="grpc.health.v1.Health",grpc_method="{method}",grpc_code="{code}"}} 1"#
        );
        assert!(text.contains(&line), "{line} not in:\n{text}");
    }
}

#[tokio::test]
async fn an_open_stream_does_not_keep_the_daemon_from_leaving() {
    let lifecycle = Lifecycle::new();
    let (address, server) = health_server(Observe::new().unwrap(), lifecycle.token(Stage::Servers)).await;
    lifecycle.spawn_essential(Stage::Servers, "grpc", server);
    let mut watch = connect(address).await.watch(any()).await.unwrap().into_inner();
    watch.message().await.unwrap();

    let started = Instant::now();
    assert!(
        !lifecycle.end(Stage::Servers, Duration::from_millis(200)).await,
        "the server ended although a stream is open"
    );
    assert!(lifecycle.drain(Duration::from_secs(1)).await, "nothing else was running");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

/// Never answers.
#[derive(Clone)]
struct Silent;

impl Service<Request<()>> for Silent {
    type Response = Response<Frames>;
    type Error = Infallible;
    type Future = std::future::Pending<Result<Response<Frames>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        std::future::pending()
    }
}

#[tokio::test]
async fn call_without_an_answer_ends_at_the_deadline_of_its_client() {
    let request = Request::builder().uri(BEAT).header(TIMEOUT_HEADER, "50m").body(()).unwrap();
    let response = Observe::new().unwrap().layer(Silent).call(request).await.unwrap();
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("no answer within 50ms;"), "{}", status.message());
    assert!(response.into_body().is_end_stream());
}

#[test]
fn error_of_a_handler_is_left_as_it_is() {
    let status = Status::from(Failure::UnknownInstance);
    let mut headers = HeaderMap::new();
    status.add_header(&mut headers).unwrap();
    let mut service = Observe::new().unwrap().layer(Answer { headers: headers.clone(), trailers: None });
    let request = Request::builder().uri(BEAT).body(()).unwrap();
    assert_eq!(service.call(request).now_or_never().unwrap().unwrap().headers(), &headers);
}
