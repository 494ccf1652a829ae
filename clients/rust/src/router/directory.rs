//! The live instances of a name for the balancers of `tower`.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt as _};
use tower::discover::Change;
use uuid::Uuid;

use super::{
    cache::{Router, Target},
    changes::{Changes, TargetChange},
    no_target::NoTarget,
};

/// The live instances of a name: a [`tower::discover::Discover`] whose services are the [`Target`]s; make clients of them
/// with its `map_ok`, or with `tower`'s `MakeService`.
#[derive(Debug)]
#[must_use]
pub struct Directory(Changes);

impl Router {
    /// The live instances of a name, for the balancers of `tower`.
    pub fn directory(&self, logical_id: &str) -> Directory {
        Directory(self.changes(logical_id))
    }
}

impl Stream for Directory {
    type Item = Result<Change<Uuid, Target>, NoTarget>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx).map_ok(|change| match change {
            TargetChange::Put(target) => Change::Insert(target.instance().instance_id, target),
            TargetChange::Gone(target) => Change::Remove(target.instance().instance_id),
        })
    }
}
