//! A writer: registers, looks itself up, changes its status, leaves, and begins again, as fast as it is answered.
//!
//! What it does not know the outcome of it repeats, at another daemon, a few times.

use musterd::proto::v1::InstanceStatus;
use uuid::Uuid;

use super::Role;
use crate::faults::{
    client::Registration,
    history::{Answer, Outcome},
};

/// A writer.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) role: Role,
    /// Repetitions of this round: a repeated call may find the work done.
    unknown: u32,
    rounds: u32,
    /// The epoch it names in every other registration.
    epoch: Option<Uuid>,
}

/// A change it asks for.
#[derive(Clone, Debug)]
enum Step {
    Register(Registration),
    Status(InstanceStatus),
    Leave,
}

impl Writer {
    pub(crate) fn new(role: Role) -> Self {
        Self { role, unknown: 0, rounds: 0, epoch: None }
    }

    /// Writes until it is told to stop.
    pub(crate) async fn run(mut self, epoch: Option<Uuid>) {
        self.epoch = epoch;
        while self.role.pause_between(5, 40).await {
            self.round().await;
        }
    }

    async fn round(&mut self) {
        self.unknown = 0;
        self.rounds += 1;
        let (id, rounds) = (self.role.client.id, self.rounds);
        let asked = Registration {
            instance: self.role.dice.id(),
            logical_id: format!("writer-{id}"),
            content: format!("writer-{id}-{rounds}"),
            epoch: self.epoch.filter(|_| rounds.is_multiple_of(2)),
            status: if rounds.is_multiple_of(3) { InstanceStatus::Starting } else { InstanceStatus::Alive },
            ttl: self.role.ttl,
        };
        let starting = asked.status == InstanceStatus::Starting;
        let Some(Answer::Registered { lease, revision, .. }) = self.insist(0, &Step::Register(asked)).await else {
            return;
        };
        let daemon = self.role.dice.below(self.role.client.daemons());
        self.role.client.resolve(daemon, &format!("writer-{id}"), revision).await;
        if starting {
            self.insist(lease, &Step::Status(InstanceStatus::Alive)).await;
        }
        self.insist(lease, &Step::Status(InstanceStatus::Draining)).await;
        if self.role.dice.once_in(2) {
            self.insist(lease, &Step::Status(InstanceStatus::Alive)).await;
        }
        self.insist(lease, &Step::Leave).await;
    }

    /// Asks until it is told what became of it, at most a few times.
    async fn insist(&mut self, lease: u64, step: &Step) -> Option<Answer> {
        for _ in 0..6 {
            let daemon = self.role.dice.below(self.role.client.daemons());
            let (client, attempt) = (&self.role.client, self.unknown + 1);
            let outcome = match step {
                Step::Register(asked) => client.register(daemon, attempt, asked).await,
                Step::Status(status) => client.set_status(daemon, attempt, lease, *status).await,
                Step::Leave => client.deregister(daemon, attempt, lease).await,
            };
            match outcome {
                Outcome::Ok(answer) => return Some(answer),
                Outcome::Fail(reason) if reason == "EPOCH_FENCED" => {
                    if matches!(step, Step::Register(_)) {
                        self.epoch = None;
                    }
                    return None;
                }
                Outcome::Fail(reason) if reason.starts_with("LEASE_") || reason.starts_with("UNKNOWN_") => return None,
                Outcome::Fail(_) => {}
                Outcome::Unknown(_) => self.unknown += 1,
            }
            if !self.role.pause_between(20, 200).await {
                return None;
            }
        }
        None
    }
}
