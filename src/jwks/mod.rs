//! Fetches the keys of the issuers of JSON web tokens, and keeps them current.
//!
//! Apart from any call: a call is answered by the keys that are there. Each issuer has a loop of its own, so that one that is
//! slow or down holds up no other one. What cannot be fetched or read changes nothing: the last good keys stay in use.

mod fetch;

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::{
    access::Access,
    jwt::{Location, Trusted},
    metrics::ReloadMetrics,
};

/// How often keys are fetched from an address.
const FETCH_PERIOD: Duration = Duration::from_secs(300);
/// After how long a fetch that failed is repeated.
const RETRY_PERIOD: Duration = Duration::from_secs(60);
/// The same while there are no keys at all, and how often a file is read.
const FILE_PERIOD: Duration = Duration::from_secs(5);

/// Is told of each issuer whose keys are others, or could not be fetched: then with the reason.
pub type Observer = Box<dyn Fn(&str, Option<&str>) + Send + Sync>;

/// Keeps the keys of all issuers of the policy in use current, until told to stop.
pub async fn keep_current(access: Access, observer: Observer, stop: CancellationToken) {
    let (mut changes, metrics) = (access.changes(), ReloadMetrics::jwks());
    loop {
        let issuers = access.issuers();
        let keeping = issuers.iter().map(|trusted| keep_issuer(&access, trusted, &metrics, &observer));
        tokio::select! {
            () = stop.cancelled() => return,
            // Another policy may have other issuers; what is due is remembered with each of them.
            () = changes.changed() => {}
            _ = join_all(keeping), if !issuers.is_empty() => {}
        }
    }
}

/// Why keys could not be fetched the last time, issuer by issuer.
#[must_use]
pub fn failures(access: &Access) -> Vec<String> {
    let failure =
        |it: &Arc<Trusted>| it.failure().map(|why| format!("keys of the issuer {:?}: {why}", it.issuer().name));
    access.issuers().iter().filter_map(failure).collect()
}

/// Has all keys fetched now.
pub fn fetch_all(access: &Access) {
    access.issuers().iter().for_each(|trusted| trusted.fetch_now());
}

async fn keep_issuer(access: &Access, trusted: &Trusted, metrics: &ReloadMetrics, observer: &Observer) {
    let issuer = trusted.issuer();
    loop {
        trusted.due().await;
        let fetched = fetch::keys(issuer).await;
        let failed = fetched.is_err();
        let period = match &issuer.location {
            Location::File(_) => FILE_PERIOD,
            Location::Url(_) | Location::Discovery(_) if !failed => FETCH_PERIOD,
            Location::Url(_) | Location::Discovery(_) if trusted.has_keys() => RETRY_PERIOD,
            Location::Url(_) | Location::Discovery(_) => FILE_PERIOD,
        };
        trusted.fetch_after(period);
        match fetched {
            Ok(keys) => {
                let count = keys.len();
                if trusted.take(keys) {
                    metrics.changed.increment(1);
                    tracing::info!(issuer = issuer.name, keys = count, "keys of an issuer loaded");
                    access.keys_changed();
                    observer(&issuer.name, None);
                }
            }
            Err(error) => {
                metrics.failed.increment(1);
                // The same failure comes back until it is corrected.
                let told = error.to_string();
                if trusted.failed(&told) {
                    observer(&issuer.name, Some(&told));
                    let (issuer, had_keys) = (&issuer.name, trusted.has_keys());
                    tracing::error!(issuer, had_keys, %error, "keys of an issuer not loaded, the previous ones stay in use");
                }
            }
        }
    }
}
