//! Networks that fail below TCP: actors, daemon and PostgreSQL in network namespaces of their own, between which packets are
//! lost, delayed and cut off. Unlike a link in user space, no end is told: packets vanish, and TCP sends them again.
//!
//! ```text
//!   test: actors -- 10.231.1.0/24 -- daemon -- 10.231.2.0/24 -- PostgreSQL
//! ```
//!
//! The short form runs with all other tests. The long form cuts off fleets of 2 to 60 actors for 30 s, which is ten times
//! their TTL. Fleets are cut off side by side, each with a daemon and a PostgreSQL of its own, because what decides is the
//! share of a registry that falls silent:
//!
//! ```text
//! cargo test --locked --test it partition_of_half_a_minute -- --ignored --nocapture
//! ```
//!
//! Needs root, `ip` and `iptables`. Where they are not, the test says that it did not run, and fails with
//! `MUSTERD_REQUIRE_NETWORK=1`, as CI has it. Delay is that of a link: a kernel need not have a queue that delays.

use std::{
    fs::{self, File},
    io::Write as _,
    net::Ipv4Addr,
    process::{Command, Stdio},
    time::Duration,
};

use futures_util::future::join_all;
use nix::unistd::geteuid;
use tokio::{sync::Mutex, time::sleep};

use super::{
    campaign,
    checker::{Demands, Evidence, Verdict},
    figures::{self, Cost},
    history::Micros,
    proxy::Mode,
    security::Security,
    world::{Place, Population, TTL, World},
};
use crate::harness::{
    network::untested,
    postgres::OwnCluster,
    registry::{column, get},
    wait::wait_until,
};

/// One network at a time: its addresses are fixed.
static ALONE: Mutex<()> = Mutex::const_new(());

const LASTS: Duration = Duration::from_secs(8);
/// Longer than a daemon waits for PostgreSQL to acknowledge a packet (10 s): it drops its connections without a packet that
/// PostgreSQL could see.
const LASTS_INSIDE: Duration = Duration::from_secs(13);
/// The partition of the long form, and the fleets that it cuts off.
const LASTS_LONG: Duration = Duration::from_secs(30);
const FLEETS: [usize; 5] = [2, 3, 11, 40, 60];
/// How much later than its TTL a death may come.
const DETECTION_SLACK: Duration = Duration::from_secs(3);
/// How long the death of an actor that fell silent may take, with what a slow machine adds.
const DEATH_BOUND: Duration = Duration::from_secs(30);
/// Within this a session that the daemon has dropped is gone.
const SESSION_BOUND: Duration = Duration::from_secs(30);
const SLOW: Duration = Duration::from_millis(60);
const ACTORS: &str = "10.231.1.1";
const DAEMON: &str = "10.231.1.2";
const DAEMON_INSIDE: &str = "10.231.2.1";
/// Of the first server; each further one has the next address.
const POSTGRES: [u8; 4] = [10, 231, 2, 2];

/// A way between two of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From actors to daemon.
    Outside,
    /// From daemon to PostgreSQL.
    Inside,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// So many packets of a hundred vanish, in each direction.
    Loss(Way, u32),
    /// Every packet vanishes.
    Partition(Way),
    /// Each direction takes longer.
    Latency,
}

const FAULTS: [Fault; 5] = [
    Fault::Loss(Way::Outside, 5),
    Fault::Loss(Way::Inside, 5),
    Fault::Latency,
    Fault::Partition(Way::Outside),
    Fault::Partition(Way::Inside),
];

/// Two namespaces, joined to each other and to that of the test. Removed when dropped.
struct Network {
    daemon: String,
    postgres: String,
    /// The end of the pair that is outside of both.
    outside: String,
}

impl Network {
    /// Makes them, with addresses for this many servers; `None` where that is not possible.
    fn create(servers: usize) -> Option<Self> {
        let id = std::process::id() % 100_000;
        let network = Self { daemon: format!("mud{id}"), postgres: format!("mup{id}"), outside: format!("muo{id}") };
        match network.join(id, servers) {
            Ok(()) => Some(network),
            Err(why) => {
                untested("nothing is tested with packets that are lost", &why);
                None
            }
        }
    }

    fn join(&self, id: u32, servers: usize) -> Result<(), String> {
        if !geteuid().is_root() {
            return Err("only root can make one".to_owned());
        }
        let (daemon, postgres, out) = (&self.daemon, &self.postgres, &self.outside);
        let within = format!("mui{id}");
        for command in [
            format!("ip netns add {daemon}"),
            format!("ip netns add {postgres}"),
            format!("ip link add {out} type veth peer name out netns {daemon}"),
            format!("ip -n {daemon} link add name in type veth peer name {within} netns {postgres}"),
            format!("ip addr add {ACTORS}/24 dev {out}"),
            format!("ip -n {daemon} addr add {DAEMON}/24 dev out"),
            format!("ip -n {daemon} addr add {DAEMON_INSIDE}/24 dev in"),
            format!("ip link set {out} up"),
            format!("ip -n {daemon} link set out up"),
            format!("ip -n {daemon} link set in up"),
            format!("ip -n {daemon} link set lo up"),
            format!("ip -n {postgres} link set {within} up"),
            format!("ip -n {postgres} link set lo up"),
            format!("ip netns exec {daemon} iptables -L INPUT"),
        ] {
            run(&command)?;
        }
        for number in 0..servers {
            run(&format!("ip -n {postgres} addr add {}/24 dev {within}", server_address(number)))?;
        }
        Ok(())
    }

    fn within(namespace: &str) -> Vec<String> {
        ["ip", "netns", "exec", namespace].map(str::to_owned).to_vec()
    }

    /// Lets packets of a way vanish, in both directions: all of a hundred, some, or none.
    fn lose(&self, way: Way, percent: u32) {
        let device = if way == Way::Outside { "out" } else { "in" };
        let which = match percent {
            100 => String::new(),
            _ => format!("-m statistic --mode random --probability {}", f64::from(percent) / 100.0),
        };
        for (chain, flag) in [("INPUT", "-i"), ("OUTPUT", "-o")] {
            let iptables = format!("ip netns exec {} iptables", self.daemon);
            run(&format!("{iptables} -F {chain}")).unwrap();
            if percent > 0 {
                run(&format!("{iptables} -A {chain} {flag} {device} {which} -j DROP")).unwrap();
            }
        }
    }

    /// How many packets the rules have dropped.
    fn dropped(&self) -> u64 {
        let listed = run(&format!("ip netns exec {} iptables -L -v -x -n", self.daemon)).unwrap();
        let dropping = listed.lines().filter(|line| line.contains(" DROP "));
        dropping.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok()).sum()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // With a namespace go its ends of a pair, and with an end the other one; but later, and the next network has the
        // same names and addresses.
        let _ = run(&format!("ip link del {}", self.outside));
        for namespace in [&self.daemon, &self.postgres] {
            let _ = run(&format!("ip netns del {namespace}"));
        }
    }
}

fn run(command: &str) -> Result<String, String> {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap_or_default()).args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{command}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

fn server_address(number: usize) -> Ipv4Addr {
    let [a, b, c, first] = POSTGRES;
    Ipv4Addr::new(a, b, c, first + u8::try_from(number).unwrap())
}

/// PostgreSQL in its namespace; the test reaches it by its socket, which no network cuts off.
async fn database(network: &Network, address: Ipv4Addr) -> OwnCluster {
    let mut cluster = OwnCluster::create().await;
    let rules = cluster.data_dir().join("postgres/pg_hba.conf");
    let text = fs::read_to_string(&rules).unwrap();
    let rule = format!("host all all {DAEMON_INSIDE}/32 trust\n");
    File::create(&rules).unwrap().write_all((rule + &text).as_bytes()).unwrap();
    cluster.restart_within(&Network::within(&network.postgres), &[format!("listen_addresses={address}")]).await;
    cluster
}

/// Hurts the network of these worlds, heals it, and waits until each daemon acknowledges a change.
async fn strike(worlds: &mut [World], network: &Network, fault: Fault, lasts: Duration) {
    let from: Vec<Micros> = worlds.iter().map(|world| world.history.now()).collect();
    match fault {
        Fault::Loss(way, percent) => network.lose(way, percent),
        Fault::Partition(way) => network.lose(way, 100),
        Fault::Latency => worlds.iter().for_each(|world| world.nodes[0].to_daemon.set(Mode::Delay(SLOW))),
    }
    sleep(lasts).await;
    let effect = match fault {
        Fault::Latency => format!("{SLOW:?} in each direction"),
        // The rules are new, and so are their counters.
        _ => match network.dropped() {
            0 => String::new(),
            dropped => format!("{dropped} packets lost"),
        },
    };
    for way in [Way::Outside, Way::Inside] {
        network.lose(way, 0);
    }
    worlds.iter().for_each(|world| world.nodes[0].to_daemon.set(Mode::Pass));
    let recoveries = worlds.iter_mut().zip(from).map(async |(world, from)| {
        let until = world.history.now();
        let recovery = campaign::recovery(world).await;
        world.disrupted(format!("{fault:?}"), from, until, effect.clone(), recovery);
    });
    join_all(recoveries).await;
}

/// A world whose daemon and PostgreSQL are in the network.
async fn world(network: &Network, number: usize) -> World {
    let server = server_address(number);
    let cluster = database(network, server).await;
    let address = format!("{DAEMON}:0");
    let mut place = Place::secured_by(Security::if_asked_for(&[DAEMON]).await.as_ref());
    place.within = Network::within(&network.daemon);
    place.flags.extend(["--grpc-addr", &address, "--http-addr", &address].map(str::to_owned));
    if place.security.is_none() {
        place.flags.extend(["--insecure-no-tls", "--insecure-no-auth"].map(str::to_owned));
    }
    let url = format!("postgres://musterd@{server}:5432/musterd?sslmode=disable");
    let mut world = World::elsewhere(cluster, &url, place, 7).await;
    world.start_daemons().await;
    world
}

/// The ports of the sessions in PostgreSQL to which no connection of the daemon belongs.
async fn dropped_sessions(world: &World) -> Vec<i32> {
    let sessions = "SELECT client_port FROM pg_stat_activity WHERE application_name = 'musterd' AND client_port > 0";
    let sessions = column::<i32>(&world.sql().await, sessions).await;
    let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", world.nodes[0].pid().unwrap())).unwrap();
    // Its second column is the address of this end, its fourth the state: 01 is a connection.
    let open: Vec<i32> = sockets
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|columns| columns.get(3) == Some(&"01"))
        .filter_map(|columns| i32::from_str_radix(columns[1].split_once(':')?.1, 16).ok())
        .collect();
    sessions.into_iter().filter(|port| !open.contains(port)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_lost_delayed_and_cut_off_break_no_promise() {
    let _alone = ALONE.lock().await;
    let Some(network) = Network::create(1) else { return };
    let mut worlds = [world(&network, 0).await];
    let population = Population { daemons: 1, actors: 30, quitters: 2, writers: 2, routers: 1, watchers: 2 };
    worlds[0].populate(population).await;
    sleep(Duration::from_millis(2_500)).await;
    worlds[0].note_footprints();
    for fault in FAULTS {
        let lasts = if fault == Fault::Partition(Way::Inside) { LASTS_INSIDE } else { LASTS };
        strike(&mut worlds, &network, fault, lasts).await;
        campaign::calm_down(&worlds[0]).await;
    }
    let [world] = worlds;
    wait_until("sessions that the daemon has dropped end at PostgreSQL", SESSION_BOUND, async || {
        let dropped = dropped_sessions(&world).await;
        if dropped.is_empty() { Ok(()) } else { Err(dropped) }
    })
    .await;
    let (verdict, evidence) = world.finish("network", 7, campaign::demands(population, FAULTS.len())).await;
    print("network", &verdict, &evidence);
    assert_eq!(verdict.violations, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_ends_no_lease_of_a_small_fleet_and_a_crash_before_it_does() {
    cut_off(&[2, 11], LASTS).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute"]
async fn partition_of_half_a_minute_ends_no_lease_of_a_small_fleet() {
    cut_off(&FLEETS, LASTS_LONG).await;
}

fn print(name: &str, verdict: &Verdict, evidence: &Evidence) {
    let costs: Vec<Cost> = evidence.disruptions.iter().map(Cost::of).collect();
    figures::print(name, &costs, verdict, evidence);
}

/// In each fleet one crashes and is detected in time; then all fleets are cut off from their daemons.
async fn cut_off(fleets: &[usize], lasts: Duration) {
    let _alone = ALONE.lock().await;
    let Some(network) = Network::create(fleets.len()) else { return };
    let mut worlds = join_all(fleets.iter().enumerate().map(|(number, fleet)| begin(&network, number, *fleet))).await;
    // No death that comes in time is excused by the partition.
    sleep(DETECTION_SLACK).await;
    strike(&mut worlds, &network, Fault::Partition(Way::Outside), lasts).await;
    // As long as a lease may take to end after the network is back.
    sleep(TTL * 2).await;
    let verdicts = worlds.into_iter().zip(fleets).map(async |(world, fleet)| {
        let demands = Demands { detections: 1, beats_acknowledged: fleet * 3, ..Demands::default() };
        let (verdict, evidence) = world.finish(&format!("fleet-of-{fleet}"), 7, demands).await;
        (fleet, verdict, evidence)
    });
    for (fleet, verdict, evidence) in join_all(verdicts).await {
        print(&format!("network, {fleet} actors"), &verdict, &evidence);
        assert_eq!(verdict.violations, [], "a fleet of {fleet}");
    }
}

/// A fleet, one of which has crashed and is dead.
async fn begin(network: &Network, number: usize, fleet: usize) -> World {
    let mut world = world(network, number).await;
    world
        .populate(Population { daemons: 1, actors: fleet + 1, quitters: 1, writers: 0, routers: 1, watchers: 1 })
        .await;
    let sql = world.sql().await;
    wait_until("the death of the one that crashed", DEATH_BOUND, async || {
        match get::<i64>(&sql, "SELECT count(*) FROM registry_instance WHERE death_reason = 'stale'").await {
            0 => Err("it lives"),
            _ => Ok(()),
        }
    })
    .await;
    world
}
