#!/usr/bin/env bash
# Runs every test. Installs what is missing first on Debian and Ubuntu. Arguments go to `cargo test`.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/prerequisites.sh
source deploy/prerequisites.sh

need_rust
need server compiler
tests/tools.sh
exec cargo test --locked "$@"
