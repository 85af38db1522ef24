#!/usr/bin/env bash
# Builds the package for Debian and Ubuntu.
#   packaging/deb.sh BINARY OUTPUT    writes OUTPUT/keybeat_VERSION-1_ARCHITECTURE.deb
. "$(dirname "$0")/common.sh"

architecture=$(dpkg --print-architecture)
root=$work/root
doc=$root/usr/share/doc/keybeat

install -D -m 755 "$binary" "$root/usr/bin/keybeat"
install -D -m 644 examples/deploy/keybeat.service "$root/usr/lib/systemd/system/keybeat.service"
# It may hold a password.
install -D -m 640 examples/deploy/keybeat.default "$root/etc/default/keybeat"
install -D -m 644 LICENSE "$doc/copyright"
install -D -m 644 README.md "$doc/README.md"
install -D -m 644 redis.conf "$doc/examples/redis.conf"

manuals "$root/usr/share/man"
completion bash "$root/usr/share/bash-completion/completions/keybeat"
completion zsh "$root/usr/share/zsh/vendor-completions/_keybeat"
completion fish "$root/usr/share/fish/vendor_completions.d/keybeat.fish"

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
