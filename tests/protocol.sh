#!/usr/bin/env bash
# Checks the protocol: its style (buf lint), and that clients of the latest release still understand it (buf breaking).
#
# proto/baseline names the commit of that release. Without a release there is nothing to compare with, and this script
# says so. It fails if a baseline is named and cannot be read, or if CHANGELOG.md has a release and no baseline is named.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/prerequisites.sh
source deploy/prerequisites.sh

buf=$(find_buf) || fail "buf is missing, and npm, which would get it: install one of them"
(cd proto && "$buf" lint)

baseline=$(sed -e 's/#.*//' proto/baseline | tr -d '[:space:]')
if [[ -z $baseline ]]; then
    ! grep -Eq '^## \[[0-9]' CHANGELOG.md ||
        fail "CHANGELOG.md has a release, and proto/baseline names no commit: write the commit of the latest release into it"
    say "Protocol: nothing is released yet, so there is no baseline to compare with"
    exit
fi
[[ $baseline =~ ^[0-9a-f]{40}$ ]] ||
    fail "proto/baseline is '$baseline': write one commit into it, as 40 hexadecimal digits"

former=$(mktemp -d)
trap 'rm -rf "$former"' EXIT
git archive "$baseline" proto | tar -x -C "$former" ||
    fail "this clone does not have the baseline $baseline: fetch it (git fetch --unshallow), then run this again"
(cd proto && "$buf" breaking --against "$former/proto")
say "Protocol: compatible with the baseline $baseline"
