//! Faults: the promises of the README, under everything that breaks.
//!
//! A small world (PostgreSQL, one or three daemons, a link that can fail in front of each) is used by actors, writers,
//! routers and watchers under faults. All calls are recorded ([`history`]), PostgreSQL writes down what was
//! committed ([`audit`]), and in the end the one is held against the other ([`checker`]), promise by promise. That the
//! checker sees is proved by bugs that are planted on purpose ([`planted`]). A run in which too little happened, or in
//! which a fault had no effect, fails.
//!
//! The short form runs with all other tests, in under four minutes on two cores. The long form is one command:
//!
//! ```text
//! MUSTERD_FAULTS_SECONDS=3600 MUSTERD_FAULTS_SEED=42 \
//!     cargo test --locked --test it faults::suite::random_faults -- --nocapture
//! ```
//!
//! `MUSTERD_FAULTS_SEED` chooses what happens by chance, in every run: which faults, when, of which daemon.
//! `MUSTERD_FAULTS_SECONDS` says how long faults by chance go on. Both are printed with the figures. The same seed asks
//! for the same faults of the same daemons; how threads and processes meet is not repeated. If a promise is broken, the
//! whole history is written to a temporary file, one JSON object a line, and its path printed.
//!
//! With `MUSTERD_FAULTS_TLS=1` every world has TLS on each connection to a daemon, a policy, and a client certificate for each
//! client. Without it one run does ([`suite`], `faults_of_secured_daemons_break_no_promise`).
//!
//! ```text
//! MUSTERD_FAULTS_TLS=1 cargo test --locked --test it faults::suite -- --nocapture
//! ```
//!
//! Faults that change the world for good, or need a world of their own, are tests of their own: failover to a standby
//! ([`standby`]), what runs out ([`exhaustion`]), clocks ([`clock`]), hostile peers ([`hostile`]), ten thousand clients
//! that reconnect at once ([`herd`]), failover by Patroni ([`patroni`]), networks that lose packets ([`network`]), the
//! schema under load ([`schema`]), refused repetitions ([`honesty`]). [`soak`] runs for hours and says what grows.
//!
//! How to add a fault: a variant of [`nemesis::Fault`], its beginning and its end there, and what proves that it had an
//! effect. How to add a rule: a variant of [`checker::Rule`], a function from evidence to violations, a history written
//! by hand that breaks it, and a planted bug.

mod audit;
mod campaign;
mod checker;
mod client;
mod clock;
mod crowd;
pub(crate) mod dice;
mod exhaustion;
mod figures;
mod finish;
mod herd;
mod history;
mod honesty;
mod hostile;
mod hostile_tls;
mod nemesis;
mod network;
pub(crate) mod patroni;
mod planted;
pub(crate) mod proxy;
mod roles;
mod schema;
mod security;
mod soak;
mod standby;
mod suite;
mod world;
