//! WhoAmI: what the daemon knows of the caller, what it may do, and what it may use.

use crate::{
    access::{Caller, Verb},
    model::Owner,
    proto::v1,
    rights::quota::{Limits, Unit},
    view::View,
    wire::{answer_size::Room, convert},
};

pub(super) fn answer(caller: &Caller, view: &View) -> v1::WhoAmIResponse {
    let grants = Verb::ALL.into_iter().filter(|verb| caller.may_anywhere(*verb)).map(|verb| v1::Grant {
        verb: verb.as_str().to_owned(),
        logical_ids: if verb.has_names() { caller.names(verb).patterns() } else { Vec::new() },
    });
    let (watches, connections) = caller.places();
    let limits = caller.limits().map(Limits::units);
    let quotas = limits.into_iter().flatten().map(|(unit, limit)| {
        let used = match unit {
            Unit::Records => records(caller, view),
            // A rate is not used up.
            Unit::Registrations => 0,
            Unit::Watches => watches.into(),
            Unit::Connections => connections.into(),
        };
        v1::Quota { unit: unit.key().to_owned(), limit, used }
    });
    v1::WhoAmIResponse {
        identity: caller.identity().to_string(),
        kind: caller.kind().to_string(),
        expires_at: caller.expires().map(convert::timestamp),
        grants: Room::new().fill(grants),
        enforced: caller.is_enforced(),
        quotas: quotas.collect(),
    }
}

/// The records that the caller owns.
fn records(caller: &Caller, view: &View) -> u64 {
    Owner::known(caller.identity().as_str()).map_or(0, |owner| view.snapshot().records_of(&owner))
}
