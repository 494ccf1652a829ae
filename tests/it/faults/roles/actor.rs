//! An actor: registers, beats a little more often than every third of its TTL, goes to another daemon when one does not
//! answer, registers again when it is told that its lease is over.
//!
//! It knows its own truth: when it beat, what it was told, and when it fell silent on purpose.

use std::time::Duration;

use futures_util::stream;
use musterd::proto::v1::{BeatStreamRequest, BeatStreamResponse, InstanceStatus};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tonic::Streaming;
use uuid::Uuid;

use super::Role;
use crate::faults::{
    client::{PATIENCE, Registration, failure},
    history::{Answer, Op, Outcome},
};

/// How it beats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Unary,
    Stream,
}

/// An actor.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) role: Role,
    pub(crate) name: String,
    pub(crate) style: Style,
    pub(crate) begins_after: Duration,
    /// Falls silent after this time, without a word.
    pub(crate) quits_after: Option<Duration>,
    pub(crate) at: usize,
    pub(crate) lives: u32,
}

/// The two ends of an open stream.
struct Open {
    daemon: usize,
    requests: mpsc::Sender<BeatStreamRequest>,
    responses: Streaming<BeatStreamResponse>,
}

impl Actor {
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
                    self.role.kept.set(lease, None);
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
        let mut open = None;
        let mut last = Instant::now();
        loop {
            let interval = self.role.ttl.mul_f64(0.27);
            let pause = interval.saturating_sub(last.elapsed());
            let goes_on = self.role.pause(pause).await;
            if !goes_on || quits_at.is_some_and(|at| Instant::now() >= at) {
                self.role.kept.set(lease, Some(self.role.client.history.now()));
                return false;
            }
            last = Instant::now();
            if self.beat_somewhere(lease, &mut open).await {
                return true;
            }
        }
    }

    /// Beats at one daemon after the other until one accepts; returns true if it is told that the lease is over.
    async fn beat_somewhere(&mut self, lease: u64, open: &mut Option<Open>) -> bool {
        for _ in 0..self.role.client.daemons() {
            let outcome = match self.style {
                Style::Unary => self.role.client.beat(self.at, lease).await,
                Style::Stream => self.beat_on_stream(lease, open).await,
            };
            match outcome {
                Outcome::Ok(_) => return false,
                Outcome::Fail(reason) if is_over(&reason) => return true,
                _ => {
                    *open = None;
                    self.go_elsewhere();
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
        false
    }

    async fn beat_on_stream(&self, lease: u64, open: &mut Option<Open>) -> Outcome {
        let client = &self.role.client;
        let call = client.history.invoke(client.id, self.at, 1, Op::Beat { lease });
        let outcome = match timeout(PATIENCE, self.exchange(lease, open)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Unknown("no answer in time".to_owned()),
        };
        client.history.complete(call, outcome.clone());
        outcome
    }

    async fn exchange(&self, lease: u64, open: &mut Option<Open>) -> Outcome {
        if open.as_ref().is_none_or(|open| open.daemon != self.at) {
            match self.open().await {
                Ok(opened) => *open = Some(opened),
                Err(status) => return failure(&status),
            }
        }
        let Some(stream) = open else { return Outcome::Unknown("not open".to_owned()) };
        let request = BeatStreamRequest { lease_ids: vec![lease], goodbye: false };
        if stream.requests.send(request).await.is_err() {
            return Outcome::Unknown("the stream has ended".to_owned());
        }
        match stream.responses.message().await {
            Ok(Some(told)) => match told.exceptions.first() {
                Some(exception) => {
                    let reason = exception.reason().as_str_name().trim_start_matches("ERROR_REASON_");
                    Outcome::Fail(reason.to_owned())
                }
                None => Outcome::Ok(Answer::Beaten { epoch: told.epoch_number }),
            },
            Ok(None) => Outcome::Unknown("the stream has ended".to_owned()),
            Err(status) => failure(&status),
        }
    }

    async fn open(&self) -> Result<Open, tonic::Status> {
        let (requests, queue) = mpsc::channel::<BeatStreamRequest>(1);
        let outgoing = stream::unfold(queue, async |mut queue| Some((queue.recv().await?, queue)));
        let mut registry = self.role.client.wire(self.at).registry;
        let responses = registry.beat_stream(Box::pin(outgoing)).await?.into_inner();
        Ok(Open { daemon: self.at, requests, responses })
    }
}

fn is_over(reason: &str) -> bool {
    ["LEASE_EXPIRED", "LEASE_REPLACED", "UNKNOWN_LEASE", "UNKNOWN_INSTANCE", "EPOCH_FENCED"].contains(&reason)
}
