//! Which database the sessions of a daemon belong to, and how far the daemon has seen it.
//!
//! Two primaries can run at once: a standby is promoted, and the old primary goes on. Both accept sessions, and a daemon
//! with sessions on both acknowledges changes in one of them and reads the other one. Therefore each session asks for
//! the identity of its database, and the sessions of a daemon have one identity at a time.
//!
//! - A session whose database is another one, and not behind, becomes the measure: all other sessions end, and the
//!   registry is loaded again, under a hold ([`super::change`]).
//! - A session whose database is *behind* (an older timeline, or a lower revision than this daemon has committed or
//!   read) is refused. It is accepted when the known database has not confirmed itself for [`GONE_AFTER`]: it is gone then,
//!   and its changes are lost. The database behind begins a new history above all revisions that this daemon has seen.
//!
//! A session cannot change its server, and a primary cannot become a standby without ending its sessions, so system id
//! and timeline are asked once for each session. The history can change under a live session, and each answer to a
//! change, a flush or a poll is compared with what was seen.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{self, watch};
use tokio_postgres::SimpleQueryRow;

/// How long the known database may be silent before one that is behind it is accepted. The feed polls once a second.
const GONE_AFTER: Duration = Duration::from_secs(2);
/// For how long a refusal is reported.
const REPORTED: Duration = Duration::from_secs(5);

/// Asks for the identity; on a standby too, where the timeline cannot be told.
pub(super) const IDENTITY: &str = "SELECT muster_system_id(), \
    CASE WHEN NOT pg_is_in_recovery() THEN muster_timeline() END, history_id, revision \
    FROM cluster_metadata WHERE id = 1";
/// How many columns that has; no other query of a session's set-up has as many.
pub(super) const IDENTITY_COLUMNS: usize = 4;

/// Which database it is, and where its history stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `None` where the engine does not tell.
    system_id: Option<String>,
    timeline: Option<u32>,
    history_id: String,
    revision: u64,
}

impl Identity {
    /// Reads the answer to [`IDENTITY`].
    pub(super) fn of(row: &SimpleQueryRow) -> Option<Self> {
        Some(Self {
            system_id: row.get(0).map(str::to_owned),
            timeline: row.get(1).and_then(|timeline| u32::from_str_radix(timeline, 16).ok()),
            history_id: row.get(2)?.to_owned(),
            revision: row.get(3)?.parse().ok()?,
        })
    }

    /// Whether it takes changes, as far as the engine tells.
    pub(super) fn is_of_a_primary(&self) -> bool {
        self.timeline.is_some()
    }

    pub(super) fn is_history_of(&self, other: &Self) -> bool {
        self.history_id == other.history_id
    }

    /// Whether it is the same system on a later timeline: a standby of it that was promoted.
    pub(super) fn is_promoted_from(&self, known: &Self) -> bool {
        self.system_id == known.system_id && self.timeline > known.timeline && known.timeline.is_some()
    }

    /// How it relates to the known one, when the daemon had seen the revision `seen` before it was asked.
    fn fit(&self, known: &Self, seen: u64) -> Fit {
        let is_same_system = match (&self.system_id, &known.system_id) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        match (self.timeline, known.timeline) {
            (Some(found), Some(known)) if is_same_system && found > known => return Fit::Other,
            (Some(found), Some(known)) if is_same_system && found < known => return Fit::Behind,
            _ => {}
        }
        match self.revision >= seen {
            false => Fit::Behind,
            true if is_same_system && self.is_history_of(known) => Fit::Same,
            true => Fit::Other,
        }
    }
}

/// How the database of a session relates to the one that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Same,
    Other,
    Behind,
}

/// A database that was refused because it is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Where it is.
    pub host: String,
    /// Its revision.
    pub revision: u64,
    /// The revision that this daemon has seen.
    pub seen: u64,
}

/// What the sessions of a daemon know together.
#[derive(Debug)]
pub(crate) struct Lineage {
    state: Mutex<State>,
    /// Goes up when all sessions have to end.
    generation: watch::Sender<u64>,
    /// The highest revision that this daemon has committed or read.
    seen: AtomicU64,
    /// Held by the one session that prepares another database.
    changing: sync::Mutex<()>,
    changes: AtomicU64,
    refused: AtomicU64,
}

/// A std mutex guards it: held for a few instructions, never across an await.
#[derive(Debug, Default)]
struct State {
    known: Option<Identity>,
    /// When the known database last answered with a revision that is not behind.
    confirmed_at: Option<Instant>,
    /// Since when only a database that is behind was found.
    behind_since: Option<Instant>,
    behind: Option<(Behind, Instant)>,
}

impl Default for Lineage {
    fn default() -> Self {
        let (seen, changes, refused) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let (state, generation, changing) = (Mutex::default(), watch::Sender::new(0), sync::Mutex::default());
        Self { state, generation, seen, changing, changes, refused }
    }
}

impl Lineage {
    /// The highest revision that this daemon has committed or read. An answer to a question that is asked afterwards must
    /// not be lower.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    /// The sessions that count.
    pub(crate) fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Returns when the sessions of this generation have to end.
    pub(crate) async fn superseded(&self, generation: u64) {
        let mut current = self.generation.subscribe();
        if current.wait_for(|current| *current != generation).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The database of a session of this generation has answered: it is at `revision`, and was asked when the daemon had
    /// seen `floor`. Returns false if it is behind.
    pub(crate) fn answered(&self, generation: u64, floor: u64, revision: u64) -> bool {
        let mut state = self.state();
        if generation != self.generation() || revision < floor {
            return false;
        }
        self.seen.fetch_max(revision, Ordering::AcqRel);
        state.confirmed_at = Some(Instant::now());
        state.behind_since = None;
        true
    }

    /// The feed has loaded this history over a session of this generation.
    pub(crate) fn loaded(&self, generation: u64, history_id: String, revision: u64) {
        let mut state = self.state();
        if generation == self.generation()
            && let Some(known) = &mut state.known
        {
            known.history_id = history_id;
            self.seen.fetch_max(revision, Ordering::AcqRel);
        }
    }

    /// How a session fits that was asked when the daemon had seen `floor`, and the generation it belongs to if it does.
    /// The first one is the measure for all others.
    pub(super) fn fit(&self, found: &Identity, floor: u64) -> (Fit, u64) {
        let mut state = self.state();
        let fit = match &state.known {
            Some(known) => found.fit(known, floor),
            None => {
                state.known = Some(found.clone());
                Fit::Same
            }
        };
        (fit, self.generation())
    }

    /// Whether there is a database to compare with.
    pub(super) fn is_known(&self) -> bool {
        self.state().known.is_some()
    }

    /// Whether this is the known system on the known timeline, as far as the engine tells.
    pub(super) fn is_same_server(&self, found: &Identity) -> bool {
        let state = self.state();
        state.known.as_ref().is_some_and(|known| {
            (&known.system_id, known.timeline) == (&found.system_id, found.timeline) && found.timeline.is_some()
        })
    }

    /// Whether this is a promoted standby of the known database.
    pub(super) fn is_promotion(&self, found: &Identity) -> bool {
        self.state().known.as_ref().is_some_and(|known| found.is_promoted_from(known))
    }

    /// Waits until no other session changes to another database.
    pub(super) async fn change_alone(&self) -> sync::MutexGuard<'_, ()> {
        self.changing.lock().await
    }

    /// Whether the known database has not answered since.
    pub(super) fn is_silent_since(&self, asked_at: Instant) -> bool {
        self.state().confirmed_at.is_none_or(|at| at < asked_at)
    }

    /// Makes this database the measure and ends all other sessions. Returns the new generation.
    pub(super) fn adopt(&self, found: Identity) -> u64 {
        let mut state = self.state();
        self.seen.fetch_max(found.revision, Ordering::AcqRel);
        self.changes.fetch_add(1, Ordering::Relaxed);
        *state = State { known: Some(found), confirmed_at: Some(Instant::now()), ..State::default() };
        self.generation.send_modify(|generation| *generation += 1);
        self.generation()
    }

    /// A database that is behind was found, and no other one.
    pub(super) fn refuse(&self, host: String, found: &Identity) -> Behind {
        let behind = Behind { host, revision: found.revision, seen: self.seen() };
        let (mut state, now) = (self.state(), Instant::now());
        state.behind_since.get_or_insert(now);
        state.behind = Some((behind.clone(), now));
        self.refused.fetch_add(1, Ordering::Relaxed);
        behind
    }

    /// Whether the known database has been silent for long enough to go on with one that is behind.
    pub(super) fn is_lost(&self) -> bool {
        let state = self.state();
        let is_long_ago = |at: Option<Instant>| at.is_none_or(|at| at.elapsed() >= GONE_AFTER);
        state.behind_since.is_some() && is_long_ago(state.behind_since) && is_long_ago(state.confirmed_at)
    }

    /// The database that was refused lately.
    pub(crate) fn behind(&self) -> Option<Behind> {
        let state = self.state();
        state.behind.as_ref().filter(|(_, at)| at.elapsed() < REPORTED).map(|(behind, _)| behind.clone())
    }

    /// How often the daemon changed to another database, and how many sessions were refused.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.changes.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every state of it is a valid one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(system: &str, timeline: u32, history: &str, revision: u64) -> Identity {
        let (system_id, history_id) = (Some(system.to_owned()), history.to_owned());
        Identity { system_id, timeline: Some(timeline), history_id, revision }
    }

    #[test]
    fn identity_decides_by_timeline_then_revision_then_history() {
        let known = identity("s", 2, "h", 100);
        for (found, fit) in [
            (identity("s", 2, "h", 105), Fit::Same),
            (identity("s", 2, "h", 104), Fit::Behind),
            (identity("s", 3, "h", 50), Fit::Other),
            (identity("s", 1, "h", 999), Fit::Behind),
            (identity("s", 2, "other", 999), Fit::Other),
            (identity("s", 2, "other", 50), Fit::Behind),
            (identity("other", 1, "h", 999), Fit::Other),
            (identity("other", 9, "h", 50), Fit::Behind),
            (Identity { timeline: None, system_id: None, ..identity("", 0, "h", 105) }, Fit::Same),
            (Identity { timeline: None, system_id: None, ..identity("", 0, "h", 50) }, Fit::Behind),
        ] {
            assert_eq!(found.fit(&known, 105), fit, "{found:?}");
        }
    }

    #[test]
    fn adoption_ends_all_sessions_and_keeps_what_was_seen() {
        let lineage = Lineage::default();
        assert_eq!(lineage.fit(&identity("s", 1, "h", 7), 0), (Fit::Same, 0));
        assert!(lineage.answered(0, 0, 9));
        assert!(!lineage.answered(0, 9, 8), "an answer below what was seen");
        assert_eq!(lineage.adopt(identity("s", 2, "h", 5)), 1);
        assert_eq!(lineage.seen(), 9);
        assert!(!lineage.answered(0, 0, 100), "of a session that has to end");
        assert_eq!(lineage.seen(), 9);
    }

    #[test]
    fn database_behind_is_lost_only_when_the_known_one_is_silent() {
        let lineage = Lineage::default();
        let found = identity("s", 1, "h", 7);
        lineage.fit(&found, 0);
        assert!(!lineage.is_lost(), "none was refused");
        let asked_at = Instant::now();
        assert!(lineage.is_silent_since(asked_at), "it has never answered");
        let long_ago = Instant::now().checked_sub(GONE_AFTER);
        lineage.refuse("host".to_owned(), &found);
        assert!(!lineage.is_lost(), "not for long enough");
        lineage.state().behind_since = long_ago;
        assert!(lineage.is_lost());
        assert!(lineage.answered(0, 7, 7));
        assert!(!lineage.is_lost(), "the known one has answered");
        assert!(!lineage.is_silent_since(asked_at) && lineage.is_silent_since(Instant::now()));
        assert_eq!(lineage.behind().unwrap().revision, 7);
    }
}
