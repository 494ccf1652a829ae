//! Whatever a notification says, a daemon believes the database alone: a notification is a hint.

use std::time::Duration;

use musterd::proto::v1;

use crate::harness::{
    actor::{Caller, alive},
    daemon::Daemon,
    postgres::{TestDatabase, connect},
    registry::run,
    wire::Watcher,
};

#[tokio::test(flavor = "multi_thread")]
async fn forged_notifications_change_nothing_and_stop_nothing() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    let client = connect(database.url()).await;
    let mut watcher = Watcher::open(&daemon, v1::WatchRequest::default()).await.unwrap();
    let mut last = 0;
    let long = "9".repeat(7_999);
    for payload in ["", "0", "-1", "x", "18446744073709551616", "1e9", "{}", "''", "\u{1f4a5}\u{202e}", &long] {
        run(&client, &format!("SELECT pg_notify('muster', {})", quoted(payload))).await;
        last = caller.register(alive("organ", Duration::from_secs(300))).await.unwrap().revision;
    }
    watcher.reach(last).await;
    assert_eq!((watcher.revision, watcher.resets, watcher.known.len()), (last, 0, 10));
    let resyncs =
        ["connection", "history", "gap"].map(|cause| format!(r#"musterd_feed_resyncs_total{{cause="{cause}"}}"#));
    for name in resyncs {
        assert_eq!(daemon.metric(&name).await, Some(0.0), "{name}");
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
