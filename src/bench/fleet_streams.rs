//! The beats of a fleet: each stream keeps its share of the leases alive, in requests that are spread over the interval.
//!
//! A fleet grows while it beats: the leases registered first would not live until the last are registered. So a stream
//! takes new leases from an inbox, and puts them into its latest request until that is full.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};
use tonic::Status;

use super::{
    record::{Latencies, Recorder},
    streams::{Beats, count},
    wire::Channel,
};
use crate::{
    model::spread::mix,
    proto::v1::{self, registry_service_client::RegistryServiceClient},
};

/// How often the inbox is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// The pause before a broken stream is opened again.
const PAUSE: Duration = Duration::from_millis(500);

/// Leases on their way from registration to their stream.
#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<Vec<u64>>);

impl Inbox {
    pub(super) fn put(&self, lease_id: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(lease_id);
    }

    fn take(&self) -> Vec<u64> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The leases of one request.
#[derive(Debug)]
struct Chunk {
    lease_ids: Vec<u64>,
    due: Instant,
    sent: Option<Instant>,
}

/// What one stream does.
#[derive(Debug)]
pub(super) struct FleetStream {
    pub(super) registry: RegistryServiceClient<Channel>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) number: u64,
    pub(super) batch: usize,
    pub(super) interval: Duration,
    /// How long an answer may take.
    pub(super) grace: Duration,
    /// Set when the fleet ends.
    pub(super) over: Arc<AtomicBool>,
    pub(super) beats: Arc<AtomicU64>,
}

/// What one stream saw.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) recorder: Recorder,
    /// From one beat of a lease to its next, both acknowledged.
    pub(super) gaps: Latencies,
    /// How often the stream broke.
    pub(super) broken: u64,
    chunks: Vec<Chunk>,
}

impl Seen {
    pub(super) fn new(recorder: Recorder, gaps: Latencies) -> Self {
        Self { recorder, gaps, broken: 0, chunks: Vec::new() }
    }

    /// Takes new leases into the latest request, or a new one whose time is anywhere in the interval.
    fn accept(&mut self, lease_ids: Vec<u64>, batch: usize, interval: Duration, seed: u64) {
        for lease_id in lease_ids {
            if self.chunks.last().is_none_or(|chunk| chunk.lease_ids.len() >= batch) {
                let number = u64::try_from(self.chunks.len()).unwrap_or_default();
                let phase = u32::try_from(mix(mix(seed) ^ number) % 1_000).unwrap_or_default();
                let due = Instant::now() + interval * phase / 1_000;
                self.chunks.push(Chunk { lease_ids: Vec::with_capacity(batch), due, sent: None });
            }
            if let Some(chunk) = self.chunks.last_mut() {
                chunk.lease_ids.push(lease_id);
            }
        }
    }
}

impl FleetStream {
    /// Beats until the fleet ends.
    pub(super) async fn run(self, mut seen: Seen) -> Seen {
        while !self.is_over() {
            match self.beat(&mut seen).await {
                Ok(()) => break,
                Err(status) => {
                    seen.broken += 1;
                    seen.recorder.failed(&status);
                    sleep(PAUSE).await;
                }
            }
        }
        seen
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    async fn beat(&self, seen: &mut Seen) -> Result<(), Status> {
        let mut stream = Beats::open(self.registry.clone(), 1).await?;
        while !self.is_over() {
            seen.accept(self.inbox.take(), self.batch, self.interval, self.number);
            let Some(next) = seen.chunks.iter_mut().min_by_key(|chunk| chunk.due) else {
                sleep(LOOK).await;
                continue;
            };
            let wait = next.due.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                sleep(wait.min(LOOK)).await;
                continue;
            }
            stream.send(next.lease_ids.clone()).await?;
            let late = || Status::deadline_exceeded("no answer to a beat");
            let answer = timeout(self.grace, stream.answer()).await.map_err(|_| late())??;
            let now = Instant::now();
            count(&mut seen.recorder, now - next.due, &answer);
            self.beats.fetch_add(answer.renewed.into(), Ordering::Relaxed);
            if let Some(before) = next.sent.replace(now) {
                seen.gaps.add(now - before);
            }
            // One that has ended has been counted; its owner would register again.
            let ended = answer.exceptions.iter().filter(|it| it.reason() != v1::ErrorReason::NotYetSeen);
            let ended: HashSet<u64> = ended.map(|ended| ended.lease_id).collect();
            next.lease_ids.retain(|lease_id| !ended.contains(lease_id));
            next.due = (next.due + self.interval).max(now);
        }
        stream.close(self.grace).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_leases_fill_the_latest_request_and_times_lie_within_the_interval() {
        let mut seen = Seen::new(Recorder::new().unwrap(), Latencies::new().unwrap());
        let interval = Duration::from_secs(10);
        let before = Instant::now();
        seen.accept(vec![1, 2, 3], 2, interval, 7);
        seen.accept(vec![4, 5], 2, interval, 7);
        let lists: Vec<_> = seen.chunks.iter().map(|chunk| chunk.lease_ids.clone()).collect();
        assert_eq!(lists, [vec![1, 2], vec![3, 4], vec![5]]);
        let latest = Instant::now() + interval;
        assert!(seen.chunks.iter().all(|chunk| (before..latest).contains(&chunk.due)));
    }
}
