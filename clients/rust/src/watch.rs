//! A watch that outlives its daemon: it resumes after the last revision that was seen, on any daemon.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tonic::Streaming;
use uuid::Uuid;

use crate::{
    address::Address,
    backoff::Backoff,
    client::{Client, MAX_ANSWER_BYTES},
    daemons::Connection,
    error::Error,
    model::{Filter, Instance},
    reason::{Kind, Reason},
    wire::{
        self, WatchEvent, WatchEventType, WatchRequest, WatchResponse, discovery_service_client::DiscoveryServiceClient,
    },
};

/// A daemon sends a bookmark every 5 s. Without one for this long the stream counts as broken.
const SILENCE_MAX: Duration = Duration::from_secs(12);
/// How long the opening of a stream may take.
const OPEN_MAX: Duration = Duration::from_secs(5);

/// One change.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// It matches the filter and is new or changed.
    Put(Box<Instance>),
    /// It matched and no longer does.
    Gone(Box<Instance>),
    /// A hint of one daemon, without a revision: the instance is suspect, or no longer so.
    Suspect {
        /// The name of the instance.
        logical_id: String,
        /// The instance.
        instance_id: Uuid,
        /// Its lease.
        lease_id: u64,
        /// Whether it is suspect.
        suspect: bool,
    },
}

/// What one response of the daemon brought.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Batch {
    /// The changes, in the order of their revisions; hints last.
    pub changes: Vec<Change>,
    /// With these, every change up to this revision has been seen.
    pub revision: u64,
    /// The history that the revision belongs to.
    pub history_id: String,
    /// The current epoch. Instances of any other are dead, with or without a change that says so.
    pub cluster_epoch: Uuid,
    /// Number of the current epoch.
    pub epoch_number: u64,
    /// What was known before must be dropped: a snapshot follows, beginning with this batch.
    pub reset: bool,
    /// Whether what has been seen is complete: false while a snapshot arrives in parts.
    pub complete: bool,
    /// How long ago PostgreSQL last confirmed what the daemon knows: what has been seen is at least so old. Zero from a daemon
    /// that does not tell.
    pub stale_for: Duration,
    /// Only what the caller may read is told, and that is not all that it asked for.
    pub filtered: bool,
}

/// What a watch yields.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Step {
    /// Changes.
    Batch(Batch),
    /// The stream has broken. The watch resumes by itself; what is known ages meanwhile.
    Interrupted(Error),
}

/// A watch. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    request: WatchRequest,
    stream: Option<(Streaming<WatchResponse>, Connection)>,
    /// The connection at which the latest stream was not opened.
    refused_by: Option<Connection>,
    /// The snapshot is not complete yet; until it is, there is nothing to resume from.
    in_snapshot: bool,
    /// A part of a snapshot was passed on, and the stream broke: it must be dropped.
    torn: bool,
    /// A daemon has answered, so the watch is allowed: a credential that is refused later can be renewed.
    was_open: bool,
    backoff: Backoff,
    failures: usize,
}

impl Client {
    /// Watches the instances that match: a snapshot, then every change.
    #[must_use]
    pub fn watch(&self, filter: &Filter) -> Watch {
        Watch::new(self.clone(), filter.to_watch())
    }
}

impl Watch {
    fn new(client: Client, request: WatchRequest) -> Self {
        let backoff = Backoff::default();
        let (in_snapshot, torn, was_open) = (true, false, false);
        let (stream, refused_by, failures) = (None, None, 0);
        Self { client, request, stream, refused_by, in_snapshot, torn, was_open, backoff, failures }
    }

    /// Begins after a revision that was seen before, in this history, instead of with a snapshot.
    #[must_use]
    pub fn resume_after(mut self, revision: u64, history_id: impl Into<String>) -> Self {
        (self.request.resume_after, self.request.history_id) = (revision, history_id.into());
        self.in_snapshot = revision == 0;
        self
    }

    /// Waits for the next step. Cancel safe: a step that was not returned is not lost.
    ///
    /// # Errors
    /// The daemon refused the request for good, for example because of a field. The watch has ended then. A credential that is
    /// refused after the daemon has answered once is an interruption instead: it may be renewed.
    pub async fn next(&mut self) -> Result<Step, Error> {
        let interruption = match self.advance().await {
            Ok(response) => return self.take(response).map(Step::Batch),
            Err(error) if error.is_retryable() => error,
            // A token file is renewed by another program, perhaps a moment later than its token has expired.
            Err(error) if self.was_open && error.kind() == Kind::Unauthenticated => error,
            Err(error) => return Err(error),
        };
        // First what must not be lost if the caller drops this future at the await.
        let broken = self.stream.take().map(|(_, connection)| connection);
        self.torn |= self.in_snapshot && broken.is_some();
        self.failures += 1;
        let (daemons, refused_by) = (self.client.daemons(), self.refused_by.take());
        match &refused_by {
            // Its other streams and calls go on, and the next stream opens another one to the same daemon.
            Some(full) if interruption.reason() == Reason::TooManyStreams => daemons.leave(full).await,
            _ => daemons.give_up(broken.as_ref().or(refused_by.as_ref())).await,
        }
        Ok(Step::Interrupted(interruption))
    }

    async fn advance(&mut self) -> Result<WatchResponse, Error> {
        if self.stream.is_none() {
            self.open().await?;
        }
        let Some((stream, connection)) = &mut self.stream else { return Err(Error::malformed("stream")) };
        match timeout(SILENCE_MAX, stream.message()).await {
            Ok(Ok(Some(response))) => Ok(response),
            Ok(Ok(None)) => Err(ended(&connection.address)),
            Ok(Err(status)) => Err(Error::from_status(&connection.address, &status)),
            Err(_) => Err(Error::silent(&connection.address, SILENCE_MAX)),
        }
    }

    async fn open(&mut self) -> Result<(), Error> {
        // Each daemon is tried once without a pause.
        if self.failures >= self.client.daemons().count() {
            sleep(self.backoff.pause()).await;
        }
        let limit = OPEN_MAX.min(self.client.timeout());
        let connection = self.client.daemons().reach(limit).await?;
        let discovery = DiscoveryServiceClient::new(connection.channel.clone());
        let mut discovery = discovery.max_decoding_message_size(MAX_ANSWER_BYTES);
        let opened = timeout(limit, discovery.watch(self.request.clone())).await;
        let opened = opened
            .map_err(|_| Error::silent(&connection.address, limit))
            .and_then(|answer| answer.map_err(|status| Error::from_status(&connection.address, &status)));
        match opened {
            Ok(opened) => self.stream = Some((opened.into_inner(), connection)),
            Err(error) => {
                self.refused_by = Some(connection);
                return Err(error);
            }
        }
        Ok(())
    }

    fn take(&mut self, response: WatchResponse) -> Result<Batch, Error> {
        (self.failures, self.backoff, self.was_open) = (0, Backoff::default(), true);
        let reset = response.reset || std::mem::take(&mut self.torn);
        self.in_snapshot = (self.in_snapshot || response.reset) && !response.snapshot_complete;
        if !self.in_snapshot {
            (self.request.resume_after, self.request.history_id) = (response.revision, response.history_id.clone());
        } else {
            (self.request.resume_after, self.request.history_id) = (0, String::new());
        }
        Ok(Batch {
            changes: response.events.into_iter().filter_map(change).collect::<Result<_, _>>()?,
            revision: response.revision,
            history_id: response.history_id,
            cluster_epoch: wire::uuid(&response.cluster_epoch, "cluster epoch")?,
            epoch_number: response.epoch_number,
            reset,
            complete: !self.in_snapshot,
            stale_for: wire::duration(response.stale_for.as_ref()),
            filtered: response.filtered,
        })
    }
}

fn ended(daemon: &Address) -> Error {
    Error::broken(daemon, "the stream ended without a reason")
}

/// One change; `None` if it is of a type that this version does not know.
fn change(event: WatchEvent) -> Option<Result<Change, Error>> {
    let kind = event.r#type();
    let Some(instance) = event.instance else { return Some(Err(Error::malformed("instance"))) };
    let whole = |change: fn(Box<Instance>) -> Change, instance: wire::Instance| {
        Instance::try_from(instance).map(|instance| change(Box::new(instance)))
    };
    match kind {
        WatchEventType::Put => Some(whole(Change::Put, instance)),
        WatchEventType::Gone => Some(whole(Change::Gone, instance)),
        WatchEventType::Suspect | WatchEventType::Recovered => {
            let hint = |instance_id| Change::Suspect {
                logical_id: instance.logical_id,
                instance_id,
                lease_id: instance.lease_id,
                suspect: kind == WatchEventType::Suspect,
            };
            Some(wire::uuid(&instance.instance_id, "instance id").map(hint))
        }
        WatchEventType::Unspecified => None,
    }
}
