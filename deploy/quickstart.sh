#!/usr/bin/env bash
# Demonstrates musterd on this machine: builds it, starts it on a private PostgreSQL, registers two actors under one name,
# resolves that name, kills the resolved instance, and shows that the other one takes over.
#
# For Debian and Ubuntu with Rust; other dependencies are installed. It is safe to run repeatedly.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: deploy/quickstart.sh [--release] [--data-dir DIR] [--binary FILE] | --stop [--data-dir DIR]

  --release       build with optimisation, which takes about three times as long; for measurements and for real use
  --data-dir DIR  where the daemon keeps its data
                  (default: /var/lib/musterd-quickstart as root, else ~/.local/share/musterd-quickstart)
  --binary FILE   use this musterd, do not build
  --stop          stop what a former quickstart left running

MUSTERD_GRPC_ADDR and MUSTERD_HTTP_ADDR move the daemon away from 127.0.0.1:7717 and 127.0.0.1:7718.
USAGE
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/prerequisites.sh
source deploy/prerequisites.sh

NAME=cognitive_organ_1
export MUSTERD_GRPC_ADDR=${MUSTERD_GRPC_ADDR:-127.0.0.1:7717}
export MUSTERD_HTTP_ADDR=${MUSTERD_HTTP_ADDR:-127.0.0.1:7718}
# Address of the daemon for the client commands.
export MUSTERD_ADDR=$MUSTERD_GRPC_ADDR
# The daemon of the quickstart has its own data, regardless of the environment of this shell.
unset MUSTERD_DATABASE_URL MUSTERD_DATA_DIR

# Unoptimised by default: the build takes a third of the time, and tests/run.sh reuses most of it. Use --release for a daemon
# under load.
profile=debug
binary=
stop_only=
if [[ $(id -u) -eq 0 ]]; then
    # PostgreSQL does not run as root; the user that runs it cannot reach root's home.
    data_dir=/var/lib/musterd-quickstart
else
    data_dir=${XDG_DATA_HOME:-$HOME/.local/share}/musterd-quickstart
fi

now_ms() { printf '%s\n' "$(($(date +%s%N) / 1000000))"; }

# ---- Processes: this script ends a process only after it has identified it as musterd ----

is_musterd() { [[ $1 =~ ^[0-9]+$ && -r /proc/$1/comm && $(<"/proc/$1/comm") == musterd ]]; }

# Waits until a process has ended: pid, seconds.
wait_gone() {
    local deadline=$(($(now_ms) + $2 * 1000))
    while is_musterd "$1"; do
        [[ $(now_ms) -lt $deadline ]] || return 1
        sleep 0.1
    done
}

# The pid of the daemon on our data directory; it keeps it in its lock file.
daemon_pid() {
    local pid=
    [[ -r $data_dir/musterd.lock ]] && read -r pid <"$data_dir/musterd.lock" || true
    is_musterd "$pid" && printf '%s\n' "$pid"
}

stop_actors() {
    local pid
    [[ -r $state/actors ]] || return 0
    while read -r pid; do
        if is_musterd "$pid"; then
            say "Stopping the demo actor of a former run (pid $pid)"
            kill -TERM "$pid" || true
            wait_gone "$pid" 5 || true
        fi
    done <"$state/actors"
    rm -f "$state/actors"
}

stop_daemon() {
    kill -TERM "$1" || true
    wait_gone "$1" 12 || fail "the daemon (pid $1) does not stop; see $log"
}

# ---- Network ----

# Connects to an address: host:port.
connects() { (exec 3<>"/dev/tcp/${1%:*}/${1##*:}") 2>/dev/null; }

# True if GET of a path on the HTTP port answers 200; needs no curl.
http_ok() {
    local line
    line=$({
        exec 3<>"/dev/tcp/${MUSTERD_HTTP_ADDR%:*}/${MUSTERD_HTTP_ADDR##*:}" &&
            printf 'GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$1" "$MUSTERD_HTTP_ADDR" >&3 &&
            IFS= read -r -t 5 line <&3 && printf '%s\n' "$line"
    } 2>/dev/null) || return 1
    [[ $line == "HTTP/1.1 200"* ]]
}

# ---- The steps ----

build() {
    local begin
    need_rust
    need server compiler
    local -a options=(--locked --bin musterd)
    [[ $profile == debug ]] || options+=(--release)
    begin=$(now_ms)
    binary=${CARGO_TARGET_DIR:-target}/$profile/musterd
    if [[ -x $binary ]]; then
        say "Building musterd ($profile)"
    else
        say "Building musterd and some 200 libraries ($profile): minutes the first time, seconds from then on"
    fi
    cargo build "${options[@]}"
    say "Built in $((($(now_ms) - begin) / 1000)) s"
}

start_daemon() {
    local pid deadline address
    if pid=$(daemon_pid); then
        if [[ $(readlink "/proc/$pid/exe") == "$binary" ]] && http_ok /readyz; then
            say "The daemon of a former quickstart runs (pid $pid); using it"
            return
        fi
        say "The daemon of a former quickstart runs an older build (pid $pid); stopping it"
        stop_daemon "$pid"
    fi
    for address in "$MUSTERD_GRPC_ADDR" "$MUSTERD_HTTP_ADDR"; do
        if connects "$address"; then
            fail "$address is taken by something that is not the quickstart's daemon on $data_dir; stop it, or set" \
                "MUSTERD_GRPC_ADDR and MUSTERD_HTTP_ADDR to free addresses"
        fi
    done
    say "Starting the daemon on its private PostgreSQL in $data_dir"
    # A separate session, so that the daemon survives this terminal.
    setsid nohup "$binary" serve --grpc-addr "$MUSTERD_GRPC_ADDR" --http-addr "$MUSTERD_HTTP_ADDR" \
        --data-dir "$data_dir" >"$log" 2>&1 </dev/null &
    pid=$!
    deadline=$(($(now_ms) + 120000))
    until http_ok /readyz; do
        if ! kill -0 "$pid" 2>/dev/null || [[ $(now_ms) -ge $deadline ]]; then
            tail -n 20 "$log" >&2
            fail "the daemon is not ready; all of its log is in $log"
        fi
        sleep 0.2
    done
    say "The daemon is ready (pid $pid)"
}

declare -A actor_pids=()

# Starts an actor that registers under a port: port. Its address is the source address of its connection to the daemon.
start_actor() {
    local id
    id=$(</proc/sys/kernel/random/uuid)
    setsid nohup "$binary" run --logical-id "$NAME" --port "$1" --ttl 3s --instance-id "$id" -- sleep infinity \
        >>"$state/actors.log" 2>&1 </dev/null &
    actor_pids[$id]=$!
    printf '%s\n' "$!" >>"$state/actors"
    say "Started an actor that registers as $NAME: instance $id (pid $!)"
}

# Prints the instance that the name resolves to; nothing if there is none.
resolved() {
    "$binary" resolve "$NAME" -o json 2>/dev/null |
        grep -oE '"instance_?[iI]d" *: *"[^"]*"' | head -n 1 | cut -d '"' -f 4 || true
}

# Waits until the name resolves to one of our actors other than $1; sets `answer` and `took_ms`.
await_answer() {
    local not=$1 begin deadline
    begin=$(now_ms)
    deadline=$((begin + 30000))
    while :; do
        answer=$(resolved)
        took_ms=$(($(now_ms) - begin))
        if [[ -n $answer && $answer != "$not" && -n ${actor_pids[$answer]:-} ]]; then
            return
        fi
        if [[ $(now_ms) -ge $deadline ]]; then
            "$binary" list >&2 || true
            tail -n 20 "$state/actors.log" >&2
            fail "$NAME still resolves to '${answer:-nothing}' after 30 s; logs are in $state"
        fi
        sleep 0.1
    done
}

# Kills an actor's `musterd run` and its command with SIGKILL, so that it cannot deregister.
kill_actor() {
    local pid=$1 child
    local -a pids=("$pid")
    for child in $(cat "/proc/$pid/task/$pid/children" 2>/dev/null || true); do
        pids+=("$child")
    done
    kill -KILL "${pids[@]}" 2>/dev/null || true
    kill -KILL -- "-$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

demo() {
    local first answer took_ms
    start_actor 8000
    # The longest serving instance is the answer, so the first actor has to be alive before the second starts.
    await_answer ''
    start_actor 8001
    wait_for_both
    say "Resolving $NAME"
    "$binary" resolve "$NAME"
    await_answer ''
    first=$answer
    say "Killing the one that answered with kill -9: instance $first (pid ${actor_pids[$first]})"
    kill_actor "${actor_pids[$first]}"
    await_answer "$first"
    say "After $((took_ms / 1000)).$(printf '%03d' $((took_ms % 1000))) s the other one took over: instance $answer"
    "$binary" resolve "$NAME"
}

# Waits until both actors are alive.
wait_for_both() {
    local id listed deadline missing
    deadline=$(($(now_ms) + 30000))
    while :; do
        listed=$("$binary" list --status alive -o json 2>/dev/null || true)
        missing=
        for id in "${!actor_pids[@]}"; do
            [[ $listed == *"$id"* ]] || missing=$id
        done
        [[ -n $missing ]] || return 0
        [[ $(now_ms) -lt $deadline ]] || fail "instance $missing did not register; see $state/actors.log"
        sleep 0.1
    done
}

next_steps() {
    local addr_hint=
    [[ $MUSTERD_ADDR == 127.0.0.1:7717 ]] || addr_hint=" --addr $MUSTERD_ADDR"
    cat <<NEXT

The daemon keeps running, and so does the actor that is left. Try next:

  $binary list$addr_hint
  $binary epoch rotate$addr_hint
  curl http://$MUSTERD_HTTP_ADDR/metrics

In a browser: http://$MUSTERD_HTTP_ADDR/

Logs: $state
Stop everything: deploy/quickstart.sh --stop$data_dir_hint
NEXT
}

main() {
    data_dir_hint=
    while [[ $# -gt 0 ]]; do
        case $1 in
            --release) profile=release ;;
            --stop) stop_only=yes ;;
            --data-dir | --binary)
                [[ $# -ge 2 ]] || fail "$1 needs a value"
                if [[ $1 == --binary ]]; then
                    binary=$2
                else
                    data_dir=$(realpath -m -- "$2")
                    data_dir_hint=" --data-dir $data_dir"
                fi
                shift
                ;;
            -h | --help)
                usage
                exit 0
                ;;
            *)
                usage >&2
                exit 2
                ;;
        esac
        shift
    done
    state=$data_dir/quickstart
    log=$state/daemon.log
    if [[ -n $stop_only ]]; then
        stop_actors
        local pid
        if pid=$(daemon_pid); then
            stop_daemon "$pid"
            say "Stopped the daemon (pid $pid); its data stays in $data_dir"
        else
            say "No daemon runs on $data_dir"
        fi
        exit 0
    fi
    if [[ -z $binary ]]; then
        build
    else
        need server
    fi
    binary=$(realpath -- "$binary")
    (umask 077 && mkdir -p "$state") || fail "cannot create $state; choose another --data-dir"
    stop_actors
    : >"$state/actors.log"
    start_daemon
    demo
    next_steps
}

main "$@"
