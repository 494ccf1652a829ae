//! An actor that has no client, only generated code: registers, beats one call at a time, a little more often than every third
//! of its TTL, goes to another daemon when one does not answer, registers again when it is told that its lease is over.
//!
//! It knows its own truth: when it beat, what it was told, and when it fell silent on purpose.

use std::time::Duration;

use musterd::proto::v1::InstanceStatus;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::Role;
use crate::faults::{
    client::Registration,
    history::{Answer, Outcome},
};

/// An actor.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) role: Role,
    pub(crate) name: String,
    pub(crate) begins_after: Duration,
    /// Falls silent after this time, without a word.
    pub(crate) quits_after: Option<Duration>,
    pub(crate) at: usize,
    pub(crate) lives: u32,
}

impl Plain {
    /// Lives until it is told to stop, or quits.
    pub(crate) async fn live(mut self) {
        if !self.role.pause(self.begins_after).await {
            return;
        }
        let quits_at = self.quits_after.map(|after| Instant::now() + after);
        // Each actor has a phase of its own.
        if !self.role.pause_between(0, 900).await {
            return;
        }
        let mut instance = self.role.dice.id();
        while let Some(lease) = self.register(instance).await {
            if !self.keep(lease, quits_at).await {
                return;
            }
            if self.role.dice.once_in(2) {
                instance = self.role.dice.id();
            }
        }
    }

    /// Registers until that is acknowledged. `None`: it is time to stop.
    async fn register(&mut self, instance: Uuid) -> Option<u64> {
        let mut attempt = 0;
        let mut asked = self.registration(instance);
        loop {
            if self.role.stop.is_cancelled() {
                return None;
            }
            attempt += 1;
            match self.role.client.register(self.at, attempt, &asked).await {
                Outcome::Ok(Answer::Registered { lease, .. }) => {
                    self.role.kept.beats(lease);
                    return Some(lease);
                }
                Outcome::Fail(reason) if reason == "INSTANCE_ID_TAKEN" => {
                    (asked, attempt) = (self.registration(Uuid::new_v4()), 0);
                }
                _ => self.go_elsewhere(),
            }
            if !self.role.pause_between(20, 150).await {
                return None;
            }
        }
    }

    fn registration(&mut self, instance: Uuid) -> Registration {
        self.lives += 1;
        Registration {
            instance,
            logical_id: self.name.clone(),
            content: format!("actor-{}-{}", self.role.client.id, self.lives),
            epoch: None,
            status: InstanceStatus::Alive,
            ttl: self.role.ttl,
        }
    }

    fn go_elsewhere(&mut self) {
        self.at = (self.at + 1) % self.role.client.daemons();
    }

    /// Beats until the lease is over (true), or until it is time to stop or to quit (false).
    async fn keep(&mut self, lease: u64, quits_at: Option<Instant>) -> bool {
        let mut last = Instant::now();
        loop {
            let interval = self.role.ttl.mul_f64(0.27);
            let pause = interval.saturating_sub(last.elapsed());
            let goes_on = self.role.pause(pause).await;
            if !goes_on || quits_at.is_some_and(|at| Instant::now() >= at) {
                self.role.kept.is_silent(lease, self.role.client.history.now());
                return false;
            }
            last = Instant::now();
            if self.beat_somewhere(lease).await {
                return true;
            }
        }
    }

    /// Beats at one daemon after the other until one accepts; returns true if it is told that the lease is over.
    async fn beat_somewhere(&mut self, lease: u64) -> bool {
        for _ in 0..self.role.client.daemons() {
            match self.role.client.beat(self.at, lease).await {
                Outcome::Ok(_) => return false,
                Outcome::Fail(reason) if is_over(&reason) => return true,
                _ => {
                    self.go_elsewhere();
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
        false
    }
}

fn is_over(reason: &str) -> bool {
    ["LEASE_EXPIRED", "LEASE_REPLACED", "UNKNOWN_LEASE", "UNKNOWN_INSTANCE", "EPOCH_FENCED"].contains(&reason)
}
