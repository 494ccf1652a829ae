# shellcheck shell=bash
# SQL for init-db.sh and verify-db.sh: psql on the database of MUSTERD_DATABASE_URL. Sourced by them.
#
# The password is passed in the environment: every user of the machine can read a command line.

command -v psql >/dev/null || {
    printf 'error: there is no psql; install the client of PostgreSQL (Debian: postgresql-client)\n' >&2
    exit 2
}

database=$MUSTERD_DATABASE_URL
if [[ $database =~ ^(postgres(ql)?://[^:/@]*):([^@]*)@(.*)$ ]]; then
    database="${BASH_REMATCH[1]}@${BASH_REMATCH[4]}"
    encoded=${BASH_REMATCH[3]}
    printf -v PGPASSWORD '%b' "${encoded//%/\\x}"
    export PGPASSWORD
fi
export PGCONNECT_TIMEOUT=${PGCONNECT_TIMEOUT:-5} PGAPPNAME=musterd

# Prints the one value, or the lines, that a query returns.
sql() { psql -X -q -A -t -v ON_ERROR_STOP=1 -d "$database" -c "$1"; }

# Runs a file of statements; suppresses notices about existing objects.
run_file() { PGOPTIONS='-c client_min_messages=warning' psql -X -q -v ON_ERROR_STOP=1 -d "$database" -f "$1"; }
