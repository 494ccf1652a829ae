//! BatchResolve: many names in one call, in order, as of one revision; and the messages that are encoded in parts.

use std::collections::BTreeSet;

use musterd::proto::{
    DESCRIPTORS, encoded,
    v1::{
        self, BatchResolveRequest, BatchResolveResult, ErrorReason, InstanceStatus, RegisterRequest, ResolveChoice,
        ResolvePolicy,
    },
};
use prost::{Message as _, encoding};
use prost_types::{
    FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::{
    daemon::Daemon,
    postgres::TestDatabase,
    wire::{alive, deregister, register},
};

fn names(names: &[&str]) -> BatchResolveRequest {
    BatchResolveRequest { logical_ids: names.iter().map(|&name| name.to_owned()).collect(), ..Default::default() }
}

fn decoded(response: &encoded::BatchResolveResponse) -> Vec<BatchResolveResult> {
    response.results.iter().map(|result| BatchResolveResult::decode(result.clone()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_name_is_answered_in_its_place_with_an_instance_or_the_reason() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let (mut registry, mut discovery) = (daemon.registry().await, daemon.discovery().await);
    let a = register(&mut registry, alive("a")).await;
    register(&mut registry, alive("a")).await;
    let b = register(&mut registry, alive("b")).await;
    let starting = RegisterRequest { initial_status: InstanceStatus::Starting.into(), ..alive("starting") };
    register(&mut registry, starting).await;
    let left = register(&mut registry, alive("left")).await;
    let revision = deregister(&mut registry, left.lease_id).await;

    let asked = ["b", "nowhere", "a", "starting", "left", "b"];
    let response = discovery.batch_resolve(names(&asked)).await.unwrap().into_inner();
    let answered: Vec<_> = decoded(&response)
        .into_iter()
        .map(|result| (result.reason(), result.instance.map(|instance| instance.instance_id), result.alternatives))
        .collect();
    let found = |id: &String, alternatives| (ErrorReason::Unspecified, Some(id.clone()), alternatives);
    assert_eq!(
        answered,
        [
            found(&b.instance_id, 0),
            (ErrorReason::UnknownLogicalId, None, 0),
            found(&a.instance_id, 1),
            (ErrorReason::NoLiveInstance, None, 0),
            (ErrorReason::NoLiveInstance, None, 0),
            found(&b.instance_id, 0),
        ]
    );
    // What holds for all is said once, and is what Resolve says.
    let request = v1::ResolveRequest { logical_id: "a".into(), ..Default::default() };
    let single = discovery.resolve(request).await.unwrap().into_inner();
    assert_eq!((response.revision, revision), (revision, single.revision));
    assert_eq!((&response.cluster_epoch, response.epoch_number), (&single.cluster_epoch, single.epoch_number));
    assert!(response.stale_for.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn choice_holds_for_every_name_and_chance_is_drawn_for_each() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let (mut registry, mut discovery) = (daemon.registry().await, daemon.discovery().await);
    let mut all = BTreeSet::new();
    for node_id in ["n1", "n2", "n3"] {
        let request = RegisterRequest { node_id: node_id.into(), ..alive("organ") };
        all.insert(register(&mut registry, request).await.instance_id);
    }
    let mut chosen = async |choice: ResolveChoice| -> Vec<v1::Instance> {
        let request = BatchResolveRequest { choice: Some(choice), ..names(&["organ"; 200]) };
        let response = discovery.batch_resolve(request).await.unwrap().into_inner();
        decoded(&response).into_iter().map(|result| result.instance.unwrap()).collect()
    };
    let random = ResolveChoice { policy: ResolvePolicy::Random.into(), ..Default::default() };
    let reached: BTreeSet<_> = chosen(random).await.into_iter().map(|instance| instance.instance_id).collect();
    assert_eq!(reached, all);
    let near = ResolveChoice { policy: ResolvePolicy::Near.into(), near_node_id: "n3".into(), ..Default::default() };
    assert!(chosen(near).await.iter().all(|instance| instance.node_id == "n3"));
    let key = ResolveChoice { policy: ResolvePolicy::Rendezvous.into(), key: "k".into(), ..Default::default() };
    let owners: BTreeSet<_> = chosen(key).await.into_iter().map(|instance| instance.instance_id).collect();
    assert_eq!(owners.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_too_many_names_and_bad_names_are_refused() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let mut discovery = daemon.discovery().await;
    let long = "x".repeat(254);
    for refused in [&[][..], &["a"; 1_001], &["a", ""], &[long.as_str()]] {
        let status = discovery.batch_resolve(names(refused)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{} names", refused.len());
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations.iter().map(|v| v.field.as_str()).collect::<Vec<_>>(), ["logical_ids"]);
    }
    let status = discovery.batch_resolve(names(&[""; 1_000])).await.unwrap_err();
    let named = status.get_details_bad_request().unwrap().field_violations.len();
    assert_eq!((status.code(), named), (Code::InvalidArgument, 16), "as many as an answer can hold");
    let response = discovery.batch_resolve(names(&["a"; 1_000])).await.unwrap().into_inner();
    assert_eq!(response.results.len(), 1_000, "the limit itself is accepted");

    let choice = Some(ResolveChoice { key: "k".into(), ..Default::default() });
    let status = discovery.batch_resolve(BatchResolveRequest { choice, ..names(&["a"]) }).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "choice.key");
    let future = BatchResolveRequest { min_revision: 1_000_000, ..names(&["a"]) };
    let status = discovery.batch_resolve(future).await.unwrap_err();
    assert_eq!(status.get_details_error_info().unwrap().reason, "NOT_YET_SEEN");
}

/// A value of a field, as the proto has it.
enum Value {
    Number(u64),
    Flag,
    Text(&'static str),
    /// Embedded messages of a type; more than one if the field is repeated.
    Messages(&'static str, Vec<Vec<u8>>),
}

/// Encodes a message as the proto describes it, with a value for each of its fields by name.
fn encoded_by_descriptor(message: &str, values: &[(&str, Value)]) -> Vec<u8> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let files = set.file.iter().filter(|file| file.package() == "muster.v1");
    let mut messages = files.flat_map(|file| &file.message_type);
    let mut fields = messages.find(|found| found.name() == message).unwrap().field.clone();
    fields.sort_by_key(prost_types::FieldDescriptorProto::number);
    let mut bytes = Vec::new();
    for field in &fields {
        let name = field.name();
        let value = values.iter().find(|(found, _)| *found == name);
        let (_, value) = value.unwrap_or_else(|| panic!("{message}.{name} is not carried by src/proto.rs"));
        let number = u32::try_from(field.number()).unwrap();
        let is_repeated = field.label() == Label::Repeated;
        match (field.r#type(), value) {
            (Type::Uint64, Value::Number(value)) if !is_repeated => encoding::uint64::encode(number, value, &mut bytes),
            (Type::Bool, Value::Flag) if !is_repeated => encoding::bool::encode(number, &true, &mut bytes),
            (Type::String, Value::Text(text)) if !is_repeated => {
                encoding::string::encode(number, &(*text).to_owned(), &mut bytes);
            }
            (Type::Message, Value::Messages(kind, parts)) if is_repeated == (parts.len() > 1) => {
                assert_eq!(field.type_name(), *kind, "{message}.{name}");
                encoding::bytes::encode_repeated(number, parts, &mut bytes);
            }
            (kind, _) => panic!("{message}.{name} is {kind:?} {:?} in the proto", field.label()),
        }
    }
    assert_eq!(fields.len(), values.len(), "{message}: src/proto.rs carries what the proto does not have");
    bytes
}

#[test]
fn watch_response_is_encoded_as_its_proto_defines() {
    let event = |revision| {
        let instance = Some(v1::Instance { revision, ..Default::default() });
        v1::WatchEvent { r#type: v1::WatchEventType::Put.into(), instance }.encode_to_vec()
    };
    let stale_for = prost_types::Duration { seconds: 5, nanos: 6 };
    // Without `..`: a field added in Rust has to be added here, and then to the proto.
    let message = encoded::WatchResponse {
        events: vec![event(1).into(), event(2).into()],
        revision: 3,
        history_id: "history".into(),
        cluster_epoch: "epoch".into(),
        epoch_number: 4,
        reset: true,
        snapshot_complete: true,
        filtered: true,
        stale_for: Some(stale_for),
    };
    let expected = encoded_by_descriptor(
        "WatchResponse",
        &[
            ("events", Value::Messages(".muster.v1.WatchEvent", vec![event(1), event(2)])),
            ("revision", Value::Number(3)),
            ("history_id", Value::Text("history")),
            ("cluster_epoch", Value::Text("epoch")),
            ("epoch_number", Value::Number(4)),
            ("reset", Value::Flag),
            ("snapshot_complete", Value::Flag),
            ("filtered", Value::Flag),
            ("stale_for", Value::Messages(".google.protobuf.Duration", vec![stale_for.encode_to_vec()])),
        ],
    );
    assert_eq!(message.encode_to_vec(), expected);
    assert_eq!(encoded::WatchResponse::decode(expected.as_slice()).unwrap(), message);
    // Two flags look alike when both are set.
    let reset = encoded::WatchResponse { reset: true, ..Default::default() };
    assert_eq!(reset.encode_to_vec(), [6 << 3, 1]);
}

#[test]
fn batch_resolve_response_is_encoded_as_its_proto_defines() {
    let result = |alternatives| BatchResolveResult { alternatives, ..Default::default() }.encode_to_vec();
    let stale_for = prost_types::Duration { seconds: 5, nanos: 6 };
    let message = encoded::BatchResolveResponse {
        results: vec![result(1).into(), result(2).into()],
        cluster_epoch: "epoch".into(),
        epoch_number: 3,
        revision: 4,
        stale_for: Some(stale_for),
    };
    let expected = encoded_by_descriptor(
        "BatchResolveResponse",
        &[
            ("results", Value::Messages(".muster.v1.BatchResolveResult", vec![result(1), result(2)])),
            ("cluster_epoch", Value::Text("epoch")),
            ("epoch_number", Value::Number(3)),
            ("revision", Value::Number(4)),
            ("stale_for", Value::Messages(".google.protobuf.Duration", vec![stale_for.encode_to_vec()])),
        ],
    );
    assert_eq!(message.encode_to_vec(), expected);
    assert_eq!(encoded::BatchResolveResponse::decode(expected.as_slice()).unwrap(), message);
}
