//! What lookups, beats and changes cost in memory, at 1,000 and at 1,000,000 instances: `cargo bench --bench core`.
//!
//! No network, no PostgreSQL. The cost of a call must not depend on how many instances there are but for the memory it
//! reaches into: each group has both sizes, and names are picked all over the registry, as routers and actors do.
//! `MUSTERD_CORE_QUICK` leaves the million out.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking and has no callers")]

use std::{cell::Cell, hint::black_box, num::NonZeroU16, sync::Arc, time::Duration};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use musterd::{
    clock::Clock,
    model::{
        Cluster, Epoch, EpochId, Instance, InstanceId, InstanceStatus, Labels, LeaseId, LogicalId, Revision, Ttl,
        ranking::Rank, spread::mix,
    },
    registry::Leases,
    view::{
        Entry, View, ViewWriter,
        resolve::{Choice, Policy, resolve},
    },
};
use uuid::Uuid;

/// Names that are looked up in turn; a power of two.
const PICKS: usize = 1 << 16;

/// A registry of some size, as a daemon holds it.
struct Registry {
    size: u64,
    clock: Clock,
    view: View,
    writer: ViewWriter,
    leases: Arc<Leases>,
    revision: u64,
    names: Vec<String>,
    next: Cell<usize>,
}

fn epoch() -> Epoch {
    Epoch { id: EpochId(Uuid::from_u128(1)), number: 1 }
}

fn cluster(clock: Clock, revision: u64) -> Cluster {
    Cluster {
        epoch: epoch(),
        revision: Revision(revision),
        history_id: Uuid::from_u128(2),
        purged: Revision(0),
        hold: None,
        brake: None,
        read_at: clock.wall(),
    }
}

fn instance(clock: Clock, number: u64, revision: u64) -> Instance {
    Instance {
        instance_id: InstanceId(Uuid::from_u64_pair(mix(number), number)),
        logical_id: LogicalId::from_record(&name(number)),
        lease_id: LeaseId(number + 1),
        replaces: None,
        epoch: epoch(),
        revision: Revision(revision),
        status: InstanceStatus::Alive,
        actor_name: Some("actor".into()),
        serve_route: Some("/route".into()),
        node_id: Some(format!("node-{}", number % 100).into()),
        ip_address: "10.0.0.1".parse().ok(),
        port: NonZeroU16::new(8_000),
        pid: 4_242.try_into().ok(),
        version: Some("1.0.0".into()),
        labels: Labels::default(),
        owner: None,
        ttl: Ttl::from_record(Some(300_000)),
        started_at: clock.wall(),
        last_beat: clock.wall(),
        details: None,
    }
}

fn name(number: u64) -> String {
    format!("organ_{number}")
}

impl Registry {
    fn of(size: u64) -> Self {
        let clock = Clock::new();
        let (view, mut writer) = View::new(clock);
        let leases = Arc::new(Leases::new(clock));
        leases.set_epoch(epoch());
        let entries: Vec<_> = (0..size).map(|number| entry(&leases, instance(clock, number, number + 1))).collect();
        writer.replace(cluster(clock, size), entries);
        let names = (0..PICKS as u64).map(|pick| name(mix(pick) % size)).collect();
        Self { size, clock, view, writer, leases, revision: size, names, next: Cell::new(0) }
    }

    /// A name, each time another one.
    fn name(&self) -> &str {
        &self.names[self.turn()]
    }

    fn lease(&self) -> LeaseId {
        LeaseId(1 + mix(self.turn() as u64) % self.size)
    }

    fn turn(&self) -> usize {
        let next = self.next.get();
        self.next.set((next + 1) % PICKS);
        next
    }

    /// Entries of instances that change, for the next revisions.
    fn changes(&self, count: u64) -> Vec<Arc<Entry>> {
        let number = |change: u64| mix(self.turn() as u64 ^ change) % self.size;
        let changed = (1..=count).map(|change| instance(self.clock, number(change), self.revision + change));
        changed.map(|instance| entry(&self.leases, instance)).collect()
    }
}

fn entry(leases: &Leases, instance: Instance) -> Arc<Entry> {
    let lease = leases.track(&instance, 1_000_000);
    Arc::new(Entry { instance, lease })
}

fn rank(c: &mut Criterion) {
    let clock = Clock::new();
    let ranks: Vec<_> = (0..1_000_u64)
        .map(|number| Rank {
            suspect: false,
            started_at: clock.wall() + Duration::from_millis(mix(number) % 10_000),
            instance_id: InstanceId(Uuid::from_u128(number.into())),
        })
        .collect();
    c.bench_function("rank/minimum of 1000", |b| b.iter(|| black_box(&ranks).iter().min()));
}

fn lookups(c: &mut Criterion, registry: &Registry) {
    let mut group = c.benchmark_group("resolve");
    let policies = [
        ("best", Policy::Best),
        ("random", Policy::Random(7)),
        ("rendezvous", Policy::Rendezvous("key".into())),
        ("near", Policy::Near("node-7".into())),
    ];
    for (label, policy) in policies {
        let choice = Choice { policy, ..Choice::default() };
        group.bench_function(BenchmarkId::new(label, registry.size), |b| {
            b.iter(|| {
                let snapshot = registry.view.snapshot();
                resolve(&snapshot, black_box(registry.name()), &choice, registry.clock.now_ms()).unwrap()
            });
        });
    }
    group.finish();
}

fn beats(c: &mut Criterion, registry: &Registry) {
    let mut group = c.benchmark_group("beat");
    group.bench_function(BenchmarkId::new("lookup", registry.size), |b| {
        b.iter(|| registry.leases.get(black_box(registry.lease())));
    });
    group.bench_function(BenchmarkId::new("unary", registry.size), |b| {
        // Without a flusher beats are refused after a third of the TTL, 100 s: long after this has ended.
        b.iter(|| registry.leases.beat(black_box(registry.lease())).unwrap());
    });
    let listed: Vec<_> = (0..10_000).filter_map(|_| registry.leases.get(registry.lease())).collect();
    let stream = registry.leases.begin_stream();
    group.throughput(Throughput::Elements(listed.len() as u64));
    group.bench_function(BenchmarkId::new("stream of 10000", registry.size), |b| {
        b.iter(|| {
            let beats = registry.leases.beats(stream, epoch());
            black_box(&listed).iter().filter(|lease| beats.beat(lease).is_ok()).count()
        });
    });
    group.finish();
}

fn changes(c: &mut Criterion, registry: &mut Registry) {
    let mut group = c.benchmark_group("apply");
    for count in [1, 256] {
        group.throughput(Throughput::Elements(count));
        let id = BenchmarkId::new(format!("batch of {count}"), registry.size);
        group.bench_function(id, |b| {
            let registry = std::cell::RefCell::new(&mut *registry);
            b.iter_batched(
                || registry.borrow().changes(count),
                |entries| {
                    let mut registry = registry.borrow_mut();
                    registry.revision += count;
                    let cluster = cluster(registry.clock, registry.revision);
                    registry.writer.apply(cluster, entries)
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    rank(&mut criterion);
    let quick = std::env::var_os("MUSTERD_CORE_QUICK").is_some();
    for size in [1_000, 1_000_000].into_iter().filter(|size| !quick || *size == 1_000) {
        let mut registry = Registry::of(size);
        lookups(&mut criterion, &registry);
        beats(&mut criterion, &registry);
        changes(&mut criterion, &mut registry);
    }
    criterion.final_summary();
}
