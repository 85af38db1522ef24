#!/usr/bin/env bash
# Installs what the tests of the clients need from the npm registry and PyPI, in target/clients, and nothing else.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=target/clients

# The versions are pinned: other ones may check other things.
if ! cmp -s tests/clients/js/package.json "$target/js/installed.json"; then
    echo "clients: installing typescript, react, vite and ws into $target/js"
    rm -rf "$target/js"
    mkdir -p "$target/js"
    cp tests/clients/js/package.json "$target/js/"
    npm install --prefix "$target/js" --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error
    cp tests/clients/js/package.json "$target/js/installed.json"
fi
if ! cmp -s tests/clients/python/requirements.txt "$target/python/installed.txt"; then
    echo "clients: installing websockets and mypy into $target/python"
    python3 -m venv --clear "$target/python"
    "$target/python/bin/pip" install --quiet --disable-pip-version-check -r tests/clients/python/requirements.txt
    cp tests/clients/python/requirements.txt "$target/python/installed.txt"
fi
