//! `musterd healthcheck`: for `HEALTHCHECK` of a container and exec probes, where there is no `curl`.
//!
//! It asks the HTTP port of the daemon beside it, by the same environment variable that the daemon listens by, or with
//! `--addr unix:PATH` its admin socket, and says nothing but why not. The exit code is 0 or 1 and nothing else: Docker keeps 2 for itself.

use std::{net::SocketAddr, path::PathBuf};

use super::serve::parse_socket_addr;
use crate::{
    check::{
        http::{self, Wire},
        reach,
    },
    command::{
        client::ClientArgs,
        exit::{self, Error},
    },
    terminal::output,
};

pub(super) const HELP: &str = "\
Exits with 0 if the daemon is ready (with --live: if it runs), with 1 and the
reason otherwise.

Examples:
  HEALTHCHECK CMD [\"musterd\", \"healthcheck\"]
  musterd healthcheck --live --timeout 1s";

/// Arguments of `healthcheck`.
#[derive(Debug, clap::Args)]
pub struct HealthcheckArgs {
    /// Address of the daemon's metrics and health, as told to serve; for a wildcard, the loopback is asked
    #[arg(long, env = "MUSTERD_HTTP_ADDR", value_name = "ADDR", default_value = "127.0.0.1:7718",
          value_parser = parse_socket_addr)]
    http_addr: SocketAddr,

    /// Certificate of the daemon, as told to serve: if there is one, the port is asked with TLS; it is not checked
    #[arg(long, env = "MUSTERD_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// Directory of the files for security, as told to serve: if there is one, the port is asked with TLS
    #[arg(long, env = "MUSTERD_SECURITY_DIR", value_name = "DIR")]
    security_dir: Option<PathBuf>,

    /// Ask whether the process runs, not whether it is ready for callers
    #[arg(long)]
    live: bool,
}

pub(super) async fn run(args: HealthcheckArgs, client: &ClientArgs) -> Result<u8, Error> {
    if let Some(socket) = client.addr.first().filter(|addr| addr.unix_path().is_some() && !args.live) {
        let Err(reason) = reach::ready_by_socket(socket, client.timeout).await else { return Ok(exit::OK) };
        output::note(&output::escape(&reason));
        return Ok(exit::NEGATIVE);
    }
    let authority = http::reachable(args.http_addr).to_string();
    let path = if args.live { "/livez" } else { "/readyz" };
    let wire = if args.tls_cert.is_some() || args.security_dir.is_some() { Wire::Unchecked } else { Wire::Plain };
    let reason = match http::get(&authority, path, client.timeout, wire).await {
        Ok((200, _)) => return Ok(exit::OK),
        Ok((status, body)) => format!("{path} answers {status}: {}", missing(&body)),
        Err(error) => format!("cannot ask {authority}: {error}"),
    };
    output::note(&output::escape(&reason));
    Ok(exit::NEGATIVE)
}

/// What `/readyz` says is missing, on one line; else its first line.
pub(super) fn missing(body: &str) -> String {
    let missing: Vec<&str> =
        body.lines().filter_map(|line| line.strip_prefix("[missing]")).map(str::trim_start).collect();
    match &missing[..] {
        [] => body.lines().next().unwrap_or("nothing").to_owned(),
        some => some.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_of_what_is_missing_fits_a_line() {
        let body = "not ready\n[ok]       database: connected\n[missing]  view: not yet\n[missing]  feed: not yet\n";
        assert_eq!(missing(body), "view: not yet; feed: not yet");
        assert_eq!(missing("not found; see /\n"), "not found; see /");
        assert_eq!(missing(""), "nothing");
    }
}
