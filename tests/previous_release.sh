#!/usr/bin/env bash
# Runs the daemon of the previous release on the schema of this tree, beside a daemon of this tree: the tests of
# tests/it/previous_release.rs. tests/previous-release names the commit of that release.
#
# The daemon is built from `git archive`, in directories of its own below target/previous/, once for each commit. The
# tests are ignored by cargo test, because they need that daemon; this script fails unless every one of them has run.
# Arguments go to the test binary, such as --nocapture.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/prerequisites.sh
source deploy/prerequisites.sh

need_rust
need server compiler

commit=$(sed -e 's/#.*//' tests/previous-release | tr -d '[:space:]')
[[ $commit =~ ^[0-9a-f]{40}$ ]] ||
    fail "tests/previous-release is '$commit': write one commit into it, as 40 hexadecimal digits"

directory=$PWD/target/previous/$commit
daemon=$directory/musterd
if [[ ! -x $daemon ]]; then
    git cat-file -e "$commit^{commit}" 2>/dev/null ||
        fail "this clone does not have the previous release $commit: fetch it (git fetch --depth 1 origin $commit," \
            "or git fetch --unshallow), then run this again"
    say "Building the daemon of the previous release, $commit"
    rm -rf "$directory"
    mkdir -p "$directory/source"
    git archive "$commit" | tar -x -C "$directory/source"
    (cd "$directory/source" && CARGO_PROFILE_DEV_DEBUG=false CARGO_TARGET_DIR=$directory/build \
        cargo build --locked --bin musterd)
    # Last, so that a build that was interrupted is begun again.
    mv "$directory/build/debug/musterd" "$daemon.new"
    rm -rf "$directory/build" "$directory/source"
    mv "$daemon.new" "$daemon"
fi

say "The daemon of the previous release on the schema of this tree"
log=target/previous/test-run.log
MUSTERD_PREVIOUS_RELEASE=$daemon cargo test --locked --test it previous_release:: -- --ignored "$@" 2>&1 | tee "$log"
# A filter that matches nothing is a success for cargo.
tests=$(grep -c '^#\[ignore' tests/it/previous_release.rs)
grep -q "^test result: ok. $tests passed; 0 failed" "$log" || fail "of the $tests tests not all have run; see above"
