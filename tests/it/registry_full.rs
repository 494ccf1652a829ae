//! A client that registers without end: records stay within the budget, others register, and every known instance goes on.

use futures_util::{StreamExt as _, stream};
use musterd::proto::v1::{RegisterRequest, registry_service_client::RegistryServiceClient};
use tonic::{Code, transport::Endpoint};

use crate::harness::{
    daemon::Daemon,
    postgres::TestDatabase,
    served::{refusal, registration},
    wire::Wire,
};

const RECORDS: u128 = 200;
const BUDGET: [&str; 2] = ["--max-records", "200"];

/// A client at another address of the loopback.
async fn stranger(daemon: &Daemon) -> RegistryServiceClient<tonic::transport::Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", daemon.grpc_addr)).unwrap();
    let endpoint = endpoint.local_address(Some("127.0.0.2".parse().unwrap()));
    Wire::over(endpoint.connect().await.unwrap()).registry
}

/// A registration whose labels are nearly as large as they may be.
fn large(instance: u128) -> RegisterRequest {
    let labels = (0..30).map(|at| (format!("label-{at}"), "x".repeat(500))).collect();
    RegisterRequest { labels, ..registration(instance, "flood") }
}

#[tokio::test(flavor = "multi_thread")]
async fn flood_of_registrations_stays_within_the_budget_and_others_register() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start_with(&[&["--database-url", database.url()][..], &BUDGET].concat()).await;
    let flooding = Wire::of(&daemon).await;
    let calls = (1..=2 * RECORDS).map(|instance| {
        let mut registry = flooding.registry.clone();
        async move { registry.register(registration(instance, "flood")).await }
    });
    let answers: Vec<_> = stream::iter(calls).buffer_unordered(64).collect().await;
    let (accepted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(accepted.len(), 150, "three quarters of the budget");
    for answer in refused {
        let refused = refusal(answer);
        assert_eq!(refused.verdict(), (Code::ResourceExhausted, "REGISTRY_FULL"));
        assert_eq!((refused.metadata["scope"].as_str(), refused.metadata["limit"].as_str()), ("address", "200"));
        assert!(refused.message.contains("--max-records"), "{}", refused.message);
    }
    assert_eq!(daemon.metric("musterd_records").await, Some(150.0));
    assert_eq!(daemon.metric("musterd_refused_total{reason=\"registry_full_of_address\"}").await, Some(250.0));

    // The dead count as long as they are kept, and a known instance registers, beats and leaves.
    let known = accepted.into_iter().next().unwrap().unwrap().into_inner();
    let id = uuid::Uuid::parse_str(&known.instance_id).unwrap().as_u128();
    flooding.beat(id).await;
    assert_eq!(flooding.register(registration(id, "flood")).await.lease_id, known.lease_id);
    flooding.deregister(id).await;
    let refused = refusal(flooding.registry.clone().register(registration(9_000, "flood")).await);
    assert_eq!(refused.reason, "REGISTRY_FULL");
    assert!(flooding.register(registration(id, "flood")).await.lease_id > known.lease_id);

    // Another address has room, and the last place of it is not its own either.
    let mut other = stranger(&daemon).await;
    for instance in 10_001..10_010 {
        other.register(registration(instance, "organ")).await.unwrap();
    }

    // A daemon that starts over more than its budget serves all of it and takes no more.
    let small = Daemon::start_with(&["--database-url", database.url(), "--max-records", "10"]).await;
    assert!(small.log().contains("more is on record than the budget allows"), "{}", small.log());
    let (_, summary) = small.http_get("/api/v1/summary").await.unwrap();
    assert!(summary.contains("registry_filling") && summary.contains("of 10 records"), "{summary}");
    let clients = Wire::of(&small).await;
    clients.beat(id).await;
    let refused = refusal(clients.registry.clone().register(registration(9_001, "flood")).await);
    assert_eq!((refused.reason.as_str(), refused.metadata["scope"].as_str()), ("REGISTRY_FULL", "registry"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_records_are_bounded_also_when_known_instances_grow() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start_with(&["--database-url", database.url(), "--max-record-bytes", "1MiB"]).await;
    let clients = Wire::of(&daemon).await;
    let mut accepted = 0;
    for instance in 1..=RECORDS {
        clients.register(registration(instance, "flood")).await;
    }
    for instance in 1..=RECORDS {
        match clients.registry.clone().register(large(instance)).await {
            Ok(_) => accepted += 1,
            Err(status) => assert_eq!(refusal(Err::<(), _>(status)).metadata["unit"], "bytes"),
        }
    }
    assert!((1..50).contains(&accepted), "{accepted} of them grew");
    let bytes = daemon.metric("musterd_record_bytes").await.unwrap();
    assert!(bytes <= 0.75 * 1_048_576.0, "{bytes}");
}
