//! A router: resolves and lists, at one daemon after the other, and never accepts to see less than it has seen.

use super::Role;
use crate::faults::history::{Answer, Outcome};

/// Reads until it is told to stop.
pub(crate) async fn run(mut role: Role, names: Vec<String>) {
    let mut seen = 0;
    while role.pause_between(20, 60).await {
        let daemon = role.dice.below(role.client.daemons());
        // Without a least revision now and then, so that what has fallen behind answers as well.
        let least = if role.dice.once_in(4) { 0 } else { seen };
        let outcome = if role.dice.once_in(3) {
            role.client.list(daemon, least).await
        } else {
            let name = &names[role.dice.below(names.len())];
            role.client.resolve(daemon, name, least).await
        };
        if let Outcome::Ok(Answer::Resolved { revision, .. } | Answer::Listed { revision, .. }) = outcome {
            seen = seen.max(revision);
        }
    }
}
