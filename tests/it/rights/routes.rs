//! Every route of the HTTP port, by every caller, on every logical id.

use std::collections::BTreeSet;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use musterd::access::tokens::token;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

use super::{
    ANONYMOUS, BOUND, EXPIRED, Guarded, MASTER, STRANGER,
    rows::registration,
    rules::{Judge, Rule},
    secret, written,
};
use crate::harness::registry::id;

const RULES: &[Rule] = &[
    Rule { who: "actor", may: &["register", "resolve"], on: &["svc-a"] },
    Rule { who: "exact", may: &["read"], on: &["svc-a"] },
    Rule { who: "prefix", may: &["read"], on: &["svc-*"] },
    Rule { who: "router", may: &["resolve", "read"], on: &["*"] },
    Rule { who: "operator", may: &["operate", "read"], on: &["out"] },
    Rule { who: "cluster", may: &["cluster"], on: &["*"] },
];
/// The only one that may read metrics.
const SCRAPER: &str = "scraper";
const OF_SCRAPER: &str = "[[rule]]\nwho = [\"token/scraper\"]\nmay = [\"metrics\"]\n";
const CALLERS: [&str; 12] = [
    "actor", "exact", "prefix", "router", "operator", "cluster", "nobody", SCRAPER, MASTER, EXPIRED, ANONYMOUS,
    STRANGER,
];
const NAMES: [&str; 4] = ["svc-a", "svc-b", "svc-c", "out"];
/// No instance has it.
const ABSENT: &str = "absent";

/// What a route is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    /// Nothing that is protected.
    Probe,
    Metrics,
    /// A text without names.
    Fixed,
    /// The names that the caller may read.
    Names,
    /// No route.
    Nothing,
}

const ROUTES: [(&str, About); 15] = [
    ("/livez", About::Probe),
    ("/readyz", About::Probe),
    ("/metrics", About::Metrics),
    ("/", About::Fixed),
    ("/ui/app.js", About::Fixed),
    ("/api/v1/summary", About::Fixed),
    ("/api/v1/events", About::Fixed),
    ("/api/v1/names?limit=500", About::Names),
    ("/api/v1/instances?status=any&limit=500", About::Names),
    ("/sd/prometheus", About::Names),
    ("/metrics/logical-ids", About::Names),
    ("/nothing", About::Nothing),
    ("/api/v1/nothing", About::Nothing),
    ("//metrics", About::Nothing),
    ("/livez/", About::Nothing),
];
/// Routes about one name, or about those that begin so.
const OF_NAME: [(&str, &str); 7] = [
    ("/api/v1/explain?name=", ""),
    ("/api/v1/instances?name=", ""),
    ("/sd/prometheus?name=", ""),
    ("/api/v1/instances?prefix=", "prefix"),
    ("/sd/prometheus?prefix=", "prefix"),
    ("/metrics/logical-ids?prefix=", "prefix"),
    ("/api/v1/names?name=", "list"),
];

/// The status, and what came with it: all of the answer, or of a stream its beginning.
async fn ask(guarded: &Guarded, who: &str, path: &str, is_basic: bool) -> (u16, String) {
    let token = match who {
        ANONYMOUS => None,
        STRANGER => Some(token(MASTER, &[9; 32])),
        name => Some(secret(name)),
    };
    let line = token.map_or(String::new(), |token| match is_basic {
        true => format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(format!("any:{token}"))),
        false => format!("Authorization: Bearer {token}\r\n"),
    });
    let mut stream = TcpStream::connect(&guarded.daemon.http_addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{line}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = BufReader::new(stream);
    let mut text = String::new();
    let reading = async {
        answer.read_line(&mut text).await.unwrap();
        if !path.ends_with("/events") || !text.contains(" 200 ") {
            answer.read_to_string(&mut text).await.unwrap();
        }
    };
    timeout(BOUND, reading).await.unwrap();
    (text.split(' ').nth(1).unwrap().parse().unwrap(), text)
}

/// The status that the rules demand, read in the plainest way.
fn expected(who: &str, about: About) -> u16 {
    let judge = Judge(RULES);
    match (who, about) {
        (_, About::Probe) => 200,
        (EXPIRED | ANONYMOUS | STRANGER, _) => 401,
        (SCRAPER, About::Metrics) => 200,
        (_, About::Metrics) => 403,
        _ if !judge.may_somewhere(who, "read") => 403,
        (_, About::Nothing) => 404,
        (_, About::Fixed | About::Names) => 200,
    }
}

fn expected_of_name(who: &str, kind: &str, name: &str) -> u16 {
    let judge = Judge(RULES);
    let may = match kind {
        "" => judge.may(who, "read", name),
        "prefix" => judge.may_read_some_of(who, name),
        // A filter, which leaves out what may not be read.
        _ => true,
    };
    match expected(who, About::Fixed) {
        200 if !may => 403,
        // What may be read and does not exist.
        200 if kind.is_empty() && name == ABSENT => 404,
        other => other,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_has_the_verdict_of_the_rules_and_shows_readable_names_only() {
    let names: Vec<&str> = RULES.iter().map(|rule| rule.who).chain([SCRAPER]).collect();
    let guarded = Guarded::start_with(&(written(RULES) + "\n" + OF_SCRAPER), &names, &[]).await;
    let mut master = guarded.caller(MASTER).await.registry;
    for (number, name) in (1..).zip(NAMES) {
        master.register(registration(id(number), name)).await.unwrap();
    }
    guarded.caught_up().await;
    let (judge, mut cells, mut wrong, mut shown) = (Judge(RULES), 0, Vec::new(), 0);
    for (who, is_basic) in CALLERS.iter().flat_map(|who| [(*who, false), (*who, true)]) {
        let readable: BTreeSet<&str> = NAMES.into_iter().filter(|name| judge.may(who, "read", name)).collect();
        let mut check = |path: &str, expected: u16, (status, text): (u16, String)| {
            cells += 1;
            let is_absent = status == 200 && expected == 404 && path.contains(ABSENT);
            if status != expected && !is_absent {
                wrong.push(format!("{path} by {who}: {status}, not {expected}"));
            }
            for name in NAMES.into_iter().filter(|name| text.contains(&format!("\"{name}\""))) {
                // What a refusal repeats is what was asked.
                if !readable.contains(name) && status == 200 {
                    wrong.push(format!("{path} shows {name} to {who}: {text}"));
                }
                shown += 1;
            }
        };
        for (path, about) in ROUTES {
            check(path, expected(who, about), ask(&guarded, who, path, is_basic).await);
        }
        for (path, kind) in OF_NAME {
            for name in NAMES.into_iter().chain([ABSENT]) {
                let path = format!("{path}{name}");
                check(&path, expected_of_name(who, kind, name), ask(&guarded, who, &path, is_basic).await);
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {cells} cells:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
    assert!(cells >= 1_000 && shown > 200, "{cells} cells, {shown} names shown");
}
