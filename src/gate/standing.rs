//! A caller for as long as a stream lasts.
//!
//! A call is over before its caller's rights change. A stream is not: it asks here at each step whether they have, and waits
//! here for that while it has nothing else to do, so that it ends or shrinks as soon as the policy or the credential does.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::sleep;

use crate::{
    access::{Access, Caller, Changes, Refused},
    clock::Clock,
};

/// The wall clock may be set meanwhile: the end of a credential is looked at so often at least.
const LOOK_PERIOD: Duration = Duration::from_secs(60);

/// A caller and its present rights.
#[derive(Debug)]
pub(crate) struct Standing {
    access: Access,
    changes: Changes,
    caller: Caller,
    clock: Clock,
}

impl Standing {
    /// That of a caller that has just been authenticated.
    pub(crate) fn new(access: &Access, caller: Caller, clock: Clock) -> Self {
        Self { access: access.clone(), changes: access.changes(), caller, clock }
    }

    /// The caller, with the rights of the latest refresh.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Takes over the present rights. Returns whether they may be others than before.
    ///
    /// # Errors
    /// The credential has ended or was revoked.
    pub(crate) fn refresh(&mut self) -> Result<bool, Refused> {
        if !self.caller.is_enforced() {
            return Ok(false);
        }
        let before = self.caller.generation();
        self.caller = self.access.refresh(&self.caller)?;
        Ok(self.caller.generation() != before)
    }

    /// Waits until the rights have changed, and takes them over. Never ready without a policy. Can be dropped at any time.
    ///
    /// # Errors
    /// The credential has ended or was revoked.
    pub(crate) async fn changed(&mut self) -> Result<(), Refused> {
        loop {
            // A change from before this was called is seen at once.
            if self.refresh()? {
                return Ok(());
            }
            let ends = ends(self.caller.expires(), self.clock);
            tokio::select! {
                () = self.changes.changed() => {}
                () = ends => {}
            }
        }
    }
}

/// Waits until a credential may have ended.
async fn ends(at: Option<DateTime<Utc>>, clock: Clock) {
    let Some(at) = at else { return std::future::pending().await };
    // Rounded up, so that it has ended when it is looked at.
    sleep((at - clock.wall()).to_std().unwrap_or_default().min(LOOK_PERIOD) + Duration::from_millis(1)).await;
}
