//! What a caller may do to a lease.
//!
//! A lease works for its owner, who still has the right to register its logical id; for a caller with the verb for leases of
//! others; and, if it has no owner, for callers that may register its logical id. To other callers it is a lease that does not
//! exist: what is answered must not tell the two apart.

use crate::{
    access::{Caller, Verb},
    model::{InstanceId, Lease, LogicalId},
    registry::BeatError,
    view::View,
    wire::failure::Failure,
};

/// The rights of a caller to leases.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permit<'a> {
    caller: &'a Caller,
    view: &'a View,
}

/// What a caller is to a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Its owner.
    Owner,
    /// One who may do this to leases of others, or to those without an owner.
    Other,
    /// Its owner, who has lost the right to register this logical id.
    Lost(LogicalId),
    /// A stranger, to whom it does not exist.
    None,
}

impl<'a> Permit<'a> {
    /// Of this caller, to the leases of this view.
    pub(super) fn new(caller: &'a Caller, view: &'a View) -> Self {
        Self { caller, view }
    }

    /// Whether there is anything to ask.
    pub(super) fn is_enforced(&self) -> bool {
        self.caller.is_enforced()
    }

    /// Whether it owns this lease, by one comparison of numbers.
    pub(super) fn owns(&self, lease: &Lease) -> bool {
        lease.is_of(self.caller.owner()) == Some(true)
    }

    /// What the caller is to a lease, where `verb` is the one for leases of others.
    pub(super) fn claim(&self, lease: &Lease, verb: Verb) -> Claim {
        if !self.is_enforced() {
            return Claim::Other;
        }
        let may = |verb| {
            self.caller.may_everywhere(verb)
                || self.name(lease.instance_id).is_some_and(|name| self.caller.may(verb, name.as_str()))
        };
        match lease.is_of(self.caller.owner()) {
            Some(true) if may(Verb::Register) => Claim::Owner,
            None if may(Verb::Register) => Claim::Other,
            _ if may(verb) => Claim::Other,
            // One that the view does not show yet was registered a moment ago, with this right.
            Some(true) => self.name(lease.instance_id).map_or(Claim::Owner, Claim::Lost),
            _ => Claim::None,
        }
    }

    /// Whether a beat of this lease is accepted.
    pub(super) fn beat(&self, lease: &Lease) -> Result<(), BeatError> {
        match self.claim(lease, Verb::Beat) {
            Claim::Owner | Claim::Other => Ok(()),
            Claim::Lost(_) => Err(BeatError::Denied),
            Claim::None => Err(BeatError::Unknown),
        }
    }

    /// The refusal of an owner that has lost its right.
    pub(super) fn lost(&self, name: &LogicalId) -> Failure {
        self.caller.denied(Verb::Register, name.as_str()).into()
    }

    fn name(&self, instance_id: InstanceId) -> Option<LogicalId> {
        self.view.snapshot().instance(instance_id).map(|entry| entry.instance.logical_id.clone())
    }
}
