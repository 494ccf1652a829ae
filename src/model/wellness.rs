//! How well the registry is: what the status page, `musterd status` and `musterd check` judge it by.
//!
//! They have their own words for their own readers, and take from here what is wrong and how bad that is, so that one of
//! them never calls well what another complains about.

use std::time::Duration;

use super::BrakeMode;

/// The feed polls once a second: confirmed less recently than this, the registry in memory may be behind.
pub const STALE_AFTER: Duration = Duration::from_secs(3);
/// Saving that is late by less is what a busy machine does.
const SAVING_LATE_AFTER: Duration = Duration::from_secs(1);
/// A reaper looks every 30 s at least, and may wait 10 s for an answer.
const REAPER_LATE_AFTER: Duration = Duration::from_secs(45);
/// A daemon that has not saved for so long is silent: nobody is declared dead meanwhile.
pub const SILENT_AFTER: Duration = Duration::from_secs(3);
/// Silent for so long, a daemon is given up.
pub const GIVEN_UP_AFTER: Duration = Duration::from_secs(15);

/// How well something is; the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wellness {
    /// As it should be.
    Well,
    /// It works, and somebody should look.
    Attention,
    /// Callers are hurt, or soon will be.
    Trouble,
}

impl Wellness {
    fn trouble_if(is_bad: bool) -> Self {
        if is_bad { Self::Trouble } else { Self::Well }
    }

    /// Of the registry in memory, by how long ago PostgreSQL confirmed it.
    #[must_use]
    pub fn of_view(stale_for: Duration) -> Self {
        Self::trouble_if(stale_for > STALE_AFTER)
    }

    /// Of saving beats, by how late that is. Later than a daemon may be silent, its beats are about to be refused.
    #[must_use]
    pub fn of_saving(lag: Duration) -> Self {
        match lag {
            lag if lag > SILENT_AFTER => Self::Trouble,
            lag if lag > SAVING_LATE_AFTER => Self::Attention,
            _ => Self::Well,
        }
    }

    /// Of a daemon's reaper, by how long ago it last looked; `None`: the daemon has just started. While PostgreSQL is away
    /// it cannot look: then that is the trouble, and this follows from it.
    #[must_use]
    pub fn of_reaper(age: Option<Duration>, stale_for: Duration) -> Self {
        match age {
            Some(age) if age > REAPER_LATE_AFTER && stale_for > STALE_AFTER => Self::Attention,
            Some(age) => Self::trouble_if(age > REAPER_LATE_AFTER),
            None => Self::Well,
        }
    }

    /// Of a daemon, by how long ago it last saved: while it is silent, nobody is declared dead. While the view is not well
    /// nobody can say.
    #[must_use]
    pub fn of_daemon(silent_for: Duration) -> Self {
        Self::trouble_if(silent_for > SILENT_AFTER)
    }

    /// Of expiry while it is braked.
    #[must_use]
    pub fn of_brake(mode: BrakeMode) -> Self {
        match mode {
            BrakeMode::Pace => Self::Attention,
            BrakeMode::Protect => Self::Trouble,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_is_judged_by_how_late() {
        use Wellness::{Attention, Trouble, Well};
        let ms = Duration::from_millis;
        assert_eq!([3_000, 3_001].map(|stale| Wellness::of_view(ms(stale))), [Well, Trouble]);
        let lags = [0, 1_000, 1_001, 3_000, 3_001];
        assert_eq!(lags.map(|lag| Wellness::of_saving(ms(lag))), [Well, Well, Attention, Attention, Trouble]);
        assert_eq!([45_000, 45_001].map(|age| Wellness::of_reaper(Some(ms(age)), ms(0))), [Well, Trouble]);
        assert_eq!([3_000, 3_001].map(|silent| Wellness::of_daemon(ms(silent))), [Well, Trouble]);
    }

    #[test]
    fn while_the_database_is_away_that_is_the_trouble() {
        let (away, long) = (STALE_AFTER * 2, Duration::from_secs(600));
        assert_eq!(Wellness::of_view(away), Wellness::Trouble);
        assert_eq!(Wellness::of_reaper(Some(long), away), Wellness::Attention);
    }
}
