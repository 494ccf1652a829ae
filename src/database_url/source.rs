//! Where a database URL comes from, so that it can be read again: passwords are rotated in the file that holds them
//! while the process runs.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use super::url::DatabaseUrl;

type Reader = dyn Fn() -> Result<DatabaseUrl, String> + Send + Sync;

/// A database URL, and how to read it again. Clones share the current value.
#[derive(Clone)]
pub struct Source {
    shared: Arc<Shared>,
}

struct Shared {
    /// A std mutex: held for a few instructions, never across an await.
    current: Mutex<DatabaseUrl>,
    reader: Option<Box<Reader>>,
}

impl Source {
    /// A URL that does not change while the process runs.
    #[must_use]
    pub fn fixed(url: DatabaseUrl) -> Self {
        Self { shared: Arc::new(Shared { current: Mutex::new(url), reader: None }) }
    }

    /// A URL that `reader` reads again, from a file.
    #[must_use]
    pub fn read_by(url: DatabaseUrl, reader: impl Fn() -> Result<DatabaseUrl, String> + Send + Sync + 'static) -> Self {
        Self { shared: Arc::new(Shared { current: Mutex::new(url), reader: Some(Box::new(reader)) }) }
    }

    /// The URL as it was read last.
    #[must_use]
    pub fn current(&self) -> DatabaseUrl {
        self.shared.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads it again. Returns whether it has changed.
    ///
    /// # Errors
    ///
    /// It cannot be read or used; the former value stays.
    pub fn reload(&self) -> Result<bool, String> {
        let Some(reader) = &self.shared.reader else { return Ok(false) };
        let read = reader()?;
        let mut current = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *current != read;
        *current = read;
        Ok(changed)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({:?})", self.current())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current().fmt(f)
    }
}
