//! What is read again at SIGHUP.

use std::{
    error::Error,
    fmt,
    sync::{Mutex, PoisonError},
};

use crate::telemetry;

/// What reading a file again has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// Another value, which is in effect from now on.
    Changed,
    /// The same value.
    Unchanged,
}

type Reloader = Box<dyn Fn() -> Result<Reload, String> + Send + Sync>;

/// What is read again at SIGHUP, under the name that the log gives it.
#[derive(Default)]
pub(super) struct Reloaders {
    /// A std mutex: never held across an await.
    list: Mutex<Vec<(&'static str, Reloader)>>,
}

impl fmt::Debug for Reloaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloaders").finish_non_exhaustive()
    }
}

impl Reloaders {
    /// Adds a reload under the name `what`.
    pub(super) fn add<E: Error>(
        &self,
        what: &'static str,
        reload: impl Fn() -> Result<Reload, E> + Send + Sync + 'static,
    ) {
        let reload: Reloader = Box::new(move || reload().map_err(|error| telemetry::chain(&error)));
        self.list.lock().unwrap_or_else(PoisonError::into_inner).push((what, reload));
    }

    /// Runs all of them, in the order in which they were added.
    pub(super) fn run(&self) {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.is_empty() {
            tracing::info!("received SIGHUP, nothing to reload");
        }
        for (what, reload) in list.iter() {
            match reload() {
                Ok(Reload::Changed) => tracing::info!(what, "received SIGHUP, reloaded"),
                Ok(Reload::Unchanged) => tracing::info!(what, "received SIGHUP, unchanged"),
                Err(error) => tracing::error!(what, error, "received SIGHUP, not reloaded, the previous value stays"),
            }
        }
    }
}
