//! The daemons: which of them a call goes to.
//!
//! Any daemon answers any call, so a call goes on to the next one when a daemon cannot be reached or says that another one
//! should be asked, until the time limit. The daemon that answered last is asked first the next time: what a client has
//! registered or read, it then finds without waiting. Every call may be repeated: the protocol promises that it takes
//! effect once. If no daemon takes a call, the word of one that answered is returned before a broken connection.

use std::{
    net::IpAddr,
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
use tonic::{Response, Status};

use crate::{
    address::Address,
    backoff::Backoff,
    connect::{CONNECT_MAX, Channel, Connector},
    error::Error,
    reason::{Kind, Reason},
    tls::Tls,
    token::Token,
};

/// How long an attempt at one of several daemons may take before the next one is asked.
const ATTEMPT: Duration = Duration::from_secs(2);

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

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// With all attempts.
    pub(crate) within: Duration,
    /// How long it is tried again while no daemon takes it; zero: each daemon is asked once.
    pub(crate) retry_for: Duration,
}

impl Limits {
    /// Tried again until the time is over.
    pub(crate) const fn patient(within: Duration) -> Self {
        Self { within, retry_for: within }
    }

    /// Each daemon is asked once.
    pub(crate) const fn once(within: Duration) -> Self {
        Self { within, retry_for: Duration::ZERO }
    }
}

/// The daemons, in the order in which they are tried.
#[derive(Debug)]
pub(crate) struct Daemons {
    list: Vec<Daemon>,
    /// Index of the daemon that answered last.
    current: AtomicUsize,
    seen: Seen,
    token: Token,
}

#[derive(Debug)]
struct Daemon {
    connector: Connector,
    slot: Mutex<Slot>,
}

/// The connection that calls share, and the number of those before it.
#[derive(Debug, Default)]
struct Slot {
    number: u64,
    channel: Option<Channel>,
}

/// A connection to one daemon.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    pub(crate) address: Address,
    index: usize,
    number: u64,
}

impl Daemons {
    /// The daemons at these addresses. Connects to none of them yet.
    pub(crate) fn new(
        addresses: &[Address],
        user_agent: &str,
        tls: &Tls,
        token: &Token,
        seen: Seen,
    ) -> Result<Self, Error> {
        let daemon = |address: &Address| {
            Ok(Daemon { connector: Connector::new(address, user_agent, tls, token)?, slot: Mutex::default() })
        };
        let list = addresses.iter().map(daemon).collect::<Result<Vec<_>, Error>>()?;
        if list.is_empty() {
            return Err(Error::invalid("daemons", "names no daemon; give host:port"));
        }
        Ok(Self { list, current: AtomicUsize::new(0), seen, token: token.clone() })
    }

    /// Calls the daemons in turn until one answers for good, or the time is over.
    pub(crate) async fn call<T, F>(&self, limits: Limits, call: impl Fn(Channel) -> F + Send + Sync) -> Result<T, Error>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let began = Instant::now();
        let mut backoff = Backoff::default();
        let mut last: Option<Error> = None;
        let mut may_be_applied = false;
        loop {
            for step in 0..self.list.len() {
                let left = limits.within.saturating_sub(began.elapsed());
                if left.is_zero() {
                    break;
                }
                // The last attempt there will be has all the time that is left.
                let is_last = step + 1 == self.list.len() && limits.retry_for.is_zero();
                let limit = if self.list.len() == 1 || is_last { left } else { left.min(self.share(limits.within)) };
                match self.attempt(step, limit, &call).await {
                    Err(error) if error.is_retryable() => {
                        may_be_applied |= error.may_be_applied();
                        last = Some(weightier(last, error));
                    }
                    outcome => return outcome,
                }
            }
            let pause = backoff.pause();
            if began.elapsed() + pause >= limits.within.min(limits.retry_for) {
                let error = last.unwrap_or_else(|| Error::silent(self.list[0].connector.address(), limits.within));
                if error.reason() == Reason::NotYetSeen {
                    self.seen.forget();
                }
                return Err(error.at_all(self.names(), limits.within).after(may_be_applied));
            }
            sleep(pause).await;
        }
    }

    /// What one of several daemons has of the time of a call before the next one is asked.
    fn share(&self, within: Duration) -> Duration {
        ATTEMPT.min(within / u32::try_from(self.list.len()).unwrap_or(u32::MAX))
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
        let address = self.list[index].connector.address();
        let attempt = async {
            let connection = self.connect_to(index, limit).await?;
            let error = |status: Status| Error::from_status(address, &status);
            let shown = self.token.shown();
            match call(connection.channel.clone()).await.map_err(error) {
                // A token file may have been renewed since it was read. A call that was refused so has done nothing.
                Err(refused)
                    if refused.kind() == Kind::Unauthenticated && self.token.is_renewed_since(shown.as_ref()) =>
                {
                    call(connection.channel).await.map_err(error)
                }
                outcome => outcome,
            }
        };
        let outcome = timeout(limit, attempt).await.unwrap_or_else(|_| Err(Error::silent(address, limit)));
        match outcome {
            Ok(response) => {
                self.current.store(index, Ordering::Relaxed);
                Ok(response.into_inner())
            }
            Err(error) => {
                if error.is_transport() {
                    self.forget(index).await;
                }
                Err(error)
            }
        }
    }

    /// A connection to the first daemon that can be reached, the one that answered last before the others.
    pub(crate) async fn reach(&self, within: Duration) -> Result<Connection, Error> {
        let (first, mut last) = (self.current.load(Ordering::Relaxed), None::<Error>);
        for step in 0..self.list.len() {
            let index = (first + step) % self.list.len();
            match self.connect_to(index, within).await {
                Ok(connection) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => last = Some(error),
            }
        }
        let error = last.unwrap_or_else(|| Error::silent(self.current(), within));
        Err(error.at_all(self.names(), within.min(CONNECT_MAX)))
    }

    /// The connection has failed, or its daemon says that another one should be asked: the next one is current from now
    /// on, unless another caller has moved on already.
    pub(crate) async fn give_up(&self, failed: Option<&Connection>) {
        let index = match failed {
            Some(connection) => {
                self.leave(connection).await;
                connection.index
            }
            None => {
                let index = self.current.load(Ordering::Relaxed);
                self.forget(index).await;
                index
            }
        };
        let next = (index + 1) % self.list.len();
        let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// What comes next opens another connection to this daemon, unless a caller has done so already. Those that use this one
    /// keep it.
    pub(crate) async fn leave(&self, connection: &Connection) {
        let mut slot = self.list[connection.index].slot.lock().await;
        if slot.number == connection.number {
            slot.channel = None;
        }
    }

    /// What was seen of the registry.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// How many daemons there are.
    pub(crate) fn count(&self) -> usize {
        self.list.len()
    }

    /// The address of the daemon that answered last, or will be asked first.
    pub(crate) fn current(&self) -> &Address {
        self.in_use().address()
    }

    /// The address of this machine in the latest connection to that daemon.
    pub(crate) fn source(&self) -> Option<IpAddr> {
        self.in_use().source()
    }

    fn in_use(&self) -> &Connector {
        &self.list[self.current.load(Ordering::Relaxed) % self.list.len()].connector
    }

    /// All addresses.
    fn names(&self) -> String {
        let all: Vec<_> = self.list.iter().map(|daemon| daemon.connector.address().to_string()).collect();
        all.join(", ")
    }

    async fn connect_to(&self, index: usize, within: Duration) -> Result<Connection, Error> {
        let daemon = &self.list[index];
        let mut slot = daemon.slot.lock().await;
        let channel = match &slot.channel {
            Some(channel) => channel.clone(),
            None => {
                let channel = daemon.connector.connect(within).await?;
                slot.number += 1;
                slot.channel.insert(channel).clone()
            }
        };
        Ok(Connection { channel, address: daemon.connector.address().clone(), index, number: slot.number })
    }

    async fn forget(&self, index: usize) {
        self.list[index].slot.lock().await.channel = None;
    }
}

/// Of two failures, the one to tell: the word of a daemon, then the later one.
fn weightier(former: Option<Error>, latter: Error) -> Error {
    match former {
        Some(former) if !former.is_transport() && latter.is_transport() => former,
        _ => latter,
    }
}
