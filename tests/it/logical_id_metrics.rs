//! Metrics by logical id: asked for, bounded, the worst served first.

use musterd::{
    metrics::names::per_logical_id,
    model::InstanceStatus as Status,
    proto::v1::{self, InstanceStatus},
};

use crate::harness::{
    daemon::Daemon,
    served::{Served, registration},
};

/// The series, in the order of the answer, and all of it.
async fn scrape(daemon: &Daemon, query: &str) -> (Vec<String>, String) {
    let (status, text) = daemon.http_get(&format!("/metrics/logical-ids?{query}")).await.unwrap();
    assert_eq!(status, 200, "{text}");
    let series = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned);
    (series.collect(), text)
}

/// The logical ids that an answer tells of, in its order.
async fn told(daemon: &Daemon, query: &str) -> Vec<String> {
    let (series, _) = scrape(daemon, query).await;
    let names = series.iter().filter_map(|line| line.strip_prefix("musterd_logical_id_suspect{logical_id=\""));
    names.map(|rest| rest.rsplit_once('"').unwrap().0.to_owned()).collect()
}

async fn omitted(daemon: &Daemon, query: &str) -> String {
    let (series, _) = scrape(daemon, query).await;
    series.iter().find_map(|line| line.strip_prefix("musterd_logical_ids_omitted ")).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_logical_id_has_metrics_and_plain_metrics_have_none() {
    let served = Served::start().await;
    let first = served.clients.register(registration(1, "organ")).await;
    let second = served.clients.register(registration(2, "organ")).await;
    let starting = InstanceStatus::Starting.into();
    served.clients.register(v1::RegisterRequest { initial_status: starting, ..registration(3, "organ") }).await;
    served.clients.register(registration(4, "gone")).await;
    served.clients.deregister(4).await;
    served.clients.register(registration(5, "a \"name\"")).await;
    served.clients.set_status(5, Status::Draining).await;

    let (series, text) = scrape(&served.daemon, "").await;
    for metric in per_logical_id::ALL {
        assert!(text.contains(&format!("# HELP {} {}\n# TYPE {0} gauge\n", metric.name, metric.help)), "{text}");
    }
    let expect = |line: &str| assert!(series.iter().any(|each| each == line), "{line} is not in\n{text}");
    expect(r#"musterd_logical_id_instances{logical_id="organ",status="alive"} 2"#);
    expect(r#"musterd_logical_id_instances{logical_id="organ",status="starting"} 1"#);
    expect(&format!(r#"musterd_logical_id_best_lease{{logical_id="organ"}} {}"#, first.lease_id));
    expect(r#"musterd_logical_id_instances{logical_id="gone",status="alive"} 0"#);
    expect(r#"musterd_logical_id_best_lease{logical_id="gone"} 0"#);
    expect(r#"musterd_logical_id_instances{logical_id="a \"name\"",status="draining"} 1"#);
    expect("musterd_logical_ids_omitted 0");
    served.clients.deregister(1).await;
    let (series, _) = scrape(&served.daemon, "prefix=organ").await;
    let takeover = format!(r#"musterd_logical_id_best_lease{{logical_id="organ"}} {}"#, second.lease_id);
    assert!(series.contains(&takeover), "the other has taken over: {series:?}");

    let (_, plain) = served.daemon.http_get("/metrics").await.unwrap();
    assert!(!plain.contains("logical_id="), "{plain}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_over_the_limit_are_counted_and_are_the_best_served() {
    let served = Served::start().await;
    for (instance, logical_id) in [(1, "pair"), (2, "pair"), (3, "single"), (4, "other"), (5, "unserved"), (6, "zone")]
    {
        served.clients.register(registration(instance, logical_id)).await;
    }
    // A name whose last instance deregisters has left on purpose; one that an operator expires is unserved.
    let instance_id = registration(5, "unserved").instance_id;
    let expiry = v1::ExpireInstanceRequest { instance_id, ..Default::default() };
    served.clients.cluster.clone().expire_instance(expiry).await.unwrap();
    assert_eq!(told(&served.daemon, "").await, ["unserved", "other", "single", "zone", "pair"]);
    assert_eq!(told(&served.daemon, "limit=2").await, ["unserved", "other"]);
    assert_eq!(omitted(&served.daemon, "limit=2").await, "3");
    assert_eq!(told(&served.daemon, "prefix=p&limit=1").await, ["pair"]);
    assert_eq!(omitted(&served.daemon, "prefix=p&limit=1").await, "0");
    served.clients.rotate().await;
    let after = told(&served.daemon, "limit=5").await;
    assert_eq!(after, ["other", "pair", "single", "unserved", "zone"], "no instance of the former epoch serves");
}
