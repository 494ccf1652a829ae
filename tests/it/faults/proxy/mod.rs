//! One link that can be made to fail: a TCP proxy in user space, from a client to a daemon or from a daemon to
//! PostgreSQL.
//!
//! What a link does to bytes is decided where TCP would do it. A black hole stops to read, so what is on the way
//! arrives after the link heals, as retransmission would bring it. A half-open link swallows the connections there are,
//! whose ends are not told, and lets new ones pass. A link to PostgreSQL also understands its messages
//! ([`postgres`]): it can take the answer to a change away right after PostgreSQL has committed it, and it can lose
//! notifications.
//!
//! PostgreSQL itself is reached through its Unix socket, so no test needs one that listens on a port.

pub(crate) mod postgres;
mod tests;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::JoinHandle,
};

use postgres::Messages;

/// What a link does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    Pass,
    /// Nothing arrives: from the client, from the server, or both.
    BlackHole {
        from_client: bool,
        from_server: bool,
    },
    /// Every read waits that long.
    Delay(Duration),
    /// At most so many bytes a second.
    Rate(u64),
    /// A connection is reset once so many more bytes have come from the server.
    CutAfter(u64),
    /// Connections are accepted and reset at once.
    Refuse,
}

/// Where a link leads.
#[derive(Clone, Debug)]
pub(crate) enum Upstream {
    Tcp(String),
    Unix(PathBuf),
}

/// What a link has done so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connections: AtomicU64,
    /// Reads that found the way blocked, or were delayed.
    pub(crate) hindered: AtomicU64,
    pub(crate) resets: AtomicU64,
    pub(crate) answers_lost: AtomicU64,
    pub(crate) notifications_lost: AtomicU64,
    /// Turns from the server to the client: what the latency of the link is multiplied by on each connection.
    pub(crate) round_trips: AtomicU64,
}

impl Counts {
    /// One of them.
    pub(crate) fn of(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct State {
    upstream: Mutex<Upstream>,
    mode: watch::Sender<Mode>,
    /// Connections numbered below the first are swallowed, those below the second are reset.
    swallowed_and_reset: watch::Sender<(u64, u64)>,
    lose_answers: AtomicU64,
    /// Nothing passes any more once an answer was lost.
    block_after_loss: AtomicBool,
    mute: AtomicBool,
    counts: Counts,
}

/// A link. Closed when dropped.
#[derive(Debug)]
pub(crate) struct Link {
    /// Where to connect to.
    pub(crate) addr: String,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
        self.reset();
    }
}

impl Link {
    /// A link that passes everything.
    pub(crate) async fn to(upstream: Upstream) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            upstream: Mutex::new(upstream),
            mode: watch::Sender::new(Mode::Pass),
            swallowed_and_reset: watch::Sender::new((0, 0)),
            lose_answers: AtomicU64::new(0),
            block_after_loss: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            counts: Counts::default(),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { addr, state, task }
    }

    /// Leads elsewhere from now on.
    pub(crate) fn lead_to(&self, upstream: Upstream) {
        *lock(&self.state.upstream) = upstream;
    }

    /// Does this from now on, to all connections.
    pub(crate) fn set(&self, mode: Mode) {
        self.state.mode.send_replace(mode);
    }

    /// Resets every connection there is.
    pub(crate) fn reset(&self) {
        let count = Counts::of(&self.counts().connections);
        self.state.swallowed_and_reset.send_modify(|(_, reset)| *reset = count);
    }

    /// Swallows what the connections there are carry; new ones pass.
    pub(crate) fn half_open(&self) {
        let count = Counts::of(&self.counts().connections);
        self.state.swallowed_and_reset.send_modify(|(swallowed, _)| *swallowed = count);
    }

    /// Takes away the answers to the next so many changes, each with its connection, once PostgreSQL has made them.
    pub(crate) fn lose_answers(&self, count: u64) {
        self.state.lose_answers.store(count, Ordering::Relaxed);
    }

    /// Takes away the answer to the next change, and lets nothing pass after that.
    pub(crate) fn lose_an_answer_and_block(&self) {
        self.state.block_after_loss.store(true, Ordering::Relaxed);
        self.lose_answers(1);
    }

    /// Whether notifications are lost.
    pub(crate) fn mute(&self, mute: bool) {
        self.state.mute.store(mute, Ordering::Relaxed);
    }

    /// Passes everything again. What was half open is reset, as its other end would.
    pub(crate) fn heal(&self) {
        self.state.lose_answers.store(0, Ordering::Relaxed);
        self.state.block_after_loss.store(false, Ordering::Relaxed);
        self.mute(false);
        self.set(Mode::Pass);
        self.state.swallowed_and_reset.send_modify(|(swallowed, reset)| *reset = (*reset).max(*swallowed));
    }

    /// What it has done so far.
    pub(crate) fn counts(&self) -> &Counts {
        &self.state.counts
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let number = state.counts.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(serve(client, number, Arc::clone(&state)));
    }
}

/// One connection, until either end closes it or it is reset.
async fn serve(client: TcpStream, number: u64, state: Arc<State>) {
    let _ = client.set_nodelay(true);
    // Closing it is a reset, whatever the reason: neither end may take a fault for a farewell.
    let _ = client.set_zero_linger();
    let mut orders = state.swallowed_and_reset.subscribe();
    let reset = orders.wait_for(|(_, reset)| number < *reset);
    if *state.mode.borrow() == Mode::Refuse {
        return;
    }
    let upstream = lock(&state.upstream).clone();
    tokio::select! {
        _ = reset => {
            state.counts.resets.fetch_add(1, Ordering::Relaxed);
        }
        () = connect(client, upstream, number, &state) => {}
    }
}

async fn connect(mut client: TcpStream, upstream: Upstream, number: u64, state: &State) {
    let (from_client, to_client) = client.split();
    match upstream {
        Upstream::Tcp(addr) => {
            let Ok(mut server) = TcpStream::connect(addr).await else { return };
            let _ = server.set_nodelay(true);
            let (from_server, to_server) = server.split();
            let up = Pump { state, number, from_client: true, talk: None, asks: &AtomicBool::new(false) };
            let down = Pump { from_client: false, ..up };
            tokio::select! {
                () = up.run(from_client, to_server) => {}
                () = down.run(from_server, to_client) => {}
            }
        }
        Upstream::Unix(path) => {
            let Ok(mut server) = UnixStream::connect(path).await else { return };
            let (from_server, to_server) = server.split();
            let talk = postgres::Talk::default();
            let up = Pump { state, number, from_client: true, talk: Some(&talk), asks: &AtomicBool::new(false) };
            let down = Pump { from_client: false, ..up };
            tokio::select! {
                () = up.run(from_client, to_server) => {}
                () = down.run(from_server, to_client) => {}
            }
        }
    }
}

/// One direction of one connection.
#[derive(Clone, Copy)]
struct Pump<'a> {
    state: &'a State,
    number: u64,
    from_client: bool,
    /// What both directions of a connection to PostgreSQL know of each other.
    talk: Option<&'a postgres::Talk>,
    /// Whether the client spoke last.
    asks: &'a AtomicBool,
}

impl Pump<'_> {
    async fn run(self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let mut buffer = vec![0; 16 * 1024];
        let mut messages = Messages::new(self.from_client);
        let mut budget = None;
        loop {
            self.open().await;
            let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
            if self.asks.swap(self.from_client, Ordering::Relaxed) && !self.from_client {
                self.state.counts.round_trips.fetch_add(1, Ordering::Relaxed);
            }
            // It may have been closed while nothing was there to read.
            self.open().await;
            let mode = *self.state.mode.borrow();
            self.slow_down(mode, length).await;
            if let Mode::CutAfter(bytes) = mode
                && !self.from_client
            {
                let left: &mut u64 = budget.get_or_insert(bytes);
                *left = left.saturating_sub(length.try_into().unwrap_or(u64::MAX));
                if *left == 0 {
                    self.state.counts.resets.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
            let passed = match self.talk {
                Some(talk) => {
                    let Some(passed) = self.understand(talk, messages.feed(&buffer[..length])) else { return };
                    passed
                }
                None => buffer[..length].to_vec(),
            };
            if to.write_all(&passed).await.is_err() {
                return;
            }
        }
    }

    /// Waits until bytes may pass.
    async fn open(&self) {
        let (mut mode, mut orders) = (self.state.mode.subscribe(), self.state.swallowed_and_reset.subscribe());
        let blocked = |mode: &Mode| match mode {
            Mode::BlackHole { from_client, from_server } => {
                if self.from_client {
                    *from_client
                } else {
                    *from_server
                }
            }
            _ => false,
        };
        if blocked(&mode.borrow()) || self.number < orders.borrow().0 {
            self.state.counts.hindered.fetch_add(1, Ordering::Relaxed);
        }
        // A swallowed connection waits for its reset.
        let _ = orders.wait_for(|(swallowed, _)| self.number >= *swallowed).await;
        let _ = mode.wait_for(|mode| !blocked(mode)).await;
    }

    async fn slow_down(&self, mode: Mode, length: usize) {
        let pause = match mode {
            Mode::Delay(pause) => pause,
            Mode::Rate(rate) => Duration::from_micros(length as u64 * 1_000_000 / rate),
            _ => return,
        };
        self.state.counts.hindered.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(pause).await;
    }

    /// The bytes that pass; `None` if the connection ends here.
    fn understand(&self, talk: &postgres::Talk, messages: Vec<Vec<u8>>) -> Option<Vec<u8>> {
        let mut passed = Vec::new();
        for message in messages {
            if self.from_client {
                talk.asks(&message, || {
                    self.state
                        .lose_answers
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                        .is_ok()
                });
            } else if talk.loses() {
                if postgres::is_ready(&message) {
                    if self.state.block_after_loss.load(Ordering::Relaxed) {
                        self.state.mode.send_replace(Mode::BlackHole { from_client: true, from_server: true });
                    }
                    self.state.counts.answers_lost.fetch_add(1, Ordering::Relaxed);
                    return None;
                }
                continue;
            } else if postgres::is_notification(&message) && self.state.mute.load(Ordering::Relaxed) {
                self.state.counts.notifications_lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            passed.extend(message);
        }
        Some(passed)
    }
}
