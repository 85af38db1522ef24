#!/usr/bin/env bash
# Builds everything that can be published, and SHA256SUMS.
#   packaging/build.sh BINARY OUTPUT
set -euo pipefail
here=$(dirname "$0")
mkdir -p "$2"
for kind in tarball deb wheel npm image sbom; do bash "$here/$kind.sh" "$1" "$2"; done
cd "$2"
rm -f SHA256SUMS
sha256sum -- keybeat[-_]* >SHA256SUMS
