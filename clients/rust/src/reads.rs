//! What routers and observers read: resolve, instances, lists. Each answer says as of which revision it is right, and how
//! long ago PostgreSQL confirmed what the daemon knows.

use std::time::Duration;

use futures_util::{Stream, TryStreamExt as _, stream};
use uuid::Uuid;

use crate::{
    choice::Choice,
    client::{Client, MAX_ANSWER_BYTES},
    connect::Channel,
    error::Error,
    model::{Filter, Instance},
    reason::Reason,
    wire::{
        self, BatchResolveRequest, CheckLeaseRequest, GetInstanceRequest, ListInstancesRequest, ResolveRequest,
        discovery_service_client::DiscoveryServiceClient,
    },
};

/// The answer of [`Client::resolve`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Resolved {
    /// The instance that was chosen.
    pub instance: Instance,
    /// How many other live instances the choice was from.
    pub alternatives: u32,
    /// The current epoch.
    pub cluster_epoch: Uuid,
    /// Number of that epoch.
    pub epoch_number: u64,
    /// The answer is right as of this revision.
    pub revision: u64,
    /// How long ago PostgreSQL last confirmed what the daemon knows.
    pub stale_for: Duration,
}

/// The answer of [`Client::resolve_all`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResolvedAll {
    /// For each name, in their order, the instance that was chosen and how many others there were; or why there is none.
    pub results: Vec<Result<(Instance, u32), Reason>>,
    /// The current epoch.
    pub cluster_epoch: Uuid,
    /// Number of that epoch.
    pub epoch_number: u64,
    /// The answers are right as of this revision.
    pub revision: u64,
    /// How long ago PostgreSQL last confirmed what the daemon knows.
    pub stale_for: Duration,
}

/// The answer of [`Client::instance`] and [`Client::check_lease`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found {
    /// The instance.
    pub instance: Instance,
    /// The answer is right as of this revision.
    pub revision: u64,
    /// How long ago PostgreSQL last confirmed what the daemon knows.
    pub stale_for: Duration,
}

/// A part of a list.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Page {
    /// Instances, by logical id and instance id.
    pub instances: Vec<Instance>,
    /// The page is a snapshot at this revision.
    pub revision: u64,
    /// How long ago PostgreSQL last confirmed what the daemon knows.
    pub stale_for: Duration,
}

impl Client {
    /// A live instance of a logical id.
    ///
    /// # Errors
    /// [`Reason::UnknownLogicalId`] or [`Reason::NoLiveInstance`]; a refused argument; or no daemon answered.
    pub async fn resolve(&self, logical_id: &str, choice: &Choice) -> Result<Resolved, Error> {
        let (logical_id, choice) = (logical_id.to_owned(), Some(choice.to_wire()));
        let message = ResolveRequest { logical_id, choice, min_revision: self.seen().revision() };
        let answer = self.call(message, |channel, request| async { discovery(channel).resolve(request).await }).await?;
        self.seen().note(answer.revision);
        Ok(Resolved {
            instance: found(answer.instance)?,
            alternatives: answer.alternatives,
            cluster_epoch: wire::uuid(&answer.cluster_epoch, "cluster epoch")?,
            epoch_number: answer.epoch_number,
            revision: answer.revision,
            stale_for: wire::duration(answer.stale_for.as_ref()),
        })
    }

    /// A live instance of each of up to 1,000 logical ids, all as of one revision. Names whose instances do not fit into
    /// one answer are asked for again, and are then as of a later one.
    ///
    /// # Errors
    /// A refused argument, or no daemon answered. A name without an instance is no error of the call.
    pub async fn resolve_all(&self, logical_ids: &[String], choice: &Choice) -> Result<ResolvedAll, Error> {
        let mut all = self.resolve_some(logical_ids.to_vec(), choice).await?;
        loop {
            let left_out = |result: &Result<_, Reason>| matches!(result, Err(Reason::AnswerTooLarge));
            let left: Vec<usize> = (0..all.results.len()).filter(|at| left_out(&all.results[*at])).collect();
            if left.is_empty() {
                return Ok(all);
            }
            let again = left.iter().map(|at| logical_ids[*at].clone()).collect();
            let more = self.resolve_some(again, choice).await?.results;
            if more.iter().all(left_out) {
                return Err(Error::malformed("instance that fits into an answer"));
            }
            for (at, result) in left.into_iter().zip(more) {
                all.results[at] = result;
            }
        }
    }

    async fn resolve_some(&self, logical_ids: Vec<String>, choice: &Choice) -> Result<ResolvedAll, Error> {
        let asked = logical_ids.len();
        let min_revision = self.seen().revision();
        let message = BatchResolveRequest { logical_ids, min_revision, choice: Some(choice.to_wire()) };
        let method = |channel, request| async { discovery(channel).batch_resolve(request).await };
        let answer = self.call(message, method).await?;
        self.seen().note(answer.revision);
        let result = |one: wire::BatchResolveResult| match (one.reason(), one.instance) {
            (_, Some(instance)) => Ok(Ok((instance.try_into()?, one.alternatives))),
            (reason, None) => Ok(Err(Reason::from(reason))),
        };
        let results = answer.results.into_iter().map(result).collect::<Result<Vec<_>, Error>>()?;
        if results.len() != asked {
            return Err(Error::malformed("result for each name"));
        }
        Ok(ResolvedAll {
            results,
            cluster_epoch: wire::uuid(&answer.cluster_epoch, "cluster epoch")?,
            epoch_number: answer.epoch_number,
            revision: answer.revision,
            stale_for: wire::duration(answer.stale_for.as_ref()),
        })
    }

    /// One instance by its id, also a dead one while it is on record.
    ///
    /// # Errors
    /// [`Reason::UnknownInstance`], or no daemon answered.
    pub async fn instance(&self, instance_id: Uuid) -> Result<Found, Error> {
        let (instance_id, min_revision) = (instance_id.to_string(), self.seen().revision());
        let message = GetInstanceRequest { instance_id, min_revision };
        let method = |channel, request| async { discovery(channel).get_instance(request).await };
        let answer = self.call(message, method).await?;
        self.seen().note(answer.revision);
        let stale_for = wire::duration(answer.stale_for.as_ref());
        Ok(Found { instance: found(answer.instance)?, revision: answer.revision, stale_for })
    }

    /// The live instance that holds a lease: for a receiver that is handed a lease id as a fencing token.
    ///
    /// # Errors
    /// The lease has ended or is unknown, or no daemon answered.
    pub async fn check_lease(&self, lease_id: u64) -> Result<Found, Error> {
        let message = CheckLeaseRequest { lease_id, min_revision: self.seen().revision() };
        let method = |channel, request| async { discovery(channel).check_lease(request).await };
        let answer = self.call(message, method).await?;
        self.seen().note(answer.revision);
        let stale_for = wire::duration(answer.stale_for.as_ref());
        Ok(Found { instance: found(answer.instance)?, revision: answer.revision, stale_for })
    }

    /// All instances that match, by logical id and instance id. The stream ends after an error.
    pub fn list(&self, filter: Filter) -> impl Stream<Item = Result<Instance, Error>> + Send + use<> {
        self.pages(filter).map_ok(|page| stream::iter(page.instances.into_iter().map(Ok))).try_flatten()
    }

    /// As [`Self::list`], page after page. Each page is a snapshot of its own revision, never of a lower one than the page
    /// before.
    pub fn pages(&self, filter: Filter) -> impl Stream<Item = Result<Page, Error>> + Send + use<> {
        // The token of the next page; `None` after the last one.
        let first = (self.clone(), filter, Some(String::new()));
        stream::try_unfold(first, |(client, filter, token)| async move {
            let Some(token) = token else { return Ok(None) };
            let (page, next) = client.page(&filter, &token).await?;
            Ok(Some((page, (client, filter, Some(next).filter(|token| !token.is_empty())))))
        })
    }

    async fn page(&self, filter: &Filter, token: &str) -> Result<(Page, String), Error> {
        let message = ListInstancesRequest { min_revision: self.seen().revision(), ..filter.to_list(token) };
        let method = |channel, request| async { discovery(channel).list_instances(request).await };
        let answer = self.call(message, method).await?;
        self.seen().note(answer.revision);
        let mut instances = answer.instances.into_iter().map(Instance::try_from).collect::<Result<Vec<_>, _>>()?;
        let mut next = answer.next_page_token;
        if !filter.logical_id.is_empty() {
            // The protocol lists by prefix, in order: longer names follow the one that is meant, and end the list.
            let count = instances.len();
            instances.retain(|one| one.logical_id == filter.logical_id);
            if instances.len() < count {
                next.clear();
            }
        }
        let stale_for = wire::duration(answer.stale_for.as_ref());
        Ok((Page { instances, revision: answer.revision, stale_for }, next))
    }
}

fn found(instance: Option<wire::Instance>) -> Result<Instance, Error> {
    instance.ok_or_else(|| Error::malformed("instance"))?.try_into()
}

pub(crate) fn discovery(channel: Channel) -> DiscoveryServiceClient<Channel> {
    DiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}
