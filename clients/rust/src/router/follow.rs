//! Keeps the names of a router current: by a watch for each, or by one that many share ([`super::shared`]).
//!
//! Locks are taken in this order: what a shared watch has told, the list of shared watches, the names. So a name that is used
//! for the first time either finds what was told up to then, or is there when the watch tells more.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard, Weak},
    time::Instant,
};

use super::{
    cache::Inner,
    known::Name,
    shared::{MANY, Shared, Told},
};
use crate::{
    error::Error,
    model::{Filter, Status},
    observe,
    watch::{Batch, Step},
};

type Names = HashMap<String, Arc<Name>>;

impl Inner {
    /// A name, which is followed from its first use on.
    pub(super) fn name(self: &Arc<Self>, logical_id: &str, now: Instant) -> Arc<Name> {
        let known = self.names().get(logical_id).cloned();
        if let Some(name) = known {
            name.touch(now);
            return name;
        }
        let shared = self.watches.covering(logical_id);
        let told = shared.as_ref().map(|shared| shared.told()).filter(|told| !told.has_ended);
        let mut names = self.names_mut();
        if let Some(name) = names.get(logical_id) {
            name.touch(now);
            return Arc::clone(name);
        }
        let name = Arc::new(Name::new());
        match (&shared, &told) {
            (Some(shared), Some(told)) if !shared.leaves_open(told, logical_id) => {
                name.await_fill(shared.number());
                shared.fill(told, logical_id, &name);
            }
            _ => self.follow_single(logical_id, &name),
        }
        names.insert(logical_id.to_owned(), Arc::clone(&name));
        drop((names, told));
        self.share();
        name
    }

    fn names(&self) -> RwLockReadGuard<'_, Names> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn names_mut(&self) -> RwLockWriteGuard<'_, Names> {
        self.names.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match &self.runtime {
            Some(runtime) => drop(runtime.spawn(task)),
            None => drop(tokio::spawn(task)),
        }
    }

    fn follow_single(self: &Arc<Self>, logical_id: &str, name: &Arc<Name>) {
        self.watches.begin_single();
        self.spawn(single(Arc::downgrade(self), logical_id.to_owned(), Arc::downgrade(name)));
    }

    /// Begins a watch for all names, if too many have one of their own.
    fn share(self: &Arc<Self>) {
        if self.watches.singles() <= MANY {
            return;
        }
        let mut sharing = self.watches.sharing();
        if sharing.next.is_some() || sharing.is_refused {
            return;
        }
        let names = self.names();
        // Watches of names that a shared one has taken over end a moment later, and some that it covers need their own.
        let alone = |(logical_id, name): &(&String, &Arc<Name>)| name.filled_by() == 0 && !sharing.covers(logical_id);
        if names.iter().filter(alone).count() <= MANY {
            return;
        }
        let shared = Arc::new(Shared::of(names.keys().map(String::as_str)));
        drop(names);
        sharing.next = Some(Arc::clone(&shared));
        drop(sharing);
        self.spawn(many(Arc::downgrade(self), shared));
    }

    /// Tells the names what a shared watch has brought. Returns false once none is in use, or another watch tells them.
    fn take(&self, shared: &Arc<Shared>, batch: Batch) -> bool {
        let mut told = shared.told();
        if told.has_ended {
            return false;
        }
        let Some(changed) = told.apply(batch) else { return true };
        if changed.is_first {
            let before = self.watches.sharing().complete(shared);
            before.into_iter().for_each(|before| before.told().has_ended = true);
        }
        let names = self.names();
        if told.sweeps(&changed) {
            let covered = names.iter().filter(|(logical_id, _)| shared.covers(logical_id));
            covered.for_each(|(logical_id, name)| shared.tell(&told, &changed, logical_id, name));
            drop(names);
            return self.forget_idle(shared, &mut told);
        }
        let found = changed.names().filter_map(|logical_id| Some((logical_id, names.get(logical_id)?)));
        found.for_each(|(logical_id, name)| shared.tell(&told, &changed, logical_id, name));
        true
    }

    /// Forgets names that were not used for long. Returns false if none is left.
    fn forget_idle(&self, shared: &Arc<Shared>, told: &mut Told) -> bool {
        let is_idle = |name: &Name| name.idle_for() > self.settings.idle;
        let has_idle = self.names().iter().any(|(logical_id, name)| shared.covers(logical_id) && is_idle(name));
        if has_idle {
            self.names_mut().retain(|logical_id, name| !(shared.covers(logical_id) && is_idle(name)));
        }
        let is_used = self.names().keys().any(|logical_id| shared.covers(logical_id));
        if !is_used {
            told.has_ended = true;
            self.watches.sharing().remove(shared);
        }
        is_used
    }

    /// The daemon refuses a shared watch: each name has one of its own again, which tells why if it is refused too.
    fn refuse(self: &Arc<Self>, shared: &Arc<Shared>, error: &Error) {
        observe::watch_interrupted(shared.prefix(), error);
        shared.told().has_ended = true;
        let mut sharing = self.watches.sharing();
        sharing.remove(shared);
        sharing.is_refused = true;
        drop(sharing);
        for (logical_id, name) in &*self.names() {
            if name.filled_by() == shared.number() {
                name.await_fill(0);
                self.follow_single(logical_id, name);
            }
        }
    }
}

/// Follows one name until it is idle, the router is gone, the daemon refuses it, or a shared watch has taken it over.
async fn single(router: Weak<Inner>, logical_id: String, name: Weak<Name>) {
    let Some(client) = router.upgrade().map(|router| router.client.clone()) else { return };
    let mut watch = client.watch(&Filter::logical_id(&logical_id).status(Status::Alive));
    drop(client);
    loop {
        let step = watch.next().await;
        let Some(inner) = router.upgrade() else { return };
        if !name.upgrade().is_some_and(|name| goes_on(&inner, &logical_id, &name, step)) {
            inner.watches.end_single();
            return;
        }
    }
}

fn goes_on(router: &Inner, logical_id: &str, name: &Name, step: Result<Step, Error>) -> bool {
    let mut goes_on = match step {
        Ok(Step::Batch(batch)) => name.apply(batch),
        // What is known stays, and ages.
        Ok(Step::Interrupted(error)) => {
            observe::watch_interrupted(logical_id, &error);
            name.filled_by() == 0
        }
        Err(error) => {
            if name.filled_by() == 0 {
                name.refuse(error);
            }
            false
        }
    };
    if name.filled_by() == 0 && (!goes_on || name.idle_for() > router.settings.idle) {
        // The next use asks again.
        router.names_mut().remove(logical_id);
        goes_on = false;
    }
    goes_on
}

/// Follows many names until none is in use, the router is gone, or the daemon refuses it.
async fn many(router: Weak<Inner>, shared: Arc<Shared>) {
    let Some(client) = router.upgrade().map(|router| router.client.clone()) else { return };
    let mut watch = client.watch(&Filter::prefix(shared.prefix()).status(Status::Alive));
    drop(client);
    loop {
        let step = watch.next().await;
        let Some(inner) = router.upgrade() else { return };
        match step {
            Ok(Step::Batch(batch)) => {
                if !inner.take(&shared, batch) {
                    return;
                }
            }
            // What is known stays, and ages.
            Ok(Step::Interrupted(error)) => observe::watch_interrupted(shared.prefix(), &error),
            Err(error) => return inner.refuse(&shared, &error),
        }
    }
}
