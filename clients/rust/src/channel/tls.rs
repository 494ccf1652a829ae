//! TLS to the instances of a name, which have certificates of the application's own.

use std::{fmt, sync::Arc};

use crate::{model::Instance, tls::Tls};

type NameOf = Arc<dyn Fn(&Instance) -> String + Send + Sync>;

/// How instances are called with TLS: what is trusted, which certificate is shown, and for which name theirs has to be.
#[derive(Clone)]
#[must_use]
pub struct InstanceTls {
    tls: Tls,
    name_of: NameOf,
}

impl fmt::Debug for InstanceTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstanceTls").field("tls", &self.tls).finish_non_exhaustive()
    }
}

impl InstanceTls {
    /// Each instance has a certificate for its IP address. The files of `tls` are read for each connection, so that one that
    /// was renewed needs no restart.
    pub fn new(tls: Tls) -> Self {
        Self { tls, name_of: Arc::new(|instance| instance.ip.map(|ip| ip.to_string()).unwrap_or_default()) }
    }

    /// All instances have certificates for this name.
    pub fn server_name(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.server_name_by(move |_| name.clone())
    }

    /// Each instance has a certificate for the name that this function returns, for example one of its labels.
    pub fn server_name_by(mut self, name: impl Fn(&Instance) -> String + Send + Sync + 'static) -> Self {
        self.name_of = Arc::new(name);
        self
    }

    pub(super) fn files(&self) -> &Tls {
        &self.tls
    }

    pub(super) fn name(&self, instance: &Instance) -> String {
        (self.name_of)(instance)
    }
}
