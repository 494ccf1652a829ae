//! The thread on which leases are kept.
//!
//! A runtime of its own: an application that blocks every thread of its runtime, for a long computation or a lock that a
//! foreign library holds, goes on renewing its leases. It does not follow that the application makes progress; an
//! application that must not live on while it is stuck drains itself.

use std::{cell::RefCell, sync::Arc, thread, time::Duration};

use tokio::{
    runtime::Builder,
    sync::{Notify, oneshot, watch},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    beats::{self, Taker},
    commands::Commands,
    lease_keeper,
    observer::BeatObserver,
    table::Table,
};
use crate::{address::Address, daemons::Daemons, error::Error};

/// How long the leases that are left are given back for, when the last user is gone.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// A running thread. It ends when this is dropped and the registrations that were told to leave have left.
#[derive(Debug)]
pub(crate) struct BeatThread {
    runtime: tokio::runtime::Handle,
    calls: TaskTracker,
    commands: Commands,
    daemons: Arc<Daemons>,
    taker: watch::Receiver<Option<Address>>,
    /// Dropped with this: the thread's sign to end.
    _running: oneshot::Sender<()>,
}

impl BeatThread {
    /// Starts the thread.
    pub(crate) fn start(daemons: Daemons, observer: BeatObserver) -> Result<Self, Error> {
        let refused =
            |error: std::io::Error| Error::local(format!("the operating system refused a thread for beats: {error}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let (handle, calls, daemons) = (runtime.handle().clone(), TaskTracker::new(), Arc::new(daemons));
        let (running, gone) = oneshot::channel::<()>();
        let (sender, taker) = watch::channel(None);
        let commands = Commands::default();
        let (shared, tracked) = ((commands.clone(), Arc::clone(&daemons)), calls.clone());
        let life = move || runtime.block_on(live(&shared.0, &shared.1, (&sender, &observer), &tracked, gone));
        thread::Builder::new().name("musterd-beat".to_owned()).spawn(life).map_err(refused)?;
        Ok(Self { runtime: handle, calls, commands, daemons, taker, _running: running })
    }

    /// What applications ask of their registrations.
    pub(super) fn commands(&self) -> &Commands {
        &self.commands
    }

    /// The connections of the thread. Calls over them must run on the thread: see [`Self::run`].
    pub(super) fn daemons(&self) -> Arc<Daemons> {
        Arc::clone(&self.daemons)
    }

    /// The daemon that takes the beats.
    pub(crate) fn taker(&self) -> watch::Receiver<Option<Address>> {
        self.taker.clone()
    }

    /// Runs a call on the thread and waits for its outcome.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let outcome = self.calls.spawn_on(call, &self.runtime).await;
        outcome.unwrap_or_else(|_| Err(Error::local("the thread for beats has ended")))
    }
}

/// What the thread does, until the last user is gone and all leases are given back, or that takes too long. Its parts share
/// the table without a lock.
async fn live(
    commands: &Commands,
    daemons: &Arc<Daemons>,
    (taker, observer): (&Taker, &BeatObserver),
    calls: &TaskTracker,
    gone: oneshot::Receiver<()>,
) {
    let (table, leases_changed, is_gone) = (RefCell::new(Table::default()), Notify::new(), CancellationToken::new());
    let keeping = async {
        lease_keeper::run(commands, &table, &leases_changed, daemons, &is_gone).await;
        calls.close();
        calls.wait().await;
    };
    let ending = async {
        let _ = gone.await;
        is_gone.cancel();
        sleep(SHUTDOWN_TIMEOUT).await;
    };
    tokio::select! {
        () = beats::run(&table, &leases_changed, daemons, taker, observer) => {}
        () = keeping => {}
        () = ending => {}
    }
}
