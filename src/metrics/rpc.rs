//! The gRPC metrics of one method, under the names that dashboards for Go and Java servers already use.

use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};

use super::names;

/// The status codes of gRPC by number, spelled as grpc-go (and so etcd and its dashboards) spells them.
pub const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Number of the code for what has no code of its own.
const UNKNOWN: usize = 2;

/// `grpc_server_*` of one method.
#[derive(Debug)]
pub struct MethodMetrics {
    started: Counter,
    handled: [Counter; CODES.len()],
    handling_seconds: Histogram,
}

impl MethodMetrics {
    /// Registers the series of a method, one per status code, at zero. The names must come from a closed set, never
    /// from a request.
    #[must_use]
    pub fn new(service: &str, method: &str) -> Self {
        let labels = || [("grpc_service", service.to_owned()), ("grpc_method", method.to_owned())];
        Self {
            started: counter!(names::GRPC_STARTED, &labels()),
            handled: CODES.map(|code| {
                let [service, method] = labels();
                counter!(names::GRPC_HANDLED, &[service, method, ("grpc_code", code.to_owned())])
            }),
            handling_seconds: histogram!(names::GRPC_HANDLING_SECONDS, &labels()),
        }
    }

    /// Counts a call that begins.
    pub fn started(&self) {
        self.started.increment(1);
    }

    /// Counts a call that has ended with the status code of this number. Numbers out of range count as Unknown.
    pub fn handled(&self, code: usize, elapsed: Duration) {
        if let Some(counter) = self.handled.get(code).or_else(|| self.handled.get(UNKNOWN)) {
            counter.increment(1);
        }
        self.handling_seconds.record(elapsed);
    }
}
