#!/usr/bin/env bash
# Checks that a change of the Rust client's public interface fits its version number: against the latest release.
#
# proto/baseline names the commit of that release, as for the protocol (tests/protocol.sh, which also fails if there is a release
# and no baseline). Without a release there is nothing to compare with, and this script says so.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/prerequisites.sh
source deploy/prerequisites.sh

baseline=$(sed -e 's/#.*//' proto/baseline | tr -d '[:space:]')
if [[ -z $baseline ]]; then
    say "Interface of the Rust client: nothing is released yet, so there is no baseline to compare with"
    exit
fi
git cat-file -e "$baseline^{commit}" ||
    fail "this clone does not have the baseline $baseline: fetch it (git fetch --unshallow), then run this again"
need_rust
cargo_semver_checks=$(find_cargo_tool cargo-semver-checks 0.51.0) || fail "cargo-semver-checks cannot be built; see above"
"$cargo_semver_checks" semver-checks check-release --package musterd-client --all-features --baseline-rev "$baseline"
