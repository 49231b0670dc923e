#!/bin/sh
# Builds parbake_VERSION_all.deb into OUTDIR: packaging/build-deb.sh OUTDIR
# The build is reproducible: the times in the package are that of debian/changelog.
set -eu

[ $# -eq 1 ] || { echo "usage: $0 OUTDIR" >&2; exit 64; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
tree=$(cd "$(dirname "$0")/.." && pwd)

missing=
for package in debhelper dpkg-dev python3; do
    dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^.i' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "build-deb.sh: cannot build without these packages; run: apt-get install$missing" >&2
    exit 69
fi

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$tree/agent/__init__.py")
changelog=$(dpkg-parsechangelog -l "$tree/packaging/debian/changelog" -S Version)
if [ "$version" != "$changelog" ]; then
    echo "build-deb.sh: agent/__init__.py has version $version and packaging/debian/changelog has $changelog; make them equal" >&2
    exit 65
fi

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
mkdir "$build/parbake"
cd "$tree"
parts="agent packaging systemd"
[ ! -d docs ] || parts="$parts docs"
# shellcheck disable=SC2086
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files -z -co --exclude-standard $parts
else
    find $parts -type f ! -name '*.pyc' -print0
fi | xargs -0 sh -c 'for file; do [ ! -e "$file" ] || printf "%s\0" "$file"; done' sh |
    tar --null -T - -cf - | tar -C "$build/parbake" -xf - --no-same-owner
chmod -R u=rwX,go=rX "$build/parbake"
cp -a "$build/parbake/packaging/debian" "$build/parbake/debian"

cd "$build/parbake"
# -d: the build dependencies were checked above, except for build-essential, whose compiler is not needed.
if ! env -u MAKEFLAGS -u MAKELEVEL LC_ALL=C.UTF-8 dpkg-buildpackage -b -us -uc -d >"$build/log" 2>&1; then
    cat "$build/log" >&2
    exit 70
fi
cp "$build/parbake_${version}_all.deb" "$out/"
echo "$out/parbake_${version}_all.deb"
