//! DiscoveryService: routers resolve, get and list, from memory.

use tonic::{Request, Response, Status};

use super::{
    convert::{self, duration},
    failure::Failure,
    page_token, reader,
};
use crate::{
    metrics::ResolveMetrics,
    model::input,
    proto::v1::{self, discovery_service_server::DiscoveryService},
    view::{
        Snapshot, View,
        list::page,
        resolve::{Nobody, best},
    },
};

/// The service.
#[derive(Debug)]
pub struct Discovery {
    view: View,
    metrics: ResolveMetrics,
}

impl Discovery {
    /// The service on top of the view.
    #[must_use]
    pub fn new(view: View) -> Self {
        Self { view, metrics: ResolveMetrics::new() }
    }

    async fn resolve(&self, request: v1::ResolveRequest) -> Result<v1::ResolveResponse, Failure> {
        input::required_text("logical_id", &request.logical_id, input::LOGICAL_ID_MAX_BYTES)?;
        let snapshot = reader::snapshot(&self.view, request.min_revision).await?;
        let epoch = epoch(&snapshot)?;
        let now_ms = self.view.clock().now_ms();
        let best = best(&snapshot, &request.logical_id, now_ms).map_err(|nobody| match nobody {
            Nobody::UnknownLogicalId => Failure::UnknownLogicalId(request.logical_id),
            Nobody::NoLiveInstance(count) => Failure::NoLiveInstance(request.logical_id, count),
        })?;
        Ok(v1::ResolveResponse {
            instance: Some(convert::instance(&best.entry, epoch, &self.view)),
            cluster_epoch: epoch.id.to_string(),
            epoch_number: epoch.number,
            revision: snapshot.revision().0,
            alternatives: u32::try_from(best.alternatives).unwrap_or(u32::MAX),
            stale_for: Some(duration(self.view.stale_for())),
        })
    }

    async fn get(&self, request: v1::GetInstanceRequest) -> Result<v1::GetInstanceResponse, Failure> {
        let instance_id = input::instance_id("instance_id", &request.instance_id)?;
        let snapshot = reader::snapshot(&self.view, request.min_revision).await?;
        let entry = snapshot.instance(instance_id).ok_or(Failure::UnknownInstance)?;
        Ok(v1::GetInstanceResponse {
            instance: Some(convert::instance(entry, epoch(&snapshot)?, &self.view)),
            revision: snapshot.revision().0,
            stale_for: Some(duration(self.view.stale_for())),
        })
    }

    async fn list(&self, request: v1::ListInstancesRequest) -> Result<v1::ListInstancesResponse, Failure> {
        let (filter, page_size, after) = convert::list(&request)?;
        let snapshot = reader::snapshot(&self.view, request.min_revision).await?;
        let epoch = epoch(&snapshot)?;
        let page = page(&snapshot, &filter, after.as_ref(), page_size);
        Ok(v1::ListInstancesResponse {
            instances: page.entries.iter().map(|entry| convert::instance(entry, epoch, &self.view)).collect(),
            next_page_token: page.next.map(|next| page_token::encode(&filter, &next)).unwrap_or_default(),
            revision: snapshot.revision().0,
            stale_for: Some(duration(self.view.stale_for())),
        })
    }

    fn count(&self, result: &Result<v1::ResolveResponse, Failure>) {
        let counter = match result {
            Ok(_) => &self.metrics.found,
            Err(Failure::UnknownLogicalId(_)) => &self.metrics.unknown_logical_id,
            Err(Failure::NoLiveInstance(..)) => &self.metrics.no_live_instance,
            Err(Failure::Invalid(_)) => &self.metrics.invalid,
            Err(_) => &self.metrics.not_yet_seen,
        };
        counter.increment(1);
    }
}

fn epoch(snapshot: &Snapshot) -> Result<crate::model::Epoch, Failure> {
    snapshot.cluster().map(|cluster| cluster.epoch).ok_or(Failure::NotYetSeen)
}

#[tonic::async_trait]
impl DiscoveryService for Discovery {
    async fn resolve(&self, request: Request<v1::ResolveRequest>) -> Result<Response<v1::ResolveResponse>, Status> {
        let result = self.resolve(request.into_inner()).await;
        self.count(&result);
        Ok(Response::new(result?))
    }

    async fn get_instance(
        &self,
        request: Request<v1::GetInstanceRequest>,
    ) -> Result<Response<v1::GetInstanceResponse>, Status> {
        Ok(Response::new(self.get(request.into_inner()).await?))
    }

    async fn list_instances(
        &self,
        request: Request<v1::ListInstancesRequest>,
    ) -> Result<Response<v1::ListInstancesResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }
}
