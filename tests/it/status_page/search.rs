//! The page with very many names, with links to one of them, and in many tabs.

use serde_json::json;

use super::{
    ask,
    browser::{see, texts, url},
    fleet, registered, wait_for,
};
use crate::harness::{
    browser::Browser,
    registry::run,
    served::{Served, seconds},
};

/// More names without a live instance than the survey lists (10,000) and one answer looks at (20,000).
const LOST: usize = 21_000;

/// So many names `lost_00001` and so on, whose instances have died, on nodes `rack-0` to `rack-9`.
async fn lost(served: &Served, count: usize) {
    let sql = format!(
        "INSERT INTO registry_instance (instance_id, logical_id, cluster_epoch, epoch_number, status, node_id, ttl_ms,
             started_at, last_heartbeat, lease_id, revision)
         SELECT gen_random_uuid(), 'lost_' || lpad(n::text, 5, '0'), current_epoch, epoch_number, 'dead',
             'rack-' || n % 10, 15000, now(), now(), revision + n, revision + n
         FROM cluster_metadata, generate_series(1, {count}) n;
         SELECT muster_advance(revision + {count}) FROM cluster_metadata;"
    );
    run(&served.sql.client, &sql).await;
}

async fn search(browser: &mut Browser, text: &str) {
    browser.eval(&format!("document.querySelector('#text').value = {}", json!(text))).await;
    browser.eval("document.querySelector('#text').dispatchEvent(new Event('input'))").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn search_among_very_many_names_reports_none_only_at_its_end() {
    let served = Served::start().await;
    fleet(&served.clients).await;
    lost(&served, LOST).await;
    let Some(mut browser) = Browser::open(&url(&served.daemon, "?filter=utility_1"), 1_280, 900).await else { return };
    see(&mut browser, "utility_1").await;
    assert_eq!(texts(&mut browser, "tbody th bdi").await, ["utility_1"]);
    // Neither of these is on the first page of an answer, nor listed by the survey.
    for (text, name) in [("tility_", "utility_1"), ("t_20999", "lost_20999"), ("rack-7", "lost_00007")] {
        search(&mut browser, text).await;
        see(&mut browser, name).await;
        assert_eq!(browser.eval("document.querySelector('#empty').hidden").await, true, "{text}");
    }
    let found = browser.text("tbody[data-key='name lost_00007'] .found").await;
    assert_eq!(found, "instance on rack-7");
    search(&mut browser, "nothing like it").await;
    let none = "document.querySelector('#empty').innerText === 'No logical id, node, address or instance id matches.'";
    browser.wait_for("nothing matches", none).await;

    search(&mut browser, "").await;
    let note = |text: &str| format!("document.querySelector('#names-note').innerText === '{text}'");
    browser.wait_for("the count", &note("100 of 21,004, the worst first")).await;
    browser.screenshot("many").await;
    browser.click("#more").await;
    browser.wait_for("the count", &note("500 of 21,004, the worst first")).await;
    let rest = browser.text("#rest").await;
    assert!(rest.starts_with("500 of 21,004 are shown. To see others, search for a name"), "{rest}");
    assert_eq!(browser.eval("document.querySelector('#more').hidden").await, true, "there is no more to show");
    browser.click("#states button[data-state=unserved]").await;
    browser.wait_for("the count", &note("500 of 21,001, the worst first")).await;
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn link_to_a_name_opens_it_on_any_page() {
    let served = Served::start().await;
    fleet(&served.clients).await;
    lost(&served, 200).await;
    wait_for(&served.daemon, "summary", |summary| summary["names"]["unserved"] == 201).await;
    // Not among the rows on show: it is put before them.
    let Some(mut browser) = Browser::open(&url(&served.daemon, "?open=utility_1"), 1_280, 700).await else { return };
    let is_led_to = |name: &str| {
        format!(
            "(() => {{ const body = document.querySelector(\"tbody[data-key='name {name}']\"); \
             const box = body?.getBoundingClientRect(); \
             return Boolean(body?.hasAttribute('data-marked') && body.querySelector('.instances li') && box.top >= 0 && \
             box.top < innerHeight); }})()"
        )
    };
    browser.wait_for("a name that is not listed", &is_led_to("utility_1")).await;
    assert_eq!(texts(&mut browser, "tbody th bdi").await[0], "utility_1");
    browser.screenshot("link").await;
    // Listed, far down.
    browser.navigate(&url(&served.daemon, "?open=lost_00090")).await;
    browser.wait_for("a name far down", &is_led_to("lost_00090")).await;
    assert!(browser.eval("scrollY").await.as_f64().unwrap() > 500.0);
    browser.click("tbody[data-key='name lost_00090'] th button").await;
    browser.wait_for("it is closed", "!document.querySelector('[data-marked]') && location.search === ''").await;
    // Not on record.
    browser.navigate(&url(&served.daemon, "?open=nobody_here&open=organ")).await;
    see(&mut browser, "organ").await;
    let told = "document.querySelector('#unknown').innerText.startsWith('No instance of nobody_here is on record.')";
    browser.wait_for("it is not on record", told).await;
    browser.screenshot("unknown").await;
    browser.click("#unknown button").await;
    browser
        .wait_for("it is dismissed", "!document.querySelector('#unknown li') && location.search === '?open=organ'")
        .await;
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_tabs_than_a_browser_has_connections_for_all_load() {
    let served = Served::start().await;
    fleet(&served.clients).await;
    let url = url(&served.daemon, "");
    let Some(mut browser) = Browser::open(&url, 1_280, 900).await else { return };
    see(&mut browser, "organ").await;
    for number in 2..=9 {
        browser.open_tab(&url).await;
        see(&mut browser, "organ").await;
        let live = "document.querySelector('#live').innerText === 'live'";
        browser.wait_for(&format!("tab {number} is live"), live).await;
    }
    // Each of them goes on.
    served.clients.register(registered(9, "arrived_later", &[])).await;
    see(&mut browser, "arrived_later").await;
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_shown_as_long_as_it_is_and_beats_are_not_called_late_too_soon() {
    let served = Served::start().await;
    // While nothing dies, an instance may be silent for longer than its TTL.
    super::hold(&served.clients, "to look at a silent instance").await;
    let silent = musterd::proto::v1::RegisterRequest { ttl: Some(seconds(2)), ..registered(1, "silent", &[]) };
    served.clients.register(silent).await;
    let Some(mut browser) = Browser::open(&url(&served.daemon, "?open=silent"), 1_280, 900).await else { return };
    see(&mut browser, "silent").await;
    let tone = "document.querySelector('#facts [data-key=beats]').dataset.tone";
    assert_eq!(browser.eval(tone).await, "");
    for shown in ["tbody .heard .number", ".instances .beat .number"] {
        let is_real = format!("parseFloat(document.querySelector('{shown}')?.innerText) > 4");
        browser.wait_for(&format!("the silence of {shown}"), &is_real).await;
        assert!(browser.text(shown).await.ends_with("s, over its 2 s"), "{}", browser.text(shown).await);
    }
    let (_, names) = ask(&served.daemon, "names").await;
    assert_eq!(names["names"][0]["best"]["leaseRemaining"], "0s");
    assert_ne!(names["names"][0]["best"]["silentFor"], "2s");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_registry_shows_a_command_for_this_daemon() {
    let served = Served::start().await;
    let Some(mut browser) = Browser::open(&url(&served.daemon, ""), 1_280, 900).await else { return };
    let hint = "document.querySelector('#empty')?.innerText.startsWith('No instance has registered yet. Try:')";
    browser.wait_for("the hint", hint).await;
    let command = browser.text("#empty-command code").await;
    let expected = format!("musterd --addr {} run --logical-id my_service", served.daemon.grpc_addr);
    assert!(command.starts_with(&expected), "{command}");
    assert_eq!(browser.text("#empty-command button").await, "Copy");
    let title = browser.eval("document.title").await;
    assert_eq!(title, format!("musterd {}", served.daemon.http_addr));
    browser.screenshot("empty").await;
    let small = "[...document.querySelectorAll('.command button')].filter((it) => it.checkVisibility()).map((it) => \
                 it.getBoundingClientRect()).filter((box) => box.height < 24 || box.width < 24).length";
    assert_eq!(browser.eval(small).await, 0, "a thumb hits each of them");
    assert_eq!(browser.complaints(), [""; 0]);
}
