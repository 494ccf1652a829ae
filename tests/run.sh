#!/usr/bin/env bash
# Runs every test, and prints which took longest. Gets what is missing first on Debian and Ubuntu. `--fast` as the first
# argument leaves out the tests of tests/slow.txt. All other arguments go to `cargo test`. RUST_TEST_THREADS sets how many
# tests run side by side.
# MUSTERD_SKIP_PROMETHEUS=1 leaves out what needs a real Prometheus, MUSTERD_SKIP_POSTGRESQL_VERSIONS=1 what needs other
# major versions of PostgreSQL than the installed one, MUSTERD_SKIP_PATRONI=1 what needs Patroni and etcd.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/prerequisites.sh
source deploy/prerequisites.sh

fast=0
if [[ ${1:-} == --fast ]]; then
    fast=1
    shift
fi
declare -a slow=() skipped=()
while read -r name _; do
    [[ -z $name || $name == '#'* ]] || { slow+=("$name"); skipped+=(--skip "$name"); }
done <tests/slow.txt

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
rm -f target/test-run.log
# One setting for every target, so that this file need not know the name of the host's.
runner='target."cfg(all())".runner = "tests/timed.sh"'
outcome=0

# run THREADS ARGUMENTS: RUST_TEST_THREADS of the environment wins over THREADS.
run() {
    local threads=${RUST_TEST_THREADS:-$1}
    shift
    RUST_TEST_THREADS=$threads cargo test --locked --config "$runner" "$@" 2>&1 | tee -a target/test-run.log || outcome=$?
}

# A test waits for most of its time: for a TTL, a poll, a process that starts. So several for each processor run side by
# side; those of tests/slow.txt, which keep a processor busy, run after them and with fewer beside them.
cores=$(nproc)
is_choice=0 to_the_end=(--no-fail-fast)
for argument in "$@"; do
    # A name or a `--` chooses tests; an option of cargo alone does not.
    [[ $argument == -?* && $argument != -- ]] || is_choice=1
    # cargo refuses it twice.
    [[ $argument != --no-fail-fast ]] || to_the_end=()
done
if [[ $is_choice == 0 ]]; then
    run $((3 * cores)) "${to_the_end[@]}" "$@" -- "${skipped[@]}"
    [[ $fast == 1 ]] || run $((2 * cores)) --lib --test it "$@" -- "${slow[@]}"
else
    [[ " $* " == *" -- "* || $fast == 0 ]] || set -- "$@" --
    [[ $fast == 0 ]] || set -- "$@" "${skipped[@]}"
    run $((3 * cores)) "$@"
fi

say "The slowest tests, in seconds (tests/slowest.sh N lists more)"
tests/slowest.sh
exit "$outcome"
