//! Every error carries a reason: whatever is sent to whatever method, and however it is damaged.
//!
//! Written below the generated clients, which cannot send most of this.

use std::{collections::BTreeMap, future::poll_fn, pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all, stream};
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use musterd::proto::{DESCRIPTORS, v1::ErrorReason};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::time::timeout;
use tonic::{Code, Status, body::Body, transport::Channel};
use tonic_types::StatusExt as _;
use tower::Service as _;

use crate::harness::{postgres::BOUND, served::Served};

/// A method, and whether its client sends a stream.
type Method = (String, bool);

/// All methods that a daemon serves.
fn methods() -> Vec<Method> {
    let descriptors = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let own = descriptors.file.iter().flat_map(|file| {
        file.service.iter().flat_map(move |service| {
            let path = format!("/{}.{}", file.package(), service.name());
            service.method.iter().map(move |method| (format!("{path}/{}", method.name()), method.client_streaming()))
        })
    });
    let standard = [
        ("/grpc.health.v1.Health/Check", false),
        ("/grpc.health.v1.Health/Watch", false),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", true),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", true),
    ];
    own.chain(standard.map(|(path, is_stream)| (path.to_owned(), is_stream))).collect()
}

/// A message as gRPC frames it: a flag, a length, the bytes.
fn framed(flag: u8, length: usize, bytes: &[u8]) -> Bytes {
    let length = u32::try_from(length).unwrap().to_be_bytes();
    [&[flag][..], &length, bytes].concat().into()
}

/// Sends bytes to a path, ends the request or not, and returns how the call ended.
async fn ended(channel: &Channel, path: &str, headers: &[(&str, &str)], bytes: Bytes, ends: bool) -> Status {
    let mut channel = channel.clone();
    let chunk = stream::iter([Ok::<_, Status>(Frame::data(bytes))]);
    let body = if ends {
        Body::new(StreamBody::new(chunk))
    } else {
        Body::new(StreamBody::new(chunk.chain(stream::pending())))
    };
    let mut request = Request::post(format!("http://daemon{path}")).header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    let response = channel.call(request.body(body).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    if let Some(status) = Status::from_header_map(&parts.headers) {
        return status;
    }
    let mut body = pin!(body);
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        if let Ok(more) = frame.unwrap().into_trailers() {
            trailers = more;
        }
    }
    Status::from_header_map(&trailers).unwrap_or_else(|| Status::ok("no status"))
}

/// The reason of an error, which must be one of the list, with a text that names a fix.
fn reason(status: &Status, about: &str) -> String {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("{about}: no reason: {status:?}"));
    assert_eq!(info.domain, "musterd", "{about}");
    let known = ErrorReason::from_str_name(&format!("ERROR_REASON_{}", info.reason));
    assert!(known.is_some_and(|reason| reason != ErrorReason::Unspecified), "{about}: {}", info.reason);
    assert!(status.message().contains("; ") && status.message().len() < 700, "{about}: {}", status.message());
    info.reason
}

/// What is wrong with a request: its name, headers, bytes, and how it must end.
type Damage = (&'static str, &'static [(&'static str, &'static str)], fn() -> Bytes, Code, &'static str);

const DAMAGES: &[Damage] = &[
    ("over 1 MiB", &[], || framed(0, (1 << 20) + 1, &vec![0; (1 << 20) + 1]), Code::OutOfRange, "REQUEST_TOO_LARGE"),
    ("announced over 1 MiB", &[], || framed(0, 1 << 30, b"x"), Code::OutOfRange, "REQUEST_TOO_LARGE"),
    ("noise", &[], || framed(0, 16, &[0xff; 16]), Code::InvalidArgument, "MALFORMED_REQUEST"),
    ("a flag that does not exist", &[], || framed(7, 0, b""), Code::InvalidArgument, "MALFORMED_REQUEST"),
    ("cut off", &[], || framed(0, 100, b"short"), Code::InvalidArgument, "MALFORMED_REQUEST"),
    ("compressed without saying how", &[], || framed(1, 2, b"xx"), Code::InvalidArgument, "MALFORMED_REQUEST"),
    (
        "compressed",
        &[("grpc-encoding", "gzip")],
        || framed(1, 2, b"xx"),
        Code::Unimplemented,
        "UNSUPPORTED_COMPRESSION",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn damaged_request_to_any_method_is_refused_with_a_reason_and_a_fix() {
    let served = Served::start().await;
    let channel = served.daemon.channel().await;
    for (path, client_streams) in methods() {
        for (damage, headers, bytes, code, expected) in DAMAGES {
            let about = format!("{path}, {damage}");
            let status = timeout(BOUND, ended(&channel, &path, headers, bytes(), true)).await.expect(&about);
            // The standard service takes what it cannot read for the end of the stream, which is no error.
            if path.contains("reflection") && status.code() == Code::Ok {
                continue;
            }
            assert_eq!((status.code(), reason(&status, &about).as_str()), (*code, *expected), "{about}: {status:?}");
        }
        if !client_streams {
            let about = format!("{path}, nothing");
            let status = ended(&channel, &path, &[], Bytes::new(), true).await;
            assert_eq!(reason(&status, &about), "MALFORMED_REQUEST", "{status:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_that_never_ends_is_refused_after_the_deadline_with_a_reason() {
    let served = Served::start().await;
    let channel = served.daemon.channel().await;
    let unary: Vec<String> = methods().into_iter().filter(|(_, streams)| !streams).map(|(path, _)| path).collect();
    let calls = unary.iter().map(async |path| {
        (path, timeout(BOUND, ended(&channel, path, &[], framed(0, 100, b"x"), false)).await.expect(path))
    });
    for (path, status) in join_all(calls).await {
        assert_eq!((status.code(), reason(&status, path).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
        assert!(status.message().contains("5s"), "{}", status.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_method_or_service_is_named_in_a_refusal_with_a_reason() {
    let served = Served::start().await;
    let channel = served.daemon.channel().await;
    let long = format!("/muster.v1.RegistryService/{}", "x".repeat(5_000));
    let paths = ["/muster.v1.RegistryService/Nothing", "/muster.v1.RegistryService/", "/a.B/C", "/", &long];
    for path in paths {
        let status = ended(&channel, path, &[], framed(0, 0, b""), true).await;
        assert_eq!((status.code(), reason(&status, path).as_str()), (Code::Unimplemented, "UNKNOWN_METHOD"), "{path}");
        assert!(status.message().contains(&path[..path.len().min(100)]), "{}", status.message());
    }
    // The name of a service, as the health service reads it.
    let status = ended(&channel, "/grpc.health.v1.Health/Check", &[], framed(0, 3, b"\x0a\x01x"), true).await;
    assert_eq!((status.code(), reason(&status, "health").as_str()), (Code::NotFound, "UNKNOWN_METHOD"));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_an_error_are_left_as_they_are() {
    let served = Served::start().await;
    let channel = served.daemon.channel().await;
    let mut codes = BTreeMap::new();
    for (path, _) in methods().into_iter().filter(|(path, _)| !path.ends_with("Watch")) {
        // Valid for every method: a message without any field.
        let call = timeout(Duration::from_secs(10), ended(&channel, &path, &[], framed(0, 0, b""), true));
        let status = call.await.expect(&path);
        if status.code() == Code::Ok {
            codes.insert(path, status);
        } else {
            reason(&status, &path);
        }
    }
    let served_ok = ["/muster.v1.ClusterService/GetCluster", "/muster.v1.RegistryService/BeatStream"];
    assert!(served_ok.iter().all(|path| codes.contains_key(*path)), "{codes:?}");
}
