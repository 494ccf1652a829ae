//! The parts of a running daemon, as its pieces are given them.

use std::{net::SocketAddr, sync::Arc};

use super::security::Security;
use crate::{
    clock::Clock,
    config::ServeConfig,
    lifecycle::{Lifecycle, Readiness},
    registry::{Health, History, Leases, flusher::Identity},
    stats::StatsCache,
    store::{Database, Pool},
    view::View,
};

/// What the parts of one daemon share.
pub(super) struct Parts {
    pub(super) config: ServeConfig,
    pub(super) database: Database,
    pub(super) identity: Identity,
    /// How deaths and rotations name this daemon: its address and the beginning of its id.
    pub(super) name: Arc<str>,
    pub(super) clock: Clock,
    pub(super) pool: Pool,
    pub(super) leases: Arc<Leases>,
    pub(super) view: View,
    pub(super) stats: StatsCache,
    pub(super) readiness: Readiness,
    pub(super) health: Arc<Health>,
    /// The history of leases, with one turn for all that ask.
    pub(super) history: History,
    pub(super) http_addr: SocketAddr,
    pub(super) lifecycle: Lifecycle,
    pub(super) security: Security,
}
