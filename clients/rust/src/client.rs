//! The client: one handle for all calls to a registry.

use std::{
    collections::VecDeque,
    env,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::{Stream, stream};
use tonic::Request;
use uuid::Uuid;

use crate::{
    address,
    choice::Choice,
    daemons::{Daemons, Seen},
    error::Error,
    lease::{BeatThread, Register, Registration},
    model::{Filter, Instance},
    watch::Watch,
    wire::{
        self, CheckLeaseRequest, GetInstanceRequest, ListInstancesRequest, ResolveRequest,
        discovery_service_client::DiscoveryServiceClient,
    },
};

/// The variable that names the daemons.
const VARIABLE: &str = "MUSTERD_ADDR";
/// The daemon of a machine that has one.
const DEFAULT: &str = "127.0.0.1:7717";
/// How long a call may take unless the application says otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer that is accepted.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Settings of a [`Client`].
#[derive(Clone, Debug)]
pub struct Builder {
    daemons: Vec<String>,
    timeout: Duration,
    user_agent: String,
}

impl Builder {
    /// The daemons, each as `host:port`, `http://host:port` or `host` (port 7717), in the order in which they are tried.
    #[must_use]
    pub fn daemons(mut self, daemons: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.daemons = daemons.into_iter().map(Into::into).collect();
        self
    }

    /// How long each call may take, all attempts included. Default: 5 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Name and version of the application, put before those of this crate in the user agent.
    #[must_use]
    pub fn application(mut self, name: &str) -> Self {
        self.user_agent = format!("{name} {}", user_agent());
        self
    }

    /// The client. Connects to no daemon yet, so that an application can start before its registry.
    ///
    /// # Errors
    /// [`Reason::InvalidField`](crate::Reason::InvalidField): an address cannot be read.
    pub fn build(self) -> Result<Client, Error> {
        let addresses = self.daemons.iter().map(|text| address::parse("daemons", text));
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        let daemons = Daemons::new(&addresses, &self.user_agent, Seen::default())?;
        let inner = Inner { daemons, addresses, settings: self, beats: OnceLock::new() };
        Ok(Client { inner: Arc::new(inner) })
    }
}

fn user_agent() -> String {
    concat!("musterd-client/", env!("CARGO_PKG_VERSION")).to_owned()
}

/// A client of one registry, which any of its daemons serves. Clones share connections and the beat thread.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    daemons: Daemons,
    addresses: Vec<String>,
    settings: Builder,
    beats: OnceLock<Arc<BeatThread>>,
}

/// The answer of [`Client::resolve`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Resolved {
    /// The instance that was chosen.
    pub instance: Instance,
    /// The answer is right as of this revision.
    pub revision: u64,
    /// How many other live instances the choice was from.
    pub alternatives: u32,
    /// How long ago PostgreSQL last confirmed what the daemon knows.
    pub stale_for: Duration,
}

impl Client {
    /// A client with settings of its own.
    #[must_use]
    pub fn builder() -> Builder {
        Builder { daemons: vec![DEFAULT.to_owned()], timeout: TIMEOUT, user_agent: user_agent() }
    }

    /// A client of the daemons that `MUSTERD_ADDR` names, separated by commas; without it, of `127.0.0.1:7717`.
    ///
    /// # Errors
    /// [`Reason::InvalidField`](crate::Reason::InvalidField): an address cannot be read.
    pub fn from_env() -> Result<Self, Error> {
        let text = env::var(VARIABLE).unwrap_or_default();
        let text = if text.trim().is_empty() { DEFAULT } else { &text };
        Self::builder().daemons(address::parse_list(VARIABLE, text)?).build()
    }

    /// Registers an instance and keeps its lease until the [`Registration`] is closed or dropped.
    ///
    /// # Errors
    /// The registration was refused, or no daemon took it within the client's timeout; no lease is kept then.
    pub async fn register(&self, register: Register) -> Result<Registration, Error> {
        let thread = self.beat_thread()?;
        Registration::open(thread, register, self.inner.settings.timeout).await
    }

    /// A live instance of a logical id.
    ///
    /// # Errors
    /// [`Reason::UnknownLogicalId`](crate::Reason::UnknownLogicalId) or
    /// [`Reason::NoLiveInstance`](crate::Reason::NoLiveInstance); a refused argument; or no daemon answered.
    pub async fn resolve(&self, logical_id: &str, choice: &Choice) -> Result<Resolved, Error> {
        let (logical_id, choice) = (logical_id.to_owned(), Some(choice.to_wire()));
        let request = ResolveRequest { logical_id, choice, min_revision: self.seen().revision() };
        let call = |channel| {
            let request = self.request(request.clone());
            async move { discovery(channel).resolve(request).await }
        };
        let answer = self.inner.daemons.call(self.inner.settings.timeout, call).await?;
        self.seen().note(answer.revision);
        Ok(Resolved {
            instance: answer.instance.ok_or_else(|| Error::malformed("instance"))?.try_into()?,
            revision: answer.revision,
            alternatives: answer.alternatives,
            stale_for: wire::duration(answer.stale_for.as_ref()),
        })
    }

    /// One instance by its id, also a dead one while it is on record.
    ///
    /// # Errors
    /// [`Reason::UnknownInstance`](crate::Reason::UnknownInstance), or no daemon answered.
    pub async fn instance(&self, instance_id: Uuid) -> Result<Instance, Error> {
        let (instance_id, min_revision) = (instance_id.to_string(), self.seen().revision());
        let request = GetInstanceRequest { instance_id, min_revision };
        let call = |channel| {
            let request = self.request(request.clone());
            async move { discovery(channel).get_instance(request).await }
        };
        let answer = self.inner.daemons.call(self.inner.settings.timeout, call).await?;
        self.seen().note(answer.revision);
        answer.instance.ok_or_else(|| Error::malformed("instance"))?.try_into()
    }

    /// The live instance that holds a lease: for a receiver that is handed a lease id as a fencing token.
    ///
    /// # Errors
    /// The lease has ended or is unknown, or no daemon answered.
    pub async fn check_lease(&self, lease_id: u64) -> Result<Instance, Error> {
        let request = CheckLeaseRequest { lease_id, min_revision: self.seen().revision().max(lease_id) };
        let call = |channel| {
            let request = self.request(request);
            async move { discovery(channel).check_lease(request).await }
        };
        let answer = self.inner.daemons.call(self.inner.settings.timeout, call).await?;
        self.seen().note(answer.revision);
        answer.instance.ok_or_else(|| Error::malformed("instance"))?.try_into()
    }

    /// All instances that match, page after page, by logical id and instance id. The stream ends after an error.
    pub fn list(&self, filter: Filter) -> impl Stream<Item = Result<Instance, Error>> + Send + use<> {
        struct Pages {
            client: Client,
            filter: Filter,
            /// Token of the next page; `None` after the last one.
            next: Option<String>,
            ready: VecDeque<Instance>,
        }
        let pages = Pages { client: self.clone(), filter, next: Some(String::new()), ready: VecDeque::new() };
        stream::try_unfold(pages, |mut pages| async move {
            loop {
                if let Some(instance) = pages.ready.pop_front() {
                    return Ok(Some((instance, pages)));
                }
                let Some(token) = pages.next.take() else { return Ok(None) };
                let (instances, next) = pages.client.page(&pages.filter, &token).await?;
                pages.next = Some(next).filter(|token| !token.is_empty());
                pages.ready = instances.into();
            }
        })
    }

    async fn page(&self, filter: &Filter, token: &str) -> Result<(Vec<Instance>, String), Error> {
        let request = ListInstancesRequest { min_revision: self.seen().revision(), ..filter.to_list(token) };
        let call = |channel| {
            let request = self.request(request.clone());
            async move { discovery(channel).list_instances(request).await }
        };
        let answer = self.inner.daemons.call(self.inner.settings.timeout, call).await?;
        self.seen().note(answer.revision);
        let instances = answer.instances.into_iter().map(Instance::try_from).collect::<Result<Vec<_>, _>>()?;
        if filter.logical_id.is_empty() {
            return Ok((instances, answer.next_page_token));
        }
        // The protocol lists by prefix, in order: longer names follow the one that is meant, and end the list.
        let count = instances.len();
        let mut meant = instances;
        meant.retain(|one| one.logical_id == filter.logical_id);
        let next = if meant.len() < count { String::new() } else { answer.next_page_token };
        Ok((meant, next))
    }

    /// Watches the instances that match: a snapshot, then every change.
    #[must_use]
    pub fn watch(&self, filter: &Filter) -> Watch {
        Watch::new(self.clone(), filter.to_watch())
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.inner.settings.timeout
    }

    fn seen(&self) -> &Seen {
        self.inner.daemons.seen()
    }

    pub(crate) fn daemons(&self) -> &Daemons {
        &self.inner.daemons
    }

    fn beat_thread(&self) -> Result<Arc<BeatThread>, Error> {
        if let Some(thread) = self.inner.beats.get() {
            return Ok(Arc::clone(thread));
        }
        // Connections of its own: those above belong to the application's runtime, which may be blocked or gone.
        let seen = self.seen().clone();
        let daemons = Daemons::new(&self.inner.addresses, &self.inner.settings.user_agent, seen)?;
        let started = BeatThread::start(daemons)?;
        // Two callers at once: the second thread ends at once, because no registration uses it.
        Ok(Arc::clone(self.inner.beats.get_or_init(|| Arc::new(started))))
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.inner.settings.timeout);
        request
    }
}

fn discovery(channel: tonic::transport::Channel) -> DiscoveryServiceClient<tonic::transport::Channel> {
    DiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}
