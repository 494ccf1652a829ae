//! What applications ask of their registrations, on its way to the thread that beats.
//!
//! An application never waits for that thread here, so that Python code that holds its interpreter lock does not either.
//! What waits is limited by the handles that applications have: one registration, one end, and the changes that they await.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{calls::Reply, entry::Entry};

/// One wish, for the registration of this key.
#[derive(Debug)]
pub(super) enum Command {
    /// To register.
    Add(u64, Box<Entry>),
    /// To give back what it has.
    Leave(u64, Option<Reply>),
    /// To take over changed attributes.
    Update(u64, Reply),
}

/// The wishes that wait. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Commands(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    last_key: u64,
    commands: Vec<Command>,
}

impl Commands {
    /// Adds a registration, and returns its key.
    pub(super) fn add(&self, entry: Entry) -> u64 {
        let mut waiting = self.waiting();
        waiting.last_key += 1;
        let key = waiting.last_key;
        waiting.commands.push(Command::Add(key, Box::new(entry)));
        drop(waiting);
        self.0.arrived.notify_one();
        key
    }

    /// Sends a command.
    pub(super) fn send(&self, command: Command) {
        self.waiting().commands.push(command);
        self.0.arrived.notify_one();
    }

    /// All that wait.
    pub(super) fn take(&self) -> Vec<Command> {
        std::mem::take(&mut self.waiting().commands)
    }

    /// Returns when there are some, or were.
    pub(super) async fn arrived(&self) {
        self.0.arrived.notified().await;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
