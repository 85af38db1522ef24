# Sourced by the other scripts of this folder. Each of them takes BINARY and OUTPUT.
#   project    the project's folder, which is the working folder
#   binary     the program to pack
#   output     the folder for the packages
#   version    the version of Cargo.toml
#   work       a temporary folder, deleted at the end
set -euo pipefail
binary=$(realpath "$1")
mkdir -p "$2"
output=$(realpath "$2")
project=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
cd "$project"

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
machine=$(uname -m)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

# The files of the packages have the time of the commit, so that the same commit gives the same packages.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.toml)}
export SOURCE_DATE_EPOCH

# manuals FOLDER: writes the man pages below FOLDER. The program prints them itself.
manuals() {
    mkdir -p "$1/man1"
    "$binary" man "$1/man1" >/dev/null
    gzip -9n "$1"/man1/*
}

# completion SHELL FILE: writes the completions of a shell.
completion() {
    mkdir -p "$(dirname "$2")"
    "$binary" completions "$1" >"$2"
}

# python_tools: installs the tools from PyPI in the folder $tools, once.
python_tools() {
    local wanted='wheel==0.45.1 setuptools==80.9.0 cyclonedx-python-lib[json-validation]==11.12.0'
    tools=$project/target/packaging
    if [ "$(cat "$tools/installed.txt" 2>/dev/null)" != "$wanted" ]; then
        python3 -m venv --clear "$tools"
        # shellcheck disable=SC2086 # several packages in one word
        "$tools/bin/pip" install --quiet --disable-pip-version-check $wanted
        echo "$wanted" >"$tools/installed.txt"
    fi
}
