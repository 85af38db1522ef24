#!/usr/bin/env bash
# Installs what is missing, and nothing else.
#   tests/setup.sh [test]   what the tests need
#   tests/setup.sh deny    what `make deny` needs
#   tests/setup.sh bench    what the benches need
#   tests/setup.sh deb      what `make deb` needs
#   tests/setup.sh run      what `make run` needs
set -euo pipefail

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

has_one_of() {
    local command
    for command; do
        if command -v "$command" >/dev/null; then return 0; fi
    done
    return 1
}

missing=()

# need 'PACKAGE…' COMMAND…: the packages, unless one of the commands is on the PATH.
need() {
    local packages=$1
    shift
    # shellcheck disable=SC2206 # several packages in one word
    has_one_of "$@" || missing+=($packages)
}

# The compiler links every Rust program, and compiles the C of the TLS library.
need 'gcc libc6-dev' cc
case ${1:-test} in
run)
    need redis-server redis-server valkey-server
    ;;
bench)
    need redis-server redis-server
    ;;
test)
    need redis-server redis-server
    # The console, and the JavaScript client where Node is new enough.
    need 'chromium chromium-driver' chromedriver
    need nodejs node
    # The proxies of examples/deploy. They are where not every user looks.
    need haproxy haproxy /usr/sbin/haproxy
    need nginx-light nginx /usr/sbin/nginx
    # schemathesis, which is installed below, and an example.
    need python3 python3
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
    # keybeat top and the progress bars, on a terminal without a window.
    need tmux tmux
    # The other examples; the one in Go is run where Go is.
    need php-cli php
    need curl curl
    ;;
deny) ;;
deb) need dpkg dpkg ;;
*) fail "$1 is not a list of packages; take run, test, deny, deb or bench" ;;
esac

install() {
    has_one_of apt-get || fail "not installed: ${missing[*]} (these are the names of Debian's packages)" \
        "there is no apt-get here; install them in this system's own way, and run make again" \
        "(redis-server can also come as valkey-server for make run)"
    local root=()
    if [ "$(id -u)" -ne 0 ]; then
        has_one_of sudo || fail "not installed: ${missing[*]}" "as root: apt-get install ${missing[*]}"
        root=(sudo)
    fi
    root+=(env DEBIAN_FRONTEND=noninteractive)
    echo "setup: installing ${missing[*]}"
    "${root[@]}" apt-get update -qq
    "${root[@]}" apt-get install -qq -y --no-install-recommends "${missing[@]}"
    if [[ " ${missing[*]} " == *" redis-server "* && -d /run/systemd/system ]]; then
        echo "setup: the package may have started a Redis on port 6379; keybeat does not use that one"
    fi
    if [[ " ${missing[*]} " == *" nginx-light "* && -d /run/systemd/system ]]; then
        echo "setup: the package may have started an nginx on port 80; the tests start their own"
    fi
}

if [ ${#missing[@]} -gt 0 ]; then install; fi

has_one_of cargo || fail "cargo is not on the PATH; install Rust 1.88 or newer: https://rustup.rs"
if [ "${1:-test}" = test ]; then
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 ||
            fail "cargo $component is missing; install it: rustup component add rustfmt clippy"
    done
fi
# The version is pinned: another may look at other things.
schemathesis=4.32.5
if [ "${1:-test}" = test ]; then
    folder=$(dirname "$0")/../target/schemathesis
    if [ "$("$folder/bin/schemathesis" --version 2>/dev/null)" != "schemathesis, version $schemathesis" ]; then
        echo "setup: installing schemathesis $schemathesis from PyPI into target/schemathesis"
        mkdir -p "$(dirname "$folder")"
        { python3 -m venv --clear "$folder" &&
            "$folder/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$schemathesis"; } ||
            fail "schemathesis $schemathesis could not be installed; the lines above say why" \
                "it comes from PyPI, by pip: where that is out of reach, install it there by hand:" \
                "python3 -m venv target/schemathesis && target/schemathesis/bin/pip install schemathesis==$schemathesis"
    fi
fi
case ${1:-test} in
test | deny)
    # Debian has no package of it. Another version would not judge otherwise, so any that is there will do.
    if ! cargo deny --version >/dev/null 2>&1; then
        echo "setup: building cargo-deny, once; that takes a minute or two"
        # Without optimization: it runs for seconds.
        cargo install --quiet --locked --debug cargo-deny@0.20.2 ||
            fail "cargo-deny could not be built; the lines above say why (it needs Rust 1.88 or newer)"
    fi
    ;;
esac
# A test makes the package as make deb does.
case ${1:-test} in
test | deb)
    if ! cargo deb --version >/dev/null 2>&1; then
        echo "setup: building cargo-deb, once; that takes half a minute"
        cargo install --quiet --locked --debug cargo-deb@3.8.0 ||
            fail "cargo-deb could not be built; the lines above say why"
    fi
    ;;
esac
