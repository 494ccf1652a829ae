//! The view against a naive model: after any history, what it answers is what a plain scan over all rows answers.
//!
//! A history is what the feed may bring: registrations, changes, deaths, new leases for the same instance id, also
//! under another name; rotations; purges; full loads. The model keeps the rows in a map and scans them for each
//! question, so it has none of the counters, orders and shared structures that could be wrong here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chrono::DateTime;
use proptest::prelude::*;
use uuid::Uuid;

use super::{
    Counts, Entry, Service, Snapshot, View, ViewWriter,
    fixture::service,
    list::{Filter, can_tell_changes, changed_after, page, unserved},
    resolve::{Choice, ResolveError, resolve},
    snapshot::CHANGES_MAX,
};
use crate::{
    access::Names,
    clock::Clock,
    model::{
        Cluster, Death, DeathReason, Epoch, EpochId, Instance, InstanceId, InstanceStatus, Lease, LeaseId, LogicalId,
        Revision, Ttl,
        explain::{Candidate, Standing, explain},
        fixture,
        ranking::Rank,
    },
};

const NAMES: [&str; 4] = ["", "organ", "organ_1", "other"];
/// What a caller may read.
const READABLE: [&[&str]; 5] = [&["*"], &["organ_1"], &["organ*"], &["organ", "ot*"], &[]];
const NODES: [Option<&str>; 3] = [None, Some("a"), Some("b")];
/// When the questions are asked.
const NOW_MS: u64 = 2_000_000;
const TTL_MS: i64 = 15_000;

/// What happens to the registry.
#[derive(Clone, Debug)]
enum Event {
    /// An instance is registered, under a name, with a status, started at a second, silent for some seconds.
    Register { instance: u128, name: usize, node: usize, status: InstanceStatus, second: i64, silent_s: u64 },
    /// The status of an instance that is on record is written.
    Write { instance: u128, status: InstanceStatus },
    /// A new epoch.
    Rotate,
    /// The dead of at least so many changes ago are purged.
    Purge(u64),
    /// The connection was lost: everything is loaded again.
    Reload,
}

fn status() -> impl Strategy<Value = InstanceStatus> {
    prop::sample::select(&InstanceStatus::ALL[..])
}

fn event() -> impl Strategy<Value = Event> {
    let register = (0..12u128, 0..NAMES.len(), 0..NODES.len(), status(), 0..4i64, 0..30u64).prop_map(
        |(instance, name, node, status, second, silent_s)| Event::Register {
            instance,
            name,
            node,
            status,
            second,
            silent_s,
        },
    );
    prop_oneof![
        6 => register,
        4 => (0..12u128, status()).prop_map(|(instance, status)| Event::Write { instance, status }),
        1 => Just(Event::Rotate),
        1 => (0..10u64).prop_map(Event::Purge),
        1 => Just(Event::Reload),
    ]
}

/// The registry as a map of rows, and the view that is told of every change.
struct Both {
    rows: BTreeMap<InstanceId, Arc<Entry>>,
    revision: u64,
    purged: u64,
    epoch: u64,
    view: View,
    writer: ViewWriter,
}

impl Both {
    fn new() -> Self {
        let (view, writer) = View::new(Clock::new());
        let mut both = Self { rows: BTreeMap::new(), revision: 0, purged: 0, epoch: 1, view, writer };
        both.apply(&Event::Reload);
        both
    }

    fn epoch(&self) -> Epoch {
        Epoch { id: EpochId(Uuid::from_u128(self.epoch.into())), number: self.epoch }
    }

    fn cluster(&self) -> Cluster {
        Cluster {
            epoch: self.epoch(),
            revision: Revision(self.revision),
            history_id: Uuid::nil(),
            purged: Revision(self.purged),
            hold: None,
            brake: None,
            read_at: DateTime::default(),
        }
    }

    /// Lets something happen to the rows and tells the view. Returns the entries that the view says are gone.
    fn apply(&mut self, event: &Event) -> Vec<Arc<Entry>> {
        let mut changed = None;
        match event {
            Event::Register { instance, name, node, status, second, silent_s } => {
                self.revision += 1;
                let mut row = self.row(*instance, NAMES[*name], *status);
                row.node_id = NODES[*node].map(Arc::from);
                row.started_at = DateTime::from_timestamp(*second, 0).unwrap();
                let heard_ms = NOW_MS - silent_s * 1_000;
                let lease = Lease::new(row.lease_id, row.instance_id, self.epoch, row.replaces, row.ttl, heard_ms);
                changed = Some(Entry { instance: row, lease: Arc::new(lease) });
            }
            Event::Write { instance, status } => {
                if let Some(before) = self.rows.get(&InstanceId(Uuid::from_u128(*instance))) {
                    self.revision += 1;
                    let revision = Revision(self.revision);
                    let instance = Instance { status: *status, revision, ..before.instance.clone() };
                    changed = Some(Entry { instance, lease: Arc::clone(&before.lease) });
                }
            }
            Event::Rotate => (self.epoch, self.revision) = (self.epoch + 1, self.revision + 1),
            Event::Purge(ago) => {
                self.purged = self.purged.max(self.revision.saturating_sub(*ago));
                let purged = Revision(self.purged);
                self.rows
                    .retain(|_, row| row.instance.status != InstanceStatus::Dead || row.instance.revision > purged);
            }
            Event::Reload => {
                return self.writer.replace(self.cluster(), self.rows.values().cloned().collect::<Vec<_>>());
            }
        }
        let changed = changed.map(Arc::new);
        if let Some(entry) = &changed {
            self.rows.insert(entry.instance.instance_id, Arc::clone(entry));
        }
        self.writer.apply(self.cluster(), changed)
    }

    fn row(&self, instance: u128, name: &str, status: InstanceStatus) -> Instance {
        let instance_id = InstanceId(Uuid::from_u128(instance));
        Instance {
            instance_id,
            lease_id: LeaseId(self.revision),
            replaces: self.rows.get(&instance_id).map(|before| before.instance.lease_id),
            epoch: self.epoch(),
            revision: Revision(self.revision),
            ttl: Ttl::from_record(Some(TTL_MS)),
            started_at: DateTime::default(),
            last_beat: DateTime::default(),
            details: (status == InstanceStatus::Dead && self.revision.is_multiple_of(2)).then(|| {
                let reason = Some(DeathReason::Deregistered);
                Box::new(Death { reason, at: None, deadline: None, decided_by: None }.into())
            }),
            ..fixture::instance(1, name, status)
        }
    }

    fn status(&self, row: &Entry) -> InstanceStatus {
        row.instance.status_in(self.epoch())
    }

    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.rows.values().filter(move |row| row.instance.logical_id.as_str() == name)
    }

    fn alive<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.named(name).filter(|row| self.status(row) == InstanceStatus::Alive)
    }

    fn counts(&self) -> Counts {
        let of = |status| self.rows.values().filter(|row| self.status(row) == status).count() as u64;
        let known: BTreeSet<&str> = self.rows.values().map(|row| row.instance.logical_id.as_str()).collect();
        let services = |wanted| known.iter().filter(|name| self.service(name) == wanted).count() as u64;
        Counts {
            starting: of(InstanceStatus::Starting),
            alive: of(InstanceStatus::Alive),
            draining: of(InstanceStatus::Draining),
            dead: of(InstanceStatus::Dead),
            logical_ids_live: services(Service::Live),
            logical_ids_unserved: services(Service::Unserved),
            logical_ids_left: services(Service::Left),
        }
    }

    fn service(&self, name: &str) -> Service {
        service(&self.named(name).collect::<Vec<_>>(), self.epoch())
    }
    fn check_resolve(&self, snapshot: &Snapshot) -> Result<(), TestCaseError> {
        for name in NAMES.into_iter().chain(["unknown"]) {
            let rank = |row: &Arc<Entry>| Rank {
                suspect: row.lease.is_suspect(NOW_MS),
                started_at: row.instance.started_at,
                instance_id: row.instance.instance_id,
            };
            let expected = match (self.alive(name).min_by_key(|row| rank(row)), self.named(name).count()) {
                (Some(row), _) => Ok((row.instance.instance_id, self.alive(name).count() - 1)),
                (None, 0) => Err(ResolveError::UnknownLogicalId),
                (None, on_record) => Err(ResolveError::NoLiveInstance(on_record)),
            };
            let resolved = resolve(snapshot, name, &Choice::default(), NOW_MS);
            let resolved = resolved.map(|best| (best.entry.instance.instance_id, best.alternatives));
            prop_assert_eq!(resolved, expected, "{}", name);
            let explained = explain(&self.named(name).map(|row| self.candidate(row)).collect::<Vec<_>>());
            let chosen = explained.first().filter(|it| matches!(it.standing, Standing::Chosen { .. }));
            prop_assert_eq!(chosen.map(|it| it.instance_id), resolved.ok().map(|(best, _)| best), "{}", name);
        }
        Ok(())
    }

    fn check_unserved(&self, snapshot: &Snapshot, limit: usize) -> Result<(), TestCaseError> {
        let mut names = NAMES.to_vec();
        names.sort_unstable();
        let expected =
            names.into_iter().filter(|name| self.named(name).count() > 0 && self.service(name) == Service::Unserved);
        let expected: Vec<&str> = expected.take(limit).collect();
        let found = unserved(snapshot, &Names::everything(), limit);
        prop_assert_eq!(found.iter().map(LogicalId::as_str).collect::<Vec<_>>(), expected);
        Ok(())
    }

    fn candidate(&self, row: &Entry) -> Candidate {
        Candidate {
            instance_id: row.instance.instance_id,
            status: row.instance.status,
            death: None,
            epoch_is_current: row.instance.epoch == self.epoch(),
            suspect: row.lease.is_suspect(NOW_MS),
            started_at: row.instance.started_at,
            excluded: false,
            labels_match: true,
        }
    }

    /// Resumed anywhere, in pieces of any size: everything that changed since, once, in order.
    fn check_changes(&self, snapshot: &Snapshot, filter: &Filter, size: usize) -> Result<(), TestCaseError> {
        for begin in 0..=self.revision {
            let since = self.rows.values().filter(|row| row.instance.revision > Revision(begin));
            let named = since.filter(|row| may_see(filter, &row.instance));
            let mut expected: Vec<_> = named.map(|row| row.instance.revision).collect();
            expected.sort();
            let (mut told, mut reached) = (Vec::new(), Revision(begin));
            while reached < snapshot.revision() {
                let changed = changed_after(snapshot, filter, reached, size);
                prop_assert!(changed.entries.len() <= size && changed.reached > reached);
                let revisions: Vec<_> = changed.entries.iter().map(|entry| entry.instance.revision).collect();
                prop_assert!(
                    revisions.iter().all(|revision| (reached.0 + 1..=changed.reached.0).contains(&revision.0))
                );
                let named = changed.entries.iter().map(|entry| &entry.instance);
                let named = named.filter(|it| may_see(filter, it));
                told.extend(named.map(|it| it.revision));
                reached = changed.reached;
            }
            prop_assert_eq!(told, expected, "after {} in pieces of {}", begin, size);
        }
        Ok(())
    }

    fn check_list(&self, snapshot: &Snapshot, filter: &Filter, size: usize) -> Result<(), TestCaseError> {
        let mut expected: Vec<_> = self
            .rows
            .values()
            .filter(|row| may_see(filter, &row.instance))
            .filter(|row| filter.node_id.is_empty() || row.instance.node_id.as_deref() == Some(&filter.node_id))
            .filter(|row| match self.status(row) {
                InstanceStatus::Dead if filter.statuses.is_empty() => false,
                status => filter.statuses.is_empty() || filter.statuses.contains(&status),
            })
            .map(|row| (row.instance.logical_id.clone(), row.instance.instance_id, row.instance.revision))
            .collect();
        expected.sort();
        let mut listed = Vec::new();
        let mut after = None;
        loop {
            let page = page(snapshot, filter, after.as_ref(), size);
            prop_assert!(page.entries.len() <= size);
            prop_assert!(listed.len() <= expected.len(), "the pages lead in a circle");
            let rows = page.entries.iter().map(|entry| &entry.instance);
            listed.extend(rows.map(|row| (row.logical_id.clone(), row.instance_id, row.revision)));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        prop_assert_eq!(listed, expected, "{:?} in pages of {}", filter, size);
        Ok(())
    }
}

/// By the name, whether an instance is of a filter: what the caller may read is tried pattern by pattern.
fn may_see(filter: &Filter, instance: &Instance) -> bool {
    let name = instance.logical_id.as_str();
    let fits = |pattern: &String| pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix));
    name.starts_with(&filter.logical_id_prefix) && filter.readable.patterns().iter().any(fits)
}

fn filter() -> impl Strategy<Value = Filter> {
    let statuses = prop::collection::btree_set(status(), 0..3);
    let (prefix, node) = (["", "o", "organ", "organ_1", "z"], ["", "a", "c"]);
    let (prefix, node) = (prop::sample::select(prefix.to_vec()), prop::sample::select(node.to_vec()));
    (prefix, statuses, node, prop::sample::select(&READABLE[..])).prop_map(|(prefix, statuses, node, readable)| {
        let (logical_id_prefix, node_id, readable) = (prefix.to_owned(), node.to_owned(), Names::written(readable));
        Filter { logical_id_prefix, statuses, node_id, readable, ..Filter::default() }
    })
}

proptest! {
    #[test]
    fn after_any_history_the_view_answers_as_a_scan_over_all_rows_does(
        history in prop::collection::vec(event(), 0..60),
        filter in filter(),
        size in 1..6usize,
    ) {
        let mut both = Both::new();
        for event in &history {
            let before: BTreeSet<InstanceId> = both.rows.keys().copied().collect();
            let gone: BTreeSet<InstanceId> = both.apply(event).iter().map(|entry| entry.instance.instance_id).collect();
            let left = before.into_iter().filter(|instance_id| !both.rows.contains_key(instance_id)).collect();
            prop_assert_eq!(gone, left, "what is gone after {:?}", event);
            let snapshot = both.view.snapshot();
            prop_assert_eq!(snapshot.revision(), Revision(both.revision));
            prop_assert_eq!(snapshot.counts(), both.counts(), "after {:?}", event);
            both.check_resolve(&snapshot)?;
        }
        let snapshot = both.view.snapshot();
        both.check_list(&snapshot, &filter, size)?;
        both.check_unserved(&snapshot, size)?;
        both.check_changes(&snapshot, &filter, size)?;
        for (instance_id, row) in &both.rows {
            prop_assert_eq!(&snapshot.instance(*instance_id).unwrap().instance, &row.instance);
        }
    }
}

fn alive(instance: u128, second: i64) -> Event {
    Event::Register { instance, name: 1, node: 0, status: InstanceStatus::Alive, second, silent_s: 0 }
}

#[test]
fn a_snapshot_that_a_reader_holds_does_not_change() {
    let mut both = Both::new();
    both.apply(&alive(2, 2));
    let held = both.view.snapshot().clone();
    both.apply(&alive(1, 1));
    both.apply(&Event::Write { instance: 2, status: InstanceStatus::Dead });
    both.apply(&Event::Rotate);
    let seen = |snapshot: &Snapshot| {
        resolve(snapshot, "organ", &Choice::default(), NOW_MS).map(|best| best.entry.instance.instance_id)
    };
    assert_eq!(seen(&held), Ok(InstanceId(Uuid::from_u128(2))));
    assert_eq!((held.counts().alive, held.revision()), (1, Revision(1)));
    assert_eq!(seen(&both.view.snapshot()), Err(ResolveError::NoLiveInstance(2)));
}

#[test]
fn watcher_behind_the_kept_changes_is_reset() {
    let mut both = Both::new();
    for instance in 0..=CHANGES_MAX as u128 {
        both.apply(&alive(instance, 1));
    }
    for event in [Event::Rotate, Event::Reload] {
        let (snapshot, all) = (both.view.snapshot().clone(), Filter::default());
        assert!(!can_tell_changes(&snapshot, &all, Revision(0)), "the first change is forgotten");
        assert!(can_tell_changes(&snapshot, &all, Revision(1)));
        assert_eq!(changed_after(&snapshot, &all, Revision(1), usize::MAX).entries.len(), CHANGES_MAX);
        both.apply(&event);
    }
}

#[tokio::test]
async fn waiting_for_a_revision_ends_when_it_is_there_to_be_read() {
    let mut both = Both::new();
    let view = both.view.clone();
    assert!(!view.wait_for(Revision(1), Duration::from_millis(20)).await, "it has not come");
    let waiting = tokio::spawn(async move {
        let reached = view.wait_for(Revision(2), Duration::from_secs(30)).await;
        (reached, view.snapshot().revision())
    });
    both.apply(&Event::Rotate);
    both.apply(&Event::Rotate);
    assert_eq!(waiting.await.unwrap(), (true, Revision(2)));
}
