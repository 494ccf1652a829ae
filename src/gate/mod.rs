//! The gate: which methods there are, which identity calls, and whether it has any right that the method needs.
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
use http::{Extensions, Request, Response};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use self::{
    audit::{Class, Judged, JudgedFuture, JudgedStream, Record},
    standing::Standing,
};
use crate::{
    access::{Access, Call, Caller, Verb, authorization},
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
    ("/muster.v1.DiscoveryService/ListEndedLeases", &[Verb::Read]),
    ("/muster.v1.DiscoveryService/Watch", &[Verb::Read]),
    ("/muster.v1.ClusterService/GetCluster", &[Verb::Read, Verb::Cluster]),
    ("/muster.v1.ClusterService/ListEpochs", &[Verb::Read, Verb::Cluster]),
    ("/muster.v1.ClusterService/RotateEpoch", &[Verb::Cluster]),
    ("/muster.v1.ClusterService/HoldExpiry", &[Verb::Cluster]),
    ("/muster.v1.ClusterService/ReleaseExpiry", &[Verb::Cluster]),
    ("/muster.v1.ClusterService/ExpireInstance", &[Verb::Operate]),
    ("/muster.v1.ClusterService/ListDecisions", &[Verb::Cluster]),
    ("/muster.v1.ClusterService/WhoAmI", &[]),
    ("/grpc.health.v1.Health/Check", &[]),
    ("/grpc.health.v1.Health/Watch", &[]),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &[]),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &[]),
];

/// A method that is served.
#[derive(Clone, Copy, Debug)]
struct Method {
    path: &'static str,
    needs: Needs,
}

impl Method {
    /// Whether an identity keeps, and ends, with it what it has: that passes over connections beyond its quota, too.
    fn works_on_own_leases(self) -> bool {
        matches!(self.needs, [Verb::Register, _])
    }

    /// Whether its answer is a stream.
    fn is_stream(self) -> bool {
        ["/BeatStream", "/Watch", "/ServerReflectionInfo"].iter().any(|name| self.path.ends_with(name))
    }

    /// Whether it is of a standard service, which does not ask whether its caller's credential is still good.
    fn is_standard(self) -> bool {
        !self.path.starts_with("/muster.")
    }
}

/// The layer. Make it once; clones share all of it, because the server clones its layers for each call.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    access: Access,
    methods: HashMap<&'static str, Method>,
    record: Arc<Record>,
}

impl Gate {
    /// Admits callers that `access` knows.
    pub(crate) fn new(access: Access, audit: Audit) -> Self {
        let methods = METHODS.iter().map(|&(path, needs)| (path, Method { path, needs })).collect();
        Self(Arc::new(Shared { access, methods, record: Arc::new(Record { audit, refused: RefusedMetrics::new() }) }))
    }
}

impl Shared {
    /// What is recorded of a call; `None`: nothing can be.
    fn judged<B>(&self, method: Method, request: &Request<B>) -> Option<Judged> {
        let class = Class::of(method.needs);
        if !self.access.is_enforced() && class == Class::Refusals {
            return None;
        }
        let peer = request.extensions().get::<Peer>().map(|peer| peer.address);
        let caller = (!self.access.is_enforced()).then(Caller::open);
        Some(Judged { record: Arc::clone(&self.record), caller, peer, method: method.path, class })
    }

    /// Finds the caller, and refuses it if it has no right that the method needs. What is known of it then is left in `known`.
    fn admit<B>(
        &self,
        method: Option<Method>,
        request: &Request<B>,
        known: &mut Option<Caller>,
    ) -> Result<Caller, Failure> {
        let method = method.ok_or_else(|| Failure::UnknownMethod(request.uri().path().to_owned()))?;
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
            && !method.works_on_own_leases()
        {
            self.record.refused.quota_exceeded.increment(1);
            return Err(exceeded.into());
        }
        match method.needs.first() {
            Some(verb) if !method.needs.iter().any(|verb| has(&caller, *verb)) => Err(caller.denied(*verb, "").into()),
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
        let gate = &self.gate.0;
        let method = gate.methods.get(request.uri().path()).copied();
        let mut judged = method.and_then(|method| gate.judged(method, &request));
        let mut standing = None;
        if gate.access.is_enforced() {
            let mut known = None;
            let admitted = gate.admit(method, &request, &mut known);
            if let Some(judged) = &mut judged {
                judged.caller = known;
            }
            match admitted {
                Ok(caller) => {
                    if method.is_some_and(Method::is_standard) {
                        standing = Some(Standing::new(&gate.access, caller.clone(), Clock::new()));
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
        // Of an open daemon no stream is refused.
        let is_watched = gate.access.is_enforced() && method.is_some_and(Method::is_stream);
        let inner = self.inner.call(request);
        let Some(standing) = standing else { return Either::Left(JudgedFuture { inner, judged, is_watched }) };
        // What is judged at its end is the stream that the caller gets, which may end before the one of the service.
        let watched = judged.clone().filter(|_| is_watched);
        Either::Right(Box::pin(async {
            let answer = JudgedFuture { inner, judged, is_watched: false }.await?;
            let ending = answer.map(|inner| Body::new(Ending::new(inner, end(standing))));
            Ok(match watched {
                Some(judged) => JudgedStream::of(ending, judged),
                None => ending,
            })
        }))
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
    fn need_of_a_method_decides_its_audit_and_its_quota() {
        let of = |found: &dyn Fn(Method) -> bool| -> Vec<&str> {
            let methods = METHODS.iter().map(|&(path, needs)| Method { path, needs }).filter(|method| found(*method));
            methods.filter_map(|method| method.path.rsplit('/').next()).collect()
        };
        let own = ["Beat", "BeatStream", "SetStatus", "Deregister"];
        assert_eq!(of(&Method::works_on_own_leases), own);
        let standard = ["Check", "Watch", "ServerReflectionInfo", "ServerReflectionInfo"];
        assert_eq!(of(&Method::is_standard), standard);
        let streams = ["BeatStream", "Watch", "Watch", "ServerReflectionInfo", "ServerReflectionInfo"];
        assert_eq!(of(&Method::is_stream), streams);
        let recorded = |class| of(&|method| Class::of(method.needs) == class);
        assert_eq!(
            recorded(Class::Always),
            ["RotateEpoch", "HoldExpiry", "ReleaseExpiry", "ExpireInstance", "ListDecisions"]
        );
        assert_eq!(recorded(Class::OfOthers), ["SetStatus", "Deregister"]);
        assert_eq!(recorded(Class::Membership), ["Register"]);
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
        assert!(served.len() >= 23);
    }
}
