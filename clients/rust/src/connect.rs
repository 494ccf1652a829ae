//! The connection to one daemon.
//!
//! What is set up here holds for every call, every stream and every beat of a client. Connections are made eagerly: one
//! that is made by the first call counts as good before it exists.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_util::either::Either;
use tonic::{
    codegen::http::Uri,
    service::interceptor::InterceptedService,
    transport::{self, Endpoint},
};
use tower::service_fn;

use crate::{
    address::Address,
    error::Error,
    sockets::Tracked,
    tls::{self, Tls},
    token::Token,
};

/// A connection, over which every call shows the token.
pub(crate) type Channel = InterceptedService<transport::Channel, Token>;

/// How long a connection may take. The operating system would try for minutes.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How often an idle connection is tested, so that a peer that vanished without a word is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a test of a connection may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to one daemon.
#[derive(Debug)]
pub(crate) struct Connector {
    address: Address,
    endpoint: Endpoint,
    tls: Tls,
    token: Token,
    /// The address of this machine in the latest connection.
    source: Arc<Mutex<Option<IpAddr>>>,
}

impl Connector {
    /// Connects to nothing yet.
    pub(crate) fn new(address: &Address, user_agent: &str, tls: &Tls, token: &Token) -> Result<Self, Error> {
        // A connection to a socket of this machine takes no part of its address from here.
        let uri = if address.unix_path().is_some() { "http://localhost".to_owned() } else { address.to_string() };
        let endpoint = Endpoint::from_shared(uri)
            .map_err(|_| Error::invalid("daemons", format!("{address} is no address; give host:port")))?
            .user_agent(user_agent)
            .map_err(|_| Error::invalid("user_agent", format!("{user_agent:?} cannot be sent; use printable ASCII")))?
            .connect_timeout(CONNECT_MAX)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        // The user of the socket's peer is its identity; a second one would be refused, and a lost token must not matter.
        let token = if address.unix_path().is_some() { Token::default() } else { token.clone() };
        let tls = tls.clone();
        Ok(Self { address: address.clone(), endpoint, tls, token, source: Arc::default() })
    }

    /// The daemon.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// The address of this machine in the latest connection, which is where other machines probably reach it too.
    pub(crate) fn source(&self) -> Option<IpAddr> {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection, within the time limit.
    pub(crate) async fn connect(&self, within: Duration) -> Result<Channel, Error> {
        let within = within.min(CONNECT_MAX);
        // The limit of the endpoint covers TCP alone, not the resolution of the name.
        match timeout(within, self.open()).await {
            Ok(Ok(channel)) => Ok(InterceptedService::new(channel, self.token.clone())),
            Ok(Err(error)) => Err(Error::unreachable(&self.address, &error)),
            Err(_) => Err(Error::silent(&self.address, within)),
        }
    }

    async fn open(&self) -> Result<transport::Channel, transport::Error> {
        if let Some(path) = self.address.unix_path() {
            return self.open_socket(path.into()).await;
        }
        let (source, tls) = (Arc::clone(&self.source), self.tls.clone());
        let is_encrypted = self.address.is_encrypted();
        let opened = service_fn(move |uri: Uri| {
            let (source, tls) = (Arc::clone(&source), tls.clone());
            async move {
                let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or_default())).await?;
                stream.set_nodelay(true)?;
                *source.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream.local_addr()?.ip().to_canonical());
                let socket = stream.as_raw_fd();
                let stream = if is_encrypted {
                    Either::Left(tls::open(&tls, stream, &host, "h2").await.map_err(io::Error::other)?)
                } else {
                    Either::Right(stream)
                };
                io::Result::Ok(TokioIo::new(Tracked::new(socket, stream)))
            }
        });
        self.endpoint.connect_with_connector(opened).await
    }

    async fn open_socket(&self, path: PathBuf) -> Result<transport::Channel, transport::Error> {
        let source = Arc::clone(&self.source);
        let opened = service_fn(move |_: Uri| {
            let (source, path) = (Arc::clone(&source), path.clone());
            async move {
                let stream = UnixStream::connect(path).await?;
                // Client and daemon are on one machine, and only there is this address of use.
                *source.lock().unwrap_or_else(PoisonError::into_inner) = Some(Ipv4Addr::LOCALHOST.into());
                io::Result::Ok(TokioIo::new(Tracked::new(stream.as_raw_fd(), stream)))
            }
        });
        self.endpoint.connect_with_connector(opened).await
    }
}
