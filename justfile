# Shortcuts for contributors (CONTRIBUTING.md). Each recipe is one command that also works without just.
# Get just with `cargo install --locked just`, `pipx install rust-just`, or your system's package.

# Show the recipes.
default:
    @just --list

# Compile everything, tests and benches too.
check:
    cargo check --locked --all-targets

# Run the tests whose names contain FILTER: of tests/it and of the modules in src.
test FILTER:
    cargo test --locked --lib --test it -- {{ quote(FILTER) }}

# Run the fast profile: all tests but those in tests/slow.txt.
fast:
    tests/run.sh --fast

# Run every test, and list the slowest.
full:
    tests/run.sh

# Run the tests that depend on the server with each major version of PostgreSQL, or with those of VERSIONS.
matrix VERSIONS="13 14 15 16 17 18":
    tests/matrix.sh {{ VERSIONS }}

# Run the daemon of the previous release on the schema of this tree (builds it once, some minutes).
previous:
    tests/previous_release.sh

# Run every fault of a cluster of Patroni, with synchronous replication and without (10 minutes), for leases of TTL seconds.
patroni TTL="10":
    tests/patroni.sh
    MUSTERD_PATRONI_TTL={{ TTL }} cargo test --locked --test it patroni_faults_of_every_kind -- --ignored --nocapture

# Run all that depends on the surroundings, and print one table: Patroni, hosts, poolers, clocks, networks, versions (30 minutes).
environments *ARGUMENTS:
    tests/environments.sh {{ ARGUMENTS }}

# Run the fault suite with TLS, a policy and a client certificate on every connection.
faults-tls:
    MUSTERD_FAULTS_TLS=1 cargo test --locked --test it faults:: -- --test-threads=2

# List the N slowest tests of the last run.
slow N="30":
    tests/slowest.sh {{ N }}

# Format, and apply what clippy can fix.
fix:
    cargo fmt
    cargo clippy --locked --all-targets --fix --allow-dirty --allow-staged -- -D warnings

# Regenerate migrations/schema.sql after a change of the migrations; read its diff.
schema:
    MUSTERD_UPDATE_SCHEMA=1 cargo test --locked --test it schema_sql

# Build the Python package, install it into an empty environment, and test it against real daemons.
python *ARGUMENTS:
    clients/python/test.sh {{ ARGUMENTS }}

# Build the API documentation, and check the pages that no server is needed for.
docs:
    RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps
    cargo test --locked --test it -- docs::links docs::paths docs::page docs::compare readme::

# Run the benchmark of the wire (10 minutes, an idle machine); PART is calls, changes or growth, or empty for all.
bench PART="":
    cargo bench --locked --bench wire -- {{ PART }}

# Run what CI runs.
ci:
    bash .ci/run
