//! The page of a daemon with TLS and a policy, in a browser that shows a token as its password.

use musterd::proto::v1;

use super::{
    HOSTILE,
    browser::{see, texts},
    registered,
};
use crate::harness::{browser::Browser, secured::Secured, wire::Wire};

const RULES: &str = r#"
[[rule]]
who = ["token/viewer"]
may = ["read"]
on = ["svc-a", "part-*"]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn viewer_with_a_password_sees_its_names_live_and_no_others() {
    let secured = Secured::enforced(RULES, &["viewer"]).await;
    let operator = Wire::over(secured.with_certificate(secured.tls()).await);
    let labels = [("zone", HOSTILE)];
    for (number, name) in [(1, "svc-a"), (2, "svc-b"), (3, "other")] {
        operator.register(registered(number, name, &labels)).await;
    }
    let origin = format!("https://{}/", secured.daemon.http_addr);
    let Some(mut browser) = Browser::open_with_password(&origin, &secured.token("viewer")).await else { return };
    see(&mut browser, "svc-a").await;
    assert_eq!(texts(&mut browser, "tbody th bdi").await, ["svc-a"]);
    browser
        .wait_for("the ports are named", "document.querySelector('#about').innerText.includes('secured (TLS, policy)')")
        .await;

    // The stream brings what changes, of the names that the viewer may read.
    operator.register(registered(4, "other-1", &labels)).await;
    operator.register(registered(5, "part-1", &labels)).await;
    see(&mut browser, "part-1").await;
    assert_eq!(texts(&mut browser, "tbody th bdi").await.len(), 2);
    let ended = v1::ExpireInstanceRequest { instance_id: crate::harness::registry::id(1).to_string(), lease_id: 0 };
    operator.cluster.clone().expire_instance(ended).await.unwrap();
    let states = "[...document.querySelectorAll('tbody .state .badge')].map((it) => it.innerText).join()";
    browser.wait_for("the death is seen", &format!("{states} === 'no live instance,served'")).await;
    for hidden in ["svc-b", "other", "other-1"] {
        assert!(!browser.text("body").await.contains(hidden), "{hidden} is on the page");
    }

    browser.click("tbody[data-key='name part-1'] th button").await;
    browser.wait_for("the instance is explained", "document.querySelectorAll('.instances > li').length === 1").await;
    assert!(texts(&mut browser, ".instances .labels").await[0].contains("onerror"), "the label is shown as text");
    assert!(browser.eval("document.title").await != "owned");
    // The stream of summaries, for what other pages make of it.
    let stream = "new Promise((resolve) => {
        const stream = new EventSource('/api/v1/events');
        stream.onerror = () => resolve('it ends');
        stream.addEventListener('summary', (event) => {
            stream.close();
            resolve(JSON.parse(event.data).filtered);
        });
    })";
    assert_eq!(browser.eval(stream).await, true);
    browser.screenshot("secured").await;
    let foreign: Vec<_> = browser.requests().iter().filter(|url| !url.starts_with(&origin)).collect();
    assert!(foreign.is_empty() && browser.requests().iter().any(|url| url.contains("/api/v1/events")), "{foreign:?}");
    assert_eq!(browser.complaints(), [""; 0]);
}
