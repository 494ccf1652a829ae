//! musterd: a service-discovery registry for fleets of actors, on PostgreSQL.
//!
//! *"Which live instance of `cognitive_organ_1` should I talk to right now, and is that answer still true?"*
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | instance | one running incarnation of something; `instance_id` is a UUID |
//! | logical id | the name routers ask for; many instances may carry it |
//! | epoch | the cluster's current life: a UUID and a number that only grows |
//! | revision | the cluster's logical clock: +1 for every durable membership change, in commit order |
//! | lease | an instance's right to be alive; `lease_id` is the revision at which it registered |
//! | beat | a renewal of a lease |
//! | TTL | how long a lease lives after its last beat |
//! | suspect | overdue or disconnected: local, reversible; ranks last in resolve |
//! | dead | durable, decided once, final for that lease |
//! | hold | expiry is suspended because beats may not have been heard |
//! | daemon | one musterd process |
//!
//! # Layers
//!
//! ```text
//!  actors --Register/SetStatus--> registry::writer (group commit) --> store --> PostgreSQL
//!         --Beat----------------> registry::beats (memory) --flusher--> store --> PostgreSQL
//!  PostgreSQL --doorbell + poll--> feed --> view (memory) --> grpc: Resolve, List; http: page, metrics, targets
//!  registry::reaper --one call--> store --> PostgreSQL --> same feed --> every daemon
//! ```
//!
//! Imports point one way: `grpc`, `http` and `cli` may use everything below them; `registry` and `feed` use `store`;
//! `view` never imports `store`; `model` imports nothing but `clock`. `daemon` is the only place that knows all of
//! them. A test (`tests/it/architecture.rs`) enforces it.

pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod database_url;
pub mod feed;
pub mod grpc;
pub mod http;
pub mod lifecycle;
pub mod metrics;
pub mod model;
pub mod proto;
pub mod registry;
pub mod status;
pub mod store;
pub mod telemetry;
pub mod view;
