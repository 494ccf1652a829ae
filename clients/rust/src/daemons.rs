//! The daemons: connections, and which of them a call goes to.
//!
//! Any daemon answers any call, so a call goes on to the next one when a daemon cannot be reached or says that another one
//! should be asked, until the time limit. The daemon that answered last is asked first the next time: what a client has
//! registered or read, it then finds without waiting. Every call may be repeated: the protocol promises that it takes
//! effect once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    backoff::Backoff,
    error::{Error, Reason},
};

/// How long an attempt at one of several daemons may take before the next one is asked.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How often an idle connection is tested, so that a peer that vanished without a word is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a test of a connection may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The highest revision that a client has seen. It asks every daemon to answer at that revision or later, so that it never
/// reads less than it knows, also right after it moved on to another daemon. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(Arc<AtomicU64>);

impl Seen {
    /// An answer was of this revision.
    pub(crate) fn note(&self, revision: u64) {
        self.0.fetch_max(revision, Ordering::Relaxed);
    }

    /// The revision to ask for.
    pub(crate) fn revision(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// No daemon has reached it within the time limit: a database that was emptied or replaced counts from below.
    fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// The daemons, in the order in which they are tried.
#[derive(Debug)]
pub(crate) struct Daemons {
    list: Vec<Daemon>,
    /// Index of the daemon that answered last.
    current: AtomicUsize,
    seen: Seen,
}

#[derive(Debug)]
struct Daemon {
    address: String,
    endpoint: Endpoint,
    channel: Mutex<Option<Channel>>,
}

/// A connection to one daemon.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    pub(crate) address: String,
    index: usize,
}

impl Daemons {
    /// The daemons at these addresses (`host:port`). Connects to none of them yet.
    pub(crate) fn new(addresses: &[String], user_agent: &str, seen: Seen) -> Result<Self, Error> {
        let daemon = |address: &String| {
            let invalid = |_| Error::invalid("daemons", format!("{address:?} is no address; give host:port"));
            let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(invalid)?;
            let endpoint = endpoint
                .user_agent(user_agent)
                .map_err(|_| {
                    Error::invalid("user_agent", format!("{user_agent:?} cannot be sent; use printable ASCII"))
                })?
                .connect_timeout(ATTEMPT)
                .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
                .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
                .keep_alive_while_idle(true);
            Ok(Daemon { address: address.clone(), endpoint, channel: Mutex::default() })
        };
        let list = addresses.iter().map(daemon).collect::<Result<Vec<_>, Error>>()?;
        if list.is_empty() {
            return Err(Error::invalid("daemons", "names no daemon; give host:port"));
        }
        Ok(Self { list, current: AtomicUsize::new(0), seen })
    }

    /// Calls the daemons in turn until one answers for good, or the time is over.
    pub(crate) async fn call<T, F>(
        &self,
        within: Duration,
        call: impl Fn(Channel) -> F + Send + Sync,
    ) -> Result<T, Error>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let deadline = Instant::now() + within;
        let mut backoff = Backoff::default();
        let mut last = None;
        loop {
            for step in 0..self.list.len() {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                let limit = if self.list.len() > 1 { left.min(ATTEMPT) } else { left };
                match self.attempt(step, limit, &call).await {
                    Err(error) if error.is_retryable() => last = Some(error),
                    outcome => return outcome,
                }
            }
            let pause = backoff.pause();
            if Instant::now() + pause >= deadline {
                let error = last.unwrap_or_else(|| Error::unavailable(&self.list[0].address, "no time was left"));
                if error.reason() == Reason::NotYetSeen {
                    self.seen.forget();
                }
                return Err(error);
            }
            sleep(pause).await;
        }
    }

    /// Calls the daemon so many steps after the current one.
    async fn attempt<T, F>(
        &self,
        step: usize,
        limit: Duration,
        call: &(impl Fn(Channel) -> F + Send + Sync),
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let index = (self.current.load(Ordering::Relaxed) + step) % self.list.len();
        let daemon = &self.list[index];
        let attempt = async {
            let connection = self.connect_to(index).await?;
            call(connection.channel).await.map_err(|status| Error::from_status(&daemon.address, &status))
        };
        let outcome = timeout(limit, attempt).await.unwrap_or_else(|_| {
            Err(Error::unavailable(&daemon.address, format!("no answer within {:.1} s", limit.as_secs_f64())))
        });
        match outcome {
            Ok(response) => {
                self.current.store(index, Ordering::Relaxed);
                Ok(response.into_inner())
            }
            Err(error) => {
                if error.reason() == Reason::Unavailable {
                    self.forget(index).await;
                }
                Err(error)
            }
        }
    }

    /// A connection to the daemon that answered last.
    pub(crate) async fn connect(&self) -> Result<Connection, Error> {
        self.connect_to(self.current.load(Ordering::Relaxed)).await
    }

    /// The connection has failed, or its daemon says that another one should be asked: the next one is current from now
    /// on, unless another caller has moved on already.
    pub(crate) async fn give_up(&self, failed: Option<&Connection>) {
        let index = failed.map_or_else(|| self.current.load(Ordering::Relaxed), |connection| connection.index);
        self.forget(index).await;
        let next = (index + 1) % self.list.len();
        let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// What was seen of the registry.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// How many daemons there are.
    pub(crate) fn count(&self) -> usize {
        self.list.len()
    }

    async fn connect_to(&self, index: usize) -> Result<Connection, Error> {
        let daemon = &self.list[index];
        let mut slot = daemon.channel.lock().await;
        if let Some(channel) = &*slot {
            return Ok(Connection { channel: channel.clone(), address: daemon.address.clone(), index });
        }
        // Eagerly: a connection that is made by the first call counts as good before it exists. The limit of the endpoint
        // covers TCP alone, not the name's resolution.
        let channel = timeout(ATTEMPT, daemon.endpoint.connect()).await;
        let channel = channel
            .map_err(|_| Error::unavailable(&daemon.address, format!("no connection within {} s", ATTEMPT.as_secs())))?
            .map_err(|error| Error::unavailable(&daemon.address, format!("no connection: {}", causes(&error))))?;
        *slot = Some(channel.clone());
        Ok(Connection { channel, address: daemon.address.clone(), index })
    }

    async fn forget(&self, index: usize) {
        *self.list[index].channel.lock().await = None;
    }
}

/// The innermost cause, which is what the operating system said.
fn causes(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
