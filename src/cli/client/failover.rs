//! A channel over several daemons: a call goes on to the next one when a daemon cannot be reached or is not ready.
//!
//! It stands below the generated clients, as their transport, so that every command fails over in the same way and none
//! has to know. Trying again is safe, because every call of the protocol may be repeated (registrations carry an id the
//! client chose, rotations the new epoch). A call is repeated only if there is another daemon: with one address, this is
//! a plain channel.
//!
//! What goes on to the next daemon: a connection that fails or breaks, no answer within this daemon's share of the time
//! limit, and UNAVAILABLE or RESOURCE_EXHAUSTED, with which a daemon says that it cannot take the call now. Any other
//! answer is the answer. If all daemons fail, the word of one that answered weighs more than a broken connection.

use std::{
    error::Error as StdError,
    future::poll_fn,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::OnceCell,
    time::{Instant, sleep, timeout},
};
use tonic::{
    Code, Status,
    body::Body,
    transport::{self, Channel, Endpoint, Uri},
};
use tower::{Service, service_fn};

use super::addrs::{Addrs, text};
use crate::{
    cli::exit::Error,
    proto::v1::{GetClusterRequest, cluster_service_client::ClusterServiceClient},
};

/// How often an idle connection is tried, so that a peer that vanished without a word is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long between two questions to a daemon that still loads the registry.
const PAUSE: Duration = Duration::from_millis(100);

type BoxError = Box<dyn StdError + Send + Sync>;

/// One daemon: its address, and the connection once there was one. It reconnects by itself from then on.
#[derive(Debug)]
struct Daemon {
    addr: Uri,
    channel: OnceCell<Channel>,
    /// Where the last connection came from.
    source: Arc<Mutex<Option<IpAddr>>>,
}

impl Daemon {
    async fn channel(&self, limit: Duration) -> Result<Channel, Error> {
        let connect = self.channel.get_or_try_init(|| self.connect(limit));
        // `connect_timeout` bounds the TCP part only; name resolution may take as long as it likes.
        match timeout(limit, connect).await {
            Ok(channel) => channel.cloned().map_err(|cause| Error::Connect { addr: text(&self.addr), cause }),
            Err(_) => Err(Error::Timeout { addr: text(&self.addr), after: limit }),
        }
    }

    async fn connect(&self, limit: Duration) -> Result<Channel, transport::Error> {
        let source = Arc::clone(&self.source);
        let connector = service_fn(move |addr: Uri| {
            let source = Arc::clone(&source);
            async move {
                let host = addr.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                let stream = TcpStream::connect((host, addr.port_u16().unwrap_or_default())).await?;
                stream.set_nodelay(true)?;
                let local = stream.local_addr()?.ip();
                *source.lock().unwrap_or_else(PoisonError::into_inner) = Some(local);
                std::io::Result::Ok(TokioIo::new(stream))
            }
        });
        Endpoint::from(self.addr.clone())
            .connect_timeout(limit)
            .user_agent(concat!("musterd/", env!("CARGO_PKG_VERSION")))?
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(limit)
            .keep_alive_while_idle(true)
            .connect_with_connector(connector)
            .await
    }
}

/// The transport of a client: all daemons, and which of them is asked first.
#[derive(Debug, Clone)]
pub struct Failover {
    daemons: Arc<[Daemon]>,
    addrs: Addrs,
    limit: Duration,
    /// Until when a daemon that still loads the registry is waited for.
    until: Instant,
    /// Whether a daemon has taken a call: from then on nothing is waited for.
    has_begun: Arc<AtomicBool>,
}

impl Failover {
    /// Over these addresses; nothing is connected yet. `limit` is for a call with all its tries. `until` is how long a
    /// daemon may take to load the registry before the first answer.
    pub(super) fn new(addrs: Addrs, limit: Duration, until: Instant) -> Self {
        let daemons =
            addrs.iter().map(|addr| Daemon { addr: addr.clone(), channel: OnceCell::new(), source: Arc::default() });
        Self { daemons: daemons.collect(), addrs, limit, until, has_begun: Arc::default() }
    }

    /// Connects to the first daemon that can be reached, from the one in use on.
    ///
    /// # Errors
    ///
    /// Why the last one could not be reached.
    pub(super) async fn connect(&self) -> Result<Channel, Error> {
        let mut failure = None;
        for (index, share) in self.turns() {
            match self.daemons[index].channel(share).await {
                Ok(channel) => {
                    self.addrs.use_index(index);
                    return Ok(channel);
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(self.named(failure.unwrap_or(Error::Incomplete("an address"))))
    }

    /// How long a call may take now. Before the first answer a daemon that still starts has accepted the connection and
    /// answers once it is ready, so the wait for it counts.
    pub(super) fn limit(&self) -> Duration {
        let left = self.until.saturating_duration_since(Instant::now());
        if self.has_begun.load(Ordering::Relaxed) { self.limit } else { self.limit.max(left) }
    }

    /// The address this machine has towards the daemon in use, once there is a connection.
    pub(super) fn source(&self) -> Option<IpAddr> {
        *self.daemons[self.addrs.current_index()].source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each daemon, the one in use first, with its share of the time limit.
    fn turns(&self) -> impl Iterator<Item = (usize, Duration)> + use<> {
        let (first, count) = (self.addrs.current_index(), self.daemons.len());
        let share = self.limit / u32::try_from(count).unwrap_or(u32::MAX);
        (0..count).map(move |turn| ((first + turn) % count, share))
    }

    /// The failure of one of several is that of all of them.
    fn named(&self, error: Error) -> Error {
        match error {
            Error::Connect { cause, .. } => Error::Connect { addr: self.addrs.to_string(), cause },
            Error::Timeout { .. } => Error::Timeout { addr: self.addrs.to_string(), after: self.limit },
            other => other,
        }
    }

    async fn send(self, request: http::Request<Body>) -> Result<http::Response<Body>, BoxError> {
        let (parts, body) = request.into_parts();
        // Whole, so that it can be sent again. Requests of the commands are single messages.
        let body = body.collect().await?.to_bytes();
        // Before the caller's own limit, so that the caller gets the daemon's words.
        let until = self.until.min(Instant::now() + self.limit().mul_f64(0.9));
        loop {
            let request = || http::Request::from_parts(parts.clone(), Body::new(Full::new(body.clone())));
            let answer = self.send_in_turn(request).await?;
            let may_come = Instant::now() < until && !self.has_begun.load(Ordering::Relaxed);
            let refusal = refused(&answer).filter(|_| may_come);
            let is_loading = match refusal {
                Some(status) => self.is_loading(status).await,
                None => false,
            };
            if !is_loading {
                return Ok(answer);
            }
            sleep(PAUSE).await;
        }
    }

    /// Sends a call to one daemon after the other, until one takes it.
    async fn send_in_turn(&self, request: impl Fn() -> http::Request<Body>) -> Result<http::Response<Body>, BoxError> {
        let (mut refusal, mut failure) = (None, None);
        let mut turns = self.turns().peekable();
        while let Some((index, share)) = turns.next() {
            let daemon = &self.daemons[index];
            let attempt = async { Ok(call(daemon.channel(share).await.map_err(unpacked)?, request()).await?) };
            let attempt = async {
                // The last one has all the time that the caller gives.
                if turns.peek().is_none() {
                    return attempt.await;
                }
                timeout(share, attempt).await.unwrap_or_else(|_| Err(silence(&daemon.addr, share)))
            };
            match attempt.await {
                Ok(answer) if refused(&answer).is_some() => refusal = Some(answer),
                Ok(answer) => {
                    self.addrs.use_index(index);
                    self.has_begun.store(true, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => failure = Some(error),
            }
        }
        match (refusal, failure) {
            (Some(answer), _) => Ok(answer),
            (None, failure) => Err(failure.unwrap_or_else(|| "no address".into())),
        }
    }

    /// Whether the refusal is that of a daemon that has not loaded the registry. NOT_YET_SEEN alone may also be about a
    /// revision that is still to come.
    async fn is_loading(&self, refusal: Status) -> bool {
        if Error::from(refusal).reason().as_deref() != Some("NOT_YET_SEEN") {
            return false;
        }
        let Ok(channel) = self.connect().await else { return true };
        ClusterServiceClient::new(channel).get_cluster(GetClusterRequest::default()).await.is_err()
    }
}

async fn call(mut channel: Channel, request: http::Request<Body>) -> Result<http::Response<Body>, transport::Error> {
    poll_fn(|cx| channel.poll_ready(cx)).await?;
    channel.call(request).await
}

/// The transport's own error, by which tonic tells a failed connection.
fn unpacked(error: Error) -> BoxError {
    match error {
        Error::Connect { cause, .. } => cause.into(),
        other => Status::unavailable(other.to_string()).into(),
    }
}

fn silence(addr: &Uri, after: Duration) -> BoxError {
    let text = format!("{} did not answer within {}", text(addr), humantime::format_duration(after));
    Status::unavailable(text).into()
}

/// The status with which a daemon says that it cannot take this call now. An error without an answer is in the headers.
fn refused<B>(answer: &http::Response<B>) -> Option<Status> {
    Status::from_header_map(answer.headers())
        .filter(|status| matches!(status.code(), Code::Unavailable | Code::ResourceExhausted))
}

impl Service<http::Request<Body>> for Failover {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use tonic::{
        Request, Response, Streaming,
        transport::{Server, server::TcpIncoming},
    };
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;
    use crate::{
        cli::client::{Client, ClientArgs, parse_addrs},
        proto::v1::{
            self,
            registry_service_server::{RegistryService, RegistryServiceServer},
        },
    };

    /// A daemon that answers each Deregister in the same way, and counts them.
    #[derive(Clone)]
    struct Always {
        answer: Result<(), (Code, &'static str)>,
        hangs: bool,
        calls: Arc<AtomicU64>,
    }

    #[tonic::async_trait]
    impl RegistryService for Always {
        async fn deregister(
            &self,
            _: Request<v1::DeregisterRequest>,
        ) -> Result<Response<v1::DeregisterResponse>, Status> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            if self.hangs {
                std::future::pending::<()>().await;
            }
            match self.answer {
                Ok(()) => Ok(Response::new(v1::DeregisterResponse::default())),
                Err((code, reason)) => {
                    let details = ErrorDetails::with_error_info(reason, "musterd", []);
                    Err(Status::with_error_details(code, "scripted", details))
                }
            }
        }

        async fn register(&self, _: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterResponse>, Status> {
            Err(Status::unimplemented("not asked for"))
        }

        async fn beat(&self, _: Request<v1::BeatRequest>) -> Result<Response<v1::BeatResponse>, Status> {
            Err(Status::unimplemented("not asked for"))
        }

        type BeatStreamStream = futures_util::stream::Empty<Result<v1::BeatStreamResponse, Status>>;

        async fn beat_stream(
            &self,
            _: Request<Streaming<v1::BeatStreamRequest>>,
        ) -> Result<Response<Self::BeatStreamStream>, Status> {
            Err(Status::unimplemented("not asked for"))
        }

        async fn set_status(
            &self,
            _: Request<v1::SetStatusRequest>,
        ) -> Result<Response<v1::SetStatusResponse>, Status> {
            Err(Status::unimplemented("not asked for"))
        }
    }

    /// Starts a daemon; returns its address and how often it was asked.
    fn daemon(answer: Result<(), (Code, &'static str)>, hangs: bool) -> (String, Arc<AtomicU64>) {
        let calls = Arc::<AtomicU64>::default();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let addr = incoming.local_addr().expect("bound").to_string();
        let always = Always { answer, hangs, calls: Arc::clone(&calls) };
        let server = Server::builder().add_service(RegistryServiceServer::new(always));
        drop(tokio::spawn(server.serve_with_incoming(incoming)));
        (addr, calls)
    }

    async fn client(addrs: &[&str], timeout: Duration) -> Client {
        let addr = parse_addrs(&addrs.join(",")).expect("addresses");
        Client::connect(&ClientArgs { addr, timeout, wait: Some(Duration::ZERO) }).await.expect("connected")
    }

    async fn deregister(client: &Client) -> Result<(), Error> {
        client.call(client.registry().deregister(v1::DeregisterRequest::default())).await.map(drop)
    }

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_daemon_that_is_not_ready_is_passed_over_and_stays_so() {
        for refusal in [(Code::Unavailable, "SHUTTING_DOWN"), (Code::ResourceExhausted, "OVERLOADED")] {
            let ((first, refused), (second, taken)) = (daemon(Err(refusal), false), daemon(Ok(()), false));
            let client = client(&[&first, &second], LONG).await;
            for _ in 0..3 {
                deregister(&client).await.expect("the second daemon takes it");
            }
            let counts = (refused.load(Ordering::Relaxed), taken.load(Ordering::Relaxed));
            assert_eq!(counts, (1, 3), "{refusal:?}: later calls begin at the daemon that answered");
            assert_eq!(client.addr(), format!("http://{second}"));
        }
    }

    #[tokio::test]
    async fn an_answer_is_an_answer_and_goes_nowhere_else() {
        let ((first, _), (second, other)) =
            (daemon(Err((Code::NotFound, "UNKNOWN_LEASE")), false), daemon(Ok(()), false));
        let error = deregister(&client(&[&first, &second], LONG).await).await.expect_err("not found");
        assert_eq!(error.reason().as_deref(), Some("UNKNOWN_LEASE"));
        assert_eq!(other.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_silent_daemon_has_its_share_of_the_time_only() {
        let ((first, _), (second, _)) = (daemon(Ok(()), true), daemon(Ok(()), false));
        let client = client(&[&first, &second], Duration::from_secs(4)).await;
        deregister(&client).await.expect("the second daemon takes it");
    }

    #[tokio::test]
    async fn the_word_of_a_daemon_weighs_more_than_a_broken_connection() {
        let (first, _) = daemon(Err((Code::Unavailable, "DATABASE_UNAVAILABLE")), false);
        let client = client(&[&first, "127.0.0.1:1"], LONG).await;
        let error = deregister(&client).await.expect_err("refused");
        assert_eq!(error.reason().as_deref(), Some("DATABASE_UNAVAILABLE"));
        assert!(client.source().is_some_and(|source| source.is_loopback()));
    }
}
