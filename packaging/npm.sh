#!/usr/bin/env bash
# Packs the JavaScript client for npm.
#   packaging/npm.sh BINARY OUTPUT    writes OUTPUT/keybeat-VERSION.tgz, without the binary
. "$(dirname "$0")/common.sh"

# Its script prepack writes keybeat.js into the folder, where git ignores it.
npm pack ./clients/js --pack-destination "$output" --loglevel=error >/dev/null
echo "$output/keybeat-$version.tgz"
