//! Takes surveys of the view, one at a time, and keeps the latest for all callers.
//!
//! A survey looks at every instance, so it is taken only when a caller asks, at most once a second, and never uses more
//! than a twentieth of a processor: after a survey that took 0.2 s the next is taken 4 s later.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use tokio::{sync::Mutex, task::spawn_blocking};

use super::{
    View,
    survey::{Moment, Survey},
};

/// How often a survey is taken at most.
const PERIOD: Duration = Duration::from_secs(1);
/// By how much longer than it takes a survey is used.
const SHARE: u32 = 20;

/// Clones share the latest survey.
#[derive(Clone, Debug)]
pub struct Surveyor {
    view: View,
    latest: Arc<ArcSwapOption<Survey>>,
    /// When the next one may be taken. Held while one is taken.
    due: Arc<Mutex<Option<Instant>>>,
}

impl Surveyor {
    /// A surveyor that has taken none yet.
    #[must_use]
    pub fn new(view: View) -> Self {
        Self { view, latest: Arc::default(), due: Arc::default() }
    }

    /// The latest survey, however old; `None` before the first.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Survey>> {
        self.latest.load_full()
    }

    /// Now, by both clocks.
    #[must_use]
    pub fn moment(&self) -> Moment {
        let now_ms = self.view.clock().now_ms();
        Moment { now_ms, database: self.view.database_time(now_ms) }
    }

    /// The latest survey, or a new one if it is time. A caller that stops waiting does not interrupt it.
    pub async fn survey(&self) -> Arc<Survey> {
        let mut due = Arc::clone(&self.due).lock_owned().await;
        if let Some(survey) = self.latest().filter(|_| due.is_some_and(|due| Instant::now() < due)) {
            return survey;
        }
        let (surveyor, moment, began) = (self.clone(), self.moment(), Instant::now());
        // Not on the threads that answer callers: a million instances take a while.
        let taken = spawn_blocking(move || {
            let survey = Arc::new(Survey::take(&Arc::clone(&surveyor.view.snapshot()), moment));
            surveyor.latest.store(Some(Arc::clone(&survey)));
            *due = Some(Instant::now() + (began.elapsed() * SHARE).max(PERIOD));
            survey
        });
        taken.await.unwrap_or_default()
    }
}
