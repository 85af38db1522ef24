#!/usr/bin/env bash
# Builds a tarball with the program, its man pages, completions, systemd unit and configuration of Redis.
#   packaging/tarball.sh BINARY OUTPUT    writes OUTPUT/keybeat-VERSION-MACHINE-linux.tar.gz
. "$(dirname "$0")/common.sh"

name=keybeat-$version-$machine-linux
root=$work/$name
install -D -m 755 "$binary" "$root/bin/keybeat"
manuals "$root/share/man"
completion bash "$root/share/bash-completion/completions/keybeat"
completion zsh "$root/share/zsh/site-functions/_keybeat"
completion fish "$root/share/fish/vendor_completions.d/keybeat.fish"
install -D -m 644 examples/deploy/keybeat.service "$root/lib/systemd/system/keybeat.service"
install -m 644 redis.conf README.md LICENSE LICENSE-MIT LICENSE-APACHE CHANGELOG.md "$root"

tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -C "$work" -cf - "$name" |
    gzip -9n >"$output/$name.tar.gz"
echo "$output/$name.tar.gz"
