#!/usr/bin/env bash
# Runs the benches and writes their tables between the markers of docs/PERFORMANCE.md.
#
#     bash tests/bench/record.sh            all benches, about twenty minutes
#     bash tests/bench/record.sh keybeat    only `keybeat bench`
#     bash tests/bench/record.sh fanout     only that part of `keybeat bench`
set -euo pipefail
cd "$(dirname "$0")/../.."

page=docs/PERFORMANCE.md
part=${1:-}
tables=$(mktemp)
trap 'rm -f "$tables" "$tables.page"' EXIT

cargo build --release --locked
keybeat=${CARGO_TARGET_DIR:-target}/release/keybeat

{
    commit=$(git rev-parse --short HEAD)
    git diff --quiet HEAD -- src tests Cargo.toml || commit="$commit, with changes"
    echo
    echo "Commit $commit; $(nproc) cores of$(sed -n 's/^model name.*:/ /p' /proc/cpuinfo | head -1 | tr -s ' '), Linux $(uname -r | cut -d. -f1,2),"
    echo "$(redis-server --version | cut -d' ' -f1-3), at most $(ulimit -n) open files a process. Command: \`bash tests/bench/record.sh${part:+ $part}\`."
} >"$tables"
"$keybeat" bench ${part#keybeat} | tee -a "$tables"
if [ -z "$part" ]; then
    echo | tee -a "$tables"
    cargo bench --locked --bench bench | tee -a "$tables"
fi
echo >>"$tables"

# Replaces the text between the markers with the new tables.
awk -v tables="$tables" '
    /^<!-- bench:begin -->$/ { print; while ((getline line < tables) > 0) print line; skip = 1 }
    /^<!-- bench:end -->$/   { skip = 0 }
    !skip' "$page" >"$tables.page"
cat "$tables.page" >"$page"
