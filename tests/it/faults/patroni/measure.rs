//! What a fault costs: when a node began to take changes, and when each daemon acknowledged the next one.
//!
//! Both are observed from before the fault on, beside it and not after it: one task for each node commits one transaction
//! after the other, and one for each daemon registers one instance after the other. A node that is not in recovery need
//! not take changes yet: with synchronous replication it waits for a standby.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_postgres::NoTls;
use uuid::Uuid;

use super::{Cluster, cluster::ELECTION_BOUND};
use crate::{
    faults::{
        client::{Client, Registration},
        history::{Answer, History, Micros, Outcome},
        world::World,
    },
    harness::wait::wait_until,
};

/// A transaction that changes nothing and is replicated; a standby refuses it.
const COMMIT: &str = "SELECT pg_logical_emit_message(true, 'probe', '')";
/// How often is asked, and the pause between two registrations.
const PERIOD: Duration = Duration::from_millis(20);
/// A daemon that acknowledges no change that long after a node takes them has not recovered.
const BACK_BOUND: Duration = Duration::from_secs(15);

/// Times, in order.
type Times = Arc<Mutex<Vec<Micros>>>;

/// Observes nodes and daemons until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    /// When a node began to take changes.
    risen: Times,
    /// When a change was acknowledged, for each daemon.
    acknowledged: Vec<Times>,
    _tasks: JoinSet<()>,
}

impl Watch {
    /// Begins, and waits until each node has answered and each daemon has acknowledged a change.
    pub(super) async fn begin(world: &World, cluster: &Cluster) -> Self {
        let (risen, mut tasks, mut acknowledged) = (Times::default(), JoinSet::new(), Vec::new());
        let (answered, mut answers) = mpsc::channel(cluster.nodes());
        for node in 0..cluster.nodes() {
            tasks.spawn(observe(cluster.url_of(node), world.history.clone(), risen.clone(), answered.clone()));
        }
        for daemon in 0..world.nodes.len() {
            let times = Times::default();
            tasks.spawn(register(world.client(), daemon, world.ttl, times.clone()));
            acknowledged.push(times);
        }
        let watch = Self { risen, acknowledged, _tasks: tasks };
        for _ in 0..cluster.nodes() {
            answers.recv().await.unwrap();
        }
        watch.back(&world.history, world.history.now()).await;
        watch
    }

    /// Waits until a node has begun to take changes after `from`, and returns when.
    pub(super) async fn rise(&self, from: Micros) -> Micros {
        wait_until("a node that takes changes", ELECTION_BOUND, async || first(&self.risen, from).ok_or("none")).await
    }

    /// Waits until each daemon has acknowledged a change after `from`, and returns how long that took; `None` for one that
    /// has not recovered.
    pub(super) async fn back(&self, history: &History, from: Micros) -> Vec<Option<Micros>> {
        let bound = from + Micros::try_from(BACK_BOUND.as_micros()).unwrap();
        loop {
            let back: Vec<_> = self.acknowledged.iter().map(|times| first(times, from).map(|at| at - from)).collect();
            if back.iter().all(Option::is_some) || history.now() > bound {
                return back;
            }
            sleep(PERIOD).await;
        }
    }

    /// The longest time without an acknowledged change, for each daemon.
    pub(super) fn pauses(&self, from: Micros, until: Micros) -> Vec<Micros> {
        let longest = |times: &Times| {
            let within = |at: &Micros| (from..until).contains(at);
            let mut times: Vec<_> = times.lock().unwrap().iter().copied().filter(within).collect();
            times.insert(0, from);
            times.push(until);
            times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
        };
        self.acknowledged.iter().map(longest).collect()
    }
}

fn first(times: &Times, from: Micros) -> Option<Micros> {
    times.lock().unwrap().iter().copied().find(|at| *at >= from)
}

/// Notes when a node begins to take changes, after it did not.
async fn observe(url: String, history: History, risen: Times, answered: mpsc::Sender<()>) {
    let mut took_changes = None;
    loop {
        if let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await {
            let asking = async {
                loop {
                    let takes_changes = match client.batch_execute(COMMIT).await {
                        Ok(()) => true,
                        Err(_) if client.is_closed() => return,
                        Err(_) => false,
                    };
                    if takes_changes && took_changes == Some(false) {
                        risen.lock().unwrap().push(history.now());
                    }
                    if took_changes.replace(takes_changes).is_none() {
                        answered.send(()).await.unwrap();
                    }
                    sleep(PERIOD).await;
                }
            };
            tokio::select! {
                _ = connection => {}
                () = asking => {}
            }
        }
        // One that has never answered is none that did not take changes.
        took_changes = took_changes.map(|_| false);
        sleep(PERIOD).await;
    }
}

async fn register(client: Client, daemon: usize, ttl: Duration, acknowledged: Times) {
    loop {
        let asked = Registration::probe(Uuid::new_v4(), ttl);
        let mut attempt = 1;
        let lease = loop {
            match client.register(daemon, attempt, &asked).await {
                Outcome::Ok(Answer::Registered { lease, .. }) => break lease,
                _ => sleep(PERIOD).await,
            }
            attempt += 1;
        };
        acknowledged.lock().unwrap().push(client.history.now());
        client.deregister(daemon, 1, lease).await;
        sleep(PERIOD).await;
    }
}
