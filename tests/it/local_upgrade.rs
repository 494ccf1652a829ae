//! `musterd local upgrade`: the private PostgreSQL moves to another major version, with real servers of both.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use musterd_client::Status;
use uuid::Uuid;

use crate::{
    cli::{Ended, musterd},
    harness::{
        actor::{Caller, alive},
        daemon::{Daemon, program},
        postgres::{BOUND, connect},
        registry::run,
        scratch::Scratch,
        versions::{NEWEST, OLDEST, programs},
        wait::wait_until,
    },
};

const LONG: Duration = Duration::from_secs(300);

/// A data directory, and the programs of two versions.
struct Place {
    scratch: Scratch,
    old: PathBuf,
    new: PathBuf,
}

impl Place {
    fn prepare() -> Option<Self> {
        Some(Self { scratch: Scratch::on_disk(), old: programs(OLDEST)?, new: programs(NEWEST)? })
    }

    fn data_dir(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    async fn serve(&self, programs: &Path) -> Daemon {
        let (data_dir, programs) = (self.data_dir(), programs.to_str().unwrap());
        Daemon::start_with(&["--data-dir", data_dir.to_str().unwrap(), "--postgres-bin-dir", programs]).await
    }

    /// A registry of the old version with one instance in its second epoch; the daemon has stopped.
    async fn registry(&self) -> Before {
        let daemon = self.serve(&self.old).await;
        let caller = Caller::of(&daemon);
        caller.rotate("a second epoch").await.unwrap();
        let lease = caller.register(alive("organ", LONG)).await.unwrap();
        let cluster = caller.cluster().await.unwrap();
        let before = Before {
            lease_id: lease.lease_id,
            epoch: (cluster.cluster_epoch, cluster.epoch_number),
            revision: lease.revision,
            history_id: cluster.history_id,
        };
        assert!(daemon.terminate().await.success());
        before
    }

    fn words(&self) -> Vec<String> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let flags =
            ["--postgres-bin-dir".to_owned(), text(&self.new), "--old-postgres-bin-dir".to_owned(), text(&self.old)];
        [documented(&text(&self.data_dir())), flags.to_vec()].concat()
    }

    async fn upgrade(&self) -> Ended {
        let words = self.words();
        musterd(&words.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    fn major(&self, directory: &str) -> String {
        fs::read_to_string(self.data_dir().join(directory).join("PG_VERSION")).unwrap_or_default().trim().to_owned()
    }

    fn entries(&self, prefix: &str) -> Vec<String> {
        let entries = fs::read_dir(self.data_dir()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(prefix)).collect()
    }

    /// The daemon of the new version has everything.
    async fn is_moved(&self, before: &Before) {
        let daemon = self.serve(&self.new).await;
        let caller = Caller::of(&daemon);
        let found = caller.resolve("organ").await.unwrap().instance;
        assert_eq!((found.lease_id, found.status), (before.lease_id, Status::Alive));
        let cluster = caller.cluster().await.unwrap();
        assert_eq!((cluster.cluster_epoch, cluster.epoch_number), before.epoch);
        assert_ne!(cluster.history_id, before.history_id, "readers reload");
        assert!(cluster.hold.is_some(), "expiry is held: no beat was heard meanwhile");
        let next = caller.register(alive("next", LONG)).await.unwrap();
        assert!(next.lease_id > before.revision + 999_999, "{} after {}", next.lease_id, before.revision);
        // The numbers of the decisions go on behind those that were copied.
        caller.rotate("after the upgrade").await.unwrap();
        assert!(daemon.terminate().await.success());
    }
}

/// What must be the same after it.
struct Before {
    lease_id: u64,
    epoch: (Uuid, u64),
    revision: u64,
    history_id: String,
}

/// The command of docs/operating.md, with another directory.
fn documented(data_dir: &str) -> Vec<String> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operating.md")).unwrap();
    let (_, section) = page.split_once("### Another major version\n").unwrap();
    let block = section.split("```").nth(1).unwrap();
    let command = block.trim_start_matches("sh").trim().strip_prefix("musterd ").unwrap();
    assert!(command.contains("/var/lib/musterd"), "{command}");
    command.split(' ').map(|word| word.replace("/var/lib/musterd", data_dir)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_takes_epoch_revision_and_leases_along_and_keeps_the_old_directory() {
    let Some(place) = Place::prepare() else { return };
    let before = place.registry().await;
    let refused = {
        let _daemon = place.serve(&place.old).await;
        place.upgrade().await
    };
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.complaint().contains("is in use by another musterd (pid"), "{refused:?}");

    let moved = place.upgrade().await;
    assert_eq!(moved.code, Some(0), "{moved:?}");
    assert!(moved.stderr.contains("moved 1 instances, epoch 2, revision "), "{moved:?}");
    assert_eq!(place.major("postgres"), NEWEST.to_string());
    assert_eq!(place.major(&format!("postgres.old-{OLDEST}")), OLDEST.to_string());
    assert!(place.entries("postgres.new").is_empty() && place.entries("run.new").is_empty());
    place.is_moved(&before).await;

    let again = place.upgrade().await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stderr.contains("nothing to do"), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_killed_midway_changes_nothing_and_succeeds_when_repeated() {
    let Some(place) = Place::prepare() else { return };
    let before = place.registry().await;
    let mut killed = program().args(place.words()).spawn().unwrap();
    // Not earlier: an initdb that outlives the killed command would go on to make files.
    wait_until("the new server runs", BOUND, async || {
        let socket = place.data_dir().join("run.new").join(".s.PGSQL.5432");
        if socket.exists() { Ok(()) } else { Err(place.entries("postgres.new")) }
    })
    .await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(place.major("postgres"), OLDEST.to_string());

    let moved = place.upgrade().await;
    assert_eq!(moved.code, Some(0), "{moved:?}");
    assert!(place.entries("postgres.new").is_empty(), "what the first one left is gone");
    // As if it had been interrupted before its last step: the next start completes it.
    fs::rename(place.data_dir().join("postgres"), place.data_dir().join("postgres.upgraded")).unwrap();
    place.is_moved(&before).await;
    assert_eq!(place.major("postgres"), NEWEST.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_refuses_what_it_would_lose_or_cannot_read_and_changes_nothing() {
    let Some(place) = Place::prepare() else { return };
    let nothing = place.upgrade().await;
    assert_eq!(nothing.code, Some(78), "{nothing:?}");
    assert!(nothing.complaint().contains("holds no private PostgreSQL; name the --data-dir"), "{nothing:?}");

    place.registry().await;
    let daemon = place.serve(&place.old).await;
    let url = format!("host={} user=musterd dbname=musterd", place.data_dir().join("run").display());
    run(&connect(&url).await, "CREATE TABLE mine (n int); CREATE ROLE other").await;
    assert!(daemon.terminate().await.success());
    let refused = place.upgrade().await;
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.complaint().contains("leave out: relation mine, role other; remove it"), "{refused:?}");
    assert_eq!(place.major("postgres"), OLDEST.to_string());
    assert!(place.entries("postgres.new").is_empty() && place.entries("postgres.old").is_empty());

    let data_dir = place.data_dir();
    let (data_dir, new, empty) = (data_dir.to_str().unwrap(), place.new.to_str().unwrap(), place.scratch.path());
    let flags = ["local", "upgrade", "--data-dir", data_dir, "--postgres-bin-dir", new, "--old-postgres-bin-dir"];
    let without = musterd(&[&flags[..], &[empty.to_str().unwrap()]].concat()).await;
    assert_eq!(without.code, Some(78), "{without:?}");
    assert!(without.complaint().contains("PostgreSQL 13, whose server programs are not found"), "{without:?}");
}
