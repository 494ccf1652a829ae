//! A router: asks for the best instance, then for another one, and keeps a cache that a watch fills.
//!
//! `cargo run --example router -- LOGICAL_ID`. `MUSTERD_ADDR` names the daemon.

#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{
    collections::HashMap,
    env,
    error::Error,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use musterd::proto::v1::{
    Instance, InstanceStatus, ResolveChoice, ResolveRequest, WatchEvent, WatchEventType, WatchRequest,
    discovery_service_client::DiscoveryServiceClient,
};
use prost::Message as _;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

type Instances = HashMap<String, Instance>;

/// The alive instances of a logical id, as a watch tells them. To ask it is no call.
#[derive(Clone, Default)]
struct Cache {
    instances: Arc<RwLock<Instances>>,
}

impl Cache {
    /// Watches for as long as the program runs. `filled` becomes true when the first snapshot is complete.
    async fn run(
        self,
        mut discovery: DiscoveryServiceClient<Channel>,
        logical_id: String,
        filled: watch::Sender<bool>,
    ) {
        let statuses = vec![InstanceStatus::Alive.into()];
        let mut request = WatchRequest { logical_id, statuses, ..Default::default() };
        loop {
            if let Err(status) = self.watch(&mut discovery, &mut request, &filled).await {
                // What is known stays, and ages. Any daemon can go on where this one ended.
                println!("watching again after {:?}: {}", status.code(), status.message());
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn watch(
        &self,
        discovery: &mut DiscoveryServiceClient<Channel>,
        request: &mut WatchRequest,
        filled: &watch::Sender<bool>,
    ) -> Result<(), Status> {
        let mut responses = discovery.watch(request.clone()).await?.into_inner();
        // A snapshot that is not yet complete is gathered aside: readers never see half of one.
        let mut coming = (request.resume_after == 0).then(Instances::new);
        while let Some(response) = responses.message().await? {
            if response.reset {
                // The knowledge so far cannot be continued. It serves until the snapshot that follows is complete.
                coming = Some(Instances::new());
            }
            let is_complete = coming.is_none() || response.snapshot_complete;
            let mut instances = coming.take().unwrap_or_else(|| self.instances());
            // An event is encoded once for all watchers; it is for the client to decode.
            for event in response.events {
                apply(WatchEvent::decode(event).map_err(|error| Status::internal(error.to_string()))?, &mut instances);
            }
            if !is_complete {
                coming = Some(instances);
                continue;
            }
            // Instances of an epoch that has passed are dead, with or without an event that says so.
            instances.retain(|_, instance| instance.cluster_epoch == response.cluster_epoch);
            *self.instances.write().unwrap_or_else(PoisonError::into_inner) = instances;
            (request.resume_after, request.history_id) = (response.revision, response.history_id);
            filled.send_replace(true);
        }
        Ok(())
    }

    fn instances(&self) -> Instances {
        self.instances.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The choice of Resolve: not suspect before suspect, then the longest serving, then the lowest id.
    fn best(&self) -> Option<Instance> {
        let rank = |one: &Instance| {
            let started_at = one.started_at.as_ref().map(|at| (at.seconds, at.nanos));
            (one.suspect, started_at, one.instance_id.clone())
        };
        self.instances().into_values().min_by_key(rank)
    }
}

fn apply(event: WatchEvent, instances: &mut Instances) {
    let (kind, Some(instance)) = (event.r#type(), event.instance) else { return };
    match kind {
        WatchEventType::Put => {
            instances.insert(instance.instance_id.clone(), instance);
        }
        WatchEventType::Gone => {
            instances.remove(&instance.instance_id);
        }
        // These carry ids and suspicion only.
        WatchEventType::Suspect | WatchEventType::Recovered => {
            if let Some(known) = instances.get_mut(&instance.instance_id) {
                known.suspect = instance.suspect;
            }
        }
        WatchEventType::Unspecified => {}
    }
}

/// A live instance; `None` if there is none.
async fn resolve(
    discovery: &mut DiscoveryServiceClient<Channel>,
    logical_id: &str,
    excluded_instance_ids: Vec<String>,
) -> Result<Option<Instance>, Status> {
    let choice = Some(ResolveChoice { excluded_instance_ids, ..Default::default() });
    let mut request =
        tonic::Request::new(ResolveRequest { logical_id: logical_id.to_owned(), choice, ..Default::default() });
    request.set_timeout(Duration::from_secs(2));
    match discovery.resolve(request).await {
        Ok(response) => Ok(response.into_inner().instance),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

fn say(what: &str, one: Option<&Instance>) {
    match one {
        Some(one) => println!("{what}: {}:{}, lease {}", one.ip_address, one.port, one.lease_id),
        None => println!("{what}: nobody"),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let logical_id = env::args().nth(1).ok_or("LOGICAL_ID")?;
    let daemon = env::var("MUSTERD_ADDR").unwrap_or_else(|_| "127.0.0.1:7717".to_owned());
    let channel = Endpoint::from_shared(format!("http://{daemon}"))?.connect().await?;
    let mut discovery = DiscoveryServiceClient::new(channel);
    let best = resolve(&mut discovery, &logical_id, vec![]).await?;
    say("best", best.as_ref());
    if let Some(best) = best {
        // As after a call to it that failed. Send its lease along: who sees a higher one refuses the lower.
        let other = resolve(&mut discovery, &logical_id, vec![best.instance_id]).await?;
        say("without that one", other.as_ref());
    }
    let cache = Cache::default();
    let (filled, mut is_filled) = watch::channel(false);
    let watching = tokio::spawn(cache.clone().run(discovery, logical_id, filled));
    timeout(Duration::from_secs(10), is_filled.wait_for(|filled| *filled)).await??;
    say(&format!("best of {} in the cache", cache.instances().len()), cache.best().as_ref());
    // A router that goes on would go on watching.
    watching.abort();
    let _ = watching.await;
    Ok(())
}
