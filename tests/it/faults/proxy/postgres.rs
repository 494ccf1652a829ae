//! As much of PostgreSQL's protocol as a proxy needs to lose one answer on purpose.
//!
//! Changes go through prepared statements: a `Parse` names the statement and holds its text, each `Bind` runs one by
//! name, and `ReadyForQuery` follows once the commit is durable. To take away an answer is to wait for that and to pass
//! nothing of it on.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// The functions that change membership: each call is one commit.
const CHANGES: [&str; 2] = ["muster_apply(", "muster_rotate_epoch("];

/// Cuts a stream of bytes into messages.
#[derive(Debug)]
pub(crate) struct Messages {
    /// The first message of a client has no type.
    starting: bool,
    pending: Vec<u8>,
}

impl Messages {
    /// The messages of one direction.
    pub(crate) fn new(from_client: bool) -> Self {
        Self { starting: from_client, pending: Vec::new() }
    }

    /// Takes bytes and returns the messages they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.pending.extend_from_slice(bytes);
        let mut messages = Vec::new();
        loop {
            let header = usize::from(!self.starting);
            let Some(length) = self.pending.get(header..header + 4) else { return messages };
            let length: [u8; 4] = length.try_into().unwrap();
            let end = header + usize::try_from(u32::from_be_bytes(length)).unwrap();
            if self.pending.len() < end {
                return messages;
            }
            self.starting = false;
            messages.push(self.pending.drain(..end).collect());
        }
    }
}

/// Whether PostgreSQL has done what it was asked for, durably, and waits for more.
pub(crate) fn is_ready(message: &[u8]) -> bool {
    message.first() == Some(&b'Z')
}

/// Whether it is a notification.
pub(crate) fn is_notification(message: &[u8]) -> bool {
    message.first() == Some(&b'A')
}

/// What a connection has talked about so far.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    /// Prepared statements that change membership.
    changes: Mutex<HashSet<Vec<u8>>>,
    losing: AtomicBool,
}

impl Talk {
    /// The client says something. If it asks for a change, `lose` decides whether it is to lose the answer.
    pub(crate) fn asks(&self, message: &[u8], lose: impl FnOnce() -> bool) {
        let mut fields = message.get(5..).unwrap_or_default().split(|byte| *byte == 0);
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        match message.first() {
            // Statement, text.
            Some(b'P') => {
                let (name, text) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
                let text = String::from_utf8_lossy(text);
                if CHANGES.iter().any(|change| text.contains(change)) {
                    changes.insert(name.to_vec());
                }
            }
            // Portal, statement.
            Some(b'B') => {
                let runs_a_change = fields.nth(1).is_some_and(|statement| changes.contains(statement));
                self.losing.fetch_or(runs_a_change && lose(), Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// Whether the client hears nothing more.
    pub(crate) fn loses(&self) -> bool {
        self.losing.load(Ordering::Relaxed)
    }
}
