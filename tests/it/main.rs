//! The integration tests: one binary, so that one target is built and everything runs at once.
//!
//! One file per capability; test names are sentences. Tests wait on values with a bound, never for a fixed time.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]
#![expect(clippy::disallowed_methods, reason = "tests have no Lifecycle to start tasks with")]

mod adoption;
mod answer_size;
mod architecture;
mod assert_lease;
mod bad_input;
mod batch_resolve;
mod beat_stream;
mod beats;
mod bench;
mod blocked_changes;
mod bounds;
mod changed_rows;
mod cli;
mod cli_resolve;
mod cli_watch;
mod client;
mod client_operators;
mod client_scripted;
mod connection_limits;
mod deploy;
mod discovery;
mod disruptions;
mod docs;
mod error_details;
mod expiry;
mod failover;
mod faults;
mod hand_changed_rows;
mod harness;
mod hostile_notifications;
mod http_port;
mod interleavings;
mod listing;
mod local_postgres;
mod local_upgrade;
mod logical_id_metrics;
mod main_loop;
mod many_daemons;
mod migration_errors;
mod migrations;
mod no_listen;
mod observability;
mod odd_rows;
mod one_database;
mod operators;
mod outages;
mod partitions;
mod policies;
mod process;
mod profiles;
mod prometheus;
mod protection;
mod readme;
mod redirect;
mod registration;
mod registry_full;
mod seed_faults;
mod service_discovery;
mod sessions;
mod sql_callers;
mod sql_concurrency;
mod sql_expiry;
mod sql_interface;
mod sql_owners;
mod sql_plans;
mod sql_rules;
mod status_page;
mod suspicion;
mod tls;
mod tls_ports;
mod watch;
