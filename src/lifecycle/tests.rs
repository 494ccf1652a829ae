//! The rules of the lifecycle, each held against tasks that behave badly on purpose.

use std::{
    convert::Infallible,
    future::pending,
    io,
    sync::atomic::{AtomicUsize, Ordering},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::*;

async fn ok_after(token: CancellationToken) -> Result<(), Infallible> {
    token.cancelled().await;
    Ok(())
}

#[tokio::test]
async fn an_essential_task_that_fails_shuts_the_daemon_down_with_its_error_and_exit_code_1() {
    let lifecycle = Lifecycle::new();
    lifecycle.spawn_essential(Stage::Engine, "feed", async { Err(io::Error::other("connection lost")) });
    let reason = lifecycle.run_until_shutdown().await;
    assert_eq!(reason.to_string(), "feed failed: connection lost");
    assert_eq!(reason.exit_code(), 1);
}

#[tokio::test]
async fn an_essential_task_that_only_returns_shuts_the_daemon_down_too() {
    let lifecycle = Lifecycle::new();
    lifecycle.spawn_essential(Stage::Servers, "grpc", async { Ok::<(), Infallible>(()) });
    assert_eq!(lifecycle.run_until_shutdown().await, Reason::Ended { task: "grpc", error: None });
}

#[tokio::test]
async fn an_essential_task_that_panics_shuts_the_daemon_down() {
    let lifecycle = Lifecycle::new();
    lifecycle.spawn_essential(Stage::Engine, "writer", async {
        if lifecycle_is_broken() {
            panic!("impossible state {}", 7);
        }
        Ok::<(), Infallible>(())
    });
    let reason = lifecycle.run_until_shutdown().await;
    assert_eq!(reason.to_string(), "writer panicked: impossible state 7");
    assert_eq!(reason.exit_code(), 1);
}

fn lifecycle_is_broken() -> bool {
    true
}

#[tokio::test]
async fn background_task_may_end_and_its_panic_shuts_the_daemon_down() {
    let lifecycle = Lifecycle::new();
    lifecycle.spawn_background(Stage::Readiness, "ready", async {});
    while !lifecycle.inner.running_in(Stage::Readiness).is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!lifecycle.stopping().is_cancelled(), "it has done what it is for");

    lifecycle.spawn_background(Stage::Readiness, "ready", async {
        if lifecycle_is_broken() {
            panic!("bad luck");
        }
    });
    let reason = lifecycle.run_until_shutdown().await;
    assert_eq!((reason.to_string().as_str(), reason.exit_code()), ("ready panicked: bad luck", 1));
}

#[tokio::test]
async fn essential_task_that_ends_at_shutdown_is_no_failure() {
    let lifecycle = Lifecycle::new();
    lifecycle.spawn_essential(Stage::Servers, "grpc", ok_after(lifecycle.token(Stage::Servers)));
    lifecycle.shut_down(Reason::Requested("test"));
    assert!(lifecycle.drain(SHUTDOWN_LIMIT).await);
    assert_eq!(lifecycle.run_until_shutdown().await, Reason::Requested("test"));
}

#[tokio::test]
async fn stages_end_one_after_the_other() {
    let lifecycle = Lifecycle::new();
    let ended = Arc::new(AtomicUsize::new(0));
    for (position, stage) in Stage::ALL.into_iter().enumerate().rev() {
        let (token, ended) = (lifecycle.token(stage), Arc::clone(&ended));
        lifecycle.spawn_essential(stage, "task", async move {
            token.cancelled().await;
            tokio::task::yield_now().await;
            let before = ended.fetch_add(1, Ordering::SeqCst);
            if before == position { Ok(()) } else { Err(io::Error::other("out of order")) }
        });
    }
    lifecycle.shut_down(Reason::Requested("test"));
    for (position, stage) in Stage::ALL.into_iter().enumerate() {
        assert_eq!(ended.load(Ordering::SeqCst), position);
        assert!(lifecycle.end(stage, Duration::from_secs(1)).await);
    }
    assert_eq!(ended.load(Ordering::SeqCst), Stage::ALL.len());
}

#[tokio::test]
async fn a_task_that_does_not_end_is_aborted_at_the_deadline() {
    let lifecycle = Lifecycle::new();
    let held = Arc::new(());
    let inside = Arc::clone(&held);
    lifecycle.spawn_essential(Stage::Servers, "stuck", async move {
        let _inside = inside;
        pending::<Result<(), Infallible>>().await
    });
    let started = Instant::now();
    assert!(!lifecycle.drain(Duration::from_millis(50)).await);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(Arc::strong_count(&held), 1, "the task was not dropped");
}

#[test]
fn the_budgets_of_the_stages_add_up_to_the_limit() {
    assert_eq!(Stage::ALL.map(Stage::budget).iter().sum::<Duration>(), SHUTDOWN_LIMIT);
    // The watchdog flushes the log for half a second.
    assert!(SHUTDOWN_LIMIT < WATCHDOG_LIMIT && WATCHDOG_LIMIT + Duration::from_millis(500) < Duration::from_secs(10));
}

/// The only test that raises signals: handlers are of the process, and a second one would count these.
#[tokio::test]
async fn only_terminating_signals_end_the_daemon_and_the_second_at_once() {
    let lifecycle = Lifecycle::new();
    lifecycle.watch_signals().unwrap();
    lifecycle.spawn_background(Stage::Servers, "stuck", pending());
    let reloads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reloads);
    lifecycle.on_reload("database URL", move || {
        counted.fetch_add(1, Ordering::SeqCst);
        if lifecycle_is_broken() { Err(io::Error::other("no such file")) } else { Ok(Reload::Changed) }
    });
    for ignored in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM, Signal::SIGXFSZ, Signal::SIGHUP] {
        kill(Pid::this(), ignored).unwrap();
    }
    while reloads.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!lifecycle.stopping().is_cancelled(), "none of them is a reason to end");

    kill(Pid::this(), Signal::SIGTERM).unwrap();
    assert_eq!(lifecycle.run_until_shutdown().await, Reason::Signal("SIGTERM"));
    assert_eq!(lifecycle.inner.running_in(Stage::Servers), ["stuck"]);

    kill(Pid::this(), Signal::SIGINT).unwrap();
    assert!(!lifecycle.end(Stage::Servers, Duration::from_secs(8)).await);
    assert!(lifecycle.inner.running_in(Stage::Servers).is_empty());
    assert!(lifecycle.inner.immediate.is_cancelled());
}
