//! A bare connection to one daemon, for the calls that a benchmark measures.
//!
//! Those speak the generated protocol without `musterd-client`: its fail-over, its retries and its translation of messages
//! would be measured with the daemon. What a benchmark only needs around its calls (who else uses the registry, what is
//! left, the state of the cluster) goes through `musterd-client` as in any other command.

use std::{io, path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use musterd_client::{Client, Kind, Reason, Token};
use tokio::net::{TcpStream, UnixStream};
use tonic::{
    Code, Status,
    service::interceptor::InterceptedService,
    transport::{self, Endpoint, Uri},
};
use tower::service_fn;

use super::error::Error;
use crate::proto::v1::{
    discovery_service_client::DiscoveryServiceClient, registry_service_client::RegistryServiceClient,
};

/// A connection, on which every call shows the token of the client, if there is one.
pub(super) type Channel = InterceptedService<transport::Channel, Token>;

/// A connection.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    channel: Channel,
}

impl Wire {
    /// Connects to the daemon that the client uses.
    pub(super) async fn connect(client: &Client) -> Result<Self, Error> {
        let address = client.daemon().to_string();
        let unreachable = |error: transport::Error| {
            musterd_client::Error::new(Kind::Unreachable, Reason::Unavailable, format!("{address}: {error}"))
        };
        if let Some(path) = client.daemon().unix_path() {
            return Self::over_socket(path.into(), client.timeout()).await.map_err(unreachable).map_err(Error::from);
        }
        let endpoint = Endpoint::from_shared(address.clone()).map_err(unreachable)?;
        let endpoint = endpoint.user_agent(concat!("musterd/", env!("CARGO_PKG_VERSION"))).map_err(unreachable)?;
        let endpoint = endpoint.connect_timeout(client.timeout()).tcp_nodelay(true);
        if !client.daemon().is_encrypted() {
            let channel = endpoint.connect().await.map_err(unreachable)?;
            return Ok(Self { channel: InterceptedService::new(channel, client.token().clone()) });
        }
        let tls = client.tls().clone();
        let connector = service_fn(move |uri: Uri| {
            let tls = tls.clone();
            async move {
                let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or_default())).await?;
                stream.set_nodelay(true)?;
                let stream = tls.connect(stream, &host, "h2").await.map_err(io::Error::other)?;
                io::Result::Ok(TokioIo::new(stream))
            }
        });
        let channel = endpoint.connect_with_connector(connector).await.map_err(unreachable)?;
        Ok(Self { channel: InterceptedService::new(channel, client.token().clone()) })
    }

    /// Connects to the admin socket of a daemon on this machine.
    async fn over_socket(path: PathBuf, limit: Duration) -> Result<Self, transport::Error> {
        let connector = service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The connection takes no part of its address from here.
        let endpoint = Endpoint::from_static("http://localhost").connect_timeout(limit);
        let channel = endpoint.connect_with_connector(connector).await?;
        Ok(Self { channel: InterceptedService::new(channel, Token::default()) })
    }

    /// For actors.
    pub(super) fn registry(&self) -> RegistryServiceClient<Channel> {
        RegistryServiceClient::new(self.channel.clone())
    }

    /// For routers.
    pub(super) fn discovery(&self) -> DiscoveryServiceClient<Channel> {
        DiscoveryServiceClient::new(self.channel.clone())
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let kind = match status.code() {
            Code::Unavailable | Code::Cancelled | Code::Unknown => Kind::Broken,
            Code::DeadlineExceeded => Kind::Silent,
            _ => Kind::Failed,
        };
        let text = format!("{} ({:?})", status.message(), status.code());
        musterd_client::Error::new(kind, Reason::Other, text).into()
    }
}
