#!/usr/bin/env bash
# Runs every test that depends on what musterd runs in: failover managers, hosts, poolers, clocks, networks, settings, server
# versions. Prints one table of the environments and one of what each fault cost. Ends with 1 if a test failed.
# `--short` takes the short forms of Patroni and of the networks, and leaves out the other server versions.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/prerequisites.sh
source deploy/prerequisites.sh

short=0
case ${1:-} in
    '') ;;
    --short) short=1 ;;
    *) fail "$1 is no argument; use --short, or none" ;;
esac

need_rust
need server compiler pooler
# Only root can make network namespaces, in which packets are lost.
[[ $(id -u) -ne 0 ]] || need network
tests/patroni.sh

log=target/environments.log
mkdir -p target
: >"$log"
declare -a table=()
outcome=0

# row NAME SECONDS FROM: adds a row with what libtest has counted since line FROM of the log.
row() {
    local counted
    counted=$(tail -n +"$3" "$log" | awk '
        /^test result:/ { passed += $4; failed += $6 }
        /^SKIPPED:/ { skipped += 1 }
        END { printf "%d passed, %d failed%s", passed, failed, skipped ? ", " skipped " skipped" : "" }')
    [[ $counted != "0 passed"* ]] || outcome=1
    table+=("| $1 | $counted | $2 s |")
}

# environment NAME ARGUMENTS: runs the tests that the arguments choose, two side by side.
environment() {
    local name=$1 began=$SECONDS from
    shift
    from=$(($(wc -l <"$log") + 1))
    say "$name"
    cargo test --locked --lib --test it -- --nocapture --test-threads=2 "$@" 2>&1 | tee -a "$log" | grep -E '^test ' || outcome=1
    row "$name" $((SECONDS - began)) "$from"
}

if [[ $short == 1 ]]; then
    environment "Patroni: switchover, node killed" faults::patroni
    environment "Networks: loss, latency, partition" faults::network
else
    environment "Patroni: all faults" --ignored patroni_faults_of_every_kind
    environment "Networks: loss, latency, partition" --include-ignored faults::network
fi
environment "Two primaries, lost commits, standbys" one_database::split_brain one_database::first_write failover:: faults::standby
environment "Several hosts, of which some are dead" postgres::server:: postgres::lineage:: sessions::start::
environment "PgBouncer" one_database::poolers
environment "Clocks that are stepped, paused daemons" clock:: disruptions::
environment "Small fleets cut off" partitions::
environment "PostgreSQL far away" one_database::round_trips
environment "Settings, encodings, roles" sessions::settings deploy::createrole cli::check_database
environment "Private PostgreSQL, other versions" local_postgres:: local_upgrade::
environment "The process: logs, signals, limits" process::
if [[ $short == 0 ]]; then
    for major in 13 14 15 16 17 18; do
        began=$SECONDS
        from=$(($(wc -l <"$log") + 1))
        tests/matrix.sh "$major" 2>&1 | tee -a "$log" || outcome=1
        row "PostgreSQL $major" $((SECONDS - began)) "$from"
    done
fi

say "Environments, $(git rev-parse --short HEAD 2>/dev/null || echo 'no commit'), load $(cut -d ' ' -f 1-3 /proc/loadavg 2>/dev/null || echo unknown)"
printf '%s\n' '| environment | tests | duration |' '|---|---|---|' "${table[@]}"
say "What each fault cost"
# Each run prints the head again.
grep -E '^\| ' "$log" | awk '!seen[$0]++ { print } NR == 1 { gsub(/[^|]+/, "---"); print }'
exit "$outcome"
