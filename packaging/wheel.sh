#!/usr/bin/env bash
# Builds a wheel with the program and the Python client: `pip install` puts keybeat on the PATH.
#   packaging/wheel.sh BINARY OUTPUT    writes OUTPUT/keybeat-VERSION-py3-none-manylinux_….whl
. "$(dirname "$0")/common.sh"

python_tools

# The tag names the oldest glibc that has every symbol of the program (PEP 600).
glibc=$(objdump -T "$binary" | grep -o 'GLIBC_2\.[0-9]*' | sort -uV | tail -1)
platform=manylinux_${glibc#GLIBC_}
platform=${platform/./_}_$machine

# setuptools leaves its files in the source folder.
cp -r clients/python "$work/source"
"$tools/bin/pip" wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps -w "$work" "$work/source"
"$tools/bin/wheel" unpack --dest "$work" "$work"/keybeat-*.whl >/dev/null
rm "$work"/keybeat-*.whl
unpacked=$work/keybeat-$version
install -D -m 755 "$binary" "$unpacked/keybeat-$version.data/scripts/keybeat"
sed -i 's/^Root-Is-Purelib: true/Root-Is-Purelib: false/' "$unpacked/keybeat-$version.dist-info/WHEEL"
"$tools/bin/wheel" pack --dest-dir "$work" "$unpacked" >/dev/null
"$tools/bin/wheel" tags --remove --platform-tag "$platform" "$work"/keybeat-*.whl >/dev/null
mv "$work"/keybeat-*.whl "$output"
echo "$output/keybeat-$version-py3-none-$platform.whl"
