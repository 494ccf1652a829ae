# shellcheck shell=bash
# Installs the dependencies of building and running musterd. Sourced by deploy/quickstart.sh and tests/run.sh.
#
# Required are Rust, a C compiler with its linker, and the server programs of PostgreSQL. All but Rust are installed on Debian
# and Ubuntu; on other systems the commands are printed. Rust is never installed, because there are several installers. The
# tests also need Prometheus, which is unpacked below target/ and not installed, because its package would start a service. They
# use Chromium, of which Ubuntu has no package; without it the browser tests of the status page are skipped with a message.

say() { printf '==> %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# The same places, in the same order, as src/local/binaries.rs.
have_postgres_server() {
    local dir
    local -a dirs
    IFS=: read -r -a dirs <<<"${MUSTERD_TEST_POSTGRES_BIN:-}:$PATH"
    if command -v pg_config >/dev/null; then
        dirs+=("$(pg_config --bindir)")
    fi
    dirs+=(/usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql* /opt/homebrew/opt/postgresql@*/bin
        /usr/local/opt/postgresql@*/bin /Applications/Postgres.app/Contents/Versions/*/bin /usr/local/pgsql/bin)
    for dir in "${dirs[@]}"; do
        if [[ -n $dir && -x $dir/postgres && -x $dir/initdb ]]; then
            return 0
        fi
    done
    return 1
}

# The same names as tests/it/harness/browser.rs.
have_browser() {
    local name
    for name in chromium chromium-browser google-chrome-stable google-chrome; do
        if command -v "$name" >/dev/null; then
            return 0
        fi
    done
    return 1
}

as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "installing needs root: run '$*' as root, then run this again"
    fi
}

need_rust() {
    if ! command -v cargo >/dev/null && [[ -x $HOME/.cargo/bin/cargo ]]; then
        PATH=$HOME/.cargo/bin:$PATH
    fi
    command -v cargo >/dev/null ||
        fail "Rust is missing (cargo, 1.89 or later): install it with rustup, then run this again"
}

# Installs a browser if possible (Debian has a package, Ubuntu none): without one the tests that need it report that they are
# skipped, and do not fail.
want_browser() {
    if [[ -n ${MUSTERD_SKIP_BROWSER:-} ]] || have_browser; then
        return
    fi
    if command -v apt-get >/dev/null; then
        say "Installing chromium"
        as_root apt-get update -q
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium || true
    fi
    have_browser || say "There is no Chromium: the tests of the status page in a browser will be SKIPPED"
}

# The same places, in the same order, as tests/it/prometheus/tools.rs.
have_prometheus() {
    local dir
    local -a dirs
    IFS=: read -r -a dirs <<<"$PATH"
    for dir in "${dirs[@]}" target/prometheus/usr/bin; do
        if [[ -n $dir && -x $dir/prometheus && -x $dir/promtool ]]; then
            return 0
        fi
    done
    return 1
}

# Unpacks Debian's package, which needs no root unless the list of packages is missing.
unpack_prometheus() (
    say "Unpacking Prometheus below target/"
    mkdir -p target/prometheus
    cd target/prometheus || exit
    apt-get download -q prometheus || { as_root apt-get update -q && apt-get download -q prometheus; } ||
        fail "apt-get cannot get the package prometheus; see above"
    dpkg-deb --extract prometheus_*.deb .
    rm prometheus_*.deb
)

# Installs missing dependencies: arguments `server`, `compiler`, `client`, `pooler`, `network`, `python`, `curl`, `prometheus`, `browser`. To be called in
# the root of the repository.
need() {
    local -a packages=()
    local what
    for what in "$@"; do
        case $what in
            server) have_postgres_server || packages+=(postgresql) ;;
            compiler) command -v cc >/dev/null || packages+=(gcc libc6-dev) ;;
            browser) want_browser ;;
            pooler) command -v pgbouncer >/dev/null || [[ -x /usr/sbin/pgbouncer ]] || packages+=(pgbouncer) ;;
            network) command -v iptables >/dev/null || [[ -x /usr/sbin/iptables ]] || packages+=(iptables) ;;
            client) command -v psql >/dev/null || packages+=(postgresql-client) ;;
            python) python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3 python3-venv) ;;
            curl) command -v curl >/dev/null || packages+=(curl) ;;
            prometheus)
                have_prometheus || {
                    command -v apt-get >/dev/null ||
                        fail "missing: prometheus and promtool. Fedora, RHEL: dnf install golang-github-prometheus;" \
                            "macOS: brew install prometheus. Then run this again, or with MUSTERD_SKIP_PROMETHEUS=1"
                    unpack_prometheus
                }
                ;;
            *) fail "unknown prerequisite $what" ;;
        esac
    done
    if [[ ${#packages[@]} -eq 0 ]]; then
        return
    fi
    if ! command -v apt-get >/dev/null; then
        fail "missing: ${packages[*]} (Debian's names). Fedora, RHEL: dnf install postgresql-server gcc;" \
            "macOS: brew install postgresql@17 and xcode-select --install. Then run this again"
    fi
    say "Installing ${packages[*]}"
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${packages[@]}"
    if [[ " ${packages[*]} " == *" postgresql "* ]]; then
        have_postgres_server || fail "the postgresql package is installed, but its server programs are not to be found"
    fi
}

# Directory of the tools that are not packages of the system.
tools_dir() { printf '%s\n' "${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/musterd-ci"; }

# Prints how to run buf; installs it from its npm package into a cache where there is npm.
find_buf() {
    local cache
    cache=$(tools_dir)
    if command -v buf; then
        return
    fi
    if [[ ! -x $cache/node_modules/.bin/buf ]]; then
        command -v npm >/dev/null || return 1
        mkdir -p "$cache"
        npm install --silent --no-fund --no-audit --no-save --prefix "$cache" @bufbuild/buf@1 >&2 || return 1
    fi
    printf '%s\n' "$cache/node_modules/.bin/buf"
}

# Prints how to run a tool of cargo: the one on the PATH, or this version of it, built into a cache. Built without
# optimisation, which takes a fraction of the time and checks this tree in seconds.
find_cargo_tool() {
    local name=$1 version=$2 root
    root=$(tools_dir)/cargo
    if command -v "$name"; then
        return
    fi
    if [[ $("$root/bin/$name" --version 2>/dev/null) != *"$version"* ]]; then
        say "Building $name $version" >&2
        CARGO_PROFILE_DEV_DEBUG=false cargo install --quiet --debug --locked --root "$root" "$name@$version" >&2 || return 1
    fi
    printf '%s\n' "$root/bin/$name"
}

# Dependencies of the documented commands, which the tests run. MUSTERD_TEST_WITHOUT=python3,buf omits some.
need_documentation_tools() {
    local without=,${MUSTERD_TEST_WITHOUT:-},
    [[ $without == *,python3,* ]] || need python
    [[ $without == *,psql,* ]] || need client
    [[ $without == *,curl,* ]] || need curl
    [[ $without == *,buf,* ]] || find_buf >/dev/null ||
        say "buf is missing, and npm, which would get it; MUSTERD_TEST_WITHOUT=buf tests without it"
}
