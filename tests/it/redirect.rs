//! A stranger that repeats a registration with another address does not take over the traffic of a live instance.

use musterd::proto::v1;
use tonic::Code;

use crate::harness::{
    registry::{get, id, register, run},
    served::{Served, refusal, registration},
};

/// The victim: everything that a repeated registration is compared by is shown by ListInstances.
fn victim() -> v1::RegisterRequest {
    v1::RegisterRequest { port: 8_000, serve_route: "/organ".into(), ..registration(1, "organ") }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_registration_cannot_redirect_a_live_instance() {
    let served = Served::start().await;
    let lease = served.clients.register(victim()).await;
    let before = served.revision().await;
    for attack in [
        v1::RegisterRequest { ip_address: "10.6.6.6".into(), ..victim() },
        v1::RegisterRequest { port: 6_666, ..victim() },
        v1::RegisterRequest { serve_route: "/attacker".into(), ..victim() },
        v1::RegisterRequest { ip_address: String::new(), ..victim() },
        v1::RegisterRequest { port: 0, ..victim() },
        v1::RegisterRequest { serve_route: String::new(), ..victim() },
    ] {
        let refused = refusal(served.clients.registry.clone().register(attack.clone()).await);
        assert_eq!(refused.verdict(), (Code::AlreadyExists, "INSTANCE_ID_TAKEN"), "{attack:?}");
        assert!(refused.metadata.is_empty(), "the owner's node, address and pid are not shown: {:?}", refused.metadata);
        assert!(refused.message.contains("end that lease first"), "{}", refused.message);
    }
    assert_eq!(served.revision().await, before, "nothing changed");
    let resolved = served.clients.resolve("organ", 0).await.unwrap().instance.unwrap();
    assert_eq!(
        (resolved.ip_address.as_str(), resolved.port, resolved.serve_route.as_str()),
        ("10.0.0.1", 8_000, "/organ")
    );
    assert_eq!(served.clients.register(victim()).await.lease_id, lease.lease_id, "the owner repeats its call");

    // A new address needs a new lease.
    served.clients.deregister(1).await;
    let moved = v1::RegisterRequest { ip_address: "10.0.0.2".into(), ..victim() };
    assert!(served.clients.register(moved).await.lease_id > lease.lease_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_address_of_a_live_instance_may_become_known() {
    let served = Served::start().await;
    let unknown = v1::RegisterRequest { ip_address: String::new(), ..registration(1, "organ") };
    let lease = served.clients.register(unknown.clone()).await;
    assert_eq!(served.clients.register(victim()).await.lease_id, lease.lease_id);
    let now = served.clients.instance(1).await;
    assert_eq!((now.ip_address.as_str(), now.port, now.serve_route.as_str()), ("10.0.0.1", 8_000, "/organ"));
    let refused = refusal(served.clients.registry.clone().register(unknown).await);
    assert_eq!(refused.reason, "INSTANCE_ID_TAKEN", "and not back");
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_caller_keeps_its_upsert_with_a_changed_address() {
    let served = Served::start().await;
    run(&served.sql.client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    run(&served.sql.client, &register(1, "organ", 100)).await;
    run(&served.sql.client, &register(1, "organ", 100).replace("10.0.0.1", "10.0.0.2")).await;
    let row: String =
        get(&served.sql.client, "SELECT host(ip_address) || ' ' || lease_id FROM registry_instance").await;
    assert!(row.starts_with("10.0.0.2 "), "{row}");
}
