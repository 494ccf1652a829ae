//! The client: one handle for all calls to a registry. What routers read is in [`crate::reads`] and
//! [`crate::watch`], what operators do in [`crate::operators`].

use std::{
    env,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::{
    address::{Address, parse_list},
    connect::Channel,
    daemons::{Daemons, Limits, Seen},
    error::Error,
    lease::{Beat, BeatObserver, BeatThread, Register, Registration},
    tls::Tls,
    token::Token,
    wire::{GetClusterRequest, cluster_service_client::ClusterServiceClient},
};

/// The variable that names the daemons.
const VARIABLE: &str = "MUSTERD_ADDR";
/// The daemon of a machine that has one.
const DEFAULT: &str = "127.0.0.1:7717";
/// How long a call may take unless the application says otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer that is accepted.
pub(crate) const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Settings of a [`Client`].
#[derive(Clone, Debug)]
pub struct Builder {
    daemons: Vec<String>,
    timeout: Duration,
    retry_for: Option<Duration>,
    user_agent: String,
    tls: Tls,
    token: Token,
    may_send_token_in_clear: bool,
    beat_observer: BeatObserver,
}

impl Builder {
    /// The daemons, each as `host:port`, `http://host:port`, `https://host:port` (with TLS) or `host` (port 7717), in the order
    /// in which they are tried.
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

    /// How long a call is tried again while no daemon takes it. Zero: each daemon is asked once. Default: the timeout.
    #[must_use]
    pub fn retry_for(mut self, retry_for: Duration) -> Self {
        self.retry_for = Some(retry_for);
        self
    }

    /// What `https://` addresses are checked against, and the certificate of this client. Default: the CAs that the system
    /// trusts, and no certificate.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// The token that tells a daemon what this client is. Default: none.
    #[must_use]
    pub fn token(mut self, token: Token) -> Self {
        self.token = token;
        self
    }

    /// Allows the token to be sent without TLS to another machine, where everything on its way can read it.
    #[must_use]
    pub fn insecure_send_token(mut self, is_allowed: bool) -> Self {
        self.may_send_token_in_clear = is_allowed;
        self
    }

    /// Name and version of the application, put before those of this crate in the user agent.
    #[must_use]
    pub fn application(mut self, name: &str) -> Self {
        self.user_agent = format!("{name} {}", user_agent());
        self
    }

    /// Tells `observer` each beat of the client's registrations once its outcome is known: for measurements, or a log of the
    /// application's own. The observer is called on the thread that beats: it must not block.
    #[must_use]
    pub fn beat_observer(mut self, observer: impl Fn(&Beat<'_>) + Send + Sync + 'static) -> Self {
        self.beat_observer = BeatObserver::new(observer);
        self
    }

    /// The client. Connects to no daemon yet, so that an application can start before its registry.
    ///
    /// # Errors
    /// [`Reason::InvalidField`](crate::Reason::InvalidField): an address cannot be read.
    pub fn build(self) -> Result<Client, Error> {
        let addresses = self.daemons.iter().map(|text| text.parse::<Address>()).collect::<Result<Vec<_>, _>>();
        let addresses = addresses.map_err(|error| Error::address("daemons", &error))?;
        let in_clear = |address: &&Address| !address.is_encrypted() && !address.is_loopback();
        if let Some(address) = addresses.iter().find(in_clear)
            && self.token.is_given()
            && !self.may_send_token_in_clear
        {
            let problem = format!("would be sent to {address} unencrypted; use an https:// address");
            return Err(Error::invalid("token", problem));
        }
        let daemons = Daemons::new(&addresses, &self.user_agent, &self.tls, &self.token, Seen::default())?;
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
    addresses: Vec<Address>,
    settings: Builder,
    beats: OnceLock<Arc<BeatThread>>,
}

impl Client {
    /// A client with settings of its own.
    #[must_use]
    pub fn builder() -> Builder {
        let daemons = vec![DEFAULT.to_owned()];
        Builder {
            daemons,
            timeout: TIMEOUT,
            retry_for: None,
            user_agent: user_agent(),
            tls: Tls::new(),
            token: Token::default(),
            may_send_token_in_clear: false,
            beat_observer: BeatObserver::default(),
        }
    }

    /// A client of the daemons that `MUSTERD_ADDR` names, separated by commas; without it, of `127.0.0.1:7717`. `MUSTERD_CA`,
    /// `MUSTERD_CERT` and `MUSTERD_CERT_KEY` are the files for `https://` addresses, `MUSTERD_TOKEN_FILE` has the token.
    ///
    /// # Errors
    /// [`Reason::InvalidField`](crate::Reason::InvalidField): an address cannot be read.
    pub fn from_env() -> Result<Self, Error> {
        let text = env::var(VARIABLE).unwrap_or_default();
        let text = if text.trim().is_empty() { DEFAULT } else { &text };
        let daemons = parse_list(text).map_err(|error| Error::address(VARIABLE, &error))?;
        Self::builder()
            .daemons(daemons.iter().map(Address::to_string))
            .tls(Tls::from_env())
            .token(Token::from_env())
            .build()
    }

    /// Registers an instance and keeps its lease until the [`Registration`] is closed or dropped.
    ///
    /// # Errors
    /// The registration was refused, or no daemon took it within the client's timeout; no lease is kept then.
    pub async fn register(&self, register: Register) -> Result<Registration, Error> {
        let thread = self.beat_thread()?;
        Registration::open(thread, register, self.inner.settings.timeout).await
    }

    /// As [`Self::register`], without waiting: the instance is registered as soon as a daemon takes it, also if that is
    /// much later. [`Registration::states`] and [`Registration::troubles`] tell how it goes.
    ///
    /// # Errors
    /// The operating system refused a thread for beats, or a field cannot be sent.
    pub fn keep(&self, register: Register) -> Result<Registration, Error> {
        Registration::begin(self.beat_thread()?, register, None, false)
    }

    /// As [`Self::keep`], but a refusal of the first attempt ends the registration: it is then
    /// [`State::Ended`](crate::State::Ended), and [`Registration::troubles`] has the reason.
    ///
    /// # Errors
    /// As [`Self::keep`].
    pub fn begin(&self, register: Register) -> Result<Registration, Error> {
        Registration::begin(self.beat_thread()?, register, None, true)
    }

    /// Asks each daemon once until one is ready: it can be reached, and has loaded the registry.
    ///
    /// # Errors
    /// None is ready. [`Error::is_refused`] tells that nothing listens, [`Reason::NotYetSeen`](crate::Reason::NotYetSeen)
    /// that the daemon is loading the registry.
    pub async fn ready(&self, within: Duration) -> Result<(), Error> {
        let call =
            |channel| async { ClusterServiceClient::new(channel).get_cluster(GetClusterRequest::default()).await };
        match self.inner.daemons.call(Limits::once(within), call).await {
            // A daemon that refuses the question has understood it.
            Err(error) if error.is_retryable() => Err(error),
            _ => Ok(()),
        }
    }

    /// Every read from now on is of this revision or a later one, for example that of a change made elsewhere.
    pub fn require_revision(&self, revision: u64) {
        self.seen().note(revision);
    }

    /// The daemon that answered last; before the first answer, the one that is asked first.
    #[must_use]
    pub fn daemon(&self) -> &Address {
        self.inner.daemons.current()
    }

    /// The daemon that takes the beats of this client's registrations, and its changes; `None` before the first beat.
    ///
    /// # Errors
    /// The operating system refused a thread for beats.
    pub fn beat_daemon(&self) -> Result<watch::Receiver<Option<Address>>, Error> {
        Ok(self.beat_thread()?.taker())
    }

    /// The address of this machine in the latest connection to that daemon.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        self.inner.daemons.source()
    }

    /// How long each call may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.inner.settings.timeout
    }

    pub(crate) fn seen(&self) -> &Seen {
        self.inner.daemons.seen()
    }

    /// The settings of this client, to make another one that differs in some of them.
    #[must_use]
    pub fn to_builder(&self) -> Builder {
        self.inner.settings.clone()
    }

    /// The files for TLS.
    #[must_use]
    pub fn tls(&self) -> &Tls {
        &self.inner.settings.tls
    }

    /// The token.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.inner.settings.token
    }

    pub(crate) fn daemons(&self) -> &Daemons {
        &self.inner.daemons
    }

    /// Calls a method with a message, as often as the settings allow.
    pub(crate) async fn call<M, T, F>(
        &self,
        message: M,
        method: impl Fn(Channel, Request<M>) -> F + Send + Sync,
    ) -> Result<T, Error>
    where
        M: Clone + Send + Sync,
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let within = self.timeout();
        let limits = Limits { within, retry_for: self.inner.settings.retry_for.unwrap_or(within) };
        let call = |channel| {
            let mut request = Request::new(message.clone());
            request.set_timeout(within);
            method(channel, request)
        };
        self.inner.daemons.call(limits, call).await
    }

    fn beat_thread(&self) -> Result<Arc<BeatThread>, Error> {
        if let Some(thread) = self.inner.beats.get() {
            return Ok(Arc::clone(thread));
        }
        // Connections of its own: those above belong to the application's runtime, which may be blocked or gone.
        let seen = self.seen().clone();
        let Builder { user_agent, tls, token, beat_observer, .. } = &self.inner.settings;
        let daemons = Daemons::new(&self.inner.addresses, user_agent, tls, token, seen)?;
        let started = BeatThread::start(daemons, beat_observer.clone())?;
        // Two callers at once: the second thread ends at once, because no registration uses it.
        Ok(Arc::clone(self.inner.beats.get_or_init(|| Arc::new(started))))
    }
}
