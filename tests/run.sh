#!/usr/bin/env bash
# Runs every test. Gets what is missing first on Debian and Ubuntu. Arguments go to `cargo test`.
# MUSTERD_SKIP_PROMETHEUS=1 leaves out what needs a real Prometheus.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/prerequisites.sh
source deploy/prerequisites.sh

need_rust
need server compiler browser
need_documentation_tools
if [[ ${MUSTERD_SKIP_PROMETHEUS:-} != 1 ]]; then
    need prometheus
fi
tests/tools.sh
exec cargo test --locked "$@"
