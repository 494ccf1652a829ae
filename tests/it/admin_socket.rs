//! The admin socket through the running program: what is left to an operator on the machine when every credential is lost, and
//! that it is left to no other user.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    time::Duration,
};

use musterd_client::{Choice, Client, Kind, Reason, Register, Token};
use nix::unistd::geteuid;

use crate::{
    cli::{Ended, musterd},
    harness::{
        daemon::{DAEMON_BOUND, Daemon, program},
        postgres::TestDatabase,
        secured::Secured,
        wait::wait_until,
        wire::Wire,
    },
};

/// A user that is neither the daemon's nor root.
const OTHER_USER: u32 = 65_534;

/// Runs a command of the program as another user.
async fn as_other_user(arguments: &[&str]) -> Ended {
    let mut command = tokio::process::Command::from(program());
    command.args(arguments).uid(OTHER_USER).gid(OTHER_USER).kill_on_drop(true).output().await.unwrap().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_rotates_the_epoch_when_policy_and_tokens_are_lost() {
    let secured = Secured::enforced("", &[]).await;
    let socket = secured.daemon.admin();
    // A policy under which no caller may do anything, and no token at all: the operator has locked itself out.
    let lost = "[[rule]]\nwho = [\"token/lost\"]\nmay = [\"metrics\"]\n";
    fs::write(secured.path("policy.toml"), lost).unwrap();
    fs::write(secured.path("tokens"), "").unwrap();
    wait_until("the operator has lost its rights", DAEMON_BOUND, async || {
        let rotated = secured.operator(&["epoch", "rotate"]).await;
        if rotated.code == Some(6) { Ok(()) } else { Err(rotated) }
    })
    .await;

    let rotated = musterd(&["--addr", &socket, "epoch", "rotate", "--force", "--reason", "locked out"]).await;
    assert_eq!(rotated.code, Some(0), "{rotated:?}");
    let epochs = musterd(&["--addr", &socket, "epoch", "list"]).await;
    assert!(epochs.stdout.contains("locked out") && epochs.stdout.contains(" for local"), "{epochs:?}");
    let known = musterd(&["--addr", &socket, "whoami"]).await;
    assert!(known.code == Some(0) && known.stdout.contains("local"), "{known:?}");
    for command in [&["status"][..], &["check"], &["healthcheck"], &["list"]] {
        let ended = musterd(&[&["--addr", &socket], command].concat()).await;
        assert_eq!(ended.code, Some(0), "{command:?}: {ended:?}");
    }
    let run = ["--addr", &socket, "run", "--logical-id", "svc", "--", "true"];
    let run = musterd(&run).await;
    assert!(run.code == Some(0) && run.stderr.contains("registering svc at 127.0.0.1"), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_registers_over_the_socket_and_shows_no_token_there() {
    let secured = Secured::enforced("", &["actor"]).await;
    let socket = secured.daemon.admin();
    // A file that is not there: a token that is lost must not matter.
    let client = Client::builder().daemons([socket.clone()]).token(Token::file("/nonexistent")).build().unwrap();
    let registered = client.register(Register::new("svc")).await.unwrap();
    assert_eq!(client.resolve("svc", &Choice::default()).await.unwrap().instance.owner, "local");
    drop(registered);

    let mut shown = tonic::Request::new(musterd::proto::v1::WhoAmIRequest::default());
    let token = format!("Bearer {}", secured.token("actor"));
    shown.metadata_mut().insert("authorization", token.parse().unwrap());
    let path = socket.strip_prefix("unix:").unwrap().to_owned();
    let channel = tonic::transport::Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        }))
        .await
        .unwrap();
    let mut cluster = Wire::over(channel).cluster;
    let refused = cluster.who_am_i(shown).await.unwrap_err();
    assert!(
        refused.message().contains("two identities, the local user of the admin socket and a token"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_refused_by_the_mode_of_the_file_and_by_the_daemon() {
    if !geteuid().is_root() {
        return;
    }
    let secured = Secured::enforced("", &[]).await;
    let socket = secured.daemon.admin();
    let path = socket.strip_prefix("unix:").unwrap();
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o600);
    let refused = as_other_user(&["--addr", &socket, "epoch", "rotate"]).await;
    assert!(refused.code == Some(3) && refused.stderr.contains("Permission denied (os error 13)"), "{refused:?}");
    let checked = as_other_user(&["--addr", &socket, "check"]).await;
    assert!(checked.stdout.contains("run the command as the user of the daemon, or as root"), "{checked:?}");

    // One that gets through, because an operator has loosened the mode.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
    let refused = as_other_user(&["--addr", &socket, "epoch", "rotate"]).await;
    assert_eq!(refused.code, Some(3), "{refused:?}");
    wait_until("the refusal is logged", DAEMON_BOUND, async || {
        let log = secured.daemon.log();
        if log.contains("connection to the admin socket refused, it is of another user") { Ok(()) } else { Err(log) }
    })
    .await;
    let epoch = secured.client().cluster(0).await.unwrap();
    assert_eq!(epoch.epoch_number, 1, "the epoch was not rotated");
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_of_a_killed_daemon_is_replaced_and_that_of_a_running_one_is_not() {
    let database = TestDatabase::create().await;
    let files = crate::harness::scratch::Scratch::in_memory();
    let path = files.path().join("s/admin.sock");
    let socket = path.to_str().unwrap();
    let flags = ["--database-url", database.url(), "--admin-socket", socket];
    let first = Daemon::start_with(&flags).await;
    let second =
        musterd(&[&["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"], &flags[..]].concat()).await;
    assert!(second.code == Some(1) && second.stderr.contains("belongs to a daemon that runs"), "{second:?}");

    first.kill9();
    assert!(fs::metadata(&path).unwrap().file_type().is_socket(), "a killed daemon leaves its file");
    let unreachable = Client::builder().daemons([format!("unix:{socket}")]).retry_for(Duration::ZERO).build().unwrap();
    let error = unreachable.cluster(0).await.unwrap_err();
    assert_eq!((error.kind(), error.reason()), (Kind::Unreachable, Reason::Unavailable), "{error}");
    let next = Daemon::start_with(&flags).await;
    assert_eq!(unreachable.cluster(0).await.unwrap().epoch_number, 1);
    next.terminate().await;
    assert!(!path.exists(), "a daemon that ends removes its socket");

    fs::write(&path, "kept").unwrap();
    let refused =
        musterd(&[&["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"], &flags[..]].concat()).await;
    assert!(refused.code == Some(78) && refused.stderr.contains("exists and is no socket"), "{refused:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
    let none = ["--database-url", database.url(), "--admin-socket", "none"];
    let without = Daemon::start_with(&none).await;
    assert!(!without.log().contains("admin socket"));
}
