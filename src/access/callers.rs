//! The identities that call over a connection, on either port: it counts for each of them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use super::caller::Caller;
use crate::rights::{
    Identity,
    quota::{Exceeded, Held},
};

/// The most identities whose places are held for one connection: a proxy may carry the calls of many.
const CALLERS_MAX: usize = 64;

/// The identities that call over a connection, each of which it counts for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Callers(Arc<Mutex<VecDeque<(Identity, Held)>>>);

impl Callers {
    /// Counts the connection for the identity of a call, once.
    pub(crate) fn enter(&self, caller: &Caller) -> Result<(), Exceeded> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.iter().any(|(identity, _)| identity == caller.identity()) {
            return Ok(());
        }
        if let Some(held) = caller.open_connection()? {
            if known.len() == CALLERS_MAX {
                known.pop_front();
            }
            known.push_back((caller.identity().clone(), held));
        }
        Ok(())
    }
}
