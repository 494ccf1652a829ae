//! Whether a server answers at an address, and in which protocol: below gRPC, whose own errors for a wrong port tell little.
//!
//! The beginning of an HTTP/2 connection is sent, which is also no harm to what is not a daemon, and the first bytes of
//! the answer tell who is there.

use std::{io, path::Path, time::Duration};

use musterd_client::{Address, Client, Tls};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::{Instant, timeout},
};

use super::{
    finding::Finding,
    http::{self, Wire},
};
use crate::terminal::words::millis;

/// The beginning of an HTTP/2 connection: the preface, and empty settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// How many bytes tell.
const TELLING: usize = 9;
/// No answer within so long is none.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// What answers at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http2,
    Http1,
    Tls,
    Nothing,
    Other,
}

/// Recognizes the server by the first bytes of the answer to [`HELLO`].
fn recognize(answer: &[u8]) -> Speaks {
    match answer {
        [] => Speaks::Nothing,
        // An alert or a handshake of TLS, version 3.x on the wire.
        [0x14..=0x16, 3, ..] => Speaks::Tls,
        _ if answer.starts_with(b"HTTP/1.") => Speaks::Http1,
        // A frame of HTTP/2: three bytes of length, then the type, which is SETTINGS first.
        [_, _, _, 4, ..] => Speaks::Http2,
        _ => Speaks::Other,
    }
}

/// Looks at an address. Returns what was found, and whether it makes sense to go on.
pub(crate) async fn look(addr: &Address, tls: &Tls, limit: Duration) -> (Vec<Finding>, bool) {
    if let Some(path) = addr.unix_path() {
        return admin_socket(path, limit).await;
    }
    let authority = &format!("{}:{}", addr.host(), addr.port());
    let limit = limit.min(WAIT_MAX.max(limit / 2));
    let began = Instant::now();
    let stream = match timeout(limit, TcpStream::connect(authority)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return (vec![unreachable(authority, &error)], false),
        Err(_) => {
            let found = format!("{authority} does not answer within {}", humantime::format_duration(limit));
            let fix = "check the address and the route to it, and that no firewall drops the packets";
            return (vec![Finding::fail("address", found, fix)], false);
        }
    };
    let reached = Finding::ok("address", format!("{authority} accepts connections, {}", millis(began.elapsed())));
    if addr.is_encrypted() {
        let (found, is_daemon) = encrypted(stream, addr.host(), tls, limit).await;
        return (vec![reached, found], is_daemon);
    }
    let mut speaks = recognize(&ask(stream, HELLO, limit).await);
    if speaks != Speaks::Tls {
        speaks = match http::get(authority, "/livez", limit, Wire::Plain).await {
            // The HTTP port of a daemon, which would understand HTTP/2 as well.
            Ok((200, body)) if body == "ok\n" => Speaks::Http1,
            Ok(_) if speaks != Speaks::Http2 => Speaks::Http1,
            _ => speaks,
        };
    }
    let understood = judge(authority, speaks);
    (vec![reached, understood], speaks == Speaks::Http2)
}

/// The admin socket of a daemon on this machine.
async fn admin_socket(path: &Path, limit: Duration) -> (Vec<Finding>, bool) {
    let shown = path.display();
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) => {
            let fix = match error.kind() {
                io::ErrorKind::PermissionDenied => "run the command as the user of the daemon, or as root",
                _ => "check the path (admin-socket in musterd config show), and that the daemon runs",
            };
            return (vec![Finding::fail("address", format!("cannot connect to {shown}: {error}"), fix)], false);
        }
    };
    let reached = Finding::ok("address", format!("{shown} accepts connections"));
    let is_daemon = recognize(&ask(stream, HELLO, limit).await) == Speaks::Http2;
    let understood = if is_daemon {
        Finding::ok("protocol", "HTTP/2 over a socket of this machine")
    } else {
        let fix = "wait while the daemon starts; if it has stalled, restart it";
        Finding::fail("protocol", format!("{shown} does not respond as a daemon"), fix)
    };
    (vec![reached, understood], is_daemon)
}

/// Whether the daemon behind an admin socket is ready; why not, if it is not.
///
/// # Errors
/// It cannot be asked.
pub(crate) async fn ready_by_socket(addr: &Address, limit: Duration) -> Result<(), String> {
    let client = Client::builder().daemons([addr.to_string()]).timeout(limit).retry_for(Duration::ZERO).build();
    let client = client.map_err(|error| error.to_string())?;
    let cluster = client.cluster(0).await.map_err(|error| format!("cannot ask {addr}: {error}"))?;
    match cluster.health.filter(|health| !health.ready) {
        Some(health) => Err(format!("{addr} is not ready: {}", health.missing.join("; "))),
        None => Ok(()),
    }
}

/// The handshake, by the same rules as that of every other command.
async fn encrypted(stream: TcpStream, host: &str, tls: &Tls, limit: Duration) -> (Finding, bool) {
    match timeout(limit, tls.connect(stream, host, "h2")).await {
        Ok(Ok(_)) => (Finding::ok("protocol", "HTTP/2 over TLS, the certificate of the daemon is accepted"), true),
        Ok(Err(failure)) => {
            let failure = failure.to_string();
            let (found, fix) = failure.split_once("; ").unwrap_or((&failure, "look at the log of the daemon"));
            (Finding::fail("protocol", found, fix), false)
        }
        Err(_) => {
            let found =
                format!("{host} does not complete the TLS handshake within {}", humantime::format_duration(limit));
            (Finding::fail("protocol", found, "look at the log of the daemon"), false)
        }
    }
}

fn unreachable(authority: &str, error: &io::Error) -> Finding {
    let fix = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "start a daemon there (musterd serve), or give the address of one: --addr or MUSTERD_ADDR"
        }
        _ => "check the address: --addr or MUSTERD_ADDR",
    };
    Finding::fail("address", format!("cannot connect to {authority}: {error}"), fix)
}

fn judge(authority: &str, speaks: Speaks) -> Finding {
    let fail = |found: &str, fix: &str| Finding::fail("protocol", format!("{authority} {found}"), fix);
    match speaks {
        Speaks::Http2 => Finding::ok("protocol", "HTTP/2 without TLS"),
        Speaks::Http1 => fail(
            "speaks HTTP/1: it is the port of a daemon's metrics and health, or no daemon at all",
            "give the address of gRPC, port 7717 unless the daemon was told another",
        ),
        Speaks::Tls => fail(
            "speaks TLS, and the address asks for none",
            "give an https:// address, and the CA with --ca (MUSTERD_CA)",
        ),
        Speaks::Nothing => fail(
            "accepts connections but does not respond: the daemon is still starting, or has stalled",
            "wait, and check /readyz of its HTTP port and its log; if it has stalled, restart it",
        ),
        Speaks::Other => {
            fail("speaks neither HTTP nor TLS: it is no daemon", "check the address: --addr or MUSTERD_ADDR")
        }
    }
}

/// The first bytes of the answer; none if there is no answer.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, question: &[u8], limit: Duration) -> Vec<u8> {
    let mut answer = Vec::with_capacity(TELLING);
    let exchange = async {
        stream.write_all(question).await?;
        while answer.len() < TELLING && stream.read_buf(&mut answer).await? > 0 {}
        io::Result::Ok(())
    };
    // However it ends, what has come tells.
    let _ = timeout(limit, exchange).await;
    answer
}

#[cfg(test)]
mod tests {
    use crate::status::Severity;

    use super::*;

    #[test]
    fn server_is_recognized_by_its_first_bytes() {
        for (answer, speaks) in [
            (&b"\0\0\x18\x04\0\0\0\0\0"[..], Speaks::Http2),
            (b"HTTP/1.1 400 Bad Request\r\n", Speaks::Http1),
            (b"\x15\x03\x01\0\x02\x02\x46", Speaks::Tls),
            (b"", Speaks::Nothing),
            (b"SSH-2.0-OpenSSH_9.2", Speaks::Other),
            (b"\0", Speaks::Other),
        ] {
            assert_eq!(recognize(answer), speaks, "{answer:?}");
        }
    }

    #[test]
    fn only_a_daemon_is_no_failure() {
        for speaks in [Speaks::Http1, Speaks::Tls, Speaks::Nothing, Speaks::Other] {
            let finding = judge("h:1", speaks);
            assert!(finding.severity == Severity::Critical && !finding.fix.is_empty(), "{finding:?}");
        }
        assert_eq!(judge("h:1", Speaks::Http2).severity, Severity::Ok);
    }
}
