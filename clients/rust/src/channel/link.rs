//! A connection to one instance.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use http::{
    Uri,
    header::{HeaderValue, USER_AGENT},
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::timeout};
use tonic::body::Body;

pub(super) type Request = http::Request<Body>;
pub(super) type Response = http::Response<Body>;

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How often a connection is tested, also without calls, so that a peer that vanished without a word is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a test may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    address: SocketAddr,
    authority: Authority,
    sender: http2::SendRequest<Body>,
    /// Calls that wait for their answer.
    under_way: AtomicUsize,
}

/// What became of a request.
pub(super) enum Sent {
    Answered(Response),
    /// It may have been received.
    Broken(hyper::Error),
    /// It did not reach the connection.
    Unsent(Box<Request>, hyper::Error),
}

impl Link {
    /// Connects. The second value runs the connection, and ends with it.
    pub(super) async fn open(address: SocketAddr) -> io::Result<(Self, impl Future<Output = ()> + Send + use<>)> {
        let opening = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .keep_alive_interval(KEEP_ALIVE_INTERVAL)
                .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
                .keep_alive_while_idle(true)
                .adaptive_window(true);
            builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)
        };
        let (sender, connection) = timeout(CONNECT_MAX, opening).await??;
        let authority = Authority::try_from(address.to_string()).map_err(io::Error::other)?;
        let running = async move {
            // The calls over it are told its error.
            let _ = connection.await;
        };
        Ok((Self { address, authority, sender, under_way: AtomicUsize::new(0) }, running))
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many calls wait for their answer.
    pub(super) fn load(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Whether it has broken.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request, and waits for the head of its answer.
    pub(super) async fn send(&self, mut request: Request) -> Sent {
        // Those of a client know the path alone.
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(self.authority.clone()).path_and_query(path).build();
        if let Ok(uri) = uri {
            *request.uri_mut() = uri;
        }
        let agent = HeaderValue::from_static(concat!("musterd-client/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().entry(USER_AGENT).or_insert(agent);
        let _counted = Counted::new(&self.under_way);
        match self.sender.clone().try_send_request(request).await {
            Ok(response) => Sent::Answered(response.map(Body::new)),
            Err(mut error) => match error.take_message() {
                Some(request) => Sent::Unsent(Box::new(request), error.into_error()),
                None => Sent::Broken(error.into_error()),
            },
        }
    }
}

/// A call that is counted for as long as it waits.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
