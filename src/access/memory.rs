//! What a connection remembers of its latest call: a client shows the same credential in each of them, so most calls are
//! authenticated by one comparison.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwapOption;

use super::caller::Caller;

/// The `Authorization` of the latest call of a connection, and its caller. Clones share it.
#[derive(Clone, Default)]
pub struct Memory(Arc<ArcSwapOption<(Option<Box<str>>, Caller)>>);

impl Memory {
    /// The caller with this `Authorization`, or without one, if it is that of the latest call and was found under the same
    /// policy, tokens and keys. The certificate is that of the connection.
    // An ordinary comparison: the holder of the connection has sent the remembered text.
    pub(super) fn of(&self, authorization: Option<&str>, generation: u64) -> Option<Caller> {
        let latest = self.0.load();
        let (known, caller) = latest.as_deref()?;
        (known.as_deref() == authorization && caller.generation() == generation).then(|| caller.clone())
    }

    /// Remembers a caller.
    pub(super) fn keep(&self, authorization: Option<&str>, caller: &Caller) {
        self.0.store(Some(Arc::new((authorization.map(Into::into), caller.clone()))));
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory(***)")
    }
}
