#!/bin/sh
# Prints each transition of the stream that a daemon with --stream writes, and continues after a restart where it stopped. Needs
# only redis-cli:
#
#     sh stream.sh events                 # "alice online at 1690000000000 (heartbeat)"
#
# KEYBEAT_REDIS is the URL of Redis (default redis://127.0.0.1:6379). The file NAME.position has the id of the last entry printed,
# so an entry whose printing was interrupted comes again. Several programs that share the work use XREADGROUP instead.
set -eu

stream=${1:-events}
redis=${KEYBEAT_REDIS:-redis://127.0.0.1:6379}
position=$stream.position
tab=$(printf '\t')

while :; do
    # 0: from the first entry that the stream still has.
    last=$(cat "$position" 2>/dev/null || echo 0)
    # One value per line: the stream, then for each entry its id, and names and values, of which the reason is the last.
    redis-cli -u "$redis" XREAD COUNT 100 BLOCK 5000 STREAMS "$stream" "$last" |
        awk -v OFS="$tab" '
            NR == 1 { next }
            id == "" { id = $0; next }
            name == "" { name = $0; next }
            { field[name] = $0 }
            name == "reason" { print id, field["user"], field["state"], field["at_ms"], $0; id = "" }
            { name = "" }' |
        while IFS=$tab read -r id user state at_ms reason; do
            if [ -z "$id" ]; then continue; fi
            echo "$user $state at $at_ms ($reason)"
            echo "$id" >"$position"
        done
done
