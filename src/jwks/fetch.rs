//! One fetch of the keys of an issuer: from a file, from an address, or from where the issuer's configuration says.
//!
//! Every address is one of the policy, or one that the issuer of the policy names under TLS; none comes from a token.
//! Redirects are not followed.

use std::{fs, path::Path, time::Duration};

use http::{
    Request, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, HOST},
};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use thiserror::Error;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    jwt::{Issuer, Keys, KeysError, Location, UrlError, https_url},
    tls::connect_checked,
};

/// How long a fetch may take in all.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer, in bytes.
const ANSWER_MAX_BYTES: usize = 1 << 20;

/// Why the keys cannot be fetched.
#[derive(Debug, Error)]
pub(super) enum Error {
    #[error("cannot read {path}: {cause}; correct the path in the policy, or let the daemon read the file")]
    Unreadable { path: String, cause: std::io::Error },
    #[error("no answer from {0} within 10 s; look whether the server can be reached from this machine")]
    TimedOut(Uri),
    #[error("{uri}: {cause}; look whether the server can be reached from this machine, and whether ca is its CA")]
    Connect { uri: Uri, cause: std::io::Error },
    #[error("{uri} answers {status}; correct jwks, or give a token that the server wants with bearer_file")]
    Status { uri: Uri, status: StatusCode },
    #[error("{uri}: {cause}")]
    Unusable { uri: String, cause: KeysError },
    #[error("{0} is no configuration of an issuer; give the address of the keys with jwks")]
    NoConfiguration(Uri),
    #[error("{0} is the configuration of another issuer; write issuer as the tokens have it, and give jwks")]
    OtherIssuer(Uri),
    #[error("{uri} names keys at an address that is not used: {cause}")]
    Address { uri: Uri, cause: UrlError },
}

/// What is read of the configuration of an issuer.
#[derive(Deserialize)]
struct Configuration {
    issuer: String,
    jwks_uri: String,
}

/// Fetches the keys of an issuer.
pub(super) async fn keys(issuer: &Issuer) -> Result<Keys, Error> {
    let uri = match &issuer.location {
        Location::File(path) => {
            let text = read(path)?;
            let uri = path.display().to_string();
            return Keys::parse(&text).map_err(|cause| Error::Unusable { uri, cause });
        }
        Location::Url(uri) => uri.clone(),
        Location::Discovery(at) => discover(issuer, at).await?,
    };
    // The token is for the server that the policy names; the configuration of an issuer may name another one.
    let is_named = match &issuer.location {
        Location::Discovery(at) => at.authority() == uri.authority(),
        Location::Url(_) | Location::File(_) => true,
    };
    let answer = get(issuer, &uri, is_named).await?;
    Keys::parse(&answer).map_err(|cause| Error::Unusable { uri: uri.to_string(), cause })
}

/// Where the configuration of an issuer says that its keys are.
async fn discover(issuer: &Issuer, at: &Uri) -> Result<Uri, Error> {
    let answer = get(issuer, at, true).await?;
    let found: Configuration = serde_json::from_slice(&answer).map_err(|_| Error::NoConfiguration(at.clone()))?;
    if found.issuer != issuer.name {
        return Err(Error::OtherIssuer(at.clone()));
    }
    https_url(&found.jwks_uri).map_err(|cause| Error::Address { uri: at.clone(), cause })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|cause| Error::Unreadable { path: path.display().to_string(), cause })
}

async fn get(issuer: &Issuer, uri: &Uri, with_bearer: bool) -> Result<Bytes, Error> {
    let bearer = issuer.bearer_file.as_deref().filter(|_| with_bearer).map(read).transpose()?;
    let exchange = exchange(uri, issuer.ca.as_deref(), bearer.as_deref());
    let answer = timeout(FETCH_TIMEOUT, Box::pin(exchange)).await.map_err(|_| Error::TimedOut(uri.clone()))?;
    let (status, body) = answer.map_err(|cause| Error::Connect { uri: uri.clone(), cause })?;
    if status != StatusCode::OK {
        return Err(Error::Status { uri: uri.clone(), status });
    }
    Ok(body)
}

async fn exchange(uri: &Uri, ca: Option<&Path>, bearer: Option<&[u8]>) -> std::io::Result<(StatusCode, Bytes)> {
    let other = std::io::Error::other;
    let authority = uri.authority().ok_or_else(|| other("it has no host"))?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(443))).await?;
    let stream = connect_checked(stream, host, ca).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut request = Request::get(path).header(HOST, authority.as_str()).header(ACCEPT, "application/json");
    if let Some(bearer) = bearer {
        let value = [b"Bearer ", bearer.trim_ascii()].concat();
        let mut value = http::HeaderValue::from_bytes(&value).map_err(|_| other("bearer_file holds no token"))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(std::io::Error::other)?;
    let answer = async {
        let (parts, body) = sender.send_request(request).await.map_err(std::io::Error::other)?.into_parts();
        let body = Limited::new(body, ANSWER_MAX_BYTES).collect().await.map_err(std::io::Error::other)?;
        Ok((parts.status, body.to_bytes()))
    };
    // The answer may be complete although its connection has ended.
    let driven = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answer => answer,
        () = driven => Err(other("the connection has ended")),
    }
}
