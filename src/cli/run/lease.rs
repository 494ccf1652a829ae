//! Keeps one lease alive, whatever happens to the registry.
//!
//! The answer to each failure is decided in one place, [`judge`]:
//!
//! | failure | answer |
//! |---|---|
//! | unreachable, no answer, overloaded, any other | the same again, after a pause that grows from 0.5 s |
//! | lease unknown or expired | register anew under the same instance id: a dead instance is replaced |
//! | instance id taken over by another process | register anew under a fresh instance id; both run, both are found |
//! | epoch rotated | register anew in the current epoch, or give up if the user wants that |
//!
//! The first registration is tried for as long as the user waits for a daemon (`--wait`), or else for an answer
//! (`--timeout`). If no daemon was reached by then, the command starts without a registration and [`Keeper::keep`] goes on
//! trying; a registration that is refused is an error. Each registration carries the source address of its connection,
//! unless `--ip` names another: without a daemon at the start it is not known before.
//!
//! The pause between failures is random, so that a fleet does not come back in one blow, between 0.5 s and a limit that
//! doubles from 1 s up to the beat interval, at most 10 s: after an outage the registry waits for the
//! longest TTL before it declares anybody dead, so who comes back within a beat interval loses nothing. Beats come up to
//! a tenth early and never late, so that a fleet that was started together does not beat together, and the interval of
//! a third of the TTL, on which the promise of no false death rests, is kept.
//!
//! Only changes are told to the user: when trouble begins, when its cause becomes another one, and when it is over.

use std::{fmt, net::IpAddr, time::Duration};

use tonic::Code;
use uuid::Uuid;

use super::{
    super::{
        backoff::random,
        client::{Client, ClientArgs},
        exit::{self, Error},
        output,
    },
    OnFenced,
    address::Address,
};
use crate::proto::{
    std_duration,
    v1::{BeatRequest, DeregisterRequest, InstanceStatus, RegisterRequest, RegisterResponse, SetStatusRequest},
};

/// The first pause between attempts to register for the first time, and the longest.
const OPEN_PAUSE_MIN: Duration = Duration::from_millis(100);
const OPEN_PAUSE_MAX: Duration = Duration::from_secs(1);
/// The shortest pause after a failure.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// The longest pause after a failure.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// The beat interval if the server names none: a third of the default TTL.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
/// However short an interval a server names, no more than 10 beats per second.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// How long taking leave may delay the exit; the lease ends by itself anyway.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The lease as it was granted, and what is still to be done about it.
struct Lease {
    id: u64,
    epoch: String,
    /// Whether the registry knows that the command runs.
    is_alive: bool,
    interval: Duration,
}

/// What to do about a failure.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// The same again, later.
    Again,
    /// Register under the same instance id.
    Register,
    /// Register under another instance id.
    RegisterAfresh,
    /// The epoch has passed.
    Fenced,
}

fn judge(error: &Error) -> Answer {
    match (error.reason().as_deref(), error) {
        (Some("EPOCH_FENCED"), _) => Answer::Fenced,
        (Some("LEASE_REPLACED" | "INSTANCE_ID_TAKEN"), _) => Answer::RegisterAfresh,
        (Some("LEASE_EXPIRED" | "UNKNOWN_LEASE" | "UNKNOWN_INSTANCE"), _) => Answer::Register,
        _ => Answer::Again,
    }
}

/// Holder of one instance's registration.
pub(super) struct Keeper {
    args: ClientArgs,
    /// How long the first registration is tried.
    pub(super) patience: Duration,
    /// `None` until a daemon was reached; from then on the connection is restored as needed.
    client: Option<Client>,
    request: RegisterRequest,
    ip: Address,
    on_fenced: OnFenced,
    /// `None` before the first registration, and again once the lease is known to be lost.
    lease: Option<Lease>,
    was_registered: bool,
    /// What the user was told of the present trouble: the exit code and the reason of its error.
    trouble: Option<(u8, Option<String>)>,
}

impl Keeper {
    pub(super) fn new(args: &ClientArgs, request: RegisterRequest, ip: Address, on_fenced: OnFenced) -> Self {
        Self {
            patience: args.wait.unwrap_or(args.timeout),
            // Each attempt is short; the pauses between them are decided here.
            args: ClientArgs { wait: Some(Duration::ZERO), ..args.clone() },
            client: None,
            request,
            ip,
            on_fenced,
            lease: None,
            was_registered: false,
            trouble: None,
        }
    }

    /// Registers for the first time. If no daemon can be reached, or none is ready, within the time limit, that is told,
    /// and [`Self::keep`] registers.
    pub(super) async fn open(&mut self) -> Result<(), Error> {
        let deadline = tokio::time::Instant::now() + self.patience;
        let mut pause = OPEN_PAUSE_MIN;
        loop {
            let error = match self.register().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if !is_passing(&error) {
                return Err(error);
            }
            if tokio::time::Instant::now() + pause >= deadline {
                self.tell_trouble(&error, "the command starts without a registration; registering as soon as possible");
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(OPEN_PAUSE_MAX);
        }
    }

    /// What the command may want to know about its registration; the epoch and the lease only if there is one.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let RegisterRequest { instance_id, logical_id, .. } = &self.request;
        let mut variables =
            vec![("MUSTERD_INSTANCE_ID", instance_id.clone()), ("MUSTERD_LOGICAL_ID", logical_id.clone())];
        if let Some(Lease { id, epoch, .. }) = &self.lease {
            variables.extend([("MUSTERD_EPOCH", epoch.clone()), ("MUSTERD_LEASE_ID", id.to_string())]);
        }
        variables
    }

    /// Beats from now on. Returns only if the epoch has passed and the user wants the command to stop then, or if the
    /// epoch that the user named is refused.
    ///
    /// May be dropped at any await: what was sent is repeated or undone by [`Self::leave`].
    pub(super) async fn keep(&mut self) {
        // From here on the command runs, so a new registration is ALIVE at once.
        self.request.initial_status = InstanceStatus::Alive.into();
        let mut longest = BACKOFF_MIN;
        loop {
            let failure = self.step().await.err();
            let wait = match &failure {
                None => {
                    self.tell_recovery();
                    longest = BACKOFF_MIN;
                    self.interval().mul_f64(0.9 + 0.1 * random())
                }
                Some(error) => {
                    let answer = judge(error);
                    if answer == Answer::Fenced && (self.on_fenced == OnFenced::Stop || !self.was_registered) {
                        return;
                    }
                    let at_once = answer != Answer::Again && self.trouble.is_none();
                    self.tell_trouble(error, &format!("the command goes on; {answer}"));
                    self.prepare(&answer);
                    longest = (longest * 2).min(self.interval().clamp(BACKOFF_MIN * 2, BACKOFF_MAX));
                    let pause = BACKOFF_MIN + (longest - BACKOFF_MIN).mul_f64(random());
                    if at_once { Duration::ZERO } else { pause }
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Ends the lease, in at most 2 s. Failure is told, and is no error: the lease ends by itself.
    pub(super) async fn leave(&mut self) {
        let Some(client) = self.client.clone() else { return };
        let lease_id = self.lease.as_ref().map_or(0, |lease| lease.id);
        // With the lease id, nobody else's registration of the same instance id can be meant. Without one, a
        // registration may be under way.
        let instance_id = if lease_id == 0 { self.request.instance_id.clone() } else { String::new() };
        let mut registry = client.registry();
        let call = client.call(registry.deregister(DeregisterRequest { lease_id, instance_id }));
        match tokio::time::timeout(LEAVE_TIMEOUT, call).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if judge(&error) != Answer::Again => {}
            Ok(Err(error)) => {
                exit::report(&error);
                output::note("could not deregister; the lease ends by itself within its TTL");
            }
            Err(_) => output::note("could not deregister in time; the lease ends by itself within its TTL"),
        }
    }

    fn interval(&self) -> Duration {
        self.lease.as_ref().map_or(DEFAULT_INTERVAL, |lease| lease.interval)
    }

    /// Does what is due: register, or say that the command runs, and beat.
    async fn step(&mut self) -> Result<(), Error> {
        if self.lease.is_none() {
            self.register().await?;
        }
        // A status that cannot be written must not keep the beats from being heard.
        let raised = self.raise().await;
        self.beat().await.and(raised)
    }

    async fn register(&mut self) -> Result<(), Error> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => self.client.insert(Client::connect(&self.args).await?).clone(),
        };
        self.locate(client.source());
        let granted = client.call(client.registry().register(self.request.clone())).await?;
        self.lease = Some(Lease::from(granted));
        self.was_registered = true;
        Ok(())
    }

    /// Puts the address into the registration, and tells of one that was not given.
    fn locate(&mut self, source: Option<IpAddr>) {
        let ip = self.ip.ip(source).map(|ip| ip.to_string()).unwrap_or_default();
        if ip == self.request.ip_address {
            return;
        }
        self.request.ip_address = ip;
        let port = u16::try_from(self.request.port).ok().filter(|port| *port > 0);
        if let Some(note) = self.ip.note(&output::escape(&self.request.logical_id), source, port) {
            output::note(&note);
        }
    }

    async fn raise(&mut self) -> Result<(), Error> {
        let (Some(client), Some(lease)) = (&self.client, self.lease.as_mut().filter(|lease| !lease.is_alive)) else {
            return Ok(());
        };
        let request =
            SetStatusRequest { lease_id: lease.id, instance_id: String::new(), status: InstanceStatus::Alive.into() };
        match client.call(client.registry().set_status(request)).await {
            Ok(_) => lease.is_alive = true,
            // Somebody else has set another status; that stands, and the beat tells whether the lease does.
            Err(error) if error.reason().as_deref() == Some("INVALID_TRANSITION") => lease.is_alive = true,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn beat(&mut self) -> Result<(), Error> {
        let (Some(client), Some(lease)) = (&self.client, self.lease.as_mut()) else { return Ok(()) };
        let request = BeatRequest { lease_id: lease.id, instance_id: String::new() };
        let answer = client.call(client.registry().beat(request)).await?;
        lease.interval = interval(answer.next_beat_in.as_ref());
        Ok(())
    }

    /// Makes the next step the right one.
    fn prepare(&mut self, answer: &Answer) {
        match answer {
            Answer::Again => return,
            Answer::Register => {}
            Answer::RegisterAfresh => self.request.instance_id = Uuid::new_v4().to_string(),
            // Empty: whichever epoch is current.
            Answer::Fenced => self.request.cluster_epoch.clear(),
        }
        self.lease = None;
    }

    /// Tells of an error, unless the last thing told was the same.
    fn tell_trouble(&mut self, error: &Error, consequence: &str) {
        let kind = (error.exit_code(), error.reason());
        if self.trouble.as_ref() != Some(&kind) {
            exit::report(error);
            output::note(consequence);
        }
        self.trouble = Some(kind);
    }

    fn tell_recovery(&mut self) {
        if self.trouble.take().is_some() {
            let lease = self.lease.as_ref().map_or(0, |lease| lease.id);
            output::note(&format!("registered, beats succeed (instance {}, lease {lease})", self.request.instance_id));
        }
    }
}

impl From<RegisterResponse> for Lease {
    fn from(granted: RegisterResponse) -> Self {
        Self {
            id: granted.lease_id,
            is_alive: granted.status() != InstanceStatus::Starting,
            interval: interval(granted.beat_interval.as_ref()),
            epoch: granted.cluster_epoch,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Again => "retrying",
            Self::Register => "re-registering",
            Self::RegisterAfresh => "re-registering under another instance id",
            Self::Fenced => "re-registering in the current epoch",
        })
    }
}

/// Whether the registration may succeed later: no daemon was reached, or one says that it is not ready.
fn is_passing(error: &Error) -> bool {
    let is_not_ready = |code| matches!(code, Code::Unavailable | Code::ResourceExhausted);
    error.exit_code() == exit::UNREACHABLE || matches!(error, Error::Rpc(status) if is_not_ready(status.code()))
}

fn interval(named: Option<&prost_types::Duration>) -> Duration {
    named.and_then(std_duration).filter(|interval| !interval.is_zero()).unwrap_or(DEFAULT_INTERVAL).max(INTERVAL_MIN)
}

#[cfg(test)]
mod tests {
    use tonic::Status;
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    fn signed(code: Code, reason: &str) -> Error {
        Status::with_error_details(code, "", ErrorDetails::with_error_info(reason, "musterd", [])).into()
    }

    #[test]
    fn each_failure_has_its_answer() {
        for (code, reason, answer) in [
            (Code::FailedPrecondition, "EPOCH_FENCED", Answer::Fenced),
            (Code::FailedPrecondition, "LEASE_REPLACED", Answer::RegisterAfresh),
            (Code::AlreadyExists, "INSTANCE_ID_TAKEN", Answer::RegisterAfresh),
            (Code::FailedPrecondition, "LEASE_EXPIRED", Answer::Register),
            (Code::NotFound, "UNKNOWN_LEASE", Answer::Register),
            (Code::Unavailable, "BEATS_NOT_SAVED", Answer::Again),
            (Code::Unavailable, "MAYBE_APPLIED", Answer::Again),
        ] {
            assert_eq!(judge(&signed(code, reason)), answer, "{reason}");
        }
        assert_eq!(judge(&Status::unavailable("connection refused").into()), Answer::Again);
        // A proxy's 404 is not the registry's word about a lease.
        assert_eq!(judge(&Status::not_found("").into()), Answer::Again);
    }

    #[test]
    fn only_a_refusal_is_final_at_the_start() {
        assert!(is_passing(&signed(Code::Unavailable, "NOT_YET_SEEN")));
        assert!(is_passing(&signed(Code::ResourceExhausted, "OVERLOADED")));
        assert!(is_passing(&Status::unavailable("connection refused").into()));
        assert!(is_passing(&Error::Timeout { addr: String::new(), after: Duration::ZERO }));
        assert!(!is_passing(&signed(Code::FailedPrecondition, "EPOCH_FENCED")));
        assert!(!is_passing(&signed(Code::InvalidArgument, "INVALID_FIELD")));
    }

    #[test]
    fn an_interval_that_makes_no_sense_is_replaced() {
        let named = |seconds, nanos| interval(Some(&prost_types::Duration { seconds, nanos }));
        assert_eq!(named(3, 0), Duration::from_secs(3));
        assert_eq!(named(0, 0), DEFAULT_INTERVAL);
        assert_eq!(named(-1, 0), DEFAULT_INTERVAL);
        assert_eq!(named(0, 1), INTERVAL_MIN);
        assert_eq!(interval(None), DEFAULT_INTERVAL);
    }
}
