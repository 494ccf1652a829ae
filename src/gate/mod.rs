//! The gate: which methods there are, who calls, and whether the caller has any right that the method needs.
//!
//! It stands outside of the fast path, which finds a service by the beginning of a path: a method that is not in the table
//! here is refused, whatever a service behind the gate would make of its path, and a test holds the table against the
//! protocol's descriptors. The caller is found before a byte of the request's body is read, and put beside the request; what it
//! may do to a logical id or a lease is for the handler to ask, which knows them.
//!
//! The streams of the standard services (health, reflection) know nothing of callers, so they are ended here when the credential
//! of their caller has ended. The streams of the protocol do so by themselves.
//!
//! Without a policy the gate is open. What it records of calls is in [`audit`].

mod audit;
pub(crate) mod standing;

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{Extensions, HeaderMap, Request, Response, header::AUTHORIZATION};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use self::{
    audit::{Class, Judged, JudgedFuture},
    standing::Standing,
};
use crate::{
    access::{Access, Call, Caller, Verb},
    audit::Audit,
    clock::Clock,
    connections::{
        ending::Ending,
        limits::{Peer, PeerAddress},
    },
    metrics::RefusedMetrics,
    wire::failure::Failure,
};

/// What a caller needs for a method, whatever it asks for: one of these rights on some logical id; none: to be known.
type Needs = &'static [Verb];

/// Every method that is served.
const METHODS: &[(&str, Needs)] = &[
    ("/muster.v1.RegistryService/Register", &[Verb::Register]),
    ("/muster.v1.RegistryService/Beat", &[Verb::Register, Verb::Beat]),
    ("/muster.v1.RegistryService/BeatStream", &[Verb::Register, Verb::Beat]),
    ("/muster.v1.RegistryService/SetStatus", &[Verb::Register, Verb::Operate]),
    ("/muster.v1.RegistryService/Deregister", &[Verb::Register, Verb::Operate]),
    ("/muster.v1.DiscoveryService/Resolve", &[Verb::Resolve]),
    ("/muster.v1.DiscoveryService/BatchResolve", &[Verb::Resolve]),
    ("/muster.v1.DiscoveryService/GetInstance", &[Verb::Read]),
    ("/muster.v1.DiscoveryService/CheckLease", &[Verb::Read]),
    ("/muster.v1.DiscoveryService/ListInstances", &[Verb::Read]),
    ("/muster.v1.DiscoveryService/Watch", &[Verb::Read]),
    ("/muster.v1.ClusterService/GetCluster", &[Verb::Read, Verb::Cluster]),
    ("/muster.v1.ClusterService/ListEpochs", &[Verb::Read, Verb::Cluster]),
    ("/muster.v1.ClusterService/RotateEpoch", &[Verb::Cluster]),
    ("/muster.v1.ClusterService/HoldExpiry", &[Verb::Cluster]),
    ("/muster.v1.ClusterService/ReleaseExpiry", &[Verb::Cluster]),
    ("/muster.v1.ClusterService/ExpireInstance", &[Verb::Operate]),
    ("/muster.v1.ClusterService/WhoAmI", &[]),
    ("/grpc.health.v1.Health/Check", &[]),
    ("/grpc.health.v1.Health/Watch", &[]),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &[]),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &[]),
];

/// The streams whose services do not ask whether their caller's credential is still good.
const UNWATCHED: [&str; 3] = [
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// By which an identity keeps, and ends, what it has: they pass over connections beyond its quota, too.
const KEEPING: [&str; 4] = [
    "/muster.v1.RegistryService/Beat",
    "/muster.v1.RegistryService/BeatStream",
    "/muster.v1.RegistryService/SetStatus",
    "/muster.v1.RegistryService/Deregister",
];

/// The layer. Make it once; clones share the table.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    access: Access,
    methods: Arc<HashMap<&'static str, Needs>>,
    refused: RefusedMetrics,
    audit: Audit,
}

impl Gate {
    /// Admits whom `access` knows.
    pub(crate) fn new(access: Access, audit: Audit) -> Self {
        Self { access, methods: Arc::new(METHODS.iter().copied().collect()), refused: RefusedMetrics::new(), audit }
    }

    /// What is recorded of a call; `None`: nothing can be.
    fn judged<B>(&self, request: &Request<B>) -> Option<Judged> {
        let (method, _) = self.methods.get_key_value(request.uri().path())?;
        let class = Class::of(method);
        if !self.access.is_enforced() && class == Class::Refusals {
            return None;
        }
        let peer = request.extensions().get::<Peer>().map(|peer| peer.address);
        let caller = (!self.access.is_enforced()).then(Caller::open);
        let (audit, refused) = (self.audit.clone(), self.refused.clone());
        Some(Judged { audit, refused, caller, peer, method, class })
    }

    /// Finds the caller, and refuses it if it has no right that the method needs. What is known of it then is left in `known`.
    fn admit<B>(&self, request: &Request<B>, known: &mut Option<Caller>) -> Result<Caller, Failure> {
        let path = request.uri().path();
        let needs = self.methods.get(path).ok_or_else(|| Failure::UnknownMethod(path.to_owned()))?;
        let peer = request.extensions().get::<Peer>();
        let authorization = authorization(request.headers());
        let caller = match peer {
            Some(Peer { address: PeerAddress::AdminSocket, .. }) => self.access.local(authorization)?,
            peer => self.access.authenticate(Call {
                certificate: peer.and_then(|peer| peer.certificate.as_deref()),
                authorization,
                address: peer.map_or(0, |peer| peer.origin.number()),
                memory: peer.map(|peer| &peer.memory),
            })?,
        };
        *known = Some(caller.clone());
        if let Some(Err(exceeded)) = peer.map(|peer| peer.callers.enter(&caller))
            && !KEEPING.contains(&path)
        {
            self.refused.quota_exceeded.increment(1);
            return Err(exceeded.into());
        }
        match needs.first() {
            Some(verb) if !needs.iter().any(|verb| has(&caller, *verb)) => Err(caller.denied(*verb, "").into()),
            _ => Ok(caller),
        }
    }
}

/// Whether a caller has a right on some logical id.
fn has(caller: &Caller, verb: Verb) -> bool {
    match verb {
        // It concerns every instance.
        Verb::Cluster => caller.may_everywhere(verb),
        _ => caller.may_anywhere(verb),
    }
}

/// What the call says of its identity. What cannot be read, or is there more than once, is read as nothing that is accepted.
fn authorization(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let first = values.next()?;
    Some(if values.next().is_some() { "" } else { first.to_str().unwrap_or_default() })
}

/// The caller of a request that has come through the gate.
///
/// # Errors
/// It has not, although there is a policy: a fault of the daemon, which must not open what the policy closes.
pub(crate) fn caller(access: &Access, extensions: &Extensions) -> Result<Caller, Failure> {
    if !access.is_enforced() {
        return Ok(Caller::open());
    }
    extensions.get::<Caller>().cloned().ok_or(Failure::Write(crate::registry::Error::Internal))
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, gate: self.clone() }
    }
}

/// Services behind the gate.
#[derive(Clone, Debug)]
pub(crate) struct Gated<S> {
    inner: S,
    gate: Gate,
}

impl<S, B> Service<Request<B>> for Gated<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future =
        Either<JudgedFuture<S::Future>, Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let mut judged = self.gate.judged(&request);
        let mut standing = None;
        if self.gate.access.is_enforced() {
            let mut known = None;
            let admitted = self.gate.admit(&request, &mut known);
            if let Some(judged) = &mut judged {
                judged.caller = known;
            }
            match admitted {
                Ok(caller) => {
                    if UNWATCHED.contains(&request.uri().path()) {
                        standing = Some(Standing::new(&self.gate.access, caller.clone(), Clock::new()));
                    }
                    request.extensions_mut().insert(caller);
                }
                Err(failure) => {
                    let response = Status::from(failure).into_http();
                    if let Some(judged) = judged {
                        judged.judge(&response);
                    }
                    return Either::Right(Box::pin(async { Ok(response) }));
                }
            }
        }
        let answer = JudgedFuture { inner: self.inner.call(request), judged };
        match standing {
            None => Either::Left(answer),
            Some(standing) => Either::Right(Box::pin(async {
                Ok(answer.await?.map(|inner| Body::new(Ending::new(inner, end(standing)))))
            })),
        }
    }
}

/// Waits until the credential of a caller has ended.
async fn end(mut standing: Standing) -> Failure {
    loop {
        // Other rights than before are none of a standard service's business.
        if let Err(refused) = standing.changed().await {
            return refused.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::proto;

    /// The paths of all methods of a descriptor set.
    fn paths(descriptors: &[u8]) -> Vec<String> {
        let descriptors = FileDescriptorSet::decode(descriptors).unwrap();
        let services = descriptors.file.iter().flat_map(|file| file.service.iter().map(move |service| (file, service)));
        let methods = services.flat_map(|(file, service)| service.method.iter().map(move |it| (file, service, it)));
        methods.map(|(file, service, it)| format!("/{}.{}/{}", file.package(), service.name(), it.name())).collect()
    }

    #[test]
    fn table_has_each_method_of_the_descriptors_and_no_other() {
        let reflection =
            [tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET];
        let served = [proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET].into_iter().chain(reflection);
        let served: BTreeSet<String> = served.flat_map(paths).collect();
        let table: BTreeSet<String> = METHODS.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(table, served);
        assert_eq!(table.len(), METHODS.len(), "a method is there twice");
        assert!(served.len() >= 22);
    }

    #[test]
    fn authorization_that_is_there_twice_is_read_as_none_that_is_accepted() {
        let mut headers = HeaderMap::new();
        assert_eq!(authorization(&headers), None);
        headers.append(AUTHORIZATION, "Bearer a".parse().unwrap());
        assert_eq!(authorization(&headers), Some("Bearer a"));
        headers.append(AUTHORIZATION, "Bearer b".parse().unwrap());
        assert_eq!(authorization(&headers), Some(""));
    }
}
