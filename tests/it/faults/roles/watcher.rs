//! A watcher: follows every change, and resumes where it was whenever its stream ends, at any daemon.
//!
//! Now and then it goes elsewhere by itself, so that resuming is the rule and not the exception.

use std::time::Duration;

use musterd::proto::{
    encoded::WatchResponse,
    v1::{WatchEvent, WatchEventType, WatchRequest},
};
use prost::Message as _;
use tokio::time::{Instant, timeout};
use tonic::Streaming;

use super::Role;
use crate::faults::{client, history::Sight};

/// Bookmarks come every 5 s; a stream without them is dead.
const SILENCE: Duration = Duration::from_secs(8);

/// A watcher.
#[derive(Debug)]
pub(crate) struct Watcher {
    role: Role,
    at: usize,
    roams: bool,
    revision: u64,
    history_id: String,
    complete: bool,
}

impl Watcher {
    pub(crate) fn new(role: Role, at: usize, roams: bool) -> Self {
        Self { role, at, roams, revision: 0, history_id: String::new(), complete: false }
    }

    /// Watches until it is told to stop.
    pub(crate) async fn run(mut self) {
        while !self.role.stop.is_cancelled() {
            let stop = self.role.stop.clone();
            let Some(reason) = stop.run_until_cancelled(self.session()).await else { return };
            self.see(Sight::Closed { reason });
            if !self.complete {
                self.revision = 0;
            }
            if self.roams {
                self.at = (self.at + 1) % self.role.client.daemons();
            }
            if !self.role.pause_between(20, 200).await {
                return;
            }
        }
    }

    fn see(&self, sight: Sight) {
        self.role.client.history.see(self.role.client.id, self.at, sight);
    }

    /// One stream, to its end.
    async fn session(&mut self) -> String {
        let request = WatchRequest {
            resume_after: self.revision,
            history_id: if self.revision > 0 { self.history_id.clone() } else { String::new() },
            ..Default::default()
        };
        let mut discovery = self.role.client.wire(self.at).discovery;
        let opened = timeout(Duration::from_secs(2), discovery.watch(request)).await;
        let mut responses: Streaming<WatchResponse> = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return format!("{:?}", client::failure(&status)),
            Err(_) => return "no answer in time".to_owned(),
        };
        self.see(Sight::Opened { resume_after: self.revision });
        self.complete = self.revision > 0;
        let leaves = self.role.dice.between(Duration::from_secs(1), Duration::from_secs(4));
        let leaves_at = Instant::now() + if self.roams { leaves } else { Duration::from_secs(3_600) };
        loop {
            let patience = SILENCE.min(leaves_at.saturating_duration_since(Instant::now()));
            match timeout(patience, responses.message()).await {
                Ok(Ok(Some(response))) => self.take(&response),
                Ok(Ok(None)) => return "ended without a reason".to_owned(),
                Ok(Err(status)) => return format!("{:?}", client::failure(&status)),
                Err(_) => return "it goes elsewhere".to_owned(),
            }
        }
    }

    fn take(&mut self, response: &WatchResponse) {
        if response.reset {
            self.see(Sight::Reset);
            (self.complete, self.revision) = (false, 0);
        }
        for event in &response.events {
            let event = WatchEvent::decode(event.clone()).unwrap();
            let kind = event.r#type();
            let instance = event.instance.unwrap();
            self.see(match kind {
                WatchEventType::Put => Sight::Put(client::row(&instance)),
                WatchEventType::Gone => {
                    let row = client::row(&instance);
                    Sight::Gone { instance: row.instance, revision: row.revision }
                }
                kind => Sight::Suspect { lease: instance.lease_id, suspect: kind == WatchEventType::Suspect },
            });
        }
        self.complete |= response.snapshot_complete;
        if self.complete {
            self.revision = response.revision;
        }
        self.history_id.clone_from(&response.history_id);
        self.see(Sight::Reached { revision: response.revision, complete: response.snapshot_complete });
    }
}
