//! musterd: a service-discovery registry for fleets of actors, on PostgreSQL.
//!
//! *"Which live instance of `cognitive_organ_1` should I talk to right now, and is that answer still true?"*
//!
//! The words (instance, lease, beat, epoch, revision, suspect, hold) are defined in `docs/glossary.md`, the way of each call
//! through the modules is in `docs/architecture.md`.
//!
//! # Layers
//!
//! ```text
//!  actors --Register/SetStatus--> registry::writer (group commit) --> store --> PostgreSQL
//!         --Beat----------------> registry::leases (memory) --flusher--> store --> PostgreSQL
//!  PostgreSQL --notification + poll--> feed --> view (memory) --> grpc: Resolve, List; http: page, metrics, targets
//!  registry::reaper --one call--> store --> PostgreSQL --> same feed --> every daemon
//! ```
//!
//! Imports point one way: `registry` and `feed` use `store`, `view` never does, and `model` imports nothing but `clock`.
//! `daemon` is the only module that knows every part; `cli` is arguments and rendering on `musterd-client`, and starts the
//! daemon and the migrations. `tests/it/architecture.rs` has the table of who may import whom, and enforces it.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "unit tests have no Lifecycle to start tasks with"))]

pub mod access;
pub mod admission;
pub mod api;
pub mod audit;
pub(crate) mod bench;
pub(crate) mod check;
pub mod cli;
pub mod clock;
pub mod command;
pub mod config;
pub mod connections;
pub mod copy;
pub mod daemon;
pub mod database_url;
pub mod feed;
pub(crate) mod gate;
pub mod grpc;
pub mod http;
pub(crate) mod json;
pub mod jwks;
pub mod jwt;
pub mod lifecycle;
pub mod local;
pub mod locate;
pub mod metrics;
pub mod migrate;
pub(crate) mod migrations;
pub mod model;
pub mod postgres;
pub mod proto;
pub mod provision;
pub mod registry;
pub mod reload;
pub mod rights;
pub(crate) mod runner;
pub mod schema;
pub mod stats;
pub mod status;
pub mod store;
pub mod suite;
pub mod supervise;
pub mod telemetry;
pub(crate) mod terminal;
pub mod tls;
pub mod upgrade;
pub mod view;
pub mod wire;
