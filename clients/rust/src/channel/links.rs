//! The connections of a channel: which instances are connected to, and which connection takes a call.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::{sync::watch, time::sleep};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::{
    link::{Link, Place},
    tls::InstanceTls,
};
use crate::{
    backoff::{self, Backoff},
    router::{Changes, Router, Target},
};

/// The connections to the instances of a name.
#[derive(Debug)]
pub(super) struct Links {
    logical_id: String,
    connected: Mutex<HashMap<Uuid, Connected>>,
    changed: watch::Sender<()>,
    /// Why the latest connection was not made, as long as none is.
    failure: Mutex<Option<String>>,
    /// Follows the instances; ends with this.
    following: Mutex<Option<AbortOnDropHandle<()>>>,
}

#[derive(Debug)]
struct Connected {
    link: Arc<Link>,
    is_suspect: bool,
}

/// An instance that is wanted, and the task that keeps it connected.
struct Wanted {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Links {
    pub(super) fn open(router: &Router, logical_id: &str, max: usize, tls: Option<InstanceTls>) -> Arc<Self> {
        let links = Arc::new(Self {
            logical_id: logical_id.to_owned(),
            connected: Mutex::default(),
            changed: watch::Sender::new(()),
            failure: Mutex::default(),
            following: Mutex::default(),
        });
        let following = follow(Arc::downgrade(&links), router.clone(), router.changes(logical_id), max, tls);
        let task = AbortOnDropHandle::new(tokio::spawn(following));
        *links.following.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        links
    }

    pub(super) fn logical_id(&self) -> &str {
        &self.logical_id
    }

    pub(super) fn count(&self) -> usize {
        self.connected().len()
    }

    /// Why there is none, as far as that was found out.
    pub(super) fn latest_failure(&self) -> Option<String> {
        self.failure().clone()
    }

    fn failure(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection for a call, as soon as there is one.
    pub(super) async fn pick(&self) -> Arc<Link> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(link) = self.draw() {
                return link;
            }
            // The sender lives in this value.
            let _ = changed.changed().await;
        }
    }

    /// Of two connections that are drawn, the one with fewer calls; one to a suspect instance only if there is no other.
    fn draw(&self) -> Option<Arc<Link>> {
        let connected = self.connected();
        let usable = connected.values().filter(|one| !one.link.is_closed());
        let all: Vec<_> = usable.collect();
        let sound: Vec<_> = all.iter().filter(|one| !one.is_suspect).copied().collect();
        let from = if sound.is_empty() { all } else { sound };
        let first = from.get(backoff::index(from.len()))?;
        let second = from.get(backoff::index(from.len()))?;
        let lighter = if second.link.load() < first.link.load() { second } else { first };
        Some(Arc::clone(&lighter.link))
    }

    fn connected(&self) -> MutexGuard<'_, HashMap<Uuid, Connected>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, id: Uuid, connected: Connected) {
        self.connected().insert(id, connected);
        *self.failure() = None;
        self.changed.send_replace(());
    }

    /// Forgets an instance, or this connection to it.
    fn remove(&self, id: Uuid, link: Option<&Arc<Link>>) {
        let mut connected = self.connected();
        if connected.get(&id).is_some_and(|one| link.is_none_or(|link| Arc::ptr_eq(link, &one.link))) {
            connected.remove(&id);
        }
    }
}

/// Keeps connections to the best instances, until the daemon refuses to watch the name.
async fn follow(links: Weak<Links>, router: Router, mut changes: Changes, max: usize, tls: Option<InstanceTls>) {
    let mut wanted: HashMap<Uuid, Wanted> = HashMap::new();
    while let Some(Ok(_)) = changes.next().await {
        let Some(links) = links.upgrade() else { return };
        let best: HashMap<Uuid, (SocketAddr, Target)> = router
            .targets(&links.logical_id)
            .into_iter()
            .filter_map(|target| Some((target.instance().instance_id, (target.instance().address()?, target))))
            .take(max)
            .collect();
        wanted.retain(|id, one| {
            let stays = best.get(id).is_some_and(|(address, _)| *address == one.address);
            if !stays {
                links.remove(*id, None);
            }
            stays
        });
        for (id, (address, target)) in best {
            if let Some(one) = links.connected().get_mut(&id) {
                one.is_suspect = target.instance().suspect;
            }
            wanted.entry(id).or_insert_with(|| {
                let tls = tls.as_ref().map(|tls| (tls.files().clone(), tls.name(target.instance())));
                let place = Place { address, tls };
                let task = tokio::spawn(keep(Arc::downgrade(&links), router.clone(), id, place, target));
                Wanted { address, _task: AbortOnDropHandle::new(task) }
            });
        }
    }
}

/// Keeps one instance connected, for as long as the task is not aborted. A call that is under way keeps its connection.
async fn keep(links: Weak<Links>, router: Router, id: Uuid, place: Place, target: Target) {
    let mut backoff = Backoff::default();
    loop {
        match Link::open(&place).await {
            Ok((link, running)) => {
                backoff.reset();
                let (link, running) = (Arc::new(link), tokio::spawn(running));
                let Some(links) = links.upgrade() else { return };
                let is_suspect = is_suspect(&router, &links.logical_id, id, &target);
                links.insert(id, Connected { link: Arc::clone(&link), is_suspect });
                let weak = Arc::downgrade(&links);
                drop(links);
                let _ = running.await;
                let Some(links) = weak.upgrade() else { return };
                links.remove(id, Some(&link));
            }
            Err(error) => {
                let Some(links) = links.upgrade() else { return };
                *links.failure() = Some(format!("the connection to {} was not made: {error}", place.address));
            }
        }
        target.failed();
        sleep(backoff.pause()).await;
    }
}

/// Whether it is suspect now; it may have changed since the connection was begun.
fn is_suspect(router: &Router, logical_id: &str, id: Uuid, target: &Target) -> bool {
    let now = router.instances(logical_id).into_iter().find(|one| one.instance_id == id);
    now.map_or(target.instance().suspect, |now| now.suspect)
}
