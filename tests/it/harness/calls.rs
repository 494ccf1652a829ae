//! Calls that are made while files of a daemon are replaced, and those that failed.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use musterd_client::Error;

/// What callers have seen, until they are told to stop.
#[derive(Default)]
pub(crate) struct Calls {
    pub(crate) stop: AtomicBool,
    pub(crate) made: AtomicU64,
    pub(crate) failures: Mutex<Vec<String>>,
}

impl Calls {
    pub(crate) fn note<T>(&self, what: &str, outcome: Result<T, Error>) {
        self.made.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = outcome {
            self.failures.lock().unwrap().push(format!("{what}: {error}"));
        }
    }
}
