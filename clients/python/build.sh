#!/usr/bin/env bash
# Builds the wheel and the source distribution of the Python package into target/python/dist.
#
#   clients/python/build.sh            a wheel for release; on Linux for glibc 2.17 and later (manylinux2014)
#   clients/python/build.sh --debug    a wheel for this machine alone, without optimisation, for tests
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=deploy/prerequisites.sh
source deploy/prerequisites.sh

need_rust
need compiler python

tools=target/python/tools
if [[ ! -x $tools/bin/maturin ]]; then
    say "Installing maturin"
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check 'maturin>=1.9,<2' ziglang
fi

# The wheel for release is built from the source distribution. That has a part of this workspace, so cargo leaves out of its
# Cargo.lock what it does not need, which --locked would refuse; the versions stay.
declare -a options=(--release --sdist)
if [[ ${1:-} == --debug ]]; then
    options=(--profile dev --locked)
elif [[ $(uname -s) == Linux ]]; then
    options+=(--zig --compatibility manylinux2014)
fi

dist=target/python/dist
rm -rf "$dist"
say "Building the Python package"
# maturin finds zig beside itself.
PATH=$PWD/$tools/bin:$PATH maturin build --quiet --manifest-path clients/python/Cargo.toml --out "$dist" "${options[@]}"
ls "$dist"
