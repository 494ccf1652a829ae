//! What operators do: look at the cluster, rotate the epoch, overrule expiry, and change instances of others.
//!
//! Every call may be repeated after an unknown outcome ([`Error::may_be_applied`]): it takes effect once.

use std::time::Duration;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use uuid::Uuid;

use crate::{
    client::{Client, MAX_ANSWER_BYTES},
    cluster::{Changed, Cluster, Decision, DecisionFilter, Epoch, Rotated, WhoAmI},
    connect::Channel,
    error::Error,
    model::Status,
    wire::{
        self, DeregisterRequest, ExpireInstanceRequest, GetClusterRequest, HoldExpiryRequest, InstanceStatus,
        ListDecisionsRequest, ListEpochsRequest, ReleaseExpiryRequest, RotateEpochRequest, SetStatusRequest,
        WhoAmIRequest, cluster_service_client::ClusterServiceClient, registry_service_client::RegistryServiceClient,
    },
};

/// Epochs of one page: as many as the protocol allows.
const EPOCHS: i32 = 1_000;
/// Decisions of one page. A denied caller chooses part of each, up to a kilobyte.
const DECISIONS: i32 = 500;

impl Client {
    /// The state of the cluster, by what the daemon knows at this moment; at most `unserved` logical ids without a live
    /// instance, up to 1,000, are named.
    ///
    /// # Errors
    /// No daemon answered, or none has loaded the registry.
    pub async fn cluster(&self, unserved: u32) -> Result<Cluster, Error> {
        let unserved_limit = i32::try_from(unserved).unwrap_or(i32::MAX);
        let message = GetClusterRequest { min_revision: 0, unserved_limit };
        let method = |channel, request| async { cluster(channel).get_cluster(request).await };
        let answer = self.call(message, method).await?;
        self.seen().note(answer.revision);
        answer.try_into()
    }

    /// Which identity the daemon knows this client by, and what it may do.
    ///
    /// # Errors
    /// No daemon answered, or the credential is refused.
    pub async fn who_am_i(&self) -> Result<WhoAmI, Error> {
        let method = |channel, request| async { cluster(channel).who_am_i(request).await };
        Ok(self.call(WhoAmIRequest {}, method).await?.into())
    }

    /// All epochs, the newest first. The stream ends after an error.
    pub fn epochs(&self) -> impl Stream<Item = Result<Epoch, Error>> + Send + use<> {
        self.epoch_pages(EPOCHS)
    }

    /// The latest epoch; `None` if there is none yet.
    ///
    /// # Errors
    /// No daemon answered, or PostgreSQL cannot be reached.
    pub async fn latest_epoch(&self) -> Result<Option<Epoch>, Error> {
        Box::pin(self.epoch_pages(1)).next().await.transpose()
    }

    fn epoch_pages(&self, page_size: i32) -> impl Stream<Item = Result<Epoch, Error>> + Send + use<> {
        // The token of the next page; `None` after the last one.
        let pages = stream::try_unfold((self.clone(), Some(String::new())), move |(client, token)| async move {
            let Some(page_token) = token else { return Ok(None) };
            let message = ListEpochsRequest { page_size, page_token };
            let method = |channel, request| async { cluster(channel).list_epochs(request).await };
            let answer = client.call(message, method).await?;
            let epochs = answer.epochs.into_iter().map(Epoch::try_from).collect::<Result<Vec<_>, _>>()?;
            let next = Some(answer.next_page_token).filter(|token| !token.is_empty());
            Ok(Some((stream::iter(epochs.into_iter().map(Ok)), (client, next))))
        });
        pages.try_flatten()
    }

    /// The decisions on record that match, the newest first. The stream ends after an error.
    pub fn decisions(&self, filter: &DecisionFilter) -> impl Stream<Item = Result<Decision, Error>> + Send + use<> {
        let (since, action, by) = filter.parts();
        let since = since.map(wire::to_time);
        let pages = stream::try_unfold((self.clone(), Some(String::new())), move |(client, token)| {
            let (action, by) = (action.clone(), by.clone());
            async move {
                let Some(page_token) = token else { return Ok(None) };
                let message = ListDecisionsRequest { page_size: DECISIONS, page_token, since, action, by };
                let method = |channel, request| async { cluster(channel).list_decisions(request).await };
                let answer = client.call(message, method).await?;
                let decisions = answer.decisions.into_iter().map(|decision| Ok(Decision::from(decision)));
                let next = Some(answer.next_page_token).filter(|token| !token.is_empty());
                Ok(Some((stream::iter(decisions), (client, next))))
            }
        });
        pages.try_flatten()
    }

    /// Begins a new epoch; every instance of an older one is dead from then on. With `expected`, only if that epoch is the
    /// current one. Daemons do so at most once in 10 s.
    ///
    /// # Errors
    /// [`Reason::EpochMismatch`](crate::Reason::EpochMismatch) or [`Reason::EpochReused`](crate::Reason::EpochReused),
    /// [`Reason::QuotaExceeded`](crate::Reason::QuotaExceeded) with [`Error::retry_after`] within 10 s of another rotation, a
    /// refused argument, or the outcome is unknown.
    pub async fn rotate_epoch(&self, new: Uuid, expected: Option<Uuid>, reason: &str) -> Result<Rotated, Error> {
        self.rotate(new, expected, reason, false).await
    }

    /// As [`Self::rotate_epoch`], however soon after another rotation.
    ///
    /// # Errors
    /// As [`Self::rotate_epoch`].
    pub async fn force_rotate_epoch(&self, new: Uuid, expected: Option<Uuid>, reason: &str) -> Result<Rotated, Error> {
        self.rotate(new, expected, reason, true).await
    }

    async fn rotate(&self, new: Uuid, expected: Option<Uuid>, reason: &str, force: bool) -> Result<Rotated, Error> {
        let expected_epoch = expected.as_ref().map(Uuid::to_string).unwrap_or_default();
        let message =
            RotateEpochRequest { expected_epoch, new_epoch: new.to_string(), reason: reason.to_owned(), force };
        let method = |channel, request| async { cluster(channel).rotate_epoch(request).await };
        let answer = self.call(message, method).await?;
        self.seen().note(answer.revision);
        let previous = Some(&answer.previous_epoch).filter(|text| !text.is_empty());
        Ok(Rotated {
            cluster_epoch: wire::uuid(&answer.cluster_epoch, "cluster epoch")?,
            epoch_number: answer.epoch_number,
            revision: answer.revision,
            previous_epoch: previous.map(|text| wire::uuid(text, "previous epoch")).transpose()?,
            rotated: answer.rotated,
        })
    }

    /// Suspends expiry for so long, 1 s to 1 h; without a duration for the longest TTL and 5 s. A hold that ends later
    /// stays. Returns for how long expiry is suspended at least.
    ///
    /// # Errors
    /// A refused argument, or the outcome is unknown.
    pub async fn hold_expiry(&self, duration: Option<Duration>, reason: &str) -> Result<Duration, Error> {
        let duration = duration.map(|duration| wire::operator_duration("duration", duration)).transpose()?;
        let message = HoldExpiryRequest { duration, reason: reason.to_owned() };
        let method = |channel, request| async { cluster(channel).hold_expiry(request).await };
        Ok(wire::duration(self.call(message, method).await?.remaining.as_ref()))
    }

    /// Resumes expiry, and lifts the limit on its rate for so long, 1 s to 1 h; without a duration for 5 minutes.
    ///
    /// # Errors
    /// A refused argument, or the outcome is unknown.
    pub async fn release_expiry(&self, duration: Option<Duration>) -> Result<(), Error> {
        let duration = duration.map(|duration| wire::operator_duration("duration", duration)).transpose()?;
        let method = |channel, request| async { cluster(channel).release_expiry(request).await };
        self.call(ReleaseExpiryRequest { duration }, method).await.map(drop)
    }

    /// Declares an instance dead, whatever hold and brake say; with a lease only if it still has that one.
    ///
    /// # Errors
    /// [`Reason::UnknownInstance`](crate::Reason::UnknownInstance), or the outcome is unknown.
    pub async fn expire(&self, instance_id: Uuid, lease_id: Option<u64>) -> Result<Changed, Error> {
        let lease_id = lease_id.unwrap_or_default();
        let message = ExpireInstanceRequest { instance_id: instance_id.to_string(), lease_id };
        let method = |channel, request| async { cluster(channel).expire_instance(request).await };
        let answer = self.call(message, method).await?;
        self.seen().note(answer.revision);
        Ok(Changed { lease_id, revision: answer.revision, already_dead: answer.already_dead })
    }

    /// Sets the status of an instance on behalf of its owner, for example to draining.
    ///
    /// # Errors
    /// The instance is unknown or dead, the change is not allowed, or the outcome is unknown.
    pub async fn set_status(&self, instance_id: Uuid, status: Status) -> Result<Changed, Error> {
        self.set_status_because(instance_id, status, "").await
    }

    /// As [`Self::set_status`], with the reason, at most 256 bytes. With the present status, another reason takes the place of the
    /// former at most every 10 s.
    ///
    /// # Errors
    /// As [`Self::set_status`], or the reason is too long.
    pub async fn set_status_because(&self, instance_id: Uuid, status: Status, reason: &str) -> Result<Changed, Error> {
        let status = InstanceStatus::from(status).into();
        let message =
            SetStatusRequest { lease_id: 0, instance_id: instance_id.to_string(), status, reason: reason.to_owned() };
        let method = |channel, request| async { registry(channel).set_status(request).await };
        let answer = self.call(message, method).await?;
        self.seen().note(answer.revision);
        Ok(Changed { lease_id: answer.lease_id, revision: answer.revision, already_dead: false })
    }

    /// Ends the lease of an instance on behalf of its owner.
    ///
    /// # Errors
    /// The instance is unknown, or the outcome is unknown.
    pub async fn deregister(&self, instance_id: Uuid) -> Result<Changed, Error> {
        let message = DeregisterRequest { lease_id: 0, instance_id: instance_id.to_string() };
        let method = |channel, request| async { registry(channel).deregister(request).await };
        let answer = self.call(message, method).await?;
        self.seen().note(answer.revision);
        Ok(Changed { lease_id: answer.lease_id, revision: answer.revision, already_dead: answer.already_dead })
    }
}

fn cluster(channel: Channel) -> ClusterServiceClient<Channel> {
    ClusterServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

fn registry(channel: Channel) -> RegistryServiceClient<Channel> {
    RegistryServiceClient::new(channel)
}
