#!/usr/bin/env bash
# Runs the tests that depend on the server with other major versions of PostgreSQL: migrations, SQL functions, the private
# server, and the main loop of a daemon. Arguments: major versions; all of them without any.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/prerequisites.sh
source deploy/prerequisites.sh

[[ $# -gt 0 ]] || set -- 13 14 15 16 17 18
need_rust
tests/postgresql.sh "$@"
# With pgvector where it can be had: the suite seedcore is then tested whole.
for major in "$@"; do
    [[ $major != 16 && $major != 18 ]] || tests/pgvector.sh "$major"
done
# Without the tests of standbys: the package has no pg_basebackup.
declare -a filters=(
    sql_callers:: sql_concurrency:: sql_expiry:: sql_interface:: sql_owners:: sql_plans:: sql_rules::
    adoption:: migrate_commands:: migration_steps:: suite_seedcore::
    migrations:: migration_errors:: local_postgres:: main_loop:: registration::
)
declare -a failed=()
for major in "$@"; do
    say "PostgreSQL $major"
    MUSTERD_TEST_POSTGRES_BIN=$PWD/target/postgresql/$major/bin \
        cargo test --locked --test it -- "${filters[@]}" --test-threads=2 || failed+=("$major")
done
[[ ${#failed[@]} -eq 0 ]] || fail "tests failed with PostgreSQL ${failed[*]}"
say "All passed with PostgreSQL $*"
