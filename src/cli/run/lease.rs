//! The lease of CMD, as the user sees it: what it was granted, what goes wrong, and when it is over.
//!
//! `musterd-client` registers, beats and registers again, on a thread of its own, for as long as it takes; a lease that the
//! registry still holds after an outage is kept. Only changes are told to the user: when trouble begins, when its cause
//! becomes another one, and when it is over.

use std::{net::IpAddr, time::Duration};

use musterd_client::{LossReason, Registration, State, Status};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::address::Address;
use crate::{
    command::exit::{self, Error},
    terminal::output,
};

/// The pause before a change of status that failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// What a loss that ends the registration is worth to the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// The epoch has passed, or the one that the user named is refused.
    Fenced,
    /// There will be no other lease, and that is no reason to end the command.
    Otherwise,
}

/// The registration of CMD.
pub(super) struct Lease {
    registration: Option<Registration>,
    states: watch::Receiver<State>,
    troubles: watch::Receiver<Option<musterd_client::Error>>,
    logical_id: String,
    ip: Address,
    port: Option<u16>,
    /// The address that the user was told of.
    told_source: Option<IpAddr>,
    /// What the user was told of the present trouble: the exit code and the reason of its error.
    trouble: Option<(u8, Option<&'static str>)>,
    /// Whether the registry knows that CMD runs.
    is_alive: bool,
}

impl Lease {
    pub(super) fn new(registration: Registration, logical_id: &str, ip: Address, port: Option<u16>) -> Self {
        let (states, troubles) = (registration.states(), registration.troubles());
        Self {
            registration: Some(registration),
            states,
            troubles,
            logical_id: logical_id.to_owned(),
            ip,
            port,
            told_source: None,
            trouble: None,
            is_alive: false,
        }
    }

    /// Waits for the first lease, for one attempt at least; after `wait`, and at the latest after `limit`, CMD starts
    /// without one, which is told.
    ///
    /// # Errors
    ///
    /// The registry refuses the registration.
    pub(super) async fn open(&mut self, wait: Duration, limit: Duration) -> Result<(), Error> {
        let began = Instant::now();
        let settled = async {
            loop {
                if matches!(*self.states.borrow_and_update(), State::Held(_)) {
                    return Ok(true);
                }
                match self.troubles.borrow_and_update().clone() {
                    Some(error) if !error.is_retryable() => return Err(Error::from(error)),
                    Some(_) if began.elapsed() >= wait => return Ok(false),
                    _ => {}
                }
                tokio::select! {
                    changed = self.states.changed() => changed.map_err(|_| Error::Incomplete("a registration"))?,
                    changed = self.troubles.changed() => changed.map_err(|_| Error::Incomplete("a registration"))?,
                }
            }
        };
        match timeout(wait.max(limit), settled).await.unwrap_or(Ok(false))? {
            true => self.tell_address(),
            false => {
                let trouble = self.troubles.borrow().clone();
                self.tell_trouble(
                    trouble,
                    "the command starts without a registration; registering as soon as possible",
                );
            }
        }
        Ok(())
    }

    /// What the command may want to know about its registration; the epoch and the lease only if there is one.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let Some(registration) = &self.registration else { return Vec::new() };
        let mut variables = vec![
            ("MUSTERD_INSTANCE_ID", registration.instance_id().to_string()),
            ("MUSTERD_LOGICAL_ID", self.logical_id.clone()),
        ];
        if let Some(lease) = registration.lease() {
            variables.push(("MUSTERD_EPOCH", lease.cluster_epoch.to_string()));
            variables.push(("MUSTERD_LEASE_ID", lease.lease_id.to_string()));
        }
        variables
    }

    /// Says that CMD runs, and tells the user what becomes of its lease. Returns only if the epoch has passed and the user
    /// wants the command to stop then, or if the epoch that the user named is refused.
    pub(super) async fn follow(&mut self) {
        loop {
            let state = *self.states.borrow_and_update();
            match state {
                State::Held(_) => self.tell_address(),
                State::Lost(lost) => output::note(&format!("{lost}; the command goes on; {}", next(lost.reason))),
                State::Ended => match self.over() {
                    Over::Fenced => return,
                    Over::Otherwise => {
                        output::note("the command goes on without a registration");
                        std::future::pending::<()>().await;
                    }
                },
                _ => {}
            }
            let trouble = self.troubles.borrow_and_update().clone();
            match trouble {
                Some(trouble) => self.tell_trouble(Some(trouble), "the command goes on; retrying"),
                None if matches!(state, State::Held(_)) => self.tell_recovery(),
                None => {}
            }
            if !self.is_alive && matches!(state, State::Held(_)) {
                self.raise().await;
            }
            let retry = async { if self.is_alive { std::future::pending().await } else { sleep(PAUSE).await } };
            // Both senders live as long as the registration.
            tokio::select! {
                _ = self.states.changed() => {}
                _ = self.troubles.changed() => {}
                () = retry => {}
            }
        }
    }

    /// Ends the lease, in at most 2 s. Failure is told, and is no error: the lease ends by itself.
    pub(super) async fn leave(&mut self) {
        let Some(registration) = self.registration.take() else { return };
        if *self.states.borrow() == State::Ended {
            return;
        }
        if let Err(error) = registration.close(Duration::ZERO).await {
            exit::report(&error.into());
            output::note("could not deregister; the lease ends by itself within its TTL");
        }
    }

    /// Says that CMD runs.
    async fn raise(&mut self) {
        let Some(registration) = &self.registration else { return };
        // A refusal is final: an operator has set another status, which stays, or the lease is lost and the next one is
        // alive from its beginning.
        self.is_alive = registration.set_status(Status::Alive).await.err().is_none_or(|error| !error.is_retryable());
    }

    fn over(&self) -> Over {
        let lost = self.registration.as_ref().and_then(|registration| registration.require().err());
        let refused = self.troubles.borrow().as_ref().map(musterd_client::Error::reason);
        let is_fenced = lost.is_some_and(|lost| lost.reason == LossReason::Fenced)
            || refused == Some(musterd_client::Reason::EpochFenced);
        if is_fenced { Over::Fenced } else { Over::Otherwise }
    }

    /// Tells of an address that was not given.
    fn tell_address(&mut self) {
        let source = self.registration.as_ref().and_then(Registration::source);
        if source == self.told_source {
            return;
        }
        self.told_source = source;
        if let Some(note) = self.ip.note(&output::escape(&self.logical_id), source, self.port) {
            output::note(&note);
        }
    }

    /// Tells of an error, unless the last thing told was the same.
    fn tell_trouble(&mut self, error: Option<musterd_client::Error>, consequence: &str) {
        let error = error.map(Error::from);
        let kind = error.as_ref().map_or((exit::UNREACHABLE, None), |error| (error.exit_code(), error.reason()));
        if self.trouble != Some(kind) {
            if let Some(error) = &error {
                exit::report(error);
            }
            output::note(consequence);
        }
        self.trouble = Some(kind);
    }

    fn tell_recovery(&mut self) {
        if self.trouble.take().is_some()
            && let Some(lease) = self.registration.as_ref().and_then(Registration::lease)
        {
            output::note(&format!(
                "registered, beats succeed (instance {}, lease {})",
                lease.instance_id, lease.lease_id
            ));
        }
    }
}

/// What follows a loss.
fn next(reason: LossReason) -> &'static str {
    match reason {
        LossReason::Replaced => "re-registering under another instance id",
        LossReason::Fenced => "re-registering in the current epoch",
        _ => "re-registering",
    }
}
