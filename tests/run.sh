#!/usr/bin/env bash
# Runs every test, and prints which took longest. Gets what is missing first on Debian and Ubuntu. `--fast` as the first
# argument leaves out the tests of tests/slow.txt. All other arguments go to `cargo test`.
# MUSTERD_SKIP_PROMETHEUS=1 leaves out what needs a real Prometheus, MUSTERD_SKIP_POSTGRESQL_VERSIONS=1 what needs other
# major versions of PostgreSQL than the installed one, MUSTERD_SKIP_PATRONI=1 what needs Patroni and etcd.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/prerequisites.sh
source deploy/prerequisites.sh

declare -a skipped=()
if [[ ${1:-} == --fast ]]; then
    shift
    while read -r name _; do
        [[ -z $name || $name == '#'* ]] || skipped+=(--skip "$name")
    done <tests/slow.txt
fi
declare -a arguments=("$@")
if [[ ${#skipped[@]} -gt 0 ]]; then
    [[ " $* " == *" -- "* ]] || arguments+=(--)
    arguments+=("${skipped[@]}")
fi

need_rust
need server compiler browser pooler
# Only root can make network namespaces, in which packets are lost.
[[ $(id -u) -ne 0 ]] || need network
need_documentation_tools
if [[ ${MUSTERD_SKIP_PROMETHEUS:-} != 1 ]]; then
    need prometheus
fi
if [[ ${MUSTERD_SKIP_POSTGRESQL_VERSIONS:-} != 1 ]]; then
    tests/postgresql.sh 13 18
fi
if [[ ${MUSTERD_SKIP_PATRONI:-} != 1 ]]; then
    tests/patroni.sh
fi
tests/tools.sh

mkdir -p target
# One setting for every target, so that this file need not know the name of the host's.
runner='target."cfg(all())".runner = "tests/timed.sh"'
outcome=0
cargo test --locked --config "$runner" "${arguments[@]}" 2>&1 | tee target/test-run.log || outcome=$?
say "The slowest tests, in seconds (tests/slowest.sh N lists more)"
tests/slowest.sh
exit "$outcome"
