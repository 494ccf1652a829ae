#!/usr/bin/env bash
# Runs a test binary and makes it report the time of each test. Cargo calls this script as its runner (tests/run.sh).
#
# Stable Rust accepts libtest's --report-time only with RUSTC_BOOTSTRAP=1. The variable is set for the test binary and not
# for cargo, because the compiler and build scripts read it as well. A libtest without the option runs without it.
set -euo pipefail

# A documentation test is not a libtest binary. Asked for its list, it would run.
if [[ $1 == */deps/* ]] && RUSTC_BOOTSTRAP=1 "$1" --list -Z unstable-options --report-time >/dev/null 2>&1; then
    exec env RUSTC_BOOTSTRAP=1 "$@" -Z unstable-options --report-time
fi
exec "$@"
