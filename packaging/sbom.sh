#!/usr/bin/env bash
# Writes a bill of materials of the program.
#   packaging/sbom.sh BINARY OUTPUT    writes OUTPUT/keybeat-VERSION-MACHINE.cdx.json, from Cargo.lock and not from the binary
. "$(dirname "$0")/common.sh"

python_tools
target=$(rustc -vV | sed -n 's/^host: //p')
cargo metadata --format-version 1 --locked --filter-platform "$target" |
    "$tools/bin/python" packaging/sbom.py >"$output/keybeat-$version-$machine.cdx.json"
echo "$output/keybeat-$version-$machine.cdx.json"
