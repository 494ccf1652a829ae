//! What protects the ports of this daemon: the files for TLS, the policy and the tokens, kept up to date, and the word about
//! what is missing.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use super::error::Error;
use crate::{
    access::{Access, Keeper},
    audit::Audit,
    clock::Clock,
    config::{Exposure, ServeConfig},
    connections::admin::{AdminSocket, AdminSocketError},
    jwks,
    lifecycle::{Lifecycle, Reload, Stage},
    metrics::InsecureMetrics,
    status::Certificate,
    tls::{Acceptor, Credentials, Port, Validity},
};

/// How often the log says what is missing.
const REMINDER_PERIOD: Duration = Duration::from_secs(60 * 60);

/// The protection of both ports.
#[derive(Clone, Debug)]
pub(super) struct Security {
    credentials: Option<Arc<Credentials>>,
    policy: Option<Keeper>,
    audit: Audit,
}

impl Security {
    /// Reads the files and keeps them up to date; says what is missing, now and every hour.
    pub(super) fn start(config: &ServeConfig, lifecycle: &Lifecycle) -> Result<Self, Error> {
        let audit = Audit::new(config.audit, Clock::new());
        let policy = config.access.clone().map(|files| files.open(Clock::new())).transpose()?;
        // A client may show a JSON web token instead of a certificate.
        let has_issuers = policy.as_ref().is_some_and(|policy| !policy.access().issuers().is_empty());
        let files = config.tls.clone().map(|mut files| {
            files.client_optional |= has_issuers;
            files
        });
        let credentials = files.map(|files| Credentials::load(files, Clock::new())).transpose()?;
        let credentials = credentials.map(Arc::new);
        if let Some(credentials) = &credentials {
            let told = audit.clone();
            credentials.observe(move |failure| told.reloaded("TLS files", failure));
            let (reread, keeping) = (Arc::clone(credentials), Arc::clone(credentials));
            follow(lifecycle, "TLS files", move || reread.reload(), |stop| keeping.keep_current(stop));
        }
        if let Some(policy) = &policy {
            let (told, access) = (audit.clone(), policy.access());
            let needs_certificate =
                config.tls.as_ref().is_some_and(|files| files.client_ca.is_some() && !files.client_optional);
            policy.observe(move |failure| {
                told.reloaded("policy and tokens", failure);
                if needs_certificate && !has_issuers && !access.issuers().is_empty() {
                    tracing::warn!(
                        "the policy has its first issuer, client certificates stay required until a restart"
                    );
                }
            });
            let (reread, keeping, access) = (policy.clone(), policy.clone(), policy.access());
            let reload = move || {
                let changed = reread.reload();
                jwks::fetch_all(&access);
                changed
            };
            follow(lifecycle, "policy", reload, |stop| keeping.keep_current(stop));
            let told = audit.clone();
            let observer: jwks::Observer =
                Box::new(move |issuer, failure| told.reloaded(&format!("keys of the issuer {issuer}"), failure));
            let keeping = jwks::keep_current(policy.access(), observer, lifecycle.token(Stage::Servers));
            lifecycle.spawn_essential(Stage::Servers, "keys of issuers", keeping);
        }
        let (exposure, metrics) = (config.exposure(), InsecureMetrics::new());
        metrics.tls.set(f64::from(u8::from(exposure.without_tls)));
        metrics.auth.set(f64::from(u8::from(exposure.without_auth)));
        if exposure != Exposure::default() {
            lifecycle.spawn_essential(Stage::Servers, "reminder", remind(exposure, lifecycle.token(Stage::Servers)));
        }
        Ok(Self { credentials, policy, audit })
    }

    /// What records decisions about callers.
    pub(super) fn audit(&self) -> Audit {
        self.audit.clone()
    }

    /// What callers are authenticated by; open without a policy.
    pub(super) fn access(&self) -> Access {
        self.policy.as_ref().map_or_else(Access::open, Keeper::access)
    }

    /// The handshakes of a port; `None` without TLS.
    pub(super) fn acceptor(&self, port: Port) -> Option<Acceptor> {
        self.credentials.clone().map(|credentials| Acceptor::new(credentials, port))
    }

    /// The certificates that the ports depend on.
    pub(super) fn certificates(&self) -> Vec<Certificate> {
        let Some(condition) = self.credentials.as_ref().map(|credentials| credentials.condition()) else {
            return Vec::new();
        };
        let now = Clock::new().wall();
        let certificate = |name, validity: Validity| {
            let (left, lifetime) = (validity.left(now), validity.lifetime());
            Certificate { name, expires: validity.not_after, left, lifetime }
        };
        let server = certificate("The certificate of this daemon", condition.server);
        let client_ca = condition.client_ca.map(|it| certificate("A CA of client certificates of this daemon", it));
        std::iter::once(server).chain(client_ca).collect()
    }

    /// Since when the list of revoked client certificates should have been replaced; `None`: it need not be.
    pub(super) fn stale_list(&self) -> Option<DateTime<Utc>> {
        let next = self.credentials.as_ref()?.condition().next_list?;
        (next <= Clock::new().wall()).then_some(next)
    }

    /// Why files on disk are not in use.
    pub(super) fn failures(&self) -> Vec<String> {
        let of_tls = self.credentials.as_ref().and_then(|credentials| credentials.condition().failure);
        let of_policy = self.policy.as_ref().and_then(Keeper::failure);
        of_tls.into_iter().chain(of_policy).chain(jwks::failures(&self.access())).collect()
    }

    /// The files in use; `None` without TLS.
    pub(super) fn credentials(&self) -> Option<&Arc<Credentials>> {
        self.credentials.as_ref()
    }
}

/// Listens at the admin socket. Where that is not asked for, a daemon that cannot runs without.
pub(super) fn admin_socket(config: &ServeConfig) -> Result<Option<AdminSocket>, AdminSocketError> {
    let Some((path, is_asked_for)) = config.admin_socket_path() else { return Ok(None) };
    match AdminSocket::bind(&path) {
        Ok(socket) => {
            tracing::info!(path = %socket.path().display(), "admin socket is open");
            Ok(Some(socket))
        }
        Err(error) if is_asked_for => Err(error),
        Err(error) => {
            tracing::warn!(%error, "admin socket unavailable, continuing without it");
            Ok(None)
        }
    }
}

/// Keeps a set of files up to date until the servers end, and reads it again at SIGHUP.
fn follow<E, F>(
    lifecycle: &Lifecycle,
    what: &'static str,
    reload: impl Fn() -> Result<bool, E> + Send + Sync + 'static,
    keep_current: impl FnOnce(CancellationToken) -> F,
) where
    E: std::error::Error,
    F: Future<Output = ()> + Send + 'static,
{
    lifecycle
        .on_reload(what, move || reload().map(|changed| if changed { Reload::Changed } else { Reload::Unchanged }));
    lifecycle.spawn_essential(Stage::Servers, what, keep_current(lifecycle.token(Stage::Servers)));
}

async fn remind(exposure: Exposure, stop: CancellationToken) {
    let mut ticks = interval(REMINDER_PERIOD);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let (missing, waived_by) = (exposure.missing(), exposure.waivers());
        tracing::warn!(missing, waived_by, "other machines can reach this daemon without protection");
    }
}
