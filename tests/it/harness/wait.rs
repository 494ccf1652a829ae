//! Waiting on a value.
//!
//! A fixed sleep is too long on a fast machine and too short on a loaded one. A bounded poll is neither, and when the
//! bound passes, the last status tells what was missing.
//!
//! A probe opens a connection or starts a command. Most tests wait at the same time as others, so polls get rarer the longer
//! one waits: a twentieth of what was waited so far, which no test notices, and no more than [`LONGEST`].

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_millis(100);

/// Asks `probe` until it returns a value; panics with its last status after `bound`.
pub(crate) async fn wait_until<T, S: Debug>(
    what: &str,
    bound: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, S>,
) -> T {
    let started = Instant::now();
    let mut last = "it never answered".to_owned();
    while let Some(left) = bound.checked_sub(started.elapsed()) {
        match tokio::time::timeout(left, probe()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(status)) => last = format!("{status:?}"),
            Err(_) => break,
        }
        tokio::time::sleep((started.elapsed() / 20).clamp(SHORTEST, LONGEST)).await;
    }
    panic!("{what}: not within {bound:?}; last status: {last}");
}
