//! What goes wrong: each fault with its beginning, its end, and the proof that it had an effect.

use std::time::Duration;

use musterd::proto::v1::WatchRequest;
use nix::sys::signal::Signal;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_postgres::Client as Sql;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::{
    client::Client,
    history::{Micros, Outcome},
    proxy::{Counts, Mode, Upstream},
    world::{Database, World},
};
use crate::harness::{postgres::try_connect, wire::Wire};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    KillDaemon,
    /// For less than a TTL.
    PauseDaemon,
    /// For longer.
    PauseDaemonLong,
    KillDatabase,
    StopDatabase,
    FreezeDatabase,
    TerminateBackends,
    CancelBackends,
    BlackHoleDatabase,
    HalfOpenDatabase,
    CutDatabase,
    SlowDatabase,
    LoseAnswers,
    LoseNotifications,
    ForgeNotifications,
    RotationStorm,
    /// All connections of all clients are reset at once.
    Herd,
    /// Clients lose one daemon.
    BlackHoleClients,
    DeafWatchers,
    /// A snapshot that is held.
    LongTransaction,
    /// The row that orders everything is held.
    HeldRow,
}

impl Fault {
    /// Every kind.
    pub(crate) const ALL: [Self; 21] = [
        Self::KillDaemon,
        Self::PauseDaemon,
        Self::PauseDaemonLong,
        Self::KillDatabase,
        Self::StopDatabase,
        Self::FreezeDatabase,
        Self::TerminateBackends,
        Self::CancelBackends,
        Self::BlackHoleDatabase,
        Self::HalfOpenDatabase,
        Self::CutDatabase,
        Self::SlowDatabase,
        Self::LoseAnswers,
        Self::LoseNotifications,
        Self::ForgeNotifications,
        Self::RotationStorm,
        Self::Herd,
        Self::BlackHoleClients,
        Self::DeafWatchers,
        Self::LongTransaction,
        Self::HeldRow,
    ];

    /// How long it goes on.
    pub(crate) fn lasts(self) -> Duration {
        Duration::from_millis(match self {
            Self::PauseDaemon | Self::LoseAnswers | Self::ForgeNotifications => 1_500,
            Self::TerminateBackends | Self::CancelBackends | Self::Herd => 1_000,
            Self::LoseNotifications | Self::RotationStorm | Self::DeafWatchers | Self::LongTransaction => 2_500,
            Self::KillDatabase | Self::StopDatabase => 3_000,
            Self::KillDaemon | Self::SlowDatabase | Self::HeldRow | Self::CutDatabase => 3_500,
            Self::PauseDaemonLong
            | Self::FreezeDatabase
            | Self::BlackHoleDatabase
            | Self::HalfOpenDatabase
            | Self::BlackHoleClients => 5_000,
        })
    }

    /// Whether it needs a cluster of its own.
    pub(crate) fn hurts_the_cluster(self) -> bool {
        matches!(self, Self::KillDatabase | Self::StopDatabase | Self::FreezeDatabase)
    }
}

/// A fault under way.
#[derive(Debug)]
pub(crate) struct Wound {
    pub(crate) fault: Fault,
    pub(crate) from: Micros,
    victim: usize,
    /// Counters of links at its beginning.
    before: u64,
    effect: String,
    task: Option<(JoinHandle<u64>, DropGuard)>,
    sql: Option<Sql>,
}

fn hindered(world: &World) -> u64 {
    let of = |counts: &Counts| Counts::of(&counts.hindered) + Counts::of(&counts.resets);
    world.nodes.iter().map(|node| of(node.to_database.counts()) + of(node.to_daemon.counts())).sum()
}

/// Begins a fault.
pub(crate) async fn strike(world: &mut World, fault: Fault) -> Wound {
    let victim = world.dice.below(world.nodes.len());
    let (from, before) = (world.history.now(), hindered(world));
    let mut wound = Wound { fault, from, victim, before, effect: String::new(), task: None, sql: None };
    match fault {
        Fault::KillDaemon => {
            let pid = world.nodes[victim].pid();
            world.nodes[victim].kill9();
            wound.effect = pid.map(|pid| format!("process {pid} was killed")).unwrap_or_default();
        }
        Fault::PauseDaemon | Fault::PauseDaemonLong => {
            if let Some(daemon) = &world.nodes[victim].daemon {
                daemon.signal(Signal::SIGSTOP);
                wound.effect = format!("process {} stood still", daemon.pid());
            }
        }
        Fault::KillDatabase | Fault::StopDatabase | Fault::FreezeDatabase => hurt_cluster(world, &mut wound).await,
        Fault::BlackHoleDatabase | Fault::HalfOpenDatabase | Fault::CutDatabase | Fault::SlowDatabase => {
            hurt_link(world, &mut wound);
        }
        Fault::BlackHoleClients => {
            world.nodes[victim].to_daemon.set(Mode::BlackHole { from_client: true, from_server: true });
        }
        Fault::Herd => world.nodes.iter().for_each(|node| node.to_daemon.reset()),
        Fault::LoseAnswers => world.nodes.iter().for_each(|node| node.to_database.lose_answers(3)),
        Fault::LoseNotifications => world.nodes.iter().for_each(|node| node.to_database.mute(true)),
        Fault::LongTransaction | Fault::HeldRow => hold_transaction(world, &mut wound).await,
        Fault::DeafWatchers => wound.effect = deaf_watchers(world, victim).await,
        Fault::TerminateBackends | Fault::CancelBackends | Fault::ForgeNotifications | Fault::RotationStorm => {
            begin_work(world, &mut wound).await;
        }
    }
    wound
}

async fn hurt_cluster(world: &mut World, wound: &mut Wound) {
    let Database::Own(cluster) = &mut world.database else { return };
    match wound.fault {
        Fault::KillDatabase => cluster.kill9(),
        Fault::StopDatabase => cluster.stop_immediate(),
        _ => drop(cluster.signal_all(Signal::SIGSTOP)),
    }
    wound.effect = match timeout(Duration::from_millis(300), try_connect(cluster.url())).await {
        Ok(Ok(_)) => String::new(),
        Ok(Err(_)) => "PostgreSQL refused".to_owned(),
        Err(_) => "PostgreSQL did not answer".to_owned(),
    };
}

fn hurt_link(world: &World, wound: &mut Wound) {
    let dice = world.history.now();
    let link = &world.nodes[wound.victim].to_database;
    match wound.fault {
        Fault::HalfOpenDatabase => link.half_open(),
        Fault::CutDatabase => link.set(Mode::CutAfter(200 + dice % 3_000)),
        Fault::SlowDatabase if dice.is_multiple_of(2) => link.set(Mode::Delay(Duration::from_millis(150))),
        Fault::SlowDatabase => link.set(Mode::Rate(4_096)),
        _ => {
            let way = dice % 3;
            link.set(Mode::BlackHole { from_client: way != 1, from_server: way != 0 });
        }
    }
}

async fn hold_transaction(world: &World, wound: &mut Wound) {
    let sql = world.sql().await;
    let begin = match wound.fault {
        Fault::HeldRow => "BEGIN; SET LOCAL lock_timeout = '5s'; SELECT FROM cluster_metadata WHERE id = 1 FOR UPDATE",
        _ => "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM registry_instance",
    };
    if sql.batch_execute(begin).await.is_ok() {
        wound.effect = "a transaction was open".to_owned();
    }
    wound.sql = Some(sql);
}

/// Watchers that never read.
async fn deaf_watchers(world: &mut World, victim: usize) -> String {
    let mut deaf = 0;
    for _ in 0..25 {
        let mut discovery = Wire::over(world.nodes[victim].channel(1)).discovery;
        let watching = timeout(Duration::from_secs(1), discovery.watch(WatchRequest::default())).await;
        let Ok(Ok(stream)) = watching else { continue };
        deaf += 1;
        let stop = world.stop.clone();
        world.crowd.spawn(async move {
            stop.cancelled().await;
            drop(stream);
        });
    }
    if deaf > 0 { format!("{deaf} watchers did not read") } else { String::new() }
}

/// Faults that are done again and again until they are over.
async fn begin_work(world: &World, wound: &mut Wound) {
    let stop = CancellationToken::new();
    let (fault, client, token) = (wound.fault, world.client(), stop.clone());
    let task = if fault == Fault::RotationStorm {
        tokio::spawn(rotate(client, token))
    } else {
        let Ok(sql) = try_connect(&world.database.url()).await else { return };
        tokio::spawn(disturb(sql, fault, token))
    };
    wound.task = Some((task, stop.drop_guard()));
}

async fn rotate(client: Client, stop: CancellationToken) -> u64 {
    let mut rotated = 0;
    while !stop.is_cancelled() {
        let epoch = Uuid::new_v4();
        for attempt in 1..=5 {
            let daemon = usize::try_from(attempt).unwrap() % client.daemons();
            match client.rotate(daemon, attempt, epoch).await {
                Outcome::Ok(_) => {
                    rotated += 1;
                    break;
                }
                _ => sleep(Duration::from_millis(30)).await,
            }
        }
        sleep(Duration::from_millis(150)).await;
    }
    rotated
}

async fn disturb(sql: Sql, fault: Fault, stop: CancellationToken) -> u64 {
    let (query, pause) = match fault {
        Fault::TerminateBackends => (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'musterd'",
            400,
        ),
        Fault::CancelBackends => (
            "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'musterd' AND state = 'active'",
            1,
        ),
        _ => (
            "SELECT count(pg_notify('muster', text)) FROM unnest(ARRAY['', '0', '-1', 'x', '9223372036854775807',
             '99999999999999999999', repeat('9', 7000), (random() * 1000)::int::text]) AS text",
            20,
        ),
    };
    let mut count = 0;
    while !stop.is_cancelled() {
        match sql.query_one(query, &[]).await {
            Ok(row) => count += row.get::<_, i64>(0).cast_unsigned(),
            Err(_) => return count,
        }
        sleep(Duration::from_millis(pause)).await;
    }
    count
}

/// Ends a fault. Returns what proves that it had an effect.
pub(crate) async fn heal(world: &mut World, mut wound: Wound) -> String {
    let node = &mut world.nodes[wound.victim];
    match wound.fault {
        Fault::KillDaemon if node.daemon.is_none() => {
            node.to_daemon.lead_to(Upstream::Tcp("127.0.0.1:1".to_owned()));
            if timeout(Duration::from_secs(20), node.start()).await.is_err() {
                world.complaints.push("a daemon did not become ready again".to_owned());
            }
        }
        Fault::PauseDaemon | Fault::PauseDaemonLong => {
            if let Some(daemon) = &node.daemon {
                daemon.signal(Signal::SIGCONT);
            }
        }
        Fault::KillDatabase | Fault::StopDatabase | Fault::FreezeDatabase => {
            if let Database::Own(cluster) = &mut world.database {
                cluster.signal_all(Signal::SIGCONT);
                cluster.start().await;
            }
        }
        _ => {}
    }
    if let Some(sql) = wound.sql.take() {
        let _ = sql.batch_execute("ROLLBACK").await;
    }
    if let Some((task, stop)) = wound.task.take() {
        drop(stop);
        let count = timeout(Duration::from_secs(5), task).await.map_or(0, Result::unwrap_or_default);
        if count > 0 {
            wound.effect = format!("{count} times");
        }
    }
    let of = |counter: fn(&Counts) -> u64| -> u64 {
        world.nodes.iter().map(|node| counter(node.to_database.counts())).sum()
    };
    let (noticed, what) = match wound.fault {
        Fault::LoseAnswers => (of(|counts| Counts::of(&counts.answers_lost)), "answers were lost"),
        Fault::LoseNotifications => (of(|counts| Counts::of(&counts.notifications_lost)), "notifications were lost"),
        _ => (hindered(world) - wound.before, "reads were hindered or connections reset"),
    };
    if wound.effect.is_empty() && noticed > 0 && wound.task.is_none() {
        wound.effect = format!("{noticed} {what}");
    }
    world.nodes[wound.victim].to_daemon.heal();
    world.nodes[wound.victim].to_database.heal();
    if matches!(wound.fault, Fault::LoseAnswers | Fault::LoseNotifications) {
        world.nodes.iter().for_each(|node| node.to_database.heal());
    }
    wound.effect
}
