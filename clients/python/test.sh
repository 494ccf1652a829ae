#!/usr/bin/env bash
# Tests the Python package as a user gets it: builds the wheel, installs it into an empty virtual environment, checks types and
# lints, and runs pytest against real daemons.
#
#   clients/python/test.sh [--short] [--ray] [ARGUMENTS OF PYTEST]
#
# --short leaves out the tests that are marked slow; --ray installs Ray and tests with it.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=deploy/prerequisites.sh
source deploy/prerequisites.sh

declare -a arguments=() more=()
while [[ ${1:-} == --short || ${1:-} == --ray ]]; do
    case $1 in
        --short) arguments+=(-m 'not slow') ;;
        --ray) more+=('ray>=2.50,<3') ;;
    esac
    shift
done

need_rust
need compiler server python

say "Building the daemon"
cargo build --locked --quiet --bin musterd
clients/python/build.sh --debug
cargo clippy --locked --quiet --package musterd-python -- -D warnings

root=$PWD
venv=target/python/venv
python3 -m venv --clear "$venv"
pip=("$venv/bin/pip" --quiet --disable-pip-version-check)
"${pip[@]}" install --no-index target/python/dist/*.whl
# The package needs none of these; its modules for them are tested with them.
"${pip[@]}" install 'pytest>=8,<10' 'mypy>=1.18,<3' 'httpx>=0.27,<1' 'fastapi>=0.115,<1' 'uvicorn>=0.30,<1' \
    'gunicorn>=22,<28' 'grpcio>=1.60,<2' 'grpcio-health-checking>=1.60,<2' 'psycopg[binary]>=3.1,<4' \
    'pyright[nodejs]>=1.1.400,<2' "${more[@]}"

say "Types"
(cd clients/python && "../../$venv/bin/mypy" python/musterd && "../../$venv/bin/mypy" tests examples)
# The public interface as pyright sees it in the package that is installed, from a directory without a project of its own.
pyright() {
    VIRTUAL_ENV=$root/$venv PATH=$root/$venv/bin:$PATH PYRIGHT_PYTHON_IGNORE_WARNINGS=1 "$root/$venv/bin/pyright" "$@"
}
(cd "$venv" && pyright --verifytypes musterd --ignoreexternal | tail -n 4)
(cd clients/python && pyright)

say "Tests of the Python package"
cd clients/python
exec env "MUSTERD_BIN=$PWD/../../target/debug/musterd" "../../$venv/bin/pytest" -q "${arguments[@]}" "$@"
