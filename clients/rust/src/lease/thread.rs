//! The thread on which leases are kept.
//!
//! A runtime of its own: an application that blocks every thread of its runtime, for a long computation or a lock that a
//! foreign library holds, goes on renewing its leases. It does not follow that the application makes progress; an
//! application that must not live on while it is stuck drains itself.

use std::{sync::Arc, thread, time::Duration};

use tokio::{runtime::Builder, sync::oneshot, time::timeout};
use tokio_util::task::TaskTracker;

use super::{
    beats::{self, Leases},
    lease_keeper::LeaseKeeper,
};
use crate::{daemons::Daemons, error::Error};

/// How long the leases that are left are given back for, when the last user is gone.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// A running thread. It ends when this is dropped and the keepers that were told to leave have left.
#[derive(Debug)]
pub(crate) struct BeatThread {
    runtime: tokio::runtime::Handle,
    keepers: TaskTracker,
    leases: Leases,
    daemons: Arc<Daemons>,
    /// Dropped with this: the thread's sign to end.
    _running: oneshot::Sender<()>,
}

impl BeatThread {
    /// Starts the thread.
    pub(crate) fn start(daemons: Daemons) -> Result<Self, Error> {
        let refused =
            |error: std::io::Error| Error::local(format!("the operating system refused a thread for beats: {error}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let (handle, keepers, daemons) = (runtime.handle().clone(), TaskTracker::new(), Arc::new(daemons));
        let (leases, remaining) = (Leases::default(), keepers.clone());
        let (running, stopped) = oneshot::channel::<()>();
        let beating = beats::run(leases.clone(), Arc::clone(&daemons));
        let life = move || {
            runtime.block_on(async move {
                tokio::select! {
                    () = beating => {}
                    () = async {
                        let _ = stopped.await;
                        remaining.close();
                        let _ = timeout(SHUTDOWN_TIMEOUT, remaining.wait()).await;
                    } => {}
                }
            });
        };
        thread::Builder::new().name("musterd-beat".to_owned()).spawn(life).map_err(refused)?;
        Ok(Self { runtime: handle, keepers, leases, daemons, _running: running })
    }

    /// Runs a keeper on the thread.
    pub(super) fn keep(&self, keeper: LeaseKeeper) {
        let task = keeper.run(self.leases.clone(), Arc::clone(&self.daemons));
        self.keepers.spawn_on(task, &self.runtime);
    }

    /// The connections of the thread. Calls over them must run on the thread: see [`Self::run`].
    pub(super) fn daemons(&self) -> Arc<Daemons> {
        Arc::clone(&self.daemons)
    }

    /// Runs a call on the thread and waits for its outcome.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let outcome = self.keepers.spawn_on(call, &self.runtime).await;
        outcome.unwrap_or_else(|_| Err(Error::local("the thread for beats has ended")))
    }
}
