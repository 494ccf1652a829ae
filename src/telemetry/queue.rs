//! Lines on their way to standard error, so that no caller ever waits for the reader of the log.
//!
//! A pipe holds 64 KiB. When its reader stalls (a stuck collector, a full disk behind it), the next `write` blocks its
//! thread for as long as the reader likes; when the reader goes away or the disk is full, it fails. So callers only append
//! to a bounded queue, and one thread, which nothing waits for, writes. What does not fit, or cannot be written, is dropped
//! and counted; once writing works again, a line says how many were dropped.
//!
//! Written here rather than taken from `tracing-appender`, whose guard waits for a stalled writer in `drop` and which
//! neither reports lost lines nor counts those that could not be written.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

/// How many bytes may wait: some 4,000 lines.
const BYTES_MAX: usize = 1 << 20;
/// How long a writer waits before it offers bytes again to a descriptor that another process has made non-blocking.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// The queue. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// A std mutex: held for a few instructions, never while writing.
    state: Mutex<State>,
    arrived: Condvar,
    written: Condvar,
    /// The thread that writes. Its own lines are never dropped: they say how many others were.
    writer: OnceLock<ThreadId>,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Whether a line was taken off and is not yet written.
    writing: bool,
    dropped: u64,
    /// Of those dropped, the ones that no line has told of.
    untold: u64,
}

impl State {
    fn drop_line(&mut self) {
        self.dropped += 1;
        self.untold += 1;
    }
}

impl Queue {
    /// A queue that nothing is taken from yet.
    pub(super) fn new() -> Self {
        let (state, arrived, written, writer) = Default::default();
        Self { shared: Arc::new(Shared { state, arrived, written, writer }) }
    }

    /// Starts the thread that writes to `out`, and calls `tell` with the number of lost lines once writing works again.
    ///
    /// # Errors
    ///
    /// The operating system refused the thread.
    pub(super) fn start(&self, out: impl Write + Send + 'static, tell: fn(u64)) -> io::Result<()> {
        let queue = self.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || queue.write_all(out, tell)).map(drop)
    }

    /// Appends a line, or drops it if too many wait.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.state();
        let is_report = self.shared.writer.get() == Some(&thread::current().id());
        if state.bytes + line.len() > BYTES_MAX && !is_report {
            return state.drop_line();
        }
        state.bytes += line.len();
        state.lines.push_back(line.to_vec());
        drop(state);
        self.shared.arrived.notify_one();
    }

    /// How many lines were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.state().dropped
    }

    /// Waits until everything that was pushed is written, for at most `bound`. Returns whether it is.
    pub(super) fn flush(&self, bound: Duration) -> bool {
        let deadline = Instant::now() + bound;
        let mut state = self.state();
        while state.writing || !state.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.shared.written.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Writes for as long as the process lives.
    fn write_all(&self, mut out: impl Write, tell: fn(u64)) {
        // Set once, here.
        let _ = self.shared.writer.set(thread::current().id());
        loop {
            let line = self.next();
            let is_written = write_line(&mut out, &line);
            let mut state = self.state();
            state.writing = false;
            let mut lost = 0;
            if is_written {
                lost = std::mem::take(&mut state.untold);
            } else {
                state.drop_line();
            }
            drop(state);
            if lost > 0 {
                tell(lost);
            }
            self.shared.written.notify_all();
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut state = self.state();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.writing = true;
                return line;
            }
            state = self.shared.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held, and if it did the lines would still be whole.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each `write` is one line: that is how `tracing` and [`super::say`] use it.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether all of the line could be written.
fn write_line(out: &mut impl Write, mut line: &[u8]) -> bool {
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return false,
            Ok(count) => line = line.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(FULL_PAUSE),
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::net::UnixStream,
        sync::{
            atomic::{AtomicU64, Ordering},
            mpsc,
        },
    };

    use super::*;

    /// Long enough that only a fault reaches it.
    const BOUND: Duration = Duration::from_secs(20);

    /// A writer that hands each line over, fails, or waits, by what its script says next; by default it writes.
    struct Scripted {
        script: mpsc::Receiver<io::Result<()>>,
        lines: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Scripted {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.script.recv().unwrap_or(Ok(()))?;
            let _ = self.lines.send(line.to_vec());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn scripted() -> (Scripted, mpsc::Sender<io::Result<()>>, mpsc::Receiver<Vec<u8>>) {
        let ((say, script), (lines, heard)) = (mpsc::channel(), mpsc::channel());
        (Scripted { script, lines }, say, heard)
    }

    #[test]
    fn stalled_reader_blocks_no_writer_and_its_lost_lines_are_counted() {
        let (queue, (mut near, far)) = (Queue::new(), UnixStream::pair().unwrap());
        // The far end is never read: the socket's buffer fills, and the next write blocks.
        queue.start(near.try_clone().unwrap(), |_| {}).unwrap();
        let line = [b'x'; 1_000];
        let pushed = 20_000;
        for _ in 0..pushed {
            queue.push(&line);
        }
        assert!(queue.dropped() > 0, "20 MB do not fit into 1 MiB and the buffer of a socket");
        assert!(queue.state().bytes <= BYTES_MAX);
        assert!(!queue.flush(Duration::from_millis(20)), "the reader is stalled");
        drop(far);
        assert!(queue.flush(BOUND), "without a reader every line is lost at once");
        assert!(near.write(b"x").is_err());
    }

    #[test]
    fn lines_that_cannot_be_written_are_reported_once_writing_works() {
        static TOLD: AtomicU64 = AtomicU64::new(0);
        let (out, say, heard) = scripted();
        let queue = Queue::new();
        queue.start(out, |lost| _ = TOLD.fetch_add(lost, Ordering::SeqCst)).unwrap();
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::BrokenPipe, io::ErrorKind::Interrupted] {
            say.send(Err(kind.into())).unwrap();
        }
        for line in ["full", "gone", "interrupted"] {
            queue.push(line.as_bytes());
        }
        say.send(Ok(())).unwrap();
        assert_eq!(heard.recv_timeout(BOUND).unwrap(), b"interrupted", "repeated, not lost");
        assert!(queue.flush(BOUND));
        assert_eq!((queue.dropped(), TOLD.load(Ordering::SeqCst)), (2, 2));
    }

    #[test]
    fn descriptor_that_would_block_is_offered_the_rest_again() {
        let (out, say, heard) = scripted();
        let queue = Queue::new();
        queue.start(out, |_| {}).unwrap();
        for outcome in [Err(io::ErrorKind::WouldBlock.into()), Err(io::ErrorKind::WouldBlock.into()), Ok(())] {
            say.send(outcome).unwrap();
        }
        queue.push(b"late");
        assert_eq!(heard.recv_timeout(BOUND).unwrap(), b"late");
        assert_eq!(queue.dropped(), 0);
    }
}
