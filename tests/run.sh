#!/usr/bin/env bash
# Runs the checks and tests, the quickest verdicts first, and prints how long each part took.
#   tests/run.sh test     everything
#   tests/run.sh check    format, lints and unit tests
#   tests/run.sh deny     licences, bans and sources of all dependencies
#   tests/run.sh servers NAME…   the tests of detection and faults on each of these servers
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p target
parts=()
installing=

# The tests' temporary files lie in a folder of their own, so that a file that is left behind shows.
TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/keybeat.XXXXXX")
export TMPDIR

finish() {
    local status=$? left
    if [ -n "$installing" ]; then wait "$installing" || true; fi
    left=$(ls -A "$TMPDIR")
    rm -rf "$TMPDIR"
    if [ ${#parts[@]} -gt 0 ]; then printf '%s\n' "" "${parts[@]}"; fi
    if [ -n "$left" ] && [ "$status" -eq 0 ]; then
        echo "run: the tests left files in the temporary folder:" $left >&2
        status=1
    fi
    exit "$status"
}
trap finish EXIT

# part NAME COMMAND…: runs a command or function and records how long it took.
part() {
    local name=$1 began=$SECONDS status=0
    shift
    printf '\n== %s\n' "$name"
    # In a subshell of its own `set -e` holds inside functions too.
    set +e
    (set -e; "$@")
    status=$?
    set -e
    parts+=("$(printf '%4d s  %s%s' $((SECONDS - began)) "$name" "$([ $status -eq 0 ] || echo ': failed')")")
    return $status
}

show() {
    echo "$*"
    "$@"
}

# Without cargo-nextest, cargo runs the tests. One set of features everywhere, so that no dependency is built twice.
if cargo nextest --version >/dev/null 2>&1; then has_nextest=1; else has_nextest=; fi

# tests TARGETS [only|without]: builds and runs the tests of these targets, the last ones only or left out.
last='test(/^streams::(console|js_client)/) | test(/^api::schemathesis::/) | test(/^deploy::packages::/)'
last_names=(streams::console streams::js_client api::schemathesis deploy::packages)
tests() {
    local targets=$1 which=${2:-} names=()
    if [ -n "$has_nextest" ]; then
        case $which in
        only) names=(-E "$last") ;;
        without) names=(-E "not ($last)") ;;
        esac
        show cargo nextest run --locked --features otel $targets "${names[@]}"
    else
        case $which in
        only) names=("${last_names[@]}") ;;
        without) for name in "${last_names[@]}"; do names+=(--skip "$name"); done ;;
        esac
        show cargo test --locked --features otel $targets -- "${names[@]}"
    fi
}

# on_server NAME: runs the tests of detection and faults on a server of tests/setup.sh.
on_server() {
    local program=$PWD/target/servers/$1/redis-server
    "$program" --version
    export KEYBEAT_TEST_REDIS=$program
    if [ -n "$has_nextest" ]; then
        show cargo nextest run --locked --features otel --test it --no-fail-fast -E 'test(/^(redis|streams::churn)::/)'
    else
        show cargo test --locked --features otel --test it --no-fail-fast -- redis:: streams::churn::
    fi
}

build() { show cargo test --no-run --locked --features otel "$@"; }

# A test runs the examples. With the profile of the tests they share its dependencies.
examples() { show cargo build --profile test --examples --locked --features otel; }

lints() { show cargo clippy --workspace --all-targets --locked --features otel -- -D warnings; }

# The crate without its optional feature. The test target keeps the dependencies those of the other checks.
without_otel() { show cargo clippy --lib --bins --test it --locked -- -D warnings; }

# The Rust client as an application builds it: without the daemon and without the dependencies of the tests.
client_alone() { show cargo check --no-default-features --features client --locked; }

# The examples keep the dependencies those of the other checks.
documentation() { RUSTDOCFLAGS="-D warnings" show cargo doc --workspace --no-deps --lib --examples --locked --features otel; }

deny() {
    PATH="$PATH:$PWD/target/schemathesis/bin" \
        show cargo deny --locked check --hide-inclusion-graph licenses bans sources
}

# Downloads from PyPI and from the npm registry while the compiler works.
install_in_background() {
    { bash tests/setup.sh pypi && bash tests/clients/setup.sh; } >target/setup.log 2>&1 &
    installing=$!
}

installed() {
    local status=0
    wait "$installing" || status=$?
    installing=
    cat target/setup.log
    return $status
}

case ${1:-test} in
deny)
    bash tests/setup.sh deny
    deny
    ;;
check)
    part "format" show cargo fmt --check
    part "unit tests" tests "--workspace --lib"
    part "lints" lints
    ;;
test)
    part "packages" bash tests/setup.sh test
    install_in_background
    part "format" show cargo fmt --check
    part "core: build" build --workspace --lib --test sim
    part "core: unit tests and simulation" tests "--workspace --lib --test sim"
    part "lints" lints
    part "lints without the feature otel" without_otel
    part "client without the daemon" client_alone
    part "documentation" documentation
    installed
    part "dependencies" deny
    part "integration: build" build --test it
    part "examples: build" examples
    part "integration tests" tests "--test it" without
    part "browsers, schemathesis, package" tests "--test it" only
    part "clients" bash tests/clients/run.sh target/debug/keybeat js react python
    ;;
servers)
    shift
    part "packages" bash tests/setup.sh bench
    part "servers" bash tests/setup.sh servers "$@"
    part "integration: build" build --test it
    failed=0
    for server; do part "$server" on_server "$server" || failed=1; done
    exit $failed
    ;;
*)
    echo "run: $1 is not a list of checks; take test, check, deny or servers" >&2
    exit 2
    ;;
esac
