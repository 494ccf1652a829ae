//! The files as they are in use, and how they are replaced while the daemon runs.
//!
//! The contents are read every [`POLL_PERIOD`] and at SIGHUP. File events are not used: a Kubernetes Secret is replaced by
//! a change of a symbolic link two directories up, which a watch of the file does not report. All files are read, parsed
//! and checked together; if anything is wrong with them, the daemon goes on with the last good ones and says so. A pair
//! that is written one file after the other is a wrong pair for a moment, which the next poll sees corrected.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    error::Error,
    load::{Contents, Files, Loaded, Port},
    validity::Validity,
};
use crate::{
    clock::Clock,
    metrics::{CertificateMetrics, TlsReloadMetrics},
    telemetry::chain,
};

/// How often the contents of the files are compared with what is in use.
const POLL_PERIOD: Duration = Duration::from_secs(5);

/// The files in use. Shared by both ports.
#[derive(Debug)]
pub struct Credentials {
    files: Files,
    clock: Clock,
    loaded: ArcSwap<Loaded>,
    /// Why the files on disk are not in use. A std mutex: never held across an await.
    failure: Mutex<Option<String>>,
    reloads: TlsReloadMetrics,
    server: CertificateMetrics,
    client_ca: Option<CertificateMetrics>,
}

/// How the files are, for the judgement of health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Of the daemon's own certificate.
    pub server: Validity,
    /// Of the CA of client certificates that ends first.
    pub client_ca: Option<Validity>,
    /// Why the files on disk are not in use, if they are not.
    pub failure: Option<String>,
}

impl Credentials {
    /// Reads the files.
    ///
    /// # Errors
    /// [`enum@Error`]: what is wrong with them.
    pub fn load(files: Files, clock: Clock) -> Result<Self, Error> {
        let loaded = Loaded::new(&files, &Contents::read(&files)?, clock.wall())?;
        Ok(Self {
            files,
            clock,
            server: CertificateMetrics::server(),
            client_ca: loaded.client_ca.map(|_| CertificateMetrics::client_ca()),
            loaded: ArcSwap::from_pointee(loaded),
            failure: Mutex::default(),
            reloads: TlsReloadMetrics::new(),
        })
    }

    /// What a new connection to a port is handled with.
    pub(super) fn config(&self, port: Port) -> Arc<ServerConfig> {
        let loaded = self.loaded.load();
        Arc::clone(match port {
            Port::Grpc => &loaded.grpc,
            Port::Http => &loaded.http,
        })
    }

    /// Reads the files again. Returns whether other contents are in use from now on.
    ///
    /// # Errors
    /// [`enum@Error`]: the contents that were in use stay in use.
    pub fn reload(&self) -> Result<bool, Error> {
        let outcome = self.replace();
        match &outcome {
            Ok(true) => self.reloads.changed.increment(1),
            Ok(false) => {}
            Err(_) => self.reloads.failed.increment(1),
        }
        *self.failure() = outcome.as_ref().err().map(|error| chain(error));
        outcome
    }

    fn replace(&self) -> Result<bool, Error> {
        let contents = Contents::read(&self.files)?;
        if contents.digest() == self.loaded.load().digest {
            return Ok(false);
        }
        self.loaded.store(Arc::new(Loaded::new(&self.files, &contents, self.clock.wall())?));
        Ok(true)
    }

    /// Keeps what is in use equal to the files, until told to stop.
    pub async fn keep_current(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(POLL_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let before = self.failure().clone();
            match self.reload() {
                Ok(true) => {
                    let expires = self.loaded.load().server.not_after;
                    tracing::info!(%expires, "TLS files reloaded");
                }
                Ok(false) => {}
                Err(error) => {
                    let error = chain(&error);
                    // The same failure comes back every few seconds until the files are corrected.
                    if before.as_ref() != Some(&error) {
                        tracing::error!(error, "TLS files not reloaded, the previous ones stay in use");
                    }
                }
            }
        }
    }

    /// How the files are.
    #[must_use]
    pub fn condition(&self) -> Condition {
        let loaded = self.loaded.load();
        Condition { server: loaded.server, client_ca: loaded.client_ca, failure: self.failure().clone() }
    }

    /// Sets the gauges of what changes with time.
    pub fn measure(&self) {
        let (loaded, now) = (self.loaded.load(), self.clock.wall());
        let set = |metrics: &CertificateMetrics, validity: Validity| {
            metrics.expiry.set(validity.left(now).as_secs_f64());
            metrics.lifetime.set(validity.lifetime().as_secs_f64());
        };
        set(&self.server, loaded.server);
        if let Some((metrics, validity)) = self.client_ca.as_ref().zip(loaded.client_ca) {
            set(metrics, validity);
        }
    }

    fn failure(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
