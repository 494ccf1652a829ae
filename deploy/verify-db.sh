#!/usr/bin/env bash
# Checks whether a database holds a valid registry: the checks that SeedCore's guide describes with kubectl exec under
# "Verification", with its texts, and further ones. Changes nothing.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'USAGE'
Usage: MUSTERD_DATABASE_URL=postgres://user:password@host/database deploy/verify-db.sh [--binary FILE]

  --binary FILE  use this musterd (default: the one in the PATH)

Exit codes: 0 everything is as it should be, 1 something is not, 2 usage, 3 PostgreSQL cannot be reached, 78 the URL or
the rights of its user are wrong.
USAGE
}

stop() {
    printf 'error: %s\n' "$2" >&2
    exit "$1"
}

binary=musterd
while [[ $# -gt 0 ]]; do
    case $1 in
        --binary)
            [[ $# -ge 2 ]] || stop 2 "$1 needs a value"
            binary=$2
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
[[ -n ${MUSTERD_DATABASE_URL:-} ]] || stop 2 "MUSTERD_DATABASE_URL is not set: which database?"
command -v "$binary" >/dev/null || stop 2 "there is no $binary; build it, or name it with --binary"
# shellcheck source=deploy/psql.sh
source ./psql.sh

failures=0
check() { printf '==> Check %s\n' "$1"; }
ok() { printf 'ok    %s\n' "$*"; }
note() { printf 'note  %s\n' "$*"; }
bad() {
    printf 'FAIL  %s\n' "$*"
    failures=$((failures + 1))
}

# Prints the count of a relation's rows, or an error with the text of SeedCore's guide.
count() {
    if [[ $(sql "SELECT to_regclass('$1') IS NOT NULL") != t ]]; then
        bad "relation \"$1\" does not exist: run deploy/init-db.sh"
        return 1
    fi
    rows=$(sql "SELECT count(*) FROM $1")
}

check_migrations() {
    local code=0 status pending odd
    check "migrations"
    status=$("$binary" migrate status 2>&1) || code=$?
    [[ $code -eq 0 ]] || stop "$code" "${status#musterd: }"
    pending=$(awk 'NR > 1 && $3 == "pending" { printf "%s%s", sep, $1; sep = ", " }' <<<"$status")
    odd=$(awk 'NR > 1 && $3 != "pending" && $3 != "applied" { printf "%s%s is %s", sep, $1, $3; sep = ", " }' <<<"$status")
    [[ -z $pending ]] || bad "not all migrations ran: $pending pending; run deploy/init-db.sh"
    [[ -z $odd ]] || bad "$odd: this musterd is not the one that made the database"
    [[ -n $pending$odd ]] ||
        ok "all migrations ran: $(awk 'NR == 2 { first = $1 } END { printf "%s to %s", first, $1 }' <<<"$status")"
}

check_registry() {
    check "runtime registry"
    if count cluster_metadata; then
        if [[ $rows -eq 1 ]]; then
            ok "cluster_metadata: $rows row, epoch $(sql "SELECT current_epoch FROM cluster_metadata")"
        else
            note "cluster_metadata: no row, so no epoch yet; the first daemon begins one"
        fi
    fi
    if count registry_instance; then
        ok "registry_instance: $rows rows$(sql "
            SELECT string_agg(format('%s %s', n, status), ', ' ORDER BY status)
            FROM (SELECT status, count(*) AS n FROM registry_instance GROUP BY status) AS s" | sed 's/^\(.\)/: \1/')"
    fi
    if count registry_epoch; then ok "registry_epoch: $rows rows"; fi
    if count registry_daemon; then ok "registry_daemon: $rows rows, one for each daemon that runs"; fi
}

check_views() {
    local view
    check "views"
    for view in active_instances active_instance; do
        if count "$view"; then ok "$view: $rows rows"; fi
    done
}

check_functions() {
    local name missing=
    check "functions"
    for name in set_current_epoch register_instance set_instance_status beat expire_stale_instances \
        expire_old_epoch_instances assert_lease; do
        [[ $(sql "SELECT count(*) FROM pg_proc WHERE proname = '$name' AND pg_function_is_visible(oid)") -gt 0 ]] ||
            missing+=" $name"
    done
    if [[ -n $missing ]]; then
        bad "functions do not exist:$missing; run deploy/init-db.sh"
    else
        ok "the six of SeedCore and assert_lease"
    fi
}

check_schema() {
    local code=0 differences
    check "schema"
    differences=$("$binary" migrate verify 2>/dev/null) || code=$?
    if [[ $code -eq 0 ]]; then
        ok "as the migrations make it"
        return
    fi
    while IFS= read -r line; do
        [[ -z $line ]] || bad "$line"
    done <<<"$differences"
    printf 'fix   deploy/init-db.sh applies what is pending and puts functions and views back; decide on the others by hand\n'
}

check_extensions() {
    local found
    check "extensions"
    found=$(sql "SELECT string_agg(extname, ', ' ORDER BY extname) FROM pg_extension WHERE extname IN ('vector', 'pgcrypto')")
    ok "the runtime registry needs none; extensions of SeedCore found: ${found:-none}"
}

check_rights() {
    check "permissions"
    if [[ $(sql "SELECT coalesce(pg_get_userbyid(relowner) = 'musterd_owner', false) FROM pg_class
                 WHERE oid = to_regclass('registry_instance')") == t ]]; then
        ok "the registry belongs to musterd_owner; daemons log in as musterd_daemon, migrations as musterd_migrator"
    else
        note "without the roles of deploy/roles.sql daemons need the rights of the owner; deploy/init-db.sh --roles makes them"
    fi
}

check_other_layers() {
    local found
    check "other layers"
    found=$(sql "SELECT string_agg(name, ', ' ORDER BY name)
                 FROM unnest(ARRAY['holons', 'tasks', 'facts', 'graph_node_map', 'agent_registry', 'organ_registry']) AS name
                 WHERE to_regclass(name) IS NOT NULL")
    ok "migrations 001 to 010 of SeedCore are not checked; tables found: ${found:-none}"
}

check_migrations
check_registry
check_views
check_functions
check_schema
check_extensions
check_rights
check_other_layers
if [[ $failures -gt 0 ]]; then
    printf '==> %s check(s) failed\n' "$failures"
    exit 1
fi
printf '==> The database is initialized\n'
