//! The private PostgreSQL of `musterd serve`.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, lchown},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use musterd::local::{Durability, Error, LocalServer, Options};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};

use crate::harness::{
    postgres::{
        BOUND, OwnCluster, TestDatabase, connect, options, postmaster_pid, program_of, spawn_server, try_connect,
    },
    scratch::Scratch,
    wait::wait_until,
};

/// Without syncing: what is committed survives the end of every process, and no machine crashes here.
async fn start(data_dir: &Path) -> LocalServer {
    LocalServer::start(options(data_dir, Durability::Fast)).await.unwrap()
}

async fn refusal(options: Options) -> String {
    let error = LocalServer::start(options).await.unwrap_err();
    assert!(!error.to_string().contains('\n'), "one line: {error}");
    error.to_string()
}

async fn value(url: &str, sql: &str) -> String {
    connect(url).await.query_one(sql, &[]).await.unwrap().get(0)
}

/// Writes a row that a later [`marked`] finds.
async fn mark(url: &str) {
    connect(url).await.batch_execute("CREATE TABLE mark (n int); INSERT INTO mark VALUES (1)").await.unwrap();
}

async fn marked(url: &str) -> bool {
    connect(url).await.query_one("SELECT count(*) FROM mark", &[]).await.unwrap().get::<_, i64>(0) == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_is_durable_and_keeps_to_itself() {
    let scratch = Scratch::on_disk();
    // A directory with parents that do not exist either, and a name that needs quoting everywhere.
    let data_dir = scratch.path().join("some, dir/d'a\"t a%");
    let server = LocalServer::start(options(&data_dir, Durability::Full)).await.unwrap();
    let url = server.database_url();
    for (setting, expected) in [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("data_checksums", "on"),
        ("listen_addresses", ""),
        ("server_encoding", "UTF8"),
        ("lc_collate", "C"),
        ("max_connections", "64"),
        ("TimeZone", "UTC"),
    ] {
        let sql = format!("SELECT current_setting('{setting}')");
        // lc_collate is no setting any more from version 16 on.
        let sql = if setting == "lc_collate" {
            "SELECT datcollate::text FROM pg_database WHERE datname = current_database()"
        } else {
            &sql
        };
        assert_eq!(value(url, sql).await, expected, "{setting}");
    }
    assert_eq!(value(url, "SELECT current_database()::text").await, "musterd");
    assert!(value(url, "SHOW server_version").await.starts_with(server.server_version()));
    for closed in ["run", "postgres"] {
        let mode = fs::metadata(data_dir.join(closed)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{closed} is open to others: {mode:o}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_survives_a_stop_and_a_start() {
    let scratch = Scratch::in_memory();
    let server = start(scratch.path()).await;
    let url = server.database_url().to_owned();
    mark(&url).await;
    server.stop().await;
    assert_eq!(postmaster_pid(scratch.path()), None, "an orderly stop leaves no postmaster.pid");
    let server = start(scratch.path()).await;
    assert_eq!(server.database_url(), url);
    assert!(marked(&url).await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_started_again_with_its_data() {
    let scratch = Scratch::in_memory();
    let server = start(scratch.path()).await;
    let url = server.database_url();
    mark(url).await;
    for _ in 0..2 {
        let killed = postmaster_pid(scratch.path()).unwrap();
        kill(killed, Signal::SIGKILL).unwrap();
        wait_until("another postmaster", BOUND, async || match postmaster_pid(scratch.path()) {
            Some(pid) if pid != killed => try_connect(url).await.map_err(|error| error.to_string()),
            other => Err(format!("{other:?}")),
        })
        .await;
        assert!(marked(url).await);
    }
    server.stop().await;
    assert_eq!(postmaster_pid(scratch.path()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_of_a_killed_daemon_is_replaced() {
    let scratch = Scratch::in_memory();
    let server = start(scratch.path()).await;
    let url = server.database_url().to_owned();
    let program = program_of(scratch.path());
    mark(&url).await;
    server.stop().await;

    // A daemon that is killed leaves just this: its server, and no lock.
    let mut orphan = spawn_server(&program, scratch.path());
    let session = wait_until("the orphan", BOUND, async || try_connect(&url).await.map_err(|e| e.to_string())).await;
    let server = start(scratch.path()).await;
    assert!(orphan.try_wait().unwrap().is_some(), "the orphan still runs");
    assert!(session.is_closed());
    assert_ne!(postmaster_pid(scratch.path()).unwrap(), Pid::from_raw(orphan.id().try_into().unwrap()));
    assert!(marked(&url).await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_left_running_by_a_killed_daemon_is_replaced() {
    let scratch = Scratch::in_memory();
    let server = start(scratch.path()).await;
    mark(server.database_url()).await;
    let first = postmaster_pid(scratch.path()).unwrap();
    drop(server);
    // The dropped server may still be ending and hold the lock for a moment.
    let server = wait_until("the data directory", BOUND, async || {
        LocalServer::start(options(scratch.path(), Durability::Fast)).await.map_err(|error| error.to_string())
    })
    .await;
    assert_ne!(postmaster_pid(scratch.path()).unwrap(), first);
    assert!(marked(server.database_url()).await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_whose_pids_were_given_to_others_is_recovered() {
    let scratch = Scratch::in_memory();
    let server = start(scratch.path()).await;
    let url = server.database_url().to_owned();
    mark(&url).await;
    server.stop().await;
    let mut crashed = spawn_server(&program_of(scratch.path()), scratch.path());
    let client =
        wait_until("a server", BOUND, async || try_connect(&url).await.map_err(|error| error.to_string())).await;
    // A process of PostgreSQL 13 that is just starting may notice only after many seconds that its postmaster is gone.
    let others = "SELECT count(*) FROM pg_stat_activity WHERE backend_type <> 'client backend'";
    wait_until("its processes", BOUND, async || match client.query_one(others, &[]).await.unwrap().get::<_, i64>(0) {
        count if count >= 5 => Ok(()),
        count => Err(count),
    })
    .await;
    drop(client);
    crashed.kill().unwrap();
    crashed.wait().unwrap();

    // As in a container that is started again: the pid in the files now belongs to something else of the same user.
    let pid_file = scratch.path().join("postgres/postmaster.pid");
    let owner = fs::metadata(&pid_file).unwrap();
    let mut stranger = Command::new("sleep");
    if geteuid().is_root() {
        stranger.uid(owner.uid()).gid(owner.gid());
    }
    let mut stranger = stranger.arg("60").stdin(Stdio::null()).spawn().unwrap();
    for file in [pid_file, scratch.path().join("run/.s.PGSQL.5432.lock")] {
        let text = fs::read_to_string(&file).unwrap();
        let rest = text.split_once('\n').unwrap().1.to_owned();
        fs::write(&file, format!("{}\n{rest}", stranger.id())).unwrap();
    }
    let server = start(scratch.path()).await;
    assert!(marked(&url).await);
    assert!(stranger.try_wait().unwrap().is_none(), "a process that is not ours was ended");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_data_is_refused_with_the_pid_of_the_first() {
    let scratch = Scratch::in_memory();
    let server = start(scratch.path()).await;
    let text = refusal(options(scratch.path(), Durability::Fast)).await;
    assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
    assert!(text.contains("--data-dir"), "{text}");
    assert_eq!(value(server.database_url(), "SELECT 'unharmed'::text").await, "unharmed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_another_major_version_is_refused_and_left_alone() {
    let scratch = Scratch::in_memory();
    let server = start(scratch.path()).await;
    let installed = server.server_version().split('.').next().unwrap().to_owned();
    server.stop().await;
    let version = scratch.path().join("postgres/PG_VERSION");
    fs::write(&version, "8\n").unwrap();
    let text = refusal(options(scratch.path(), Durability::Fast)).await;
    for part in ["PostgreSQL 8", &format!("PostgreSQL {installed}"), "musterd local upgrade", "--data-dir"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    fs::write(&version, format!("{installed}\n")).unwrap();
    start(scratch.path()).await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn something_else_in_the_place_of_the_cluster_is_refused() {
    let scratch = Scratch::in_memory();
    fs::create_dir(scratch.path().join("postgres")).unwrap();
    fs::write(scratch.path().join("postgres/thesis.txt"), "years of work").unwrap();
    let mut options = options(scratch.path(), Durability::Fast);
    // Else the owner of that directory is refused first.
    if geteuid().is_root() {
        let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
        lchown(scratch.path().join("postgres"), Some(nobody.uid.as_raw()), None).unwrap();
        options.run_as = Some("nobody".to_owned());
    }
    let text = refusal(options).await;
    assert!(text.contains("is no PostgreSQL cluster"), "{text}");
    assert!(scratch.path().join("postgres/thesis.txt").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_server_programs_are_an_error_with_the_fix() {
    let scratch = Scratch::in_memory();
    let data_dir = scratch.path().join("data");
    let mut options = options(&data_dir, Durability::Fast);
    options.bin_dir = Some(scratch.path().to_path_buf());
    let text = refusal(options).await;
    for part in ["apt-get install postgresql", "dnf install", "brew install", "--database-url"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    assert!(!data_dir.exists(), "a refused start left something behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_initdb_that_fails_leaves_nothing_behind() {
    let scratch = Scratch::in_memory();
    let (bin_dir, data_dir) = (scratch.path().join("bin"), scratch.path().join("data"));
    fs::create_dir(&bin_dir).unwrap();
    for (name, script) in [
        ("postgres", "#!/bin/sh\necho 'postgres (PostgreSQL) 15.1'\n"),
        ("initdb", "#!/bin/sh\n: >PG_VERSION\necho 'initdb: no space left on device' >&2\nexit 1\n"),
    ] {
        fs::write(bin_dir.join(name), script).unwrap();
        fs::set_permissions(bin_dir.join(name), PermissionsExt::from_mode(0o755)).unwrap();
    }
    // What an initdb that was killed left is swept as well.
    fs::create_dir_all(data_dir.join("postgres.new-0123/base")).unwrap();
    let mut options = options(&data_dir, Durability::Fast);
    options.bin_dir = Some(bin_dir);
    let text = refusal(options).await;
    assert!(text.contains("no space left on device"), "{text}");
    let left: Vec<_> = fs::read_dir(&data_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["musterd.lock"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_start_is_quoted_in_the_error() {
    let scratch = Scratch::in_memory();
    start(scratch.path()).await.stop().await;
    let conf = scratch.path().join("postgres/postgresql.conf");
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, text + "\nshared_buffers = 'plenty'\n").unwrap();
    let text = refusal(options(scratch.path(), Durability::Fast)).await;
    assert!(text.contains("shared_buffers") && text.contains("postgres.log"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_with_a_long_path_gets_a_socket_elsewhere() {
    let scratch = Scratch::in_memory();
    let data_dir = scratch.path().join("x".repeat(100));
    let server = start(&data_dir).await;
    assert_eq!(value(server.database_url(), "SELECT 'here'::text").await, "here");
    let socket = value(server.database_url(), "SHOW unix_socket_directories").await;
    let socket_dir = Path::new(socket.trim_matches('"')).to_path_buf();
    assert!(!socket_dir.starts_with(&data_dir), "{socket}");
    assert_eq!(fs::metadata(&socket_dir).unwrap().permissions().mode() & 0o077, 0);
    server.stop().await;

    // Open to others, it could be anyone's socket.
    fs::set_permissions(&socket_dir, PermissionsExt::from_mode(0o777)).unwrap();
    let text = refusal(options(&data_dir, Durability::Fast)).await;
    assert!(text.contains("others may enter it"), "{text}");
    fs::remove_dir_all(&socket_dir).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn root_runs_the_server_as_another_user() {
    if !geteuid().is_root() {
        return;
    }
    let scratch = Scratch::in_memory();
    for user in ["nobody", "postgres"] {
        let Some(user) = nix::unistd::User::from_name(user).unwrap() else { continue };
        // As from `mktemp -d`: the daemon's own directory is opened to the server's user, its parents are not touched.
        let data_dir = scratch.path().join(&user.name);
        fs::create_dir(&data_dir).unwrap();
        fs::set_permissions(&data_dir, PermissionsExt::from_mode(0o700)).unwrap();
        let mut options = options(&data_dir, Durability::Fast);
        options.run_as = Some(user.name.clone());
        let server = LocalServer::start(options.clone()).await.unwrap();
        let pid = postmaster_pid(&data_dir).unwrap();
        assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), user.uid.as_raw());
        assert_eq!(fs::metadata(&data_dir).unwrap().uid(), 0);
        server.stop().await;
        // Without a name, the owner of the cluster runs it.
        options.run_as = None;
        LocalServer::start(options).await.unwrap().stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_cannot_run_the_server_is_refused_by_name() {
    let scratch = Scratch::in_memory();
    let mut options = options(scratch.path(), Durability::Fast);
    for (user, why) in [("root", "refuses to run as root"), ("no-such-user", "no such user")] {
        options.run_as = Some(user.to_owned());
        let text = refusal(options.clone()).await;
        assert!(text.contains(user) && text.contains(why), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_closed_to_the_servers_user_is_named() {
    if !geteuid().is_root() {
        return;
    }
    let scratch = Scratch::in_memory();
    let closed = scratch.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    for data_dir in [closed.join("data"), closed.join("further/data")] {
        let error = LocalServer::start(options(&data_dir, Durability::Fast)).await.unwrap_err();
        assert!(matches!(&error, Error::Unreachable { path, .. } if *path == closed), "{error}");
        assert!(error.to_string().contains("--data-dir"), "{error}");
        assert!(!data_dir.exists(), "a refused start left something behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_database_is_its_own_and_can_be_a_template() {
    let template = TestDatabase::create().await;
    mark(template.url()).await;
    let name = template.name();
    let (one, other) = tokio::join!(TestDatabase::create_from_template(name), TestDatabase::create_from_template(name));
    assert!(marked(one.url()).await && marked(other.url()).await);
    connect(one.url()).await.batch_execute("DELETE FROM mark").await.unwrap();
    assert!(!marked(one.url()).await && marked(other.url()).await);
    let empty = TestDatabase::create().await;
    assert_eq!(value(empty.url(), "SELECT count(*)::text FROM pg_tables WHERE tablename = 'mark'").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn own_cluster_keeps_commits_through_every_kind_of_end() {
    let mut cluster = OwnCluster::create().await;
    mark(cluster.url()).await;
    for end in [OwnCluster::kill9, OwnCluster::stop_immediate] {
        end(&mut cluster);
        assert!(try_connect(cluster.url()).await.is_err());
        cluster.start().await;
        assert!(marked(cluster.url()).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "never: not within 50ms; last status: \"at 3\"")]
async fn wait_that_times_out_reports_the_last_status() {
    wait_until("never", Duration::from_millis(50), async || Err::<(), _>("at 3")).await;
}
