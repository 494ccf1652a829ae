#!/usr/bin/env bash
# Prints the tests that took longest in the last run of tests/run.sh: seconds, then the name. The argument is how many.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

count=${1:-30}
log=target/test-run.log
[[ -s $log ]] || { printf 'error: %s is missing; run tests/run.sh first\n' "$log" >&2; exit 1; }

# A line of libtest: `test some::name ... ok <1.234s>`.
times=$(sed -nE 's/^test ([^ ]+)( - should panic)? \.\.\. .*<([0-9.]+)s>$/\3 \1/p' "$log" | sort -rn)
[[ -n $times ]] || { printf 'This cargo test reports no times.\n'; exit 0; }
awk -v count="$count" '
    NR <= count { printf "%9.3f  %s\n", $1, $2 }
    { sum += $1 }
    END { printf "%9.3f  sum of %d tests, which run side by side\n", sum, NR }
' <<<"$times"
