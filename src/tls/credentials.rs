//! The files as they are in use. How they are replaced while the daemon runs is in [`crate::reload`].

use std::sync::Arc;

use chrono::{DateTime, Utc};
use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use super::{
    error::Error,
    load::{Contents, Files, Loaded, Port},
    validity::Validity,
};
use crate::{
    clock::Clock,
    metrics::{CertificateMetrics, ReloadMetrics},
    reload::{Kept, Source},
};

/// The files in use. Shared by both ports.
#[derive(Debug)]
pub struct Credentials {
    kept: Arc<Kept<OnDisk>>,
    clock: Clock,
    server: CertificateMetrics,
    client_ca: Option<CertificateMetrics>,
}

/// The files on disk.
#[derive(Debug)]
struct OnDisk {
    files: Files,
    clock: Clock,
}

impl Source for OnDisk {
    type Loaded = Loaded;
    type Error = Error;

    fn load(&self, current: Option<&Loaded>) -> Result<Option<Loaded>, Error> {
        let contents = Contents::read(&self.files)?;
        if current.is_some_and(|current| current.digest == contents.digest()) {
            return Ok(None);
        }
        Loaded::new(&self.files, &contents, self.clock.wall()).map(Some)
    }

    fn changed(&self, loaded: &Loaded) {
        let expires = loaded.server.not_after;
        tracing::info!(%expires, "TLS files reloaded");
    }

    fn failed(&self, error: &str) {
        tracing::error!(error, "TLS files not reloaded, the previous ones stay in use");
    }
}

/// How the files are, for the judgement of health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Of the daemon's own certificate.
    pub server: Validity,
    /// Of the CA of client certificates that ends first.
    pub client_ca: Option<Validity>,
    /// When the list of revoked client certificates is to be replaced.
    pub next_list: Option<DateTime<Utc>>,
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
            clock,
            server: CertificateMetrics::server(),
            client_ca: loaded.client_ca.map(|_| CertificateMetrics::client_ca()),
            kept: Arc::new(Kept::new(OnDisk { files, clock }, loaded, ReloadMetrics::tls())),
        })
    }

    /// What a new connection to a port is handled with.
    pub(super) fn config(&self, port: Port) -> Arc<ServerConfig> {
        let loaded = self.kept.current();
        Arc::clone(match port {
            Port::Grpc => &loaded.grpc,
            Port::Http => &loaded.http,
        })
    }

    /// Tells of each reload from now on, with why the files cannot be used if they cannot.
    pub fn observe(&self, observer: impl Fn(Option<&str>) + Send + Sync + 'static) {
        self.kept.observe(observer);
    }

    /// Reads the files again. Returns whether other contents are in use from now on.
    ///
    /// # Errors
    /// [`enum@Error`]: the contents that were in use stay in use.
    pub fn reload(&self) -> Result<bool, Error> {
        self.kept.reload()
    }

    /// Keeps what is in use equal to the files, until told to stop.
    pub async fn keep_current(self: Arc<Self>, stop: CancellationToken) {
        Arc::clone(&self.kept).keep_current(stop).await;
    }

    /// How the files are.
    #[must_use]
    pub fn condition(&self) -> Condition {
        let loaded = self.kept.current();
        let (server, client_ca, next_list) = (loaded.server, loaded.client_ca, loaded.next_list);
        Condition { server, client_ca, next_list, failure: self.kept.failure() }
    }

    /// Sets the gauges of what changes with time.
    pub fn measure(&self) {
        let (loaded, now) = (self.kept.current(), self.clock.wall());
        let set = |metrics: &CertificateMetrics, validity: Validity| {
            metrics.expiry.set(validity.left(now).as_secs_f64());
            metrics.lifetime.set(validity.lifetime().as_secs_f64());
        };
        set(&self.server, loaded.server);
        if let Some((metrics, validity)) = self.client_ca.as_ref().zip(loaded.client_ca) {
            set(metrics, validity);
        }
    }
}
