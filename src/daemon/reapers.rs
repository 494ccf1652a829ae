//! Starts what declares deaths without a caller, releases what the dead held, and deletes old records.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::parts::Parts;
use crate::{
    lifecycle::Stage,
    registry::{alarm::Alarm, reaper::Reapers, releaser::Releaser},
    store::purge::Records,
};

/// Starts them; `alarm` is what the feed wakes them with.
pub(super) fn start(parts: &Parts, alarm: Arc<Alarm>, stop: CancellationToken) {
    let Parts { lifecycle, config, clock, .. } = parts;
    let (pool, leases, health) = (parts.pool.clone(), Arc::clone(&parts.leases), Arc::clone(&parts.health));
    let reapers = Reapers { pool, leases, clock: *clock, alarm, decided_by: Arc::clone(&parts.name), health };
    let stale = reapers.clone().reap_stale(stop.clone());
    lifecycle.spawn_essential(Stage::Engine, "stale reaper", stale);
    lifecycle.spawn_essential(Stage::Engine, "old epoch reaper", reapers.clone().reap_old_epoch(stop.clone()));
    let releaser = Releaser::of(&reapers);
    lifecycle.spawn_essential(Stage::Engine, "release of deaths", releaser.run(stop.clone()));
    let kept = vec![
        (Records::Instances, config.keep_dead),
        (Records::Deaths, config.keep_history),
        (Records::Decisions, config.keep_audit),
    ];
    lifecycle.spawn_essential(Stage::Engine, "purge", reapers.purge(kept, stop));
}
