//! The numbers of the design, measured over the wire in one run: `cargo bench --bench wire`.
//!
//! Three things answer on the same machine in the same minutes, in rounds that follow each other, so that a slow minute
//! slows all of them; what counts are medians and ratios, not figures of one run.
//!
//! - **musterd**: the release program, on a private PostgreSQL that syncs every commit;
//! - **echo**: a bare tonic server in a process of its own, with the daemon's settings, that answers with the very
//!   messages the daemon gave, and does nothing else. It is what gRPC costs here;
//! - **seed** and **SQL**: the functions and the view, called directly over many connections; of SeedCore as it
//!   was (migration 012), and of today, where they keep all that the daemons promise.
//!
//! At last the same calls are measured beside a fleet of a thousand, and then beside one of a million, both kept alive by a
//! process of their own: what a lookup costs must not grow with what is on record.
//!
//! The client is `musterd bench` for the first two, so both bear the same client. All share the machine: the figures are
//! lower than those of a daemon alone.
//!
//! Last, one address registers as much as it can for a minute, beside others: what the budget of records keeps.
//!
//! Then the calls are measured in plain text, with TLS, with a client certificate and with tokens, side by side.
//!
//! Parts can be measured alone: `cargo bench --bench wire -- growth`, or `calls`, or `changes`, or `flood`,
//! or `secured`, or `herd-mtls`: ten thousand connections with client certificates that lose their daemon at once.
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `MUSTERD_WIRE_ROUNDS` | 5 | rounds; medians are of these |
//! | `MUSTERD_WIRE_SECONDS` | 3 | seconds of each measurement |
//! | `MUSTERD_WIRE_WATCHERS` | 1000 | watchers of the fan-out |
//! | `MUSTERD_WIRE_INSTANCES` | 1000000 | instances of the last part: what a call costs with so many beside 1,000 |
//! | `MUSTERD_WIRE_FLOOD` | 60 | seconds of the flood of registrations |
//! | `MUSTERD_WIRE_CONNECTIONS` | 4 | connections of the part `secured` |
//! | `MUSTERD_WIRE_HERD` | 10000 | connections of the part `herd-mtls` |
//! | `MUSTERD_WIRE_QUICK` | - | set: one round of one second, to see that it works |

#![expect(clippy::unwrap_used, clippy::print_stdout, clippy::panic, reason = "a benchmark fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a benchmark has no Lifecycle to start tasks with")]

mod echo;
mod flood;
mod herd;
mod secured;
mod sql;
mod table;
mod world;

use std::{env, time::Duration};

use serde_json::Value;
use table::{Goal, Table};
use world::{Fleet, World};

/// Instances that are as good as none.
const SMALL_FLEET: u32 = 1_000;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    rounds: u32,
    seconds: u32,
    watchers: u32,
    leases: u32,
    /// Instances of the large fleet.
    instances: u32,
    flood_seconds: u32,
}

impl Sizes {
    fn from_env() -> Self {
        let number =
            |name: &str, default: u32| env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
        let quick = env::var_os("MUSTERD_WIRE_QUICK").is_some();
        let (rounds, seconds, watchers, leases, instances, flood_seconds) =
            if quick { (1, 1, 50, 2_000, 20_000, 5) } else { (5, 3, 1_000, 20_000, 1_000_000, 60) };
        Self {
            rounds: number("MUSTERD_WIRE_ROUNDS", rounds),
            seconds: number("MUSTERD_WIRE_SECONDS", seconds),
            watchers: number("MUSTERD_WIRE_WATCHERS", watchers),
            leases,
            instances: number("MUSTERD_WIRE_INSTANCES", instances),
            flood_seconds: number("MUSTERD_WIRE_FLOOD", flood_seconds),
        }
    }
}

fn main() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().build().unwrap();
    if let Some(answers) = env::var_os(echo::ANSWERS) {
        runtime.block_on(echo::serve(&answers.into_string().unwrap()));
        return;
    }
    runtime.block_on(measure(Sizes::from_env()));
}

async fn measure(sizes: Sizes) {
    let mut world = World::start().await;
    let mut table = Table::default();
    if is_wanted("calls") {
        for round in 1..=sizes.rounds {
            println!("round {round} of {}", sizes.rounds);
            measure_calls(&world, sizes, &mut table).await;
            measure_sql(&world, sizes, &mut table).await;
        }
    }
    if is_wanted("changes") {
        measure_changes(&world, sizes, &mut table).await;
    }
    if is_wanted("growth") {
        measure_growth(&mut world, sizes, &mut table).await;
    }
    if is_wanted("flood") {
        flood::measure(&mut world, Duration::from_secs(sizes.flood_seconds.into()), &mut table).await;
    }
    if is_wanted("secured") {
        secured::measure(&mut world, sizes, &mut table).await;
    }
    if is_wanted("herd-mtls") {
        herd::measure(&mut world, &mut table).await;
    }
    println!("\n{}", table.text(&[goals(), secured::goals(), herd::goals()].concat()));
    world.stop().await;
}

/// Whether a part is to be measured: without names, each is. Cargo adds a flag of its own.
fn is_wanted(part: &str) -> bool {
    let mut named = env::args().skip(1).filter(|arg| !arg.starts_with('-')).peekable();
    named.peek().is_none() || named.any(|name| name == part)
}

/// Flags of one measurement.
fn flags<'a>(bench: &'a str, seconds: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["bench", bench, "--yes", "--duration", seconds, "-o", "json"], more].concat()
}

async fn measure_calls(world: &World, sizes: Sizes, table: &mut Table) {
    let seconds = format!("{}s", sizes.seconds);
    let leases = sizes.leases.to_string();
    for bench in ["resolve", "beat"] {
        for (who, addr) in [("echo", world.echo_addr()), ("musterd", world.daemon_addr(0))] {
            let more = ["--connections", "4", "--in-flight", "16", "--instances", "200"];
            measure_unary(world, addr, &flags(bench, &seconds, &more), &format!("{bench} {who}"), table).await;
        }
    }
    let more = ["--connections", "2", "--in-flight", "4", "--batch", "1000"];
    let report = world.bench(world.daemon_addr(0), &flags("batch-resolve", &seconds, &more)).await;
    table.add("batch-resolve musterd", number(&report, "itemsPerSecond"));
    let more = ["--connections", "2", "--in-flight", "2", "--batch", "10000", "--instances", &leases];
    let report = world.bench(world.daemon_addr(0), &flags("beat-stream", &seconds, &more)).await;
    table.add("beat-stream musterd", number(&report, "itemsPerSecond"));
    let more = ["--connections", "4", "--in-flight", "16"];
    let report = world.bench(world.daemon_addr(0), &flags("register", &seconds, &more)).await;
    table.add("register musterd", number(&report, "callsPerSecond"));
    table.add("register musterd p99 us", number(&report["latencyUs"], "p99"));
}

/// One kind of call: how many a second, how long they take, and what they cost the server, whatever else it does.
async fn measure_unary(world: &World, addr: &str, flags: &[&str], name: &str, table: &mut Table) {
    let cpu_before = world.cpu_seconds(addr);
    let calls = measure_rate(world, addr, flags, name, table).await;
    table.add(&format!("{name} cpu us"), (world.cpu_seconds(addr) - cpu_before) * 1e6 / calls);
}

/// As [`measure_unary`], where what comes before the calls would be counted with them. Returns how many there were.
async fn measure_rate(world: &World, addr: &str, flags: &[&str], name: &str, table: &mut Table) -> f64 {
    let report = world.bench(addr, flags).await;
    table.add(name, number(&report, "callsPerSecond"));
    table.add(&format!("{name} p99 us"), number(&report["latencyUs"], "p99"));
    number(&report, "calls")
}

/// The same calls with a thousand instances on record, then with the large fleet.
async fn measure_growth(world: &mut World, sizes: Sizes, table: &mut Table) {
    world.keep_one_daemon();
    measure_fleet(world, sizes, "small", SMALL_FLEET, table).await.end().await;
    // To deregister a million takes minutes: it goes with the world.
    measure_fleet(world, sizes, "large", sizes.instances, table).await;
}

async fn measure_fleet(world: &World, sizes: Sizes, size: &str, instances: u32, table: &mut Table) -> Fleet {
    println!("a fleet of {instances}");
    let fleet = world.fleet(size, instances).await;
    let (seconds, instances) = (format!("{}s", sizes.seconds), instances.to_string());
    for _ in 0..sizes.rounds {
        let addr = world.daemon_addr(0);
        let more = ["--instances", &instances, "--registered", "--prefix", size];
        measure_unary(world, addr, &flags("resolve", &seconds, &more), &format!("resolve {size}"), table).await;
        // The leases are looked up first, a million of them.
        measure_rate(world, addr, &flags("beat", &seconds, &more), &format!("beat {size}"), table).await;
    }
    table.add(&format!("memory {size} MB"), world.memory_mb(world.daemon_addr(0)));
    fleet
}

async fn measure_sql(world: &World, sizes: Sizes, table: &mut Table) {
    for database in ["seed", "sql"] {
        let sql = sql::Sql::start(&world.url_of(database)).await;
        table.add(&format!("register {database}"), sql.register(sizes.seconds).await);
        table.add(&format!("beat {database}"), sql.beat(sizes.seconds).await);
        table.add(&format!("resolve {database}"), sql.view(sizes.seconds).await);
        sql.clear().await;
    }
}

async fn measure_changes(world: &World, sizes: Sizes, table: &mut Table) {
    let seconds = format!("{}s", sizes.seconds * 3);
    for _ in 0..sizes.rounds {
        let report = world
            .bench(world.daemon_addr(0), &flags("propagate", &seconds, &["--other-addr", world.daemon_addr(1)]))
            .await;
        table.add("propagate p50", number(&report["fromCallUs"], "p50") / 1_000.0);
        table.add("propagate p99", number(&report["fromCallUs"], "p99") / 1_000.0);
    }
    let watchers = sizes.watchers.to_string();
    for _ in 0..sizes.rounds {
        let report = world.bench(world.daemon_addr(0), &flags("watch", &seconds, &["--watchers", &watchers])).await;
        table.add("watch p50", number(&report["eventUs"], "p50") / 1_000.0);
        table.add("watch p99", number(&report["eventUs"], "p99") / 1_000.0);
        assert_eq!(report["missingEvents"], 0, "{report}");
    }
}

fn number(report: &Value, field: &str) -> f64 {
    report[field].as_f64().unwrap_or_else(|| panic!("no {field} in {report}"))
}

fn goals() -> Vec<Goal> {
    vec![
        Goal::ratio("Resolve, unary, per second", "resolve musterd", ("echo", "resolve echo"), 0.90),
        Goal::ratio(
            "Resolve, processor time of the echo's call, us",
            "resolve echo cpu us",
            ("musterd", "resolve musterd cpu us"),
            0.90,
        ),
        Goal::ratio("Resolve against SeedCore's view", "resolve musterd", ("seed", "resolve seed"), 1.0),
        Goal::ratio("Beat, unary, per second", "beat musterd", ("echo", "beat echo"), 0.90),
        Goal::ratio(
            "Beat, processor time of the echo's call, us",
            "beat echo cpu us",
            ("musterd", "beat musterd cpu us"),
            0.90,
        ),
        Goal::ratio("Beat against SeedCore's beat()", "beat musterd", ("seed", "beat seed"), 1.0),
        Goal::at_least("BatchResolve, names per second", "batch-resolve musterd", 1_000_000.0),
        Goal::at_least("BeatStream, leases per second", "beat-stream musterd", 5_000_000.0),
        Goal::at_least("Register, durable, 64 in flight, per second", "register musterd", 20_000.0),
        Goal::ratio(
            "Register against SeedCore's register_instance()",
            "register musterd",
            ("seed", "register seed"),
            1.0,
        ),
        Goal::ratio("Resolve with the large fleet, per second", "resolve large", ("small", "resolve small"), 0.80),
        Goal::ratio(
            "Resolve, processor time with the small fleet, us",
            "resolve small cpu us",
            ("large", "resolve large cpu us"),
            0.80,
        ),
        Goal::ratio("Beat with the large fleet, per second", "beat large", ("small", "beat small"), 0.80),
        Goal::at_most("Change to the other daemon's Resolve, p50, ms", "propagate p50", None),
        Goal::at_most("Change to the other daemon's Resolve, p99, ms", "propagate p99", Some(25.0)),
        Goal::at_most("Change to all watchers, p50, ms", "watch p50", None),
        Goal::at_most("Change to all watchers, p99, ms", "watch p99", Some(100.0)),
        Goal::at_most("Flood, growth of a daemon's memory, MB", "flood memory MB", None),
        Goal::at_most("Flood, growth as a share of the budget", "flood memory share", Some(1.0)),
        Goal::at_most("Flood, memory for each byte that the budget counts", "flood memory ratio", None),
        Goal::at_most("Flood, registrations of the address that floods, per second", "flood calls", None),
        Goal::at_most("Flood, refused calls of others", "flood refused", Some(0.0)),
        Goal::at_most("Flood, registration of another address, p99, ms", "flood other p99", None),
        Goal::at_most("Flood, beat of another address, p99, ms", "flood beat p99", None),
        Goal::at_most("Ready again over what it left, s", "flood restart s", None),
    ]
}
