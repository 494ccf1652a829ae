//! A watcher on the client crate: follows every change; the crate resumes where it was whenever its stream ends.
//!
//! Every other watcher knows all daemons, and now and then goes to another one by itself, so that resuming is the rule and not
//! the exception. The others know one daemon alone.

use std::time::Duration;

use musterd_client::{Batch, Change, Filter, Step, Tls};
use tokio::time::{Instant, timeout};

use super::Role;
use crate::faults::{
    client::{member, place, row_of},
    history::Sight,
};

/// A watcher.
#[derive(Debug)]
pub(crate) struct Watcher {
    role: Role,
    /// Of all daemons.
    addrs: Vec<String>,
    tls: Option<Tls>,
    at: usize,
    roams: bool,
    revision: u64,
    history_id: String,
    complete: bool,
}

impl Watcher {
    pub(crate) fn new(role: Role, (addrs, tls): (Vec<String>, Option<Tls>), at: usize, roams: bool) -> Self {
        Self { role, addrs, tls, at, roams, revision: 0, history_id: String::new(), complete: false }
    }

    /// Watches until it is told to stop.
    pub(crate) async fn run(mut self) {
        while !self.role.stop.is_cancelled() {
            let known = if self.roams { self.addrs.clone() } else { vec![self.addrs[self.at].clone()] };
            let first = if self.roams { self.at } else { 0 };
            let client = member(self.role.client.id, &known, first, &self.role.client.history, self.tls.clone());
            let stop = self.role.stop.clone();
            let Some(reason) = stop.run_until_cancelled(self.session(&client)).await else { return };
            self.see(Sight::Closed { reason });
            self.at = (self.at + usize::from(self.roams)) % self.addrs.len();
            if !self.role.pause_between(20, 200).await {
                return;
            }
        }
    }

    fn see(&self, sight: Sight) {
        self.role.client.history.see(self.role.client.id, self.at, sight);
    }

    /// A stream begins: after what is known, if that is whole.
    fn opens(&mut self) {
        if !self.complete {
            self.revision = 0;
        }
        self.complete = self.revision > 0;
        self.see(Sight::Opened { resume_after: self.revision });
    }

    /// One watch, until it goes elsewhere.
    async fn session(&mut self, client: &musterd_client::Client) -> String {
        self.opens();
        let mut watch = client.watch(&Filter::all());
        if self.revision > 0 {
            watch = watch.resume_after(self.revision, self.history_id.clone());
        }
        let stays = self.role.dice.between(Duration::from_secs(1), Duration::from_secs(4));
        let leaves_at = Instant::now() + if self.roams { stays } else { Duration::from_secs(3_600) };
        loop {
            let step = timeout(leaves_at.saturating_duration_since(Instant::now()), watch.next()).await;
            match step {
                Ok(Ok(Step::Batch(batch))) => {
                    self.at = place(&self.addrs, client.daemon());
                    self.take(&batch);
                }
                Ok(Ok(Step::Interrupted(error))) => {
                    self.see(Sight::Closed { reason: error.to_string() });
                    self.opens();
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return format!("refused: {error}"),
                Err(_) => return "it goes elsewhere".to_owned(),
            }
        }
    }

    fn take(&mut self, batch: &Batch) {
        if batch.reset {
            self.see(Sight::Reset);
            (self.complete, self.revision) = (false, 0);
        }
        for change in &batch.changes {
            self.see(match change {
                Change::Put(instance) => Sight::Put(row_of(instance)),
                Change::Gone(instance) => Sight::Gone { instance: instance.instance_id, revision: instance.revision },
                Change::Suspect { lease_id, suspect, .. } => Sight::Suspect { lease: *lease_id, suspect: *suspect },
                other => panic!("{other:?}"),
            });
        }
        self.complete |= batch.complete;
        if self.complete {
            self.revision = batch.revision;
        }
        self.history_id.clone_from(&batch.history_id);
        self.see(Sight::Reached { revision: batch.revision, complete: batch.complete });
    }
}
