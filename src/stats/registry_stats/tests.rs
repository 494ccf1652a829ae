//! The statistics and the pages of names, against plain scans over all rows.

use std::{collections::BTreeMap, time::Duration};

use proptest::{collection::vec, prelude::*};
use uuid::Uuid;

use super::*;
use crate::{
    clock::Clock,
    model::{
        Cluster, Death, EpochId, Instance, InstanceId, Labels, Lease, LeaseId, Ttl,
        explain::{Candidate, explain},
        renewer,
    },
    stats::{
        names::{EXAMINED_MAX, NameFilter, NamesPage, names},
        search::{Found, Search},
    },
    view::View,
};

const NOW_MS: u64 = 2_000_000;
const NAMES: [&str; 5] = ["a", "organ", "organ_1", "Utility", "z"];

fn now() -> Timestamps {
    Timestamps { now_ms: NOW_MS, database: DateTime::from_timestamp(1_000_000, 0).unwrap() }
}

fn epoch(number: u64) -> Epoch {
    Epoch { id: EpochId(Uuid::from_u128(number.into())), number }
}

/// A row: of which name, epoch 1 (old) or 2, its status, silent for how long, why and how long ago it died.
#[derive(Clone, Debug)]
struct Row {
    name: usize,
    epoch: u64,
    status: InstanceStatus,
    silent_s: u64,
    here: bool,
    death: (Option<DeathReason>, u64),
}

fn row() -> impl Strategy<Value = Row> {
    let status = prop::sample::select(&InstanceStatus::ALL[..]);
    let death = (prop::option::of(prop::sample::select(&DeathReason::ALL[..])), 0..1_200u64);
    (0..NAMES.len(), 1..3u64, status, 0..30u64, any::<bool>(), death)
        .prop_map(|(name, epoch, status, silent_s, here, death)| Row { name, epoch, status, silent_s, here, death })
}

fn entry(number: u64, row: &Row) -> Arc<Entry> {
    let (instance_id, lease_id) = (InstanceId(Uuid::from_u128(number.into())), LeaseId(number));
    let (ttl, heard_ms) = (Ttl::from_record(Some(15_000)), NOW_MS - row.silent_s * 1_000);
    let lease = Lease::new(lease_id, instance_id, row.epoch, None, ttl, heard_ms);
    if row.here {
        lease.beat(renewer::StreamId::NONE, heard_ms);
    }
    let (reason, ago_s) = row.death;
    let at = now().database - TimeDelta::seconds(i64::try_from(ago_s).unwrap());
    let death = Death { reason, at: Some(at), deadline: None, decided_by: None };
    let instance = Instance {
        instance_id,
        logical_id: LogicalId::from_record(NAMES[row.name]),
        lease_id,
        replaces: None,
        epoch: epoch(row.epoch),
        revision: Revision(number),
        status: row.status,
        actor_name: None,
        serve_route: None,
        node_id: None,
        ip_address: None,
        port: None,
        pid: None,
        version: None,
        labels: Labels::default(),
        owner: None,
        ttl,
        started_at: now().database,
        last_beat: now().database,
        details: (row.status == InstanceStatus::Dead).then(|| Box::new(death.into())),
    };
    Arc::new(Entry { instance, lease: Arc::new(lease) })
}

/// A snapshot of these rows, in epoch 2; revisions and lease ids count from 1.
fn snapshot(rows: &[Row]) -> (Arc<Snapshot>, Vec<Arc<Entry>>) {
    let entries: Vec<_> = (1..).zip(rows).map(|(number, row)| entry(number, row)).collect();
    let (view, mut writer) = View::new(Clock::new());
    let cluster = Cluster {
        epoch: epoch(2),
        revision: Revision(rows.len() as u64),
        history_id: Uuid::nil(),
        purged: Revision(0),
        hold: None,
        brake: None,
        read_at: now().database,
    };
    writer.replace(cluster, entries.clone());
    (Arc::clone(&view.snapshot()), entries)
}

/// The state of a name, told from its rows in plain words.
fn state(rows: &[&Row], entries: &[&Arc<Entry>]) -> NameState {
    let current = |row: &Row| row.epoch == 2;
    let alive: Vec<_> =
        (0..rows.len()).filter(|at| current(rows[*at]) && rows[*at].status == InstanceStatus::Alive).collect();
    let suspects = alive.iter().filter(|at| entries[**at].lease.is_suspect(NOW_MS)).count();
    let dead = |row: &&&Row| row.status == InstanceStatus::Dead || !current(row);
    let written = |row: &&&Row| row.status == InstanceStatus::Dead;
    let has = |status| rows.iter().any(|row| !dead(&row) && row.status == status);
    let fenced = rows.iter().any(|row| dead(&row) && !written(&row));
    let drains = |row: &&&Row| row.status == InstanceStatus::Draining;
    let last = rows.iter().rev().find(|row| written(row) || drains(row));
    let on_purpose = |last: &&Row| drains(&last) || last.death.0 == Some(DeathReason::Deregistered);
    let left = !fenced && !has(InstanceStatus::Starting) && last.as_ref().is_some_and(|last| on_purpose(last));
    let lately =
        |row: &&Row| row.status == InstanceStatus::Dead && row.death.0 == Some(DeathReason::Stale) && row.death.1 < 600;
    match (alive.len(), suspects) {
        (0, _) if left => NameState::Left,
        (0, _) => NameState::Unserved,
        (all, suspects) if all == suspects => NameState::AllSuspect,
        (_, 1..) => NameState::SomeSuspect,
        _ if rows.iter().any(lately) => NameState::LostLately,
        _ => NameState::Served,
    }
}

fn all(snapshot: &Snapshot, stats: &RegistryStats, filter: &NameFilter, size: usize) -> Vec<(LogicalId, NameState)> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let NamesPage { rows, next } = names(snapshot, stats, filter, after.as_ref(), size, now());
        found.extend(rows.into_iter().map(|row| (row.logical_id, row.summary.state)));
        assert!(found.len() as u64 <= snapshot.counts().names(), "the pages lead in a circle: {found:?}");
        match next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
}

proptest! {
    #[test]
    fn statistics_equal_a_scan_over_all_rows(rows in vec(row(), 0..40), size in 1..4usize) {
        let (snapshot, entries) = snapshot(&rows);
        let stats = RegistryStats::of(&snapshot, now());
        let mut states: BTreeMap<&str, NameState> = BTreeMap::new();
        for (at, name) in NAMES.into_iter().enumerate() {
            let of = || rows.iter().zip(&entries).filter(|(row, _)| row.name == at);
            let (rows, entries): (Vec<_>, Vec<_>) = of().unzip();
            if !rows.is_empty() {
                states.insert(name, state(&rows, &entries));
            }
        }
        for state in NameState::ALL {
            let count = states.values().filter(|other| **other == state).count() as u64;
            prop_assert_eq!(stats.count(state), count, "{:?}", state);
        }
        // The worst first, each name once, by name among equals.
        let mut expected: Vec<_> = states.iter().map(|(name, state)| (*state, *name)).collect();
        expected.sort_unstable();
        let expected: Vec<_> = expected.into_iter().map(|(state, name)| (LogicalId::from_record(name), state)).collect();
        prop_assert_eq!(all(&snapshot, &stats, &NameFilter::default(), size), expected.clone());
        let filter = NameFilter { search: Search::names("U"), state: Some(NameState::Unserved), ..NameFilter::default() };
        let filtered: Vec<_> = expected.iter()
            .filter(|(name, state)| name.as_str().to_lowercase().contains('u') && *state == NameState::Unserved)
            .cloned()
            .collect();
        prop_assert_eq!(all(&snapshot, &stats, &filter, size), filtered);
        // What is asked for by its whole name comes first, though others contain it and are worse.
        let filter = NameFilter { search: Search::names("organ"), state: None, ..NameFilter::default() };
        let mut filtered: Vec<_> =
            expected.into_iter().filter(|(name, _)| name.as_str().to_lowercase().contains("organ")).collect();
        filtered.sort_by_key(|(name, _)| name.as_str() != "organ");
        prop_assert_eq!(all(&snapshot, &stats, &filter, size), filtered);

        let live = || rows.iter().zip(&entries).filter(|(row, _)| row.epoch == 2 && row.status != InstanceStatus::Dead);
        prop_assert_eq!(stats.suspect, live().filter(|(_, entry)| entry.lease.is_suspect(NOW_MS)).count() as u64);
        prop_assert_eq!(stats.beats_expected_milli, live().count() as u64 * 200, "one in 5 s each");
        prop_assert_eq!(stats.beats_expected_here_milli, live().filter(|(row, _)| row.here).count() as u64 * 200);
        let stale = rows.iter().filter(|row| row.status == InstanceStatus::Dead && row.death.0 == Some(DeathReason::Stale));
        prop_assert_eq!(stats.deaths.stale, stale.filter(|row| row.death.1 < 600).count() as u64);
        let latest: Vec<_> = stats.latest.iter().map(|entry| entry.instance.revision.0).collect();
        let expected: Vec<_> = (1..=rows.len() as u64).rev().take(LATEST_MAX).collect();
        prop_assert_eq!(latest, expected);
    }

    #[test]
    fn the_best_of_a_summary_is_the_one_explained_as_chosen(rows in vec(row(), 1..12)) {
        let (snapshot, entries) = snapshot(&rows);
        let candidate = |entry: &Arc<Entry>| Candidate {
            instance_id: entry.instance.instance_id,
            status: entry.instance.status,
            death: None,
            epoch_is_current: entry.instance.epoch == epoch(2),
            suspect: entry.lease.is_suspect(NOW_MS),
            started_at: entry.instance.started_at,
            excluded: false,
            labels_match: true,
        };
        for (name, members) in snapshot.names_from("") {
            let best = NameSummary::of(members, epoch(2), now()).best.map(|entry| entry.instance.instance_id);
            let of_name = entries.iter().filter(|entry| entry.instance.logical_id == *name).map(candidate);
            let explained = explain(&of_name.collect::<Vec<_>>());
            let chosen = explained.first().filter(|first| first.rank.is_some()).map(|first| first.instance_id);
            prop_assert_eq!(best, chosen, "{}", name);
        }
    }
}

#[test]
fn memory_of_the_statistics_is_bounded() {
    let row = Row { name: 0, epoch: 2, status: InstanceStatus::Starting, silent_s: 0, here: false, death: (None, 0) };
    let (snapshot, _) = snapshot(&vec![row; 2 * LARGE]);
    let stats = RegistryStats::of(&snapshot, now());
    assert_eq!(stats.latest.len(), LATEST_MAX);
    assert_eq!(stats.latest[0].instance.revision, Revision(2_000));
    let name = LogicalId::from_record(NAMES[0]);
    let later = Timestamps { now_ms: NOW_MS, database: now().database + Duration::from_secs(1) };
    let summary = stats.summary(&name, snapshot.name(NAMES[0]).unwrap(), epoch(1), later);
    assert_eq!((summary.state, summary.starting), (NameState::Unserved, 2_000), "not summed up again: it takes long");
}

/// A snapshot of so many names, `bad_00000` and so on without a live instance and `good_00000` and so on with one.
fn many(bad: usize, good: usize) -> Arc<Snapshot> {
    let death = (Some(DeathReason::Stale), 900);
    let dead = Row { name: 0, epoch: 2, status: InstanceStatus::Dead, silent_s: 900, here: false, death };
    let alive = Row { status: InstanceStatus::Alive, silent_s: 1, ..dead.clone() };
    let name = |at: usize| if at < bad { format!("bad_{at:05}") } else { format!("good_{:05}", at - bad) };
    let entries = (0..bad + good).map(|at| {
        let mut entry = entry(at as u64 + 1, if at < bad { &dead } else { &alive });
        let instance = &mut Arc::get_mut(&mut entry).unwrap().instance;
        instance.logical_id = LogicalId::from_record(&name(at));
        instance.node_id = Some(format!("gpu-node-{:02}", at % 40).into());
        instance.ip_address = Some(std::net::Ipv4Addr::from(0x0a00_0000 + u32::try_from(at).unwrap()).into());
        instance.port = std::num::NonZeroU16::new(8_000);
        entry
    });
    let (view, mut writer) = View::new(Clock::new());
    writer.replace(snapshot(&[]).0.cluster().unwrap().clone(), entries.collect::<Vec<_>>());
    Arc::clone(&view.snapshot())
}

#[test]
fn search_finds_each_name_although_more_are_unserved_than_the_statistics_list() {
    let snapshot = many(LISTED_MAX + EXAMINED_MAX, 500);
    let stats = RegistryStats::of(&snapshot, now());
    let found = |search: Search, state: Option<NameState>| {
        all(&snapshot, &stats, &NameFilter { search, state, ..NameFilter::default() }, 500)
            .into_iter()
            .map(|(name, state)| (name.to_string(), state))
            .collect::<Vec<_>>()
    };
    let first = |text: &str| {
        let filter = NameFilter { search: Search::names(text), state: None, ..NameFilter::default() };
        names(&snapshot, &stats, &filter, None, 100, now()).rows.first().map(|row| row.logical_id.to_string())
    };
    let served = ("good_00499".to_owned(), NameState::Served);
    let beyond = ("bad_29999".to_owned(), NameState::Unserved);
    assert_eq!(found(Search::names("GOOD_00499"), None), std::slice::from_ref(&served));
    assert_eq!(first("good_00499"), Some(served.0.clone()), "a whole name is on the first page");
    assert_eq!(found(Search::names("d_29999"), None), std::slice::from_ref(&beyond));
    assert_eq!(
        found(Search::names("d_29999"), Some(NameState::Unserved)),
        std::slice::from_ref(&beyond),
        "not listed by the stats"
    );
    assert_eq!(found(Search::names("d_29999"), Some(NameState::Served)), []);
    assert_eq!(found(Search::names("no such name"), None), []);
    let unserved = found(Search::default(), Some(NameState::Unserved));
    assert_eq!(unserved.len() as u64, stats.count(NameState::Unserved));
    assert_eq!(found(Search::default(), Some(NameState::Served)).len(), 500);
    assert_eq!(found(Search::default(), None).len(), LISTED_MAX + EXAMINED_MAX + 500);
}

#[test]
fn search_in_all_fields_finds_nodes_addresses_and_ids_and_names_the_field() {
    let snapshot = many(40, 400);
    let stats = RegistryStats::of(&snapshot, now());
    let found = |text: &str| {
        let filter = NameFilter { search: Search::everything(text), state: None, ..NameFilter::default() };
        let rows = names(&snapshot, &stats, &filter, None, 500, now()).rows;
        rows.into_iter().map(|row| (row.logical_id.to_string(), row.found.map(|(found, _)| found))).collect::<Vec<_>>()
    };
    let of = |name: &str, found| [(name.to_owned(), found)];
    assert_eq!(found("GPU-node-07").len(), 11, "one in forty of all names");
    assert!(found("gpu-node-07").iter().all(|(_, found)| *found == Some(Found::Node)));
    assert_eq!(found("10.0.0.7:8000"), of("bad_00007", Some(Found::Address)));
    assert_eq!(found("00000000-0000-0000-0000-000000000008"), of("bad_00007", Some(Found::InstanceId)));
    assert_eq!(found("00000000").len(), 440, "the beginning of every id here");
    assert_eq!(found("good_00399"), of("good_00399", None));
    assert_eq!(found("0000000").len(), 0, "too few digits for an id");
}
