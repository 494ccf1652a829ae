//! The attacks of [`super::hostile`] through TLS, by a peer with a good certificate, and handshakes that never end.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{
    dice::Dice,
    hostile::{ATTACKS, PREFACE, SETTINGS, frame, memory_kib},
};
use crate::harness::{daemon::DAEMON_BOUND, secured::Secured, wait::wait_until};

/// How much memory all attacks together may add to the daemon.
const GROWTH_MAX_KIB: u64 = 96 * 1024;
/// Handshakes that stall, if `MUSTERD_STALLED_HANDSHAKES` does not say otherwise.
const STALLED: usize = 2_000;

async fn attack(secured: &Secured, bytes: &[u8]) -> impl AsyncRead + AsyncWrite + Unpin + use<> {
    let stream = TcpStream::connect(&secured.daemon.grpc_addr).await.unwrap();
    let mut stream = secured.tls().connect(stream, "127.0.0.1", "h2").await.unwrap();
    // The daemon may hang up in the middle, or stop to read: both are right.
    let _ = timeout(Duration::from_secs(5), stream.write_all(bytes)).await;
    stream
}

async fn serves_others(secured: &Secured, during: &str) {
    wait_until(during, DAEMON_BOUND, async || secured.client().ready(Duration::from_secs(10)).await).await;
}

async fn ends_well(secured: Secured) {
    assert!(!secured.daemon.log().contains("panicked"));
    assert!(timeout(DAEMON_BOUND, secured.daemon.terminate()).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_peers_in_tls_stay_within_bounds_and_disturb_no_client() {
    let secured = Secured::start(true, &[]).await;
    let (before, mut dice) = (memory_kib(&secured.daemon), Dice::new(13));
    for (name, bytes) in ATTACKS {
        let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &bytes(&mut dice)].concat();
        let (attackers, ()) = tokio::join!(
            futures_util::future::join_all((0..2).map(|_| attack(&secured, &bytes))),
            serves_others(&secured, name),
        );
        let grown = memory_kib(&secured.daemon).saturating_sub(before);
        assert!(grown < GROWTH_MAX_KIB, "{name}: {grown} KiB more than before");
        serves_others(&secured, name).await;
        drop(attackers);
    }
    ends_well(secured).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_stalled_handshakes_stay_within_bounds_and_disturb_no_client() {
    let count = std::env::var("MUSTERD_STALLED_HANDSHAKES").ok().and_then(|it| it.parse().ok()).unwrap_or(STALLED);
    let secured = Secured::start(true, &[]).await;
    let before = memory_kib(&secured.daemon);
    let mut held = Vec::new();
    for number in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        // So many addresses that no limit of an address is reached.
        socket.bind(format!("127.0.1.{}:0", 1 + number % 40).parse().unwrap()).unwrap();
        let Ok(mut stream) = socket.connect(secured.daemon.grpc_addr.parse().unwrap()).await else { continue };
        let _ = stream.write_all(&[0x16, 3, 1, 2, 0][..number % 6]).await;
        held.push(stream);
        if number % 500 == 0 {
            serves_others(&secured, "handshakes stall").await;
        }
    }
    let grown = memory_kib(&secured.daemon).saturating_sub(before);
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB more than before");
    serves_others(&secured, "handshakes stall").await;
    let first = held.first_mut().unwrap();
    let ended = timeout(DAEMON_BOUND, first.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "a stalled handshake is kept");
    ends_well(secured).await;
    drop(held);
}
