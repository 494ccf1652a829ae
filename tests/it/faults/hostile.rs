//! Peers that mean harm: raw bytes and HTTP/2 frames on the gRPC port. Whatever they send, the daemon stays within its
//! bounds, serves every other client, and ends on a signal.
//!
//! Written frame by frame, because a proper client library refuses to send most of this.

use std::{fs, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::dice::Dice;
use crate::harness::{
    actor::{Actor, Caller},
    daemon::{DAEMON_BOUND, Daemon},
    postgres::{BOUND, TestDatabase},
    wait::wait_until,
};

/// How much memory all attacks together may add to the daemon: connections, streams and windows are all bounded.
const GROWTH_MAX_KIB: u64 = 64 * 1024;
/// Streams that the daemon resets because of a peer's frames before it closes the connection; the last ones may be on
/// their way when it decides.
const RESETS_MAX: usize = 1_024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const RESOLVE: &str = "/muster.v1.DiscoveryService/Resolve";
const BEAT_STREAM: &str = "/muster.v1.RegistryService/BeatStream";

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header as HPACK writes it without any table.
fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// The headers of a call.
fn call(path: &str) -> Vec<u8> {
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "daemon")];
    let more = [("content-type", "application/grpc"), ("te", "trailers")];
    fields.iter().chain(&more).flat_map(|(name, value)| header(name, value)).collect()
}

/// Ids of the streams a client opens.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

/// What to send after the preface.
pub(super) type Attack = (&'static str, fn(&mut Dice) -> Vec<u8>);

/// Of the attacks on HTTP/2 those that became known by a name, and what else can be said without end.
pub(super) const ATTACKS: &[Attack] = &[
    ("rapid reset", |_| {
        let open_and_reset = |stream| {
            [
                frame(HEADERS, END_HEADERS | END_STREAM, stream, &call(RESOLVE)),
                frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
            ]
        };
        streams(20_000).flat_map(open_and_reset).flatten().collect()
    }),
    ("settings that are never taken note of", |_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]).repeat(100_000)),
    ("pings whose answers are not read", |_| frame(PING, 0, 0, &[7; 8]).repeat(200_000)),
    ("window updates beyond the largest window", |_| frame(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]).repeat(1_000)),
    ("headers that never end", |_| {
        let more: Vec<u8> = header("x-more", &"x".repeat(100)).repeat(100);
        [frame(HEADERS, 0, 1, &call(RESOLVE)), frame(CONTINUATION, 0, 1, &more).repeat(5_000)].concat()
    }),
    ("empty continuations", |_| {
        [frame(HEADERS, 0, 1, &call(RESOLVE)), frame(CONTINUATION, 0, 1, &[]).repeat(500_000)].concat()
    }),
    ("one large header, named ten thousand times", |_| {
        // Entered into the table once (0x40), then two bytes stand for three thousand.
        let large = "x".repeat(3_000);
        let length =
            [0x7f, u8::try_from((3_000 - 127) % 128 + 128).unwrap(), u8::try_from((3_000 - 127) / 128).unwrap()];
        let bomb = [&[0x40, 1, b'x'][..], &length, large.as_bytes(), &vec![0xbe; 10_000]].concat();
        let block = [call(RESOLVE), bomb].concat();
        streams(200).flat_map(|stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)).collect()
    }),
    ("ten thousand streams that stay open", |_| {
        streams(10_000).flat_map(|stream| frame(HEADERS, END_HEADERS, stream, &call(BEAT_STREAM))).collect()
    }),
    ("a message of four gigabytes", |_| {
        let message = [&[0, 255, 255, 255, 255][..], &[7; 16_000]].concat();
        [frame(HEADERS, END_HEADERS, 1, &call(RESOLVE)), frame(DATA, 0, 1, &message)].concat()
    }),
    ("a message of noise", |dice| {
        let noise: Vec<u8> = (0..1_000).flat_map(|_| dice.next().to_be_bytes()).collect();
        let length = u32::try_from(noise.len()).unwrap().to_be_bytes();
        let message = [&[0][..], &length, &noise].concat();
        [frame(HEADERS, END_HEADERS, 1, &call(RESOLVE)), frame(DATA, END_STREAM, 1, &message)].concat()
    }),
    ("no window for any answer", |_| {
        let message = [&[0, 0, 0, 0, 7, 10, 5][..], b"organ"].concat();
        let ask =
            |stream| [frame(HEADERS, END_HEADERS, stream, &call(RESOLVE)), frame(DATA, END_STREAM, stream, &message)];
        [frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]), streams(250).flat_map(ask).flatten().collect()].concat()
    }),
    ("frames that make the daemon reset the stream", |_| {
        streams(20_000).flat_map(|stream| (PROVOCATIONS[stream as usize / 2 % 3].1)(stream)).collect()
    }),
    ("frames of every kind on every stream", |dice| {
        let any = |dice: &mut Dice| {
            let [kind, flags, stream, length, ..] = dice.next().to_be_bytes();
            frame(kind % 12, flags, u32::from(stream % 8), &vec![flags; usize::from(length)])
        };
        (0..2_000).flat_map(|_| any(dice)).collect()
    }),
];

/// A stream and a frame that is an error of that stream alone, so that the daemon resets it.
type Provocation = (&'static str, fn(u32) -> Vec<u8>);

/// MadeYouReset (CVE-2025-8671): the stream no longer counts as open, while its call may still run.
const PROVOCATIONS: &[Provocation] = &[
    ("a window beyond the largest", |stream| {
        let open = frame(HEADERS, END_HEADERS, stream, &call(BEAT_STREAM));
        [open, frame(WINDOW_UPDATE, 0, stream, &[0x7f, 255, 255, 255])].concat()
    }),
    ("data after the end of the request", |stream| {
        let open = frame(HEADERS, END_HEADERS | END_STREAM, stream, &call(BEAT_STREAM));
        [open, frame(DATA, 0, stream, &[0; 5])].concat()
    }),
    ("a stream that depends on itself", |stream| {
        let open = frame(HEADERS, END_HEADERS, stream, &call(BEAT_STREAM));
        [open, frame(PRIORITY, 0, stream, &[&stream.to_be_bytes()[..], &[15]].concat())].concat()
    }),
];

/// What is no HTTP/2 at all.
const GARBAGE: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nHost: daemon\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nthis is no frame, whatever else it may be, and it goes on",
    b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    b"PRI * HT",
    b"",
];

/// Sends bytes and then holds the connection, reading nothing, until the daemon has had time to be hurt by it.
async fn send(addr: String, bytes: Vec<u8>) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The daemon may hang up in the middle, or stop to read: both are right.
    let _ = timeout(Duration::from_secs(5), stream.write_all(&bytes)).await;
    stream
}

pub(super) fn memory_kib(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[expect(clippy::print_stdout, reason = "figures are part of what it is for; shown with --nocapture")]
fn report(name: &str, bytes: usize, grown_kib: u64) {
    println!("   {name}: 4 connections of {} KiB, the daemon has {grown_kib} KiB more than before", bytes / 1_024);
}

/// Time on the processor so far, in the ticks of the kernel (10 ms).
fn cpu_ticks(daemon: &Daemon) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[expect(clippy::print_stdout, reason = "figures are part of what it is for; shown with --nocapture")]
fn report_resets(name: &str, resets: usize, grown_kib: u64, cpu: u64) {
    println!("   {name}: {resets} resets, {grown_kib} KiB more than before, {} ms of a processor", 10 * cpu);
}

struct Scene {
    _database: TestDatabase,
    daemon: Daemon,
    caller: Caller,
    actor: Actor,
}

impl Scene {
    async fn start() -> Self {
        let database = TestDatabase::create().await;
        let daemon = Daemon::start(database.url()).await;
        let caller = Caller::of(&daemon);
        let actor = Actor::start(std::slice::from_ref(&caller), "organ", Duration::from_secs(6)).await;
        Self { _database: database, daemon, caller, actor }
    }

    /// Others are served, on new connections as on old ones.
    async fn serves_others(&self, during: &str) {
        for caller in [&self.caller, &Caller::of(&self.daemon)] {
            let resolved = wait_until(during, BOUND, async || caller.resolve("organ").await).await;
            assert_eq!(resolved.instance.instance_id.to_string(), self.actor.id(), "{during}");
        }
    }

    /// The actor was told of nothing worse than a busy machine, nothing broke, and the daemon leaves in order.
    async fn ends_well(self) {
        let refused = self.actor.told().refused;
        assert!(refused.iter().all(|reason| reason == "BEATS_NOT_SAVED"), "{refused:?}");
        assert!(!self.daemon.log().contains("panicked"));
        assert!(timeout(DAEMON_BOUND, self.daemon.terminate()).await.unwrap().success());
    }
}

/// What an honest client of this kind sends; were it not understood, what the others send would prove nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_written_frame_by_frame_is_answered() {
    let scene = Scene::start().await;
    let message = [&[0, 0, 0, 0, 7, 10, 5][..], b"organ"].concat();
    let ask = [frame(HEADERS, END_HEADERS, 1, &call(RESOLVE)), frame(DATA, END_STREAM, 1, &message)].concat();
    let mut stream = send(scene.daemon.grpc_addr.clone(), [PREFACE, &frame(SETTINGS, 0, 0, &[]), &ask].concat()).await;
    let mut answer = Vec::new();
    let id = scene.actor.id().as_bytes();
    while !answer.windows(id.len()).any(|window| window == id) {
        let read = timeout(BOUND, stream.read_buf(&mut answer)).await.unwrap().unwrap();
        assert!(read > 0, "it hung up: {}", String::from_utf8_lossy(&answer));
    }
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_http2_peers_stay_within_bounds_and_disturb_no_client() {
    let scene = Scene::start().await;
    let before = memory_kib(&scene.daemon);
    let mut dice = Dice::new(11);
    for (name, bytes) in ATTACKS {
        let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &bytes(&mut dice)].concat();
        // Four at once: a bound for each connection has to be enough for some of them.
        let attackers = (0..4).map(|_| tokio::spawn(send(scene.daemon.grpc_addr.clone(), bytes.clone())));
        let attackers: Vec<_> = attackers.collect();
        scene.serves_others(name).await;
        let held = futures_util::future::join_all(attackers).await;
        let grown = memory_kib(&scene.daemon).saturating_sub(before);
        report(name, bytes.len(), grown);
        assert!(grown < GROWTH_MAX_KIB, "{name}: {grown} KiB more than before");
        scene.serves_others(name).await;
        drop(held);
    }
    wait_until("their connections are gone", BOUND, async || {
        match scene.daemon.metric("musterd_grpc_connections").await {
            Some(open) if open <= 3.0 => Ok(()),
            open => Err(open),
        }
    })
    .await;
    scene.ends_well().await;
}

/// Sends what makes the daemon reset `count` streams. Returns how many it did reset, and whether it closed the
/// connection over it.
async fn provoke(addr: &str, provocation: fn(u32) -> Vec<u8>, count: u32) -> (usize, bool) {
    let (mut from, mut to) = TcpStream::connect(addr).await.unwrap().into_split();
    let attack = streams(count).flat_map(provocation);
    let bytes: Vec<u8> = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat().into_iter().chain(attack).collect();
    // The daemon may hang up in the middle.
    let sending = tokio::spawn(async move { to.write_all(&bytes).await.map(|()| to) });
    let (mut received, mut resets, mut closed) = (Vec::new(), 0, false);
    while !closed && resets < count as usize {
        let read = timeout(BOUND, from.read_buf(&mut received)).await.unwrap();
        closed = read.unwrap_or_default() == 0;
        while let Some(header) = received.first_chunk::<9>() {
            let end = 9 + u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let kind = header[3];
            if received.len() < end {
                break;
            }
            resets += usize::from(kind == RST_STREAM);
            closed |= kind == GOAWAY;
            received.drain(..end);
        }
    }
    sending.abort();
    (resets, closed)
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_whose_frames_force_resets_is_closed_within_the_limit() {
    let scene = Scene::start().await;
    for (name, provocation) in PROVOCATIONS {
        let (memory, cpu) = (memory_kib(&scene.daemon), cpu_ticks(&scene.daemon));
        let (resets, closed) = provoke(&scene.daemon.grpc_addr, *provocation, 20_000).await;
        let grown = memory_kib(&scene.daemon).saturating_sub(memory);
        report_resets(name, resets, grown, cpu_ticks(&scene.daemon) - cpu);
        assert!(closed && resets <= RESETS_MAX + 1, "{name}: {resets} resets, closed: {closed}");
        scene.serves_others(name).await;
    }
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_without_http2_and_silent_peers_are_cut_off() {
    let scene = Scene::start().await;
    let mut dice = Dice::new(12);
    let noise = (0..20).map(|_| (0..100).flat_map(|_| dice.next().to_be_bytes()).collect::<Vec<u8>>());
    for bytes in GARBAGE.iter().map(|bytes| bytes.to_vec()).chain(noise) {
        let mut stream = send(scene.daemon.grpc_addr.clone(), bytes.clone()).await;
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(30)]).into_owned();
        let mut answer = Vec::new();
        // An end of any kind; not to end at all is what would eat the places of others.
        let ended = timeout(DAEMON_BOUND, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{shown:?} still holds its connection");
    }
    scene.serves_others("garbage").await;
    scene.ends_well().await;
}
