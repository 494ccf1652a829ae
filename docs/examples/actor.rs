//! An actor: registers, beats over a stream, registers anew when its lease has ended, drains on SIGTERM.
//!
//! `cargo run --example actor -- LOGICAL_ID IP PORT`. `MUSTERD_ADDR` names the daemons, separated by commas; any of
//! them will do.

#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{env, error::Error, time::Duration};

use futures_util::stream;
use musterd::proto::{
    std_duration,
    v1::{
        BeatStreamRequest, DeregisterRequest, ErrorReason, InstanceStatus, RegisterRequest, SetStatusRequest,
        registry_service_client::RegistryServiceClient,
    },
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use uuid::Uuid;

/// What an actor wants, in this order.
#[derive(Clone, Copy, PartialEq)]
enum Wish {
    Serve,
    Drain,
    Leave,
}

struct Actor {
    request: RegisterRequest,
    lease_id: Option<u64>,
    wish: watch::Receiver<Wish>,
}

impl Actor {
    /// Holds a lease until told to leave.
    async fn keep(mut self, daemons: Vec<String>) -> Result<(), Box<dyn Error + Send + Sync>> {
        for daemon in daemons.iter().cycle() {
            let wish = *self.wish.borrow();
            // Who drains and has lost the lease needs no other.
            if wish == Wish::Leave || (wish == Wish::Drain && self.lease_id.is_none()) {
                break;
            }
            // Calls have a deadline of their own below: one for the whole channel would end the stream of beats.
            let endpoint = Endpoint::from_shared(format!("http://{daemon}"))?
                .connect_timeout(Duration::from_secs(5))
                .http2_keep_alive_interval(Duration::from_secs(10))
                .keep_alive_timeout(Duration::from_secs(5));
            let mut registry = RegistryServiceClient::new(endpoint.connect_lazy());
            if let Err(status) = self.hold(&mut registry).await {
                println!("{daemon}: {:?}: {}", status.code(), status.message());
                // After these the same call may be repeated, here or at another daemon; it takes effect once.
                if !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted) {
                    return Err(status.into());
                }
                let _ = timeout(Duration::from_millis(500), self.wish.changed()).await;
            }
        }
        Ok(())
    }

    /// Registers where there is no lease, then renews it over one stream, until it has ended or the actor leaves.
    async fn hold(&mut self, registry: &mut RegistryServiceClient<Channel>) -> Result<(), Status> {
        let lease_id = match self.lease_id {
            Some(lease_id) => lease_id,
            None => self.register(registry).await?,
        };
        let (requests, receiver) = mpsc::channel(1);
        let outgoing = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        let mut answers = registry.beat_stream(outgoing).await?.into_inner();
        let ended = || Status::unavailable("the stream has ended");
        while *self.wish.borrow() != Wish::Leave {
            let request = BeatStreamRequest { lease_ids: vec![lease_id], goodbye: false };
            requests.send(request).await.map_err(|_| ended())?;
            let answer = answers.message().await?.ok_or_else(ended)?;
            if let Some(lost) = answer.exceptions.first() {
                // Stop here whatever the lease allowed: somebody else may have its place by now.
                println!("lease {lease_id} has ended: {}", lost.reason().as_str_name());
                if lost.reason() == ErrorReason::LeaseReplaced {
                    self.request.instance_id = Uuid::new_v4().to_string();
                }
                self.lease_id = None;
                return Ok(());
            }
            let next_beat_in = answer.next_beat_in.as_ref().and_then(std_duration).unwrap_or_default();
            tokio::select! {
                () = sleep(next_beat_in) => {}
                _ = self.wish.changed() => if *self.wish.borrow() == Wish::Drain {
                    // From now on no router is sent here. Beats go on: there is work to finish.
                    let status = InstanceStatus::Draining.into();
                    registry.set_status(within(SetStatusRequest { lease_id, status, ..Default::default() })).await?;
                    println!("draining");
                }
            }
        }
        // Without a goodbye, the end of the stream would make the lease suspect.
        let _ = requests.send(BeatStreamRequest { lease_ids: vec![], goodbye: true }).await;
        registry.deregister(within(DeregisterRequest { lease_id, ..Default::default() })).await?;
        println!("lease {lease_id} is given back");
        Ok(())
    }

    async fn register(&mut self, registry: &mut RegistryServiceClient<Channel>) -> Result<u64, Status> {
        let granted = registry.register(within(self.request.clone())).await?.into_inner();
        println!("registered: lease {}, epoch {}", granted.lease_id, granted.epoch_number);
        self.lease_id = Some(granted.lease_id);
        Ok(granted.lease_id)
    }
}

/// A request with a deadline.
fn within<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(Duration::from_secs(5));
    request
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let [logical_id, ip_address, port] =
        env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "LOGICAL_ID IP PORT")?;
    let daemons = env::var("MUSTERD_ADDR").unwrap_or_else(|_| "127.0.0.1:7717".to_owned());
    let (wishes, wish) = watch::channel(Wish::Serve);
    let request = RegisterRequest {
        instance_id: Uuid::new_v4().to_string(),
        logical_id,
        node_id: env::var("HOSTNAME").unwrap_or_default(),
        ip_address,
        port: port.parse()?,
        pid: std::process::id().into(),
        ttl: Some(Duration::from_secs(6).try_into()?),
        initial_status: InstanceStatus::Alive.into(),
        ..Default::default()
    };
    let actor = Actor { request, lease_id: None, wish };
    let mut told_to_end = signal(SignalKind::terminate())?;
    let mut keeper = tokio::spawn(actor.keep(daemons.split(',').map(str::to_owned).collect()));
    // Here the work is done that the actor is for. Work that blocks a thread belongs on `spawn_blocking`.
    tokio::select! {
        kept = &mut keeper => return kept?,
        _ = told_to_end.recv() => {}
    }
    wishes.send_replace(Wish::Drain);
    // Here it finishes what is under way.
    sleep(Duration::from_secs(2)).await;
    wishes.send_replace(Wish::Leave);
    keeper.await?
}
