//! What every client asked, what it was answered, and when, by the one clock of the harness.
//!
//! A call ends as `ok`, as `fail` (it definitely had no effect) or as `unknown` (it may have had one, now or later). A
//! call without an end is unknown too. Every registration carries content of its own, so that what PostgreSQL
//! holds can be traced to the call that asked for it. When a check fails the whole history is written to a file, one
//! JSON object a line.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde::Serialize;
use uuid::Uuid;

/// Microseconds since the history began.
pub(crate) type Micros = u64;

/// A second of them.
pub(crate) const SECOND: Micros = 1_000_000;

/// One row of an answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Row {
    pub(crate) instance: Uuid,
    pub(crate) lease: u64,
    pub(crate) revision: u64,
    pub(crate) epoch: u64,
    pub(crate) status: String,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Op {
    Register {
        instance: Uuid,
        content: String,
        epoch: Option<Uuid>,
    },
    SetStatus {
        lease: u64,
        status: String,
    },
    Deregister {
        lease: u64,
    },
    Beat {
        lease: u64,
    },
    Rotate {
        epoch: Uuid,
    },
    Resolve {
        logical_id: String,
        min_revision: u64,
    },
    List {
        min_revision: u64,
    },
    /// By a client that gives back whatever lease the instance has.
    Leave {
        instance: Uuid,
    },
    /// From the cache of a router, without a call.
    Pick {
        logical_id: String,
    },
}

/// What an `ok` said.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Registered {
        lease: u64,
        revision: u64,
        epoch: u64,
    },
    Set {
        lease: u64,
        revision: u64,
        already_dead: bool,
    },
    Beaten,
    Rotated {
        epoch: u64,
        revision: u64,
    },
    Resolved {
        revision: u64,
        epoch: u64,
        row: Row,
    },
    Listed {
        revision: u64,
        rows: Vec<Row>,
    },
    /// The lease that was given back, if one was held.
    Left {
        lease: Option<u64>,
    },
    Picked {
        row: Row,
    },
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Ok(Answer),
    Fail(String),
    Unknown(String),
}

/// One call.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Call {
    pub(crate) client: u32,
    pub(crate) daemon: usize,
    /// The first, or which repetition of the same request.
    pub(crate) attempt: u32,
    pub(crate) start: Micros,
    /// `None`: its end was not seen.
    pub(crate) end: Option<Micros>,
    pub(crate) op: Op,
    pub(crate) outcome: Outcome,
}

impl Call {
    /// What it was told, if it succeeded.
    pub(crate) fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Ok(answer) => Some(answer),
            Outcome::Fail(_) | Outcome::Unknown(_) => None,
        }
    }

    /// Whether it definitely had no effect.
    pub(crate) fn failed(&self) -> bool {
        matches!(self.outcome, Outcome::Fail(_))
    }

    /// When it had ended for sure.
    pub(crate) fn ended(&self) -> Micros {
        self.end.unwrap_or(Micros::MAX)
    }
}

/// What a watcher saw.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sight {
    Opened {
        resume_after: u64,
    },
    Reset,
    Put(Row),
    Gone {
        instance: Uuid,
        revision: u64,
    },
    Suspect {
        lease: u64,
        suspect: bool,
    },
    /// Everything up to this revision has been told.
    Reached {
        revision: u64,
        complete: bool,
    },
    Closed {
        reason: String,
    },
}

/// One sight of one watcher.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Seen {
    pub(crate) watcher: u32,
    pub(crate) daemon: usize,
    pub(crate) at: Micros,
    pub(crate) sight: Sight,
}

/// A fault, from its beginning to its end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Disruption {
    pub(crate) fault: String,
    pub(crate) from: Micros,
    pub(crate) until: Micros,
    /// What proves that it had an effect; empty if nothing does.
    pub(crate) effect: String,
    /// From its end to the first change that each daemon acknowledged again.
    pub(crate) recovery: Micros,
}

/// The clock and the record. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct History {
    began: Instant,
    calls: Arc<Mutex<Vec<Call>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl History {
    /// Begins now.
    pub(crate) fn begin() -> Self {
        Self { began: Instant::now(), calls: Arc::default(), seen: Arc::default() }
    }

    /// What time it is.
    pub(crate) fn now(&self) -> Micros {
        Micros::try_from(self.began.elapsed().as_micros()).unwrap()
    }

    /// Records that a call is made. Returns its number.
    pub(crate) fn invoke(&self, client: u32, daemon: usize, attempt: u32, op: Op) -> usize {
        let mut calls = lock(&self.calls);
        let outcome = Outcome::Unknown("its caller did not wait for it".to_owned());
        calls.push(Call { client, daemon, attempt, start: self.now(), end: None, op, outcome });
        calls.len() - 1
    }

    /// Records how it ended.
    pub(crate) fn complete(&self, call: usize, outcome: Outcome) {
        let mut calls = lock(&self.calls);
        calls[call].end = Some(self.now());
        calls[call].outcome = outcome;
    }

    /// Records a call that began then and has just ended.
    pub(crate) fn record(&self, client: u32, daemon: usize, start: Instant, op: Op, outcome: Outcome) {
        let start = Micros::try_from(start.saturating_duration_since(self.began).as_micros()).unwrap();
        let end = Some(self.now());
        lock(&self.calls).push(Call { client, daemon, attempt: 1, start, end, op, outcome });
    }

    /// Records what a watcher saw.
    pub(crate) fn see(&self, watcher: u32, daemon: usize, sight: Sight) {
        lock(&self.seen).push(Seen { watcher, daemon, at: self.now(), sight });
    }

    /// All calls, in the order in which they were made.
    pub(crate) fn calls(&self) -> Vec<Call> {
        lock(&self.calls).clone()
    }

    /// All sights, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }
}

/// A file with a history; removed when dropped, unless by a test that fails.
#[derive(Debug)]
pub(crate) struct Dump(PathBuf);

impl Dump {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dump {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::fs::remove_file(&self.0).unwrap();
        }
    }
}

/// Writes everything that was recorded, one JSON object a line.
pub(crate) fn dump<'a, T: Serialize + 'a>(name: &str, parts: &[(&str, Vec<T>)]) -> Dump {
    let path = std::env::temp_dir().join(format!("musterd-faults-{name}-{}.jsonl", Uuid::new_v4().simple()));
    let mut file = BufWriter::new(File::create(&path).unwrap());
    for (kind, lines) in parts {
        for line in lines {
            serde_json::to_writer(&mut file, &serde_json::json!({ *kind: line })).unwrap();
            file.write_all(b"\n").unwrap();
        }
    }
    file.flush().unwrap();
    Dump(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_without_an_end_is_unknown() {
        let history = History::begin();
        let open = history.invoke(1, 0, 1, Op::Beat { lease: 7 });
        let done = history.invoke(2, 0, 1, Op::Beat { lease: 8 });
        history.complete(done, Outcome::Ok(Answer::Beaten));
        let calls = history.calls();
        assert!(matches!(calls[open].outcome, Outcome::Unknown(_)) && calls[open].ended() == Micros::MAX);
        assert!(calls[done].end.unwrap() >= calls[done].start && calls[done].answer().is_some());
    }

    #[test]
    fn a_dump_has_a_line_for_everything() {
        let history = History::begin();
        history.invoke(1, 0, 1, Op::Rotate { epoch: Uuid::from_u128(1) });
        history.invoke(1, 0, 2, Op::Rotate { epoch: Uuid::from_u128(1) });
        let dump = dump("test", &[("call", history.calls())]);
        let text = std::fs::read_to_string(dump.path()).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.starts_with(r#"{"call":{"#), "{text}");
        let path = dump.path().to_owned();
        drop(dump);
        assert!(!path.exists(), "only a test that fails leaves its history behind");
    }
}
