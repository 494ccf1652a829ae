//! The page in a real browser: what an operator sees in the first ten seconds, and what he does then.

use std::collections::BTreeSet;

use clap::CommandFactory as _;
use musterd::{cli::Cli, proto::v1};
use serde_json::json;

use super::{HOSTILE, fleet, hold, registered, second};
use crate::harness::{
    browser::Browser,
    daemon::Daemon,
    postgres::OwnCluster,
    served::{Served, seconds},
    wire::Wire,
};

pub(super) fn url(daemon: &Daemon, query: &str) -> String {
    format!("http://{}/{query}", daemon.http_addr)
}

/// The texts of all elements that a selector finds.
pub(super) async fn texts(browser: &mut Browser, selector: &str) -> Vec<String> {
    let selector = json!(selector);
    let texts = browser.eval(&format!("[...document.querySelectorAll({selector})].map((it) => it.innerText)")).await;
    texts.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Waits until a name is in the table.
pub(super) async fn see(browser: &mut Browser, name: &str) {
    let expression =
        format!("[...document.querySelectorAll('tbody th bdi')].some((it) => it.innerText === {})", json!(name));
    browser.wait_for(&format!("{name} is on the page"), &expression).await;
}

/// The commands on the page exist, with their flags.
async fn assert_commands_exist(browser: &mut Browser) {
    let commands: BTreeSet<String> = texts(browser, ".command code").await.into_iter().collect();
    assert!(commands.len() >= 2, "{commands:?}");
    for line in commands {
        let words = line.split(" | ").next().unwrap().split_whitespace();
        let parsed = Cli::command().try_get_matches_from(words);
        assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn page_of_a_fleet_with_problems_shows_each_problem() {
    let served = Served::start().await;
    let other = second(&served).await;
    fleet(&served.clients).await;
    let lost = other.grpc_addr.clone();
    other.kill9();
    let Some(mut browser) = Browser::open(&url(&served.daemon, ""), 1_280, 1_000).await else { return };
    see(&mut browser, "lost").await;
    let silent = format!("document.querySelector('#problems').innerText.includes('The daemon at {lost}')");
    browser.wait_for("the dead daemon is silent, then lost", &silent).await;
    let gone = format!("document.querySelector('#problems').innerText.includes('The daemon at {lost} was lost')");
    browser.wait_for("the dead daemon is lost", &gone).await;
    hold(&served.clients, "the switch is being replaced").await;
    browser.wait_for("the hold is told", "document.body.innerText.includes('the switch is being replaced')").await;
    // While expiry is paused, an instance that falls silent stays suspect.
    for (instance, name, ttl) in [(11, "flaky", 2), (12, "half", 2), (13, "half", 300)] {
        served
            .clients
            .register(v1::RegisterRequest { ttl: Some(seconds(ttl)), ..registered(instance, name, &[]) })
            .await;
    }
    let states = "[...document.querySelectorAll('tbody .state .badge')].map((it) => it.innerText).join()";
    let expected = "no live instance,all suspect,some suspect,served,served,left";
    browser.wait_for("the worst comes first", &format!("{states} === '{expected}'")).await;
    let names = ["lost", "flaky", "half", "organ", "utility_1", "retired"];
    assert_eq!(texts(&mut browser, "tbody th bdi").await, names);
    let verdict = "Warning: expiry is on hold, a daemon was lost, logical ids without a live instance, logical \
                   ids with suspect instances only.";
    // The summary follows the rows within a second.
    let told = format!("document.querySelector('#verdict').innerText === '{verdict}'");
    browser.wait_for("the verdict names what is wrong", &told).await;
    assert_eq!(browser.eval("document.body.dataset.severity").await, "warning");
    assert_eq!(texts(&mut browser, "#daemons .badge").await, ["lost", "ok"]);
    let facts = [("alive", "6"), ("names", "1"), ("dead", "2"), ("expiry", "on hold"), ("database", "answers")];
    for (key, value) in facts {
        assert_eq!(browser.text(&format!("#facts [data-key={key}] strong")).await, value, "{key}");
    }
    assert!(browser.text("#latest").await.contains("declared dead by an operator"));

    browser.click("tbody[data-key='name organ'] th button").await;
    browser.wait_for("the instances are explained", "document.querySelectorAll('.instances > li').length === 4").await;
    let why = texts(&mut browser, ".instances .why").await;
    assert_eq!(why[0], "chosen: the longest serving");
    assert_eq!(why[2], "not considered: draining, it takes nothing new");
    assert!(texts(&mut browser, ".instances .labels").await[0].contains("model=llm-7b"));
    assert_eq!(browser.eval("location.search").await, "?open=organ");
    assert_commands_exist(&mut browser).await;
    browser.screenshot("light").await;
    browser.prefer_dark(true).await;
    browser.screenshot("dark").await;
    for width in [360, 414, 768] {
        browser.resize(width, 1_600).await;
        let overflow =
            browser.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth").await;
        assert_eq!(overflow, 0, "nothing is cut off at {width}");
        browser.screenshot(&format!("dark-{width}")).await;
    }
    browser.prefer_dark(false).await;
    browser.resize(360, 1_600).await;
    browser.screenshot("light-360").await;
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn selection_is_in_the_url_and_a_pause_stops_all_updates() {
    let served = Served::start().await;
    fleet(&served.clients).await;
    let Some(mut browser) = Browser::open(&url(&served.daemon, "?filter=t&state=unserved"), 1_280, 900).await else {
        return;
    };
    see(&mut browser, "lost").await;
    assert_eq!(texts(&mut browser, "tbody th bdi").await, ["lost"]);
    assert_eq!(browser.eval("document.querySelector('#text').value").await, "t");
    browser.click("#states button[data-state=unserved]").await;
    see(&mut browser, "utility_1").await;
    assert_eq!(browser.eval("location.search").await, "?filter=t");
    browser.eval("document.querySelector('#text').value = 'nothing like it'").await;
    browser.eval("document.querySelector('#text').dispatchEvent(new Event('input'))").await;
    browser
        .wait_for(
            "nothing matches",
            "document.querySelector('#empty').innerText === 'No logical id, node, address or instance id matches.'",
        )
        .await;
    browser.navigate(&url(&served.daemon, "")).await;
    see(&mut browser, "organ").await;

    browser.click("#pause").await;
    browser.wait_for("it is paused", "document.querySelector('#live').innerText === 'paused'").await;
    let before = browser.text("main").await;
    served.clients.register(registered(8, "arrived_meanwhile", &[])).await;
    served.clients.best("arrived_meanwhile").await;
    assert_eq!(browser.text("main").await, before);
    browser.click("#pause").await;
    see(&mut browser, "arrived_meanwhile").await;
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_name_is_shown_and_does_nothing() {
    let served = Served::start().await;
    served.clients.register(registered(1, HOSTILE, &[(HOSTILE, HOSTILE), ("'; rm -rf /", "$(reboot)")])).await;
    hold(&served.clients, HOSTILE).await;
    let Some(mut browser) = Browser::open(&url(&served.daemon, ""), 1_280, 900).await else { return };
    see(&mut browser, HOSTILE).await;
    browser.click("tbody th button").await;
    browser.wait_for("it is explained", "document.querySelectorAll('.instances .labels li').length === 2").await;
    browser.wait_for("the reason is told", &format!("document.body.innerText.includes({})", json!(HOSTILE))).await;
    assert_eq!(texts(&mut browser, ".labels li").await[1], format!("{HOSTILE}={HOSTILE}"));
    assert_eq!(browser.eval("document.querySelectorAll('main img, main script').length").await, 0);
    let title = browser.eval("document.title").await;
    assert!(title != json!("owned"), "{title}");
    // A shell takes the name in the command as one word, and as it is.
    let line = texts(&mut browser, ".commands code").await[0].clone();
    let words = line.split_once("explain ").unwrap().1;
    let echoed = std::process::Command::new("sh").args(["-c", &format!("printf %s {words}")]).output().unwrap();
    assert_eq!(String::from_utf8(echoed.stdout).unwrap(), HOSTILE);
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn outage_banner_shows_the_age_of_the_data_and_a_lost_daemon() {
    let mut cluster = OwnCluster::create().await;
    let daemon = Daemon::start(cluster.url()).await;
    let clients = Wire::of(&daemon).await;
    clients.register(registered(1, "organ", &[])).await;
    let Some(mut browser) = Browser::open(&url(&daemon, ""), 1_280, 900).await else { return };
    see(&mut browser, "organ").await;
    assert_eq!(browser.eval("document.body.dataset.severity").await, "ok");
    assert_eq!(browser.text("#verdict").await, "Healthy: 1 instance serves 1 logical id.");
    browser.screenshot("well").await;
    cluster.kill9();
    // That beats are not saved may be told before it.
    let told = "document.querySelector('#problems').innerText.includes('PostgreSQL has not answered for')";
    browser.wait_for("the outage is told", told).await;
    assert_eq!(browser.eval("document.body.dataset.severity").await, "critical");
    let banner = browser.text("#problems").await;
    assert!(banner.contains("all data is as of"), "{banner}");
    assert_eq!(texts(&mut browser, "tbody th bdi").await, ["organ"], "it goes on answering from memory");
    browser.screenshot("outage").await;
    cluster.start().await;
    browser
        .wait_for(
            "it is well again",
            "document.querySelector('#facts [data-key=database] strong').innerText === 'answers'",
        )
        .await;

    daemon.kill9();
    browser.wait_for("the daemon is missed", "!document.querySelector('#lost').hidden").await;
    let lost = browser.text("#lost").await;
    assert!(lost.contains("No answer from this daemon for") && lost.contains("What you see is as of"), "{lost}");
    browser.screenshot("lost").await;
    // Its refusals to connect are told by the browser itself; scripts and policy have nothing to complain about.
    let others: Vec<&String> =
        browser.complaints().iter().filter(|it| !it.contains("ERR_CONNECTION_REFUSED")).collect();
    assert!(others.iter().all(|it| it.contains("ERR_")), "{others:?}");
}
