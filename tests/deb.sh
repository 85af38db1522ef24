#!/usr/bin/env bash
# Builds the package for Debian and Ubuntu.
#   tests/deb.sh BINARY FOLDER    writes FOLDER/keybeat_VERSION-1_ARCHITECTURE.deb
set -euo pipefail
binary=$(realpath "$1")
mkdir -p "$2"
output=$(realpath "$2")
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
architecture=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
doc=$root/usr/share/doc/keybeat
umask 022

install -D -m 755 "$binary" "$root/usr/bin/keybeat"
install -D -m 644 examples/deploy/keybeat.service "$root/usr/lib/systemd/system/keybeat.service"
# It may hold a password.
install -D -m 640 examples/deploy/keybeat.default "$root/etc/default/keybeat"
install -D -m 644 LICENSE "$doc/copyright"
install -D -m 644 README.md "$doc/README.md"
install -D -m 644 redis.conf "$doc/examples/redis.conf"

# The program prints its own man pages and completions.
mkdir -p "$root/usr/share/man/man1" "$root/usr/share/bash-completion/completions" \
    "$root/usr/share/zsh/vendor-completions" "$root/usr/share/fish/vendor_completions.d"
"$binary" man "$root/usr/share/man/man1" >/dev/null
gzip -9n "$root"/usr/share/man/man1/*
"$binary" completions bash >"$root/usr/share/bash-completion/completions/keybeat"
"$binary" completions zsh >"$root/usr/share/zsh/vendor-completions/_keybeat"
"$binary" completions fish >"$root/usr/share/fish/vendor_completions.d/keybeat.fish"

# dpkg-shlibdeps reads a source package's control file, which is empty here.
mkdir "$work/debian" "$root/DEBIAN"
touch "$work/debian/control"
depends=$(cd "$work" && dpkg-shlibdeps -O "$binary" 2>/dev/null | sed 's/^shlibs:Depends=//')

cat >"$root/DEBIAN/control" <<END
Package: keybeat
Version: $version-1
Architecture: $architecture
Section: net
Priority: optional
Maintainer: The keybeat authors <keybeat@localhost>
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: $depends
Recommends: redis-server | valkey-server
Description: $(sed -n 's/^description = "\(.*\)"$/\1/p' Cargo.toml)
 The daemon follows presence keys with a TTL in Redis, answers over HTTP who is
 online, and pushes each change over WebSockets.
END
echo /etc/default/keybeat >"$root/DEBIAN/conffiles"
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)

package=$output/keybeat_$version-1_$architecture.deb
dpkg-deb --root-owner-group --build "$root" "$package" >/dev/null
echo "$package"
