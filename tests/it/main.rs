//! The integration tests: one binary, so that one target is built and everything runs at once.
//!
//! One file per capability; test names are sentences. Tests wait on values with a bound, never for a fixed time.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod bench;
mod harness;
mod local_postgres;
mod main_loop;
mod migration_errors;
mod migrations;
mod seed_faults;
