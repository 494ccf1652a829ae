#!/usr/bin/env bash
# Gets Patroni and etcd for the tests with a real cluster of PostgreSQL, below target/: Patroni from its Python package,
# etcd unpacked from Debian's. Nothing is installed.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/prerequisites.sh
source deploy/prerequisites.sh

# A version, so that a new one is taken on purpose.
patroni=4.1.5

if [[ $(target/patroni/bin/patroni --version 2>/dev/null) != *" $patroni" ]]; then
    # The system's Python, because Patroni runs as another user when the tests are root: one in a home directory is closed.
    python=/usr/bin/python3
    [[ -x $python ]] || { need python && python=$(command -v python3); }
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        as_root apt-get update -q
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y python3-venv
    fi
    say "Getting Patroni $patroni below target/"
    rm -rf target/patroni
    mkdir -p target
    "$python" -m venv target/patroni
    target/patroni/bin/pip install -q --disable-pip-version-check "patroni[etcd3]==$patroni" psycopg2-binary ||
        fail "pip cannot get Patroni $patroni; see above, or set MUSTERD_SKIP_PATRONI=1"
    chmod -R a+rX target/patroni
    target/patroni/bin/patroni --version
fi

if ! command -v etcd >/dev/null && [[ ! -x target/etcd/usr/bin/etcd ]]; then
    command -v apt-get >/dev/null || fail "etcd is missing; install it, or set MUSTERD_SKIP_PATRONI=1"
    say "Unpacking etcd below target/"
    rm -rf target/etcd
    mkdir -p target/etcd
    (
        cd target/etcd
        apt-get download -q etcd-server || { as_root apt-get update -q && apt-get download -q etcd-server; } ||
            fail "apt-get cannot get the package etcd-server; see above"
        dpkg-deb --extract etcd-server_*.deb .
        rm etcd-server_*.deb
    )
    target/etcd/usr/bin/etcd --version
fi
