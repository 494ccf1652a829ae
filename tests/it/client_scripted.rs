//! The Rust client against a registry that answers by script: answers that a healthy daemon seldom gives.
//!
//! It speaks the real protocol over a real socket, so that what is tested includes the way errors travel.

use std::{
    collections::VecDeque,
    net::TcpListener,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use musterd::proto::v1::{
    self, BeatException, BeatStreamResponse, ErrorReason, RegisterRequest, RegisterResponse,
    registry_service_server::{RegistryService, RegistryServiceServer},
};
use musterd_client::{Beat, Client, Kind, LossReason, OnLost, Reason, Register, Registration, State, Status as Word};
use tokio::time::timeout;
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};
use tonic_types::{ErrorDetails, StatusExt as _};
use uuid::Uuid;

use crate::harness::wait::wait_until;

const EPOCH: Uuid = Uuid::from_u128(0x0a00_0000_0000_4000_8000_0000_0000_0001);
/// How long anything may take on a loaded machine.
const BOUND: Duration = Duration::from_secs(40);
const LONG: Duration = Duration::from_secs(30);
/// The first beat comes after a third of it.
const SHORT: Duration = Duration::from_secs(6);

/// What was asked, and what comes next; an empty script means OK.
#[derive(Debug, Default)]
struct Script {
    registrations: Vec<RegisterRequest>,
    registers: VecDeque<(Code, &'static str)>,
    beats: VecDeque<Option<ErrorReason>>,
    beaten: u64,
    statuses: Vec<v1::InstanceStatus>,
    /// How each Deregister is answered.
    deregister: Option<(Code, &'static str)>,
    deregistered: Vec<v1::DeregisterRequest>,
    /// Whether beats and deregistrations are not answered at all.
    is_silent: bool,
}

#[derive(Clone, Debug, Default)]
struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    /// Starts it; returns its address too.
    fn start(script: Script) -> (Self, String) {
        let scripted = Self(Arc::new(Mutex::new(script)));
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = incoming.local_addr().unwrap().to_string();
        let server = Server::builder().add_service(RegistryServiceServer::new(scripted.clone()));
        drop(tokio::spawn(server.serve_with_incoming(incoming)));
        (scripted, addr)
    }

    fn script<T>(&self, read: impl FnOnce(&mut Script) -> T) -> T {
        read(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until so many registrations came, and returns them.
    async fn registrations(&self, count: usize) -> Vec<RegisterRequest> {
        wait_until("registrations", BOUND, async || {
            let seen = self.script(|script| script.registrations.clone());
            if seen.len() >= count { Ok(seen) } else { Err(seen.len()) }
        })
        .await
    }

    async fn beaten(&self, count: u64) {
        wait_until("beats", BOUND, async || {
            let seen = self.script(|script| script.beaten);
            if seen >= count { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    fn deregistered(&self) -> usize {
        self.script(|script| script.deregistered.len())
    }
}

fn signed((code, reason): (Code, &'static str)) -> Status {
    Status::with_error_details(code, "scripted", ErrorDetails::with_error_info(reason, "musterd", []))
}

#[tonic::async_trait]
impl RegistryService for Scripted {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        let request = request.into_inner();
        self.script(|script| {
            script.registrations.push(request.clone());
            if let Some(error) = script.registers.pop_front() {
                return Err(signed(error));
            }
            Ok(Response::new(RegisterResponse {
                instance_id: request.instance_id,
                lease_id: script.registrations.len() as u64,
                cluster_epoch: EPOCH.to_string(),
                epoch_number: 1,
                ttl: request.ttl,
                status: request.initial_status,
                ..Default::default()
            }))
        })
    }

    type BeatStreamStream = Pin<Box<dyn Stream<Item = Result<BeatStreamResponse, Status>> + Send>>;

    async fn beat_stream(
        &self,
        request: Request<Streaming<v1::BeatStreamRequest>>,
    ) -> Result<Response<Self::BeatStreamStream>, Status> {
        let scripted = self.clone();
        let answers = request.into_inner().filter_map(move |request| {
            let answer = request.map(|request| {
                scripted.script(|script| {
                    if script.is_silent || request.goodbye {
                        return None;
                    }
                    script.beaten += 1;
                    let exception = script.beats.pop_front().flatten();
                    let except = |reason: ErrorReason| {
                        let each = request.lease_ids.iter();
                        each.map(|id| BeatException { lease_id: *id, reason: reason.into(), ..Default::default() })
                            .collect()
                    };
                    let next_beat_in = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
                    let exceptions = exception.map(except).unwrap_or_default();
                    Some(BeatStreamResponse { exceptions, next_beat_in, ..Default::default() })
                })
            });
            async move { answer.transpose() }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn beat(&self, _: Request<v1::BeatRequest>) -> Result<Response<v1::BeatResponse>, Status> {
        Err(Status::unimplemented("the client beats over a stream"))
    }

    async fn set_status(
        &self,
        request: Request<v1::SetStatusRequest>,
    ) -> Result<Response<v1::SetStatusResponse>, Status> {
        self.script(|script| script.statuses.push(request.get_ref().status()));
        Ok(Response::new(v1::SetStatusResponse::default()))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        let (is_silent, refusal) = self.script(|script| {
            script.deregistered.push(request.into_inner());
            (script.is_silent, script.deregister)
        });
        if is_silent {
            std::future::pending::<()>().await;
        }
        refusal.map_or_else(|| Ok(Response::new(v1::DeregisterResponse::default())), |refusal| Err(signed(refusal)))
    }
}

fn client(addresses: &[&str]) -> Client {
    let daemons = addresses.iter().copied();
    Client::builder().daemons(daemons).timeout(LONG).retry_for(Duration::ZERO).build().unwrap()
}

fn organ() -> Register {
    Register::new("a").instance_id(Uuid::from_u128(7)).ttl(LONG).status(Word::Starting)
}

async fn state(registration: &Registration, is_meant: impl Fn(&State) -> bool) -> State {
    *timeout(BOUND, registration.states().wait_for(|state| is_meant(state))).await.unwrap().unwrap()
}

#[tokio::test]
async fn registration_begins_beats_and_gives_its_lease_back() {
    let (scripted, addr) = Scripted::start(Script::default());
    let registration = client(&[&addr]).register(organ()).await.unwrap();
    registration.set_status(Word::Alive).await.unwrap();
    scripted.beaten(3).await;
    registration.close(Duration::ZERO).await.unwrap();
    let (first, statuses) = scripted.script(|script| (script.registrations[0].clone(), script.statuses.clone()));
    assert_eq!((first.initial_status(), statuses), (v1::InstanceStatus::Starting, vec![v1::InstanceStatus::Alive]));
    let given_back = scripted.script(|script| script.deregistered.clone());
    assert_eq!((given_back[0].lease_id, given_back[0].instance_id.as_str(), given_back.len()), (1, "", 1));
}

#[tokio::test]
async fn beat_observer_receives_each_beat_with_its_outcome() {
    let beats = [None, Some(ErrorReason::LeaseExpired)].into();
    let (_scripted, addr) = Scripted::start(Script { beats, ..Script::default() });
    let (seen, told) = std::sync::mpsc::channel();
    let observe = move |beat: &Beat<'_>| {
        let outcome = beat.outcome.map(<[_]>::to_vec).map_err(|error| error.kind());
        seen.send((beat.daemon.to_string(), beat.leases.to_vec(), outcome)).unwrap();
    };
    let daemons = [addr.as_str(), "127.0.0.1:1"];
    let client = Client::builder().daemons(daemons).timeout(LONG).beat_observer(observe).build().unwrap();
    let registration = client.register(organ().ttl(Duration::from_secs(3)).on_lost(OnLost::Stop)).await.unwrap();
    state(&registration, |state| *state == State::Ended).await;
    let daemon = format!("http://{addr}");
    let expected = [(daemon.clone(), vec![1], Ok(vec![])), (daemon, vec![1], Ok(vec![(1, Reason::LeaseExpired)]))];
    assert_eq!(told.try_iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn beat_observer_receives_the_failure_of_a_silent_daemon() {
    let (scripted, addr) = Scripted::start(Script::default());
    let (seen, told) = std::sync::mpsc::channel();
    let observe = move |beat: &Beat<'_>| seen.send(beat.outcome.map(|_| ()).map_err(|error| error.kind())).unwrap();
    let client = Client::builder().daemons([addr]).timeout(LONG).beat_observer(observe).build().unwrap();
    let _registration = client.register(organ().ttl(Duration::from_secs(3))).await.unwrap();
    scripted.script(|script| script.is_silent = true);
    wait_until("a beat without an answer", BOUND, async || {
        if told.try_iter().any(|outcome| outcome == Err(Kind::Silent)) { Ok(()) } else { Err("none yet") }
    })
    .await;
}

#[tokio::test]
async fn lost_lease_is_replaced_under_the_same_instance_id() {
    for lost in [ErrorReason::LeaseExpired, ErrorReason::UnknownLease] {
        let beats = [None, Some(lost)].into();
        let (scripted, addr) = Scripted::start(Script { beats, ..Script::default() });
        let registration = client(&[&addr]).register(organ().ttl(SHORT).cluster_epoch(EPOCH)).await.unwrap();
        registration.set_status(Word::Alive).await.unwrap();
        let seen = scripted.registrations(2).await;
        assert_eq!(seen[1].instance_id, seen[0].instance_id);
        assert_eq!(seen[1].initial_status(), v1::InstanceStatus::Alive, "as the application wants it now");
        assert_eq!(seen[1].cluster_epoch, EPOCH.to_string(), "nothing was said about the epoch");
    }
}

#[tokio::test]
async fn instance_id_taken_by_another_process_ends_the_registration() {
    let beats = [Some(ErrorReason::LeaseReplaced)].into();
    let (scripted, addr) = Scripted::start(Script { beats, ..Script::default() });
    let registration = client(&[&addr]).register(organ().ttl(SHORT)).await.unwrap();
    let seen = scripted.registrations(2).await;
    assert_ne!(seen[1].instance_id, seen[0].instance_id);
    assert_eq!(registration.instance_id().to_string(), seen[1].instance_id);
}

#[tokio::test]
async fn rotation_is_followed_or_ends_the_registration_by_option() {
    let fenced = || Script { beats: [Some(ErrorReason::EpochFenced)].into(), ..Script::default() };
    let (scripted, addr) = Scripted::start(fenced());
    let follows = organ().ttl(SHORT).cluster_epoch(EPOCH).on_lost(OnLost::RejoinAnyEpoch);
    let _registration = client(&[&addr]).register(follows).await.unwrap();
    let seen = scripted.registrations(2).await;
    assert_eq!((seen[1].cluster_epoch.as_str(), &seen[1].instance_id), ("", &seen[0].instance_id));

    let (scripted, addr) = Scripted::start(fenced());
    let registration = client(&[&addr]).register(organ().ttl(SHORT).on_lost(OnLost::RejoinSameEpoch)).await.unwrap();
    state(&registration, |state| *state == State::Ended).await;
    assert_eq!(registration.require().unwrap_err().reason, LossReason::Fenced);
    assert_eq!(scripted.registrations(1).await.len(), 1);
}

#[tokio::test]
async fn kept_registration_reports_each_failure_until_it_is_registered() {
    let registers = [(Code::Unavailable, "NOT_YET_SEEN"), (Code::InvalidArgument, "INVALID_FIELD")].into();
    let (_scripted, addr) = Scripted::start(Script { registers, ..Script::default() });
    let registration = client(&[&addr]).keep(organ()).unwrap();
    let mut troubles = registration.troubles();
    for reason in [Reason::NotYetSeen, Reason::InvalidField] {
        let told = |error: &Option<musterd_client::Error>| error.as_ref().is_some_and(|one| one.reason() == reason);
        timeout(BOUND, troubles.wait_for(told)).await.unwrap().unwrap();
    }
    state(&registration, |state| matches!(state, State::Held(_))).await;
    assert!(troubles.borrow().is_none(), "the trouble is over");
}

#[tokio::test]
async fn epoch_that_is_refused_ends_a_kept_registration() {
    let registers = [(Code::Unavailable, "DATABASE_UNAVAILABLE"), (Code::FailedPrecondition, "EPOCH_FENCED")].into();
    let (scripted, addr) = Scripted::start(Script { registers, ..Script::default() });
    let wanted = organ().cluster_epoch(EPOCH).on_lost(OnLost::RejoinAnyEpoch);
    let registration = client(&[&addr]).keep(wanted).unwrap();
    state(&registration, |state| *state == State::Ended).await;
    assert_eq!(registration.troubles().borrow().as_ref().unwrap().reason(), Reason::EpochFenced);
    assert!(registration.close(Duration::ZERO).await.is_err(), "it has ended already");
    assert_eq!(scripted.deregistered(), 0, "what was refused need not be given back");
}

#[tokio::test]
async fn outage_longer_than_the_ttl_keeps_the_lease_of_a_waiting_instance() {
    let (scripted, addr) = Scripted::start(Script::default());
    let wanted = organ().ttl(Duration::from_secs(1)).until_told();
    let registration = client(&[&addr]).register(wanted).await.unwrap();
    let lease_id = registration.require().unwrap();
    scripted.script(|script| script.is_silent = true);
    state(&registration, |state| matches!(state, State::Doubtful(_))).await;
    wait_until("the fencing check fails", BOUND, async || registration.require().err().ok_or("it holds")).await;
    scripted.script(|script| script.is_silent = false);
    wait_until("the fencing check holds again", BOUND, async || registration.require()).await;
    assert_eq!((registration.require(), scripted.registrations(1).await.len()), (Ok(lease_id), 1));
}

#[tokio::test]
async fn registration_that_never_reached_a_daemon_ends_at_once() {
    let absent = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let registration = client(&[&absent]).keep(organ()).unwrap();
    timeout(BOUND, registration.troubles().wait_for(Option::is_some)).await.unwrap().unwrap();
    registration.close(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn lease_that_cannot_be_released_is_reported() {
    let deregister = Some((Code::Unavailable, "DATABASE_UNAVAILABLE"));
    let (_scripted, addr) = Scripted::start(Script { deregister, ..Script::default() });
    let registration = client(&[&addr]).register(organ()).await.unwrap();
    assert_eq!(registration.close(Duration::ZERO).await.unwrap_err().reason(), Reason::DatabaseUnavailable);
}

#[tokio::test]
async fn daemon_that_takes_no_calls_is_passed_over_and_stays_so() {
    for refusal in [(Code::Unavailable, "SHUTTING_DOWN"), (Code::ResourceExhausted, "OVERLOADED")] {
        let (refuses, first) = Scripted::start(Script { deregister: Some(refusal), ..Script::default() });
        let (takes, second) = Scripted::start(Script::default());
        let client = client(&[&first, &second]);
        for _ in 0..3 {
            client.deregister(Uuid::nil()).await.unwrap();
        }
        assert_eq!((refuses.deregistered(), takes.deregistered()), (1, 3), "{refusal:?}");
        assert_eq!(client.daemon().to_string(), format!("http://{second}"));
    }
}

#[tokio::test]
async fn refusal_for_good_is_the_answer_and_goes_nowhere_else() {
    let deregister = Some((Code::NotFound, "UNKNOWN_LEASE"));
    let (_refuses, first) = Scripted::start(Script { deregister, ..Script::default() });
    let (other, second) = Scripted::start(Script::default());
    let error = client(&[&first, &second]).deregister(Uuid::nil()).await.unwrap_err();
    assert_eq!((error.reason(), error.kind(), error.may_be_applied()), (Reason::UnknownLease, Kind::NotFound, false));
    assert_eq!(other.deregistered(), 0);
}

#[tokio::test]
async fn silent_daemon_has_its_share_of_the_time_only() {
    let (_silent, first) = Scripted::start(Script { is_silent: true, ..Script::default() });
    let (_takes, second) = Scripted::start(Script::default());
    client(&[&first, &second]).deregister(Uuid::nil()).await.unwrap();
}

#[tokio::test]
async fn answer_wins_over_a_broken_connection_and_unreachable_names_all() {
    let deregister = Some((Code::Unavailable, "DATABASE_UNAVAILABLE"));
    let (_refuses, addr) = Scripted::start(Script { deregister, ..Script::default() });
    let error = client(&[&addr, "127.0.0.1:1"]).deregister(Uuid::nil()).await.unwrap_err();
    assert_eq!((error.reason(), error.may_be_applied()), (Reason::DatabaseUnavailable, false));

    let error = client(&["127.0.0.1:1", "127.0.0.1:2"]).deregister(Uuid::nil()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_refused()), (Kind::Unreachable, true));
    assert_eq!(error.daemon(), Some("http://127.0.0.1:1, http://127.0.0.1:2"));
}

#[tokio::test]
async fn attempt_without_an_answer_makes_the_outcome_unknown() {
    let deregister = Some((Code::Unavailable, "DATABASE_UNAVAILABLE"));
    let (_silent, first) = Scripted::start(Script { is_silent: true, ..Script::default() });
    let (_refuses, second) = Scripted::start(Script { deregister, ..Script::default() });
    let error = client(&[&first, &second]).deregister(Uuid::nil()).await.unwrap_err();
    assert_eq!((error.reason(), error.may_be_applied()), (Reason::DatabaseUnavailable, true));
}
