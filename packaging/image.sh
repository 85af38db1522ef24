#!/usr/bin/env bash
# Builds a container image from nothing but the program, the libraries that it loads and the certificates of public CAs. It needs
# buildah and root, but no registry, no container runtime and no network.
#   packaging/image.sh BINARY OUTPUT    writes OUTPUT/keybeat-VERSION-MACHINE.docker.tar, for `docker load` and `podman load`
. "$(dirname "$0")/common.sh"

root=$work/root
install -D -m 755 "$binary" "$root/usr/bin/keybeat"
for library in $(ldd "$binary" | grep -o '/[^ ]*'); do install -D "$library" "$root$library"; done
install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
echo 'keybeat:x:65532:65532::/:/sbin/nologin' >"$root/etc/passwd"
echo 'keybeat:x:65532:' >"$root/etc/group"
mkdir -m 1777 "$root/tmp"

archive=$output/keybeat-$version-$machine.docker.tar
rm -f "$archive"
# Its images and containers live in the temporary folder.
image() { buildah --root "$work/images" --runroot "$work/run" --storage-driver vfs "$@"; }
export BUILDAH_ISOLATION=chroot
image from --format docker --name keybeat scratch >/dev/null
image copy --quiet keybeat "$root" / >/dev/null
# This address is not loopback, so the daemon starts only with KEYBEAT_REDIS, and with KEYBEAT_JWT_KEY, KEYBEAT_JWT_SECRET,
# KEYBEAT_SERVICE_TOKEN or KEYBEAT_NO_AUTH=true.
image config --user 65532:65532 --env KEYBEAT_LISTEN=0.0.0.0:7400 --port 7400 --entrypoint '["/usr/bin/keybeat"]' --cmd serve \
    --healthcheck 'CMD /usr/bin/keybeat healthcheck --url http://127.0.0.1:7400' \
    --label org.opencontainers.image.title=keybeat --label "org.opencontainers.image.version=$version" keybeat
image commit --quiet --format docker --timestamp "$SOURCE_DATE_EPOCH" keybeat "docker-archive:$archive:keybeat:$version" >/dev/null
image umount --all >/dev/null
echo "$archive"
