//! What the tests stand on.

pub(crate) mod actor;
pub(crate) mod browser;
pub(crate) mod calls;
pub(crate) mod daemon;
pub(crate) mod fleet;
pub(crate) mod issuer;
pub(crate) mod network;
pub(crate) mod postgres;
pub(crate) mod registry;
pub(crate) mod scratch;
pub(crate) mod secured;
pub(crate) mod served;
pub(crate) mod tls;
pub(crate) mod versions;
pub(crate) mod volume;
pub(crate) mod wait;
pub(crate) mod wire;
