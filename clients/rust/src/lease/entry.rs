//! One registration in the table: what it is in the middle of, and what a refusal or a loss means for it.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    calls::{Given, Reply},
    cell::Cell,
    clock::Moment,
    register::Register,
    rules::{self, Next},
    state::{Lease, LossReason},
};
use crate::{backoff::Backoff, error::Error, model::Status};

/// One registration.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) cell: Arc<Cell>,
    pub(super) phase: Phase,
    pub(super) backoff: Backoff,
    /// When to look at it again.
    pub(super) due: Option<Moment>,
    /// Learns of the first outcome.
    pub(super) first: Option<Reply>,
    /// Whether a refusal ends it: until the first lease, if the application asked for that.
    pub(super) is_refusal_final: bool,
    /// Whether there was a lease.
    pub(super) was_registered: bool,
    /// Whether a registration may have been applied although its answer did not come.
    pub(super) may_be_registered: bool,
    /// Callers that wait for the lease to be given back.
    pub(super) leaves: Vec<Reply>,
    /// Callers that wait for attributes to change.
    pub(super) updates: Vec<Reply>,
    /// Whether a change of attributes is under way. One at a time, so that an older one never overtakes a newer one.
    pub(super) is_updating: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Has no lease; registers when it is due.
    Waiting,
    /// A registration is under way.
    Registering,
    /// Holds a lease, which was renewed last by a beat sent then.
    Held(Lease, Moment),
    /// Is to give back what it has.
    Leaving(Given),
}

impl Entry {
    pub(super) fn new(cell: Arc<Cell>, first: Option<Reply>, is_refusal_final: bool) -> Self {
        Self {
            cell,
            phase: Phase::Waiting,
            backoff: Backoff::default(),
            due: None,
            first,
            is_refusal_final,
            was_registered: false,
            may_be_registered: false,
            leaves: Vec::new(),
            updates: Vec::new(),
            is_updating: false,
        }
    }

    /// As the application wants it now.
    pub(super) fn wanted(&self) -> Box<Register> {
        Box::new(self.cell.wanted(Register::clone))
    }

    /// Tells the outcome to all that wait for changed attributes.
    pub(super) fn tell_updated(&mut self) {
        for reply in self.updates.drain(..) {
            let _ = reply.send(Ok(()));
        }
    }

    /// Whether to go on after a refusal, and if so makes ready for it.
    pub(super) fn goes_on_after(&self, refusal: &Error) -> bool {
        match rules::loss(refusal.reason()) {
            // The epoch that the application named.
            Some(LossReason::Fenced) if !self.was_registered => false,
            Some(loss) => self.prepare(loss),
            None => true,
        }
    }

    /// Makes ready for what follows a loss. Returns false if nothing does.
    pub(super) fn prepare(&self, reason: LossReason) -> bool {
        let after = |wanted: &Register| {
            let drains = wanted.status == Status::Draining;
            rules::after(reason, wanted.on_lost, wanted.cluster_epoch.is_some(), drains)
        };
        match self.cell.wanted(after) {
            Next::Again => true,
            Next::UnderNewId => {
                self.cell.want(|wanted| wanted.instance_id = Uuid::new_v4());
                true
            }
            Next::InCurrentEpoch => {
                self.cell.want(|wanted| wanted.cluster_epoch = None);
                true
            }
            Next::End => false,
        }
    }
}
