#!/usr/bin/env bash
# Tests the clients: packages as a user installs them, types, rules, and the conformance suite of docs/PROTOCOL.md.
#   tests/clients/run.sh KEYBEAT [js|react|python|rust…]   KEYBEAT is the daemon's program
# tests/clients/setup.sh installs what this needs.
set -euo pipefail
cd "$(dirname "$0")/../.."
keybeat=$(realpath "$1")
shift
target=$PWD/target/clients
here=$PWD/tests/clients
[ $# -gt 0 ] || set -- js react python rust

# No compiled code in the source tree, nor among temporary files.
export PYTHONDONTWRITEBYTECODE=1 NODE_DISABLE_COMPILE_CACHE=1

conformance() { "$target/python/bin/python" "$here/conformance/run.py" --daemon "$keybeat" "$@"; }

# All packages of a release have one version.
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
for file in clients/js/package.json clients/python/pyproject.toml; do
    grep -qE "^ *\"?version\"?(:| =) \"$version\"" "$file" || {
        echo "clients: the version in $file is not $version, the one of Cargo.toml" >&2
        exit 1
    }
done

# The packages are installed from what their users get, without the network.
js() {
    local tarballs
    tarballs=$(mktemp -d)
    (cd clients/js && npm pack --offline --silent --pack-destination "$tarballs" >/dev/null)
    rm -rf "$target/js/node_modules/keybeat"
    mkdir "$target/js/node_modules/keybeat"
    tar -xzf "$tarballs"/keybeat-*.tgz -C "$target/js/node_modules/keybeat" --strip-components 1
    rm -r "$tarballs"
    node "$here/js/types.mjs" "$target/js"
    node "$here/js/names.mjs" "$target/js/node_modules/keybeat/node.js"
    cp examples/{watch,online}.mjs "$target/js/"
    for example in watch online; do
        "$target/python/bin/python" "$here/examples.py" "$keybeat" $example node "$target/js/$example.mjs"
    done
    conformance -- node "$here/conformance/driver.mjs" "$target/js/node_modules/keybeat/node.js"
}

# Needs the package that js installs.
react() { "$target/python/bin/python" "$here/browser.py" "$target/js" "$keybeat"; }

python() {
    local built
    built=$(mktemp -d)
    # With the licences instead of the links to them.
    cp -rL clients/python "$built/source"
    "$target/python/bin/pip" install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation \
        --force-reinstall "$built/source"
    rm -r "$built"
    "$target/python/bin/mypy" --strict --cache-dir "$target/mypy" -p keybeat
    "$target/python/bin/python" -m unittest discover -s "$here/python"
    for example in watch online; do
        "$target/python/bin/python" "$here/examples.py" "$keybeat" $example "$target/python/bin/python" examples/$example.py
    done
    conformance -- "$target/python/bin/python" "$here/conformance/driver.py"
}

# Its time cannot be made faster.
rust() {
    local driver=${keybeat%/*}/examples/conformance
    [ -x "$driver" ] || {
        echo "clients: build the driver first: cargo build --example conformance" >&2
        return 1
    }
    conformance --speed 1 --jobs 16 -- "$driver"
}

for client; do
    echo "== $client"
    "$client"
done
