#!/usr/bin/env bash
# Migrates a database to the registry's schema. The database may be empty, or hold the runtime registry of SeedCore
# (its migrations 011 and 012) or an earlier schema of musterd. Every row is kept. It is safe to run repeatedly.
#
# It replaces SeedCore's kubectl-exec scripts for these two migrations. It needs no pod, only a connection to
# PostgreSQL; from outside a cluster for example: kubectl -n NAMESPACE port-forward service/postgresql 5432
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'USAGE'
Usage: MUSTERD_DATABASE_URL=postgres://user:password@host/database deploy/init-db.sh [--roles] [--suite seedcore [--samples]] [--wait SECONDS] [--binary FILE]

  --roles         also run deploy/roles.sql: hand everything to musterd_owner and make the roles that need less;
                  the user of the URL must be a superuser, or have CREATEROLE and own the tables
  --suite NAME    also make SeedCore's other tables, views and functions (its migrations 001 to 010 and holons); what needs
                  pgvector stays pending while the server does not offer that extension
  --samples       with --suite: its sample rows, once
  --wait SECONDS  wait this long for PostgreSQL (default: 60)
  --binary FILE   use this musterd (default: the one in the PATH)

Ends with deploy/verify-db.sh. Exit codes: 0 ok, 1 something is not as it should be, 2 usage, 3 PostgreSQL cannot be
reached, 78 the URL or the rights of its user are wrong.
USAGE
}

say() { printf '==> %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$2" >&2
    exit "$1"
}

roles=
suite=
samples=
wait_seconds=60
binary=musterd
while [[ $# -gt 0 ]]; do
    case $1 in
        --roles) roles=yes ;;
        --samples) samples=--samples ;;
        --wait | --binary | --suite)
            [[ $# -ge 2 ]] || fail 2 "$1 needs a value"
            case $1 in
                --wait) wait_seconds=$2 ;;
                --suite) suite=$2 ;;
                *) binary=$2 ;;
            esac
            shift
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        *)
            usage >&2
            exit 2
            ;;
    esac
    shift
done
[[ $wait_seconds =~ ^[0-9]+$ ]] || fail 2 "--wait takes a number of seconds, not '$wait_seconds'"
[[ -z $suite || $suite == seedcore ]] || fail 2 "--suite knows seedcore, not '$suite'"
[[ -z $samples || -n $suite ]] || fail 2 "--samples needs --suite"
[[ -n ${MUSTERD_DATABASE_URL:-} ]] || fail 2 "MUSTERD_DATABASE_URL is not set: which database?"
command -v "$binary" >/dev/null || fail 2 "there is no $binary; build it, or name it with --binary"
# shellcheck source=deploy/psql.sh
source ./psql.sh

# PostgreSQL in a pod or a container may start later than this script.
wait_for_database() {
    local code deadline=$((SECONDS + wait_seconds)) problem
    while :; do
        code=0
        problem=$("$binary" migrate status 2>&1 >/dev/null) || code=$?
        [[ $code -eq 3 ]] || break
        [[ $SECONDS -lt $deadline ]] || fail 3 "PostgreSQL cannot be reached after $wait_seconds s: ${problem##*: }"
        sleep 1
    done
    [[ $code -eq 0 ]] || fail "$code" "${problem#musterd: }"
}

tell_what_is_there() {
    local rows
    if [[ $(sql "SELECT to_regclass('muster_migration') IS NOT NULL") == t ]]; then
        say "Found the registry of musterd, at migration $(sql "SELECT lpad(max(version)::text, 3, '0') FROM muster_migration")"
    elif [[ $(sql "SELECT to_regclass('registry_instance') IS NOT NULL") == t ]]; then
        rows=$(sql "SELECT count(*) FROM registry_instance")
        say "Found the runtime registry of SeedCore, with $rows rows in registry_instance; every row is kept"
    else
        say "Found no runtime registry; making one"
    fi
}

say "Waiting for PostgreSQL, at most $wait_seconds s"
wait_for_database
tell_what_is_there
say "Applying what is missing"
"$binary" migrate up
if [[ -n $suite ]]; then
    say "Applying the suite $suite"
    "$binary" migrate up --suite "$suite" ${samples:+"$samples"}
fi
if [[ -n $roles ]]; then
    say "Handing out rights (roles.sql)"
    run_file roles.sql
fi
exec ./verify-db.sh --binary "$binary"
