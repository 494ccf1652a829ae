//! One GET to the HTTP port of a daemon, with TLS or without: for its probes, which answer also while gRPC is not served yet.

use std::{io, net::SocketAddr, time::Duration};

use chrono::{DateTime, Utc};
use http::{
    Request,
    header::{DATE, HOST},
};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use musterd_client::Tls;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use crate::tls::connect_unchecked;

/// The largest answer that is read, in bytes.
const ANSWER_MAX_BYTES: usize = 64 << 10;

/// Where the probes of a daemon are reached from the same machine: a wildcard address is no place to go to.
pub(crate) fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], v4.port())),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, v6.port())),
        addr => addr,
    }
}

/// How a port is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wire<'a> {
    /// Without TLS.
    Plain,
    /// With TLS; the daemon's certificate is checked.
    Tls(&'a Tls),
    /// With TLS, on this machine: the certificate need not be for its address.
    Unchecked,
}

/// Asks for a path of `authority` (`host:port`); returns the status and the text. Takes no longer than `limit`.
///
/// # Errors
///
/// No HTTP server answers there in time.
pub(crate) async fn get(authority: &str, path: &str, limit: Duration, wire: Wire<'_>) -> io::Result<(u16, String)> {
    dated(authority, path, limit, wire).await.map(|answer| (answer.status, answer.text))
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: u16,
    /// Its text.
    pub(crate) text: String,
    /// When it was given, by the clock of the server, in whole seconds; `None`: it does not tell.
    pub(crate) date: Option<DateTime<Utc>>,
}

/// The same, with the clock of the server.
///
/// # Errors
///
/// No HTTP server answers there in time.
pub(crate) async fn dated(authority: &str, path: &str, limit: Duration, wire: Wire<'_>) -> io::Result<Answer> {
    match timeout(limit, connect(authority, path, wire)).await {
        Ok(answer) => answer,
        Err(_) => {
            let text = format!("no answer within {}", humantime::format_duration(limit));
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        }
    }
}

async fn connect(authority: &str, path: &str, wire: Wire<'_>) -> io::Result<Answer> {
    let stream = TcpStream::connect(authority).await?;
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    match wire {
        Wire::Plain => exchange(stream, authority, path).await,
        Wire::Tls(tls) => {
            let stream = tls.connect(stream, host, "http/1.1").await.map_err(io::Error::other)?;
            exchange(stream, authority, path).await
        }
        Wire::Unchecked => exchange(connect_unchecked(stream).await?, authority, path).await,
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    authority: &str,
    path: &str,
) -> io::Result<Answer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::get(path).header(HOST, authority).body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    #[expect(clippy::disallowed_methods, reason = "a client command: the request fails when its driver has ended")]
    let driver = tokio::spawn(connection);
    let answer = async {
        let (parts, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
        let body = Limited::new(body, ANSWER_MAX_BYTES).collect().await.map_err(io::Error::other)?.to_bytes();
        let date = parts.headers.get(DATE).and_then(|date| DateTime::parse_from_rfc2822(date.to_str().ok()?).ok());
        let (status, text) = (parts.status.as_u16(), String::from_utf8_lossy(&body).into_owned());
        Ok(Answer { status, text, date: date.map(|date| date.to_utc()) })
    };
    let answer = answer.await;
    driver.abort();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_reached_on_the_loopback() {
        for (bound, reached) in [
            ("0.0.0.0:7718", "127.0.0.1:7718"),
            ("[::]:7718", "[::1]:7718"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("127.0.0.1:1", "127.0.0.1:1"),
        ] {
            assert_eq!(reachable(bound.parse().expect("an address")).to_string(), reached);
        }
    }
}
