//! A registry that answers by script, to see what a [`Keeper`] does about answers that a healthy daemon seldom gives.
//!
//! It speaks the real protocol over a real socket, so that what is tested includes the way errors travel.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{OnFenced, address::Address, lease::Keeper};
use crate::{
    cli::client::ClientArgs,
    proto::v1::{
        BeatRequest, BeatResponse, BeatStreamRequest, BeatStreamResponse, DeregisterRequest, DeregisterResponse,
        InstanceStatus, RegisterRequest, RegisterResponse, SetStatusRequest, SetStatusResponse,
        registry_service_server::{RegistryService, RegistryServiceServer},
    },
};

const EPOCH: &str = "0a000000-0000-4000-8000-000000000001";

/// What was asked, and what the next beats are to be answered with; `None` and an empty script mean OK.
#[derive(Default)]
struct Script {
    log: Vec<String>,
    registrations: Vec<RegisterRequest>,
    beats: VecDeque<Option<(Code, &'static str)>>,
    registers: VecDeque<(Code, &'static str)>,
}

#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    fn script<T>(&self, read: impl FnOnce(&mut Script) -> T) -> T {
        read(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn log(&self) -> Vec<String> {
        self.script(|script| script.log.clone())
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
            script.log.push(format!("register {}", request.initial_status().as_str_name()));
            script.registrations.push(request.clone());
            if let Some(error) = script.registers.pop_front() {
                return Err(signed(error));
            }
            Ok(Response::new(RegisterResponse {
                instance_id: request.instance_id,
                lease_id: script.registrations.len() as u64,
                cluster_epoch: EPOCH.to_owned(),
                beat_interval: Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 }),
                status: request.initial_status,
                ..Default::default()
            }))
        })
    }

    type BeatStreamStream = futures_util::stream::Empty<Result<BeatStreamResponse, Status>>;

    async fn beat_stream(
        &self,
        _request: Request<Streaming<BeatStreamRequest>>,
    ) -> Result<Response<Self::BeatStreamStream>, Status> {
        Err(Status::unimplemented("`run` beats one lease at a time"))
    }

    async fn beat(&self, request: Request<BeatRequest>) -> Result<Response<BeatResponse>, Status> {
        self.script(|script| {
            script.log.push(format!("beat {}", request.get_ref().lease_id));
            match script.beats.pop_front().flatten() {
                Some(error) => Err(signed(error)),
                None => Ok(Response::new(BeatResponse {
                    next_beat_in: Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 }),
                    ..Default::default()
                })),
            }
        })
    }

    async fn set_status(&self, request: Request<SetStatusRequest>) -> Result<Response<SetStatusResponse>, Status> {
        let status = request.get_ref().status();
        self.script(|script| script.log.push(format!("set {}", status.as_str_name())));
        Ok(Response::new(SetStatusResponse::default()))
    }

    async fn deregister(&self, request: Request<DeregisterRequest>) -> Result<Response<DeregisterResponse>, Status> {
        let request = request.into_inner();
        let named = if request.instance_id.is_empty() { "lease only" } else { "with instance id" };
        self.script(|script| script.log.push(format!("deregister {} {named}", request.lease_id)));
        Ok(Response::new(DeregisterResponse::default()))
    }
}

async fn keeper(on_fenced: OnFenced, request: RegisterRequest) -> (Keeper, Scripted) {
    let scripted = Scripted::default();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let addr = format!("http://{}", incoming.local_addr().expect("bound")).parse().expect("an address");
    let server = Server::builder().add_service(RegistryServiceServer::new(scripted.clone()));
    drop(tokio::spawn(server.serve_with_incoming(incoming)));
    let args = ClientArgs { wait: None, ..ClientArgs::at(addr, Duration::from_secs(5)) };
    (Keeper::new(&args, request, Address::None, on_fenced), scripted)
}

/// Lets the keeper run until the log has as many lines of a kind. Bounded by the time limit of the test itself.
async fn keep_until(keeper: &mut Keeper, scripted: &Scripted, kind: &str, count: usize) {
    let reached = async {
        while scripted.log().iter().filter(|line| line.starts_with(kind)).count() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(20), async {
        tokio::select! {
            () = keeper.keep() => "gave up",
            () = reached => "reached",
        }
    });
    assert_eq!(seen.await, Ok("reached"), "{:?}", scripted.log());
}

fn request() -> RegisterRequest {
    RegisterRequest {
        instance_id: "00000000-0000-4000-8000-000000000007".to_owned(),
        logical_id: "a".to_owned(),
        cluster_epoch: EPOCH.to_owned(),
        initial_status: InstanceStatus::Starting.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_life_without_trouble_is_starting_alive_beats_and_goodbye() {
    let (mut keeper, scripted) = keeper(OnFenced::Register, request()).await;
    keeper.open().await.expect("registered");
    assert_eq!(keeper.environment()[3], ("MUSTERD_LEASE_ID", "1".to_owned()));
    keep_until(&mut keeper, &scripted, "beat", 3).await;
    keeper.leave().await;
    let log = scripted.log();
    assert_eq!(log[..3], ["register INSTANCE_STATUS_STARTING", "set INSTANCE_STATUS_ALIVE", "beat 1"]);
    assert_eq!(log.last().map(String::as_str), Some("deregister 1 lease only"));
    assert_eq!(log.iter().filter(|line| line.starts_with("set")).count(), 1);
}

#[tokio::test]
async fn a_lost_lease_is_replaced_under_the_same_instance_id() {
    for lost in [(Code::FailedPrecondition, "LEASE_EXPIRED"), (Code::NotFound, "UNKNOWN_LEASE")] {
        let (mut keeper, scripted) = keeper(OnFenced::Register, request()).await;
        keeper.open().await.expect("registered");
        scripted.script(|script| script.beats = [None, Some(lost)].into());
        keep_until(&mut keeper, &scripted, "beat 2", 2).await;
        let registrations = scripted.script(|script| script.registrations.clone());
        assert_eq!(registrations.len(), 2);
        assert_eq!(registrations[1].instance_id, registrations[0].instance_id);
        assert_eq!(registrations[1].initial_status(), InstanceStatus::Alive);
        assert_eq!(registrations[1].cluster_epoch, EPOCH, "nothing was said about the epoch");
    }
}

#[tokio::test]
async fn an_instance_id_that_was_taken_over_is_left_to_the_other() {
    let (mut keeper, scripted) = keeper(OnFenced::Register, request()).await;
    keeper.open().await.expect("registered");
    scripted.script(|script| script.beats = [Some((Code::FailedPrecondition, "LEASE_REPLACED"))].into());
    keep_until(&mut keeper, &scripted, "beat 2", 1).await;
    let registrations = scripted.script(|script| script.registrations.clone());
    assert_ne!(registrations[1].instance_id, registrations[0].instance_id);
}

#[tokio::test]
async fn after_a_rotation_the_current_epoch_is_joined() {
    let (mut keeper, scripted) = keeper(OnFenced::Register, request()).await;
    keeper.open().await.expect("registered");
    scripted.script(|script| script.beats = [Some((Code::FailedPrecondition, "EPOCH_FENCED"))].into());
    keep_until(&mut keeper, &scripted, "beat 2", 1).await;
    let registrations = scripted.script(|script| script.registrations.clone());
    assert_eq!(registrations[1].cluster_epoch, "", "whichever is current");
    assert_eq!(registrations[1].instance_id, registrations[0].instance_id);
}

#[tokio::test]
async fn after_a_rotation_the_keeper_gives_up_if_asked_to() {
    let (mut keeper, scripted) = keeper(OnFenced::Stop, request()).await;
    keeper.open().await.expect("registered");
    scripted.script(|script| script.beats = [None, Some((Code::FailedPrecondition, "EPOCH_FENCED"))].into());
    assert!(tokio::time::timeout(Duration::from_secs(20), keeper.keep()).await.is_ok());
    assert_eq!(scripted.script(|script| script.registrations.len()), 1);
}

#[tokio::test]
async fn a_registry_in_trouble_is_asked_again_with_the_same_lease() {
    let (mut keeper, scripted) = keeper(OnFenced::Register, request()).await;
    keeper.open().await.expect("registered");
    scripted.script(|script| script.beats = [Some((Code::Unavailable, "BEATS_NOT_SAVED"))].into());
    keep_until(&mut keeper, &scripted, "beat 1", 3).await;
    assert_eq!(scripted.script(|script| script.registrations.len()), 1);
}

#[tokio::test]
async fn at_the_start_a_daemon_that_is_not_ready_is_waited_for_and_a_refusal_is_final() {
    let (mut keeper, scripted) = keeper(OnFenced::Register, request()).await;
    scripted.script(|script| script.registers = [(Code::Unavailable, "NOT_YET_SEEN")].into());
    keeper.open().await.expect("registered at the second attempt");
    scripted.script(|script| script.registers = [(Code::FailedPrecondition, "EPOCH_FENCED")].into());
    assert_eq!(keeper.open().await.map_err(|error| error.exit_code()), Err(5));
}

#[tokio::test]
async fn leave_without_a_granted_lease_names_the_instance() {
    let (mut keeper, scripted) = keeper(OnFenced::Register, request()).await;
    keeper.leave().await;
    assert!(scripted.log().is_empty(), "nothing was ever sent");
    scripted.script(|script| script.registers = [(Code::FailedPrecondition, "EPOCH_FENCED")].into());
    assert!(keeper.open().await.is_err());
    keeper.leave().await;
    assert_eq!(scripted.log()[1..], ["deregister 0 with instance id"]);
}

#[tokio::test]
async fn epoch_that_is_refused_after_an_offline_start_is_final() {
    let (mut keeper, scripted) = keeper(OnFenced::Register, request()).await;
    scripted.script(|script| {
        let fenced = (Code::FailedPrecondition, "EPOCH_FENCED");
        script.registers = [(Code::Unavailable, "DATABASE_UNAVAILABLE"); 8].into_iter().chain([fenced]).collect();
    });
    keeper.patience = Duration::from_millis(250);
    keeper.open().await.expect("the command starts all the same");
    assert_eq!(keeper.environment().len(), 2, "neither epoch nor lease");
    scripted.script(|script| script.registers = [(Code::FailedPrecondition, "EPOCH_FENCED")].into());
    assert!(tokio::time::timeout(Duration::from_secs(20), keeper.keep()).await.is_ok());
}
