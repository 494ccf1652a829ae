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
use tokio::{net::TcpStream, sync::oneshot, time::timeout};
use tokio_util::{either::Either, io::InspectReader};
use tonic::body::Body;

use crate::tls::{self, Tls};

pub(super) type Request = http::Request<Body>;
pub(super) type Response = http::Response<Body>;

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How often a connection is tested, also without calls, so that a peer that vanished without a word is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a test may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where to connect to.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    /// With TLS: the files, and the name that the certificate has to be for.
    pub(super) tls: Option<(Tls, String)>,
}

impl Place {
    /// What a request is for.
    fn authority(&self) -> io::Result<Authority> {
        let text = match &self.tls {
            // An IPv6 address needs brackets, which the address has.
            Some((_, name)) if *name != self.address.ip().to_string() => format!("{name}:{}", self.address.port()),
            _ => self.address.to_string(),
        };
        Authority::try_from(text).map_err(io::Error::other)
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    address: SocketAddr,
    scheme: Scheme,
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
    /// Connects, and waits until the server has spoken. The second value runs the connection, and ends with it.
    pub(super) async fn open(place: &Place) -> io::Result<(Self, impl Future<Output = ()> + Send + use<>)> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {CONNECT_MAX:?}"));
        timeout(CONNECT_MAX, Self::connect(place)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn connect(place: &Place) -> io::Result<(Self, impl Future<Output = ()> + Send + use<>)> {
        let (address, authority) = (place.address, place.authority()?);
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (stream, scheme) = match &place.tls {
            Some((tls, name)) => {
                let encrypted = tls::open(tls, stream, name, "h2").await.map_err(io::Error::other)?;
                (Either::Left(encrypted), Scheme::HTTPS)
            }
            None => (Either::Right(stream), Scheme::HTTP),
        };
        // The kernel accepts connections for a process that hangs, and a client of HTTP/2 need not wait for its server before it
        // sends: a connection is good once its server has spoken.
        let (first, heard) = oneshot::channel();
        let mut first = Some(first);
        let stream = InspectReader::new(stream, move |bytes: &[u8]| {
            if let Some(first) = first.take_if(|_| !bytes.is_empty()) {
                let _ = first.send(());
            }
        });
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .adaptive_window(true);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let mut connection = Box::pin(connection);
        tokio::select! {
            ended = &mut connection => {
                let ended = ended.err().map(io::Error::other);
                return Err(ended.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()));
            }
            _ = heard => {}
        }
        let running = async move {
            // The calls over it are told its error.
            let _ = connection.await;
        };
        Ok((Self { address, scheme, authority, sender, under_way: AtomicUsize::new(0) }, running))
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
        let uri =
            Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone()).path_and_query(path).build();
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
