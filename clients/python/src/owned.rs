//! What belongs to one process.
//!
//! After a fork the child has copies of clients and registrations, but not the threads that serve them; locks that those
//! threads held stay locked for ever. So in a child these copies are out of reach, and they are leaked, not dropped.

use std::{mem, process};

/// A value that only the process that made it can reach.
#[derive(Debug)]
pub(crate) struct Owned<T> {
    pid: u32,
    value: Option<Box<T>>,
}

impl<T> Owned<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { pid: process::id(), value: Some(Box::new(value)) }
    }

    /// The value; `None` in a child of the process that made it.
    pub(crate) fn get(&self) -> Option<&T> {
        self.value.as_deref().filter(|_| self.pid == process::id())
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if self.pid != process::id() {
            mem::forget(self.value.take());
        }
    }
}
