//! Beats as an application may observe them: for measurements, for a log of its own, for a test that holds a registry to its
//! promises.

use std::{fmt, sync::Arc, time::Instant};

use crate::{address::Address, error::Error, reason::Reason, wire::BeatStreamResponse};

/// One beat: a request that named leases, and what became of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Beat<'a> {
    /// The daemon that was asked.
    pub daemon: &'a Address,
    /// The leases that were to be renewed.
    pub leases: &'a [u64],
    /// When it was sent: a lease that it renewed is held until TTL after this moment.
    pub sent: Instant,
    /// Those of the leases that were not renewed, and why; or why there is no answer.
    pub outcome: Result<&'a [(u64, Reason)], &'a Error>,
}

/// Is told each beat once its outcome is known, on the thread that beats.
#[derive(Clone, Default)]
pub(crate) struct BeatObserver(Option<Arc<Tell>>);

type Tell = dyn Fn(&Beat<'_>) + Send + Sync;

impl BeatObserver {
    pub(crate) fn new(tell: impl Fn(&Beat<'_>) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    /// Tells a beat.
    pub(super) fn tell(&self, beat: &Beat<'_>) {
        if let Some(tell) = &self.0 {
            tell(beat);
        }
    }

    /// Tells a beat that was sent, and its answer.
    pub(super) fn tell_answer(
        &self,
        daemon: &Address,
        leases: &[u64],
        sent: Instant,
        answer: &Result<BeatStreamResponse, Error>,
    ) {
        if self.0.is_none() {
            return;
        }
        let exceptions = answer.as_ref().map(|answer| {
            let each = answer.exceptions.iter();
            each.map(|one| (one.lease_id, Reason::from(one.reason()))).collect::<Vec<_>>()
        });
        let outcome = match &exceptions {
            Ok(exceptions) => Ok(exceptions.as_slice()),
            Err(error) => Err(*error),
        };
        self.tell(&Beat { daemon, leases, sent, outcome });
    }
}

impl fmt::Debug for BeatObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeatObserver")
    }
}
