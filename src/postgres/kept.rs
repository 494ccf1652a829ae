//! Sessions that the start leaves for later.

use std::time::Instant;

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::{lineage::Identity, session::Opened};

/// A session whose connection a task drives. It ends once the client is dropped.
#[derive(Debug)]
pub(crate) struct Driven {
    pub(crate) client: Client,
    pub(crate) driver: JoinHandle<()>,
    /// The generation of the daemon's sessions that it belongs to.
    pub(crate) generation: u64,
    /// Which database it is, as it was asked at the beginning.
    pub(super) identity: Option<Identity>,
}

/// Sessions with a primary that were used for the start and are free.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) second: Option<(Opened, Instant)>,
    pub(super) driven: Option<(Driven, Instant)>,
}
