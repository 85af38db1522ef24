#!/bin/sh
# Keeps a user online until it is stopped, then goes offline at once. Needs only a shell and curl:
#
#     sh heartbeat.sh alice
#     sh heartbeat.sh alice phone          # with a session, one device of alice
#
# KEYBEAT_URL is the URL of the daemon (default http://127.0.0.1:7400), KEYBEAT_TOKEN a token for it. The names are not
# escaped in the URL and in JSON, so use only letters, digits and hyphens.
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
    if ! call -X DELETE "$url${session:+?session=$session}"; then
        echo "the goodbye failed, so $user goes offline when the TTL ends" >&2
        exit 1
    fi
    exit 0
}
nap=
trap goodbye INT TERM

echo "$user is kept online; stop with Ctrl-C"
while :; do
    # curl prints a failure; go on, because the next heartbeat may succeed.
    call -X PUT "$url/heartbeat" -d "{${session:+\"session\":\"$session\",}\"ttl_ms\":$ttl_ms}" || :
    # A signal interrupts wait at once; it would not interrupt a sleep in the foreground.
    sleep "$every_s" &
    nap=$!
    wait "$nap" || :
done
