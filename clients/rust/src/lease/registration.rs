//! The application's handle of a registration.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    calls::Reply,
    cell::Cell,
    commands::Command,
    entry::Entry,
    register::Register,
    state::{Lease, LossReason, Lost, State},
    thread::BeatThread,
    update::Update,
};
use crate::{
    daemons::Limits,
    error::Error,
    model::Status,
    wire::{InstanceStatus, SetStatusRequest, registry_service_client::RegistryServiceClient},
};

/// How long a change of status may take.
const CALL: Duration = Duration::from_secs(5);

/// A registration that is kept. Dropping it gives the lease back in the background; [`Self::close`] waits for that.
#[derive(Debug)]
pub struct Registration {
    cell: Arc<Cell>,
    key: u64,
    thread: Arc<BeatThread>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.thread.commands().send(Command::Leave(self.key, None));
    }
}

impl Registration {
    /// Registers, and waits for the first outcome.
    pub(crate) async fn open(thread: Arc<BeatThread>, register: Register, within: Duration) -> Result<Self, Error> {
        let (first, outcome) = oneshot::channel();
        let registration = Self::begin(thread, register, Some(first), true)?;
        match timeout(within, outcome).await {
            Ok(Ok(Ok(()))) => Ok(registration),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) => Err(Error::local("the thread for beats has ended")),
            // Dropping the handle takes the attempt back.
            Err(_) => {
                let late = || Error::silent(registration.thread.daemons().current(), within);
                Err(registration.trouble().unwrap_or_else(late))
            }
        }
    }

    /// Begins to register; whether a refusal before the first lease ends it.
    pub(crate) fn begin(
        thread: Arc<BeatThread>,
        register: Register,
        first: Option<Reply>,
        is_refusal_final: bool,
    ) -> Result<Self, Error> {
        register.to_wire()?;
        let cell = Arc::new(Cell::new(register));
        let key = thread.commands().add(Entry::new(Arc::clone(&cell), first, is_refusal_final));
        Ok(Self { cell, key, thread })
    }

    /// The lease that is held; `None` between a loss and the registration that follows.
    #[must_use]
    pub fn lease(&self) -> Option<Lease> {
        self.cell.lease()
    }

    /// The fencing token, if the lease is held by this process's own clock at this moment.
    ///
    /// # Errors
    /// [`Lost`]: from the moment on at which the TTL has passed since the last acknowledged beat was sent, whatever the
    /// registry would say.
    pub fn require(&self) -> Result<u64, Lost> {
        self.cell.require(Duration::ZERO)
    }

    /// As [`Self::require`], and at least `remaining` is left: for an action that takes that long.
    ///
    /// # Errors
    /// [`Lost`]: less is left.
    pub fn require_for(&self, remaining: Duration) -> Result<u64, Lost> {
        self.cell.require(remaining)
    }

    /// What is left of the lease by this process's own clock; zero if none is held.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.cell.remaining()
    }

    /// A token that is cancelled when the present lease is lost.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.cell.token()
    }

    /// The state, and its changes.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<State> {
        self.cell.states()
    }

    /// The state at this moment.
    #[must_use]
    pub fn state(&self) -> State {
        self.cell.state()
    }

    /// Why the registry cannot be reached or refuses the registration; `None` while the lease is held and renewed.
    #[must_use]
    pub fn trouble(&self) -> Option<Error> {
        self.cell.trouble()
    }

    /// As [`Self::trouble`], and its changes.
    #[must_use]
    pub fn troubles(&self) -> watch::Receiver<Option<Error>> {
        self.cell.troubles()
    }

    /// The instance id: another one after a loss to a process that has taken it.
    #[must_use]
    pub fn instance_id(&self) -> Uuid {
        self.cell.wanted(|wanted| wanted.instance_id)
    }

    /// The address of this machine in the latest connection to the daemon.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        self.thread.daemons().source()
    }

    /// Waits until the present lease is lost.
    pub async fn lost(&self) -> Lost {
        self.token().cancelled().await;
        self.require().err().unwrap_or(Lost { lease_id: 0, reason: LossReason::Unknown })
    }

    /// Changes the status. A registration after a loss takes it over.
    ///
    /// # Errors
    /// The change is not allowed, the lease is lost, or no daemon took it within 5 s.
    pub async fn set_status(&self, status: Status) -> Result<(), Error> {
        self.set_status_because(status, "").await
    }

    /// As [`Self::set_status`], with the reason, at most 256 bytes. A registration after a loss does not repeat the reason.
    /// With the present status, the registry takes another reason at most every 10 s.
    ///
    /// # Errors
    /// As [`Self::set_status`], or the reason is too long.
    pub async fn set_status_because(&self, status: Status, reason: &str) -> Result<(), Error> {
        if status == Status::Dead {
            return Err(Error::invalid("status", "must not be dead; close the registration"));
        }
        self.cell.want(|wanted| wanted.status = status);
        self.change_lease(status, reason).await
    }

    /// Changes the status of the lease that is held. A registration after a loss begins with the status that
    /// [`Self::set_status`] set last.
    ///
    /// # Errors
    /// As [`Self::set_status`].
    pub async fn set_status_of_lease(&self, status: Status) -> Result<(), Error> {
        self.change_lease(status, "").await
    }

    /// As [`Self::set_status_of_lease`], with the reason, at most 256 bytes.
    ///
    /// # Errors
    /// As [`Self::set_status_because`].
    pub async fn set_status_of_lease_because(&self, status: Status, reason: &str) -> Result<(), Error> {
        self.change_lease(status, reason).await
    }

    async fn change_lease(&self, status: Status, reason: &str) -> Result<(), Error> {
        let Some(lease) = self.lease() else { return Ok(()) };
        let request = SetStatusRequest {
            lease_id: lease.lease_id,
            status: InstanceStatus::from(status).into(),
            reason: reason.to_owned(),
            ..SetStatusRequest::default()
        };
        let daemons = self.thread.daemons();
        let call = async move {
            let call = |channel| {
                let request = request.clone();
                async move { RegistryServiceClient::new(channel).set_status(request).await }
            };
            daemons.call(Limits::patient(CALL), call).await.map(|answer| daemons.seen().note(answer.revision))
        };
        self.thread.run(call).await
    }

    /// Changes attributes of the instance, without a gap in its lease. A registration after a loss takes them over too.
    ///
    /// # Errors
    /// A value is not accepted, or no daemon took it; the next registration sends it all the same.
    pub async fn update(&self, update: Update) -> Result<(), Error> {
        self.cell.want(|wanted| update.apply(wanted));
        self.ask(|reply| Command::Update(self.key, reply)).await
    }

    /// Leaves: sets the status to draining, waits for `drain` while the lease is kept, then gives it back. With a `drain`
    /// of zero it gives the lease back at once.
    ///
    /// # Errors
    /// The registration had ended before; or no daemon took the lease back within 2 s, and it ends by itself.
    pub async fn close(self, drain: Duration) -> Result<(), Error> {
        self.leave(drain).await
    }

    /// As [`Self::close`], for a registration that is shared.
    ///
    /// # Errors
    /// As [`Self::close`].
    pub async fn leave(&self, drain: Duration) -> Result<(), Error> {
        if !drain.is_zero() && self.set_status(Status::Draining).await.is_ok() {
            sleep(drain).await;
        }
        self.ask(|reply| Command::Leave(self.key, Some(reply))).await
    }

    async fn ask(&self, command: impl FnOnce(Reply) -> Command) -> Result<(), Error> {
        let (reply, outcome) = oneshot::channel();
        self.thread.commands().send(command(reply));
        outcome.await.unwrap_or_else(|_| Err(Error::local("the registration has ended already")))
    }
}
