#!/bin/sh
# Keeps a user online until it is stopped, then says goodbye. A shell and curl alone:
#
#     sh heartbeat.sh alice
#     sh heartbeat.sh alice phone          # a session: one device of alice's
#
# KEYBEAT_URL names another daemon than http://127.0.0.1:7400, KEYBEAT_TOKEN is a token for it. Names go into the address
# and into JSON as they are: letters, digits and hyphens need no care.
set -eu

every_s=10
ttl_ms=30000 # three heartbeats, so that two may be lost
user=${1:-alice}
session=${2:-}
url=${KEYBEAT_URL:-http://127.0.0.1:7400}/v1/users/$user

call() {
    if [ -n "${KEYBEAT_TOKEN:-}" ]; then
        set -- "$@" -H "Authorization: Bearer $KEYBEAT_TOKEN"
    fi
    curl --silent --show-error --fail --max-time 5 "$@"
}

goodbye() {
    kill "$nap" 2>/dev/null || :
    call -X DELETE "$url${session:+?session=$session}"
    exit 0
}
nap=
trap goodbye INT TERM

echo "$user is kept online; end it with Ctrl-C"
while :; do
    # One that is not taken is said by curl, and the next may be.
    call -X PUT "$url/heartbeat" -d "{${session:+\"session\":\"$session\",}\"ttl_ms\":$ttl_ms}" || :
    # A signal ends the wait, and not the sleep: in the foreground it would have to wait for that.
    sleep "$every_s" &
    nap=$!
    wait "$nap" || :
done
