//! A channel for clients of tonic that balances over the live instances of a name.
//!
//! tonic's own `balance_channel` connects at the first call, so that an endpoint that is dead counts as ready and gets calls.
//! Here connections are made ahead of calls ([`link`]); only what is connected gets calls. A request that did not reach its
//! connection goes to another instance; one that was sent is repeated only if the caller says that it may be.

mod deadline;
mod link;
mod links;
mod tls;

use std::{
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status, body::Body, codegen::Service};
use tonic_types::{ErrorDetails, StatusExt as _};

pub use self::tls::InstanceTls;
use self::{
    link::{Link, Request, Response, Sent},
    links::Links,
};
use crate::router::Router;

/// Settings of a [`MusterChannel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelSettings {
    /// How many instances are connected to at most, the best first. Default: 8.
    pub max_endpoints: usize,
    /// How long a call waits while no instance is connected. Default: 5 s.
    pub wait: Duration,
    /// How many instances a call is tried at, at most. Default: 3.
    pub attempts: usize,
}

impl Default for ChannelSettings {
    fn default() -> Self {
        Self { max_endpoints: 8, wait: Duration::from_secs(5), attempts: 3 }
    }
}

/// A channel to the live instances of a name: a service for the clients that tonic generates.
///
/// ```no_run
/// # use musterd_client::{Client, MusterChannel, Router};
/// # fn example() -> Result<(), musterd_client::Error> {
/// let router = Router::new(&Client::from_env()?);
/// let channel = MusterChannel::new(&router, "greeter");
/// // let mut greeter = GreeterClient::new(channel.clone());            each request is sent once
/// // let mut reader = GreeterClient::new(channel.idempotent());         a request may be repeated
/// # Ok(())
/// # }
/// ```
///
/// Instances that are suspect get calls only if all are. Of two connections that are drawn, the one with fewer calls under way
/// takes the call. A request with a deadline (`tonic::Request::set_timeout`) fails when that has passed. Clones share the
/// connections; they are closed with the last clone. Instances are called without TLS, unless the channel was made by
/// [`Self::with_tls`].
#[derive(Clone, Debug)]
pub struct MusterChannel {
    links: Arc<Links>,
    settings: ChannelSettings,
    is_idempotent: bool,
}

impl MusterChannel {
    /// A channel to the instances of a name. Connects on the runtime of the caller.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(router: &Router, logical_id: &str) -> Self {
        Self::with(router, logical_id, ChannelSettings::default())
    }

    /// A channel with settings of its own.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn with(router: &Router, logical_id: &str, settings: ChannelSettings) -> Self {
        Self::open(router, logical_id, settings, None)
    }

    /// A channel to instances that are called with TLS.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn with_tls(router: &Router, logical_id: &str, settings: ChannelSettings, tls: InstanceTls) -> Self {
        Self::open(router, logical_id, settings, Some(tls))
    }

    fn open(router: &Router, logical_id: &str, settings: ChannelSettings, tls: Option<InstanceTls>) -> Self {
        let links = Links::open(router, logical_id, settings.max_endpoints.max(1), tls);
        Self { links, settings, is_idempotent: false }
    }

    /// The same channel, for requests that may be repeated: one whose connection breaks before its answer goes to another
    /// instance. The messages of a request are collected before it is sent, so it is not for streams of requests.
    #[must_use]
    pub fn idempotent(&self) -> Self {
        Self { is_idempotent: true, ..self.clone() }
    }

    /// How many instances are connected.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.links.count()
    }
}

impl Service<Request> for MusterChannel {
    type Response = Response;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Status>> + Send>>;

    /// Always: a call waits by itself.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Self { links, settings, is_idempotent } = self.clone();
        let limit = deadline::of(request.headers());
        if is_idempotent {
            Box::pin(deadline::within(limit, repeat(links, settings, request)))
        } else {
            Box::pin(deadline::within(limit, send(links, settings, request)))
        }
    }
}

/// Sends a request once: to another instance only if it did not reach its connection.
async fn send(links: Arc<Links>, settings: ChannelSettings, mut request: Request) -> Result<Response, Status> {
    let until = Instant::now() + settings.wait;
    let mut last = None;
    for _ in 0..settings.attempts.max(1) {
        let link = connected(&links, until, last.take()).await?;
        match link.send(request).await {
            Sent::Answered(response) => return Ok(response),
            Sent::Broken(error) => return Err(broken(&link, &error)),
            Sent::Unsent(unsent, error) => {
                request = *unsent;
                last = Some(broken(&link, &error));
            }
        }
    }
    Err(last.unwrap_or_else(|| no_instance(&links)))
}

/// Sends a request until one instance has answered.
async fn repeat(links: Arc<Links>, settings: ChannelSettings, request: Request) -> Result<Response, Status> {
    let until = Instant::now() + settings.wait;
    let (parts, body) = request.into_parts();
    let message = body.collect().await?.to_bytes();
    let mut last = None;
    for _ in 0..settings.attempts.max(1) {
        let link = connected(&links, until, last.take()).await?;
        let request = http::Request::from_parts(parts.clone(), Body::new(Full::new(message.clone())));
        match link.send(request).await {
            Sent::Answered(response) => return Ok(response),
            Sent::Broken(error) | Sent::Unsent(_, error) => last = Some(broken(&link, &error)),
        }
    }
    Err(last.unwrap_or_else(|| no_instance(&links)))
}

/// A connection, as soon as there is one. Without one in time, the former failure is the answer.
async fn connected(links: &Arc<Links>, until: Instant, former: Option<Status>) -> Result<Arc<Link>, Status> {
    match timeout_at(until, links.pick()).await {
        Ok(link) => Ok(link),
        Err(_) => Err(former.unwrap_or_else(|| no_instance(links))),
    }
}

fn no_instance(links: &Links) -> Status {
    let mut text = format!("{} has no live instance that can be connected to", links.logical_id());
    if let Some(failure) = links.latest_failure() {
        text = format!("{text}; {failure}");
    }
    Status::with_error_details(
        Code::Unavailable,
        text,
        ErrorDetails::with_error_info("NO_LIVE_INSTANCE", "musterd", []),
    )
}

fn broken(link: &Link, error: &dyn Error) -> Status {
    let mut text = format!("the connection to {} has broken: {error}", link.address());
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Status::unavailable(text)
}
