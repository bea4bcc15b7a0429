#!/bin/bash
# Gives a criu that works on this kernel, for the tests of checkpoints, and prints the directory that it is in.
#
#   criu=$(sudo scripts/criu.sh) && PATH=$PATH:$criu
#
# One that is in PATH and passes `criu check` is taken as it is. Else Debian's of its testing suite is unpacked, with its libraries,
# below target/criu: nothing is installed. (Debian bookworm's 3.17 knows no kernel after 6.12: "Unexpected rt vDSO area bounds"; of
# 6.16 and later 4.1 cannot dump TCP sockets: "Can't get 1:16 opt".) The packages come from the mirror that apt uses here.
# Environment: CARGO_TARGET_DIR, PODSHIM_CRIU_SUITE (testing).
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac
exec </dev/null
cd "$(dirname "$0")/.."
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
suite=${PODSHIM_CRIU_SUITE:-testing}
tree=$target_dir/criu/$suite

die() {
    echo "criu.sh: $*" >&2
    exit 1
}
# The first version that dumps sockets of the kernels of its time; older kernels are fine with older ones.
is_fit() {
    "$1" check >/dev/null 2>&1 || return 1
    local kernel major minor
    kernel=$(uname -r)
    major=${kernel%%.*} minor=${kernel#*.} minor=${minor%%[!0-9]*}
    [ "$major" -lt 6 ] || { [ "$major" = 6 ] && [ "$minor" -lt 16 ]; } || "$1" --version | grep -Eq 'Version: (4\.([2-9]|[1-9][0-9])|[5-9])'
}

[ "$(id -u)" = 0 ] || die "criu takes root: try again with sudo"
if found=$(command -v criu) && is_fit "$found"; then
    dirname "$found"
    exit
fi
if [ ! -x "$tree/bin/criu" ]; then
    command -v mmdebstrap >/dev/null || die "mmdebstrap is missing (Debian's package mmdebstrap)"
    # shellcheck disable=SC2016 # apt-get's own variable
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1)
    [ -n "$mirror" ] || die "apt has no mirror of Debian"
    # Where apt takes lists of any age here, from a mirror that stands still, mmdebstrap's does, too.
    age=$(apt-config shell age Acquire::Check-Valid-Until/b)
    age=${age#*\'} age=${age%\'}
    rm -rf "$tree" "$tree.new"
    mkdir -p "$tree.new/bin"
    # Extracted only: no script of a package runs.
    mmdebstrap --quiet --variant=extract --include=criu --aptopt='APT::Install-Recommends "false"' \
        --aptopt="Acquire::Check-Valid-Until \"${age:-true}\"" "$suite" "$tree.new/root" "$mirror" >&2
    libc=$(find "$tree.new/root" -name libc.so.6 -print -quit)
    loader=$(find "$tree.new/root" -name 'ld-linux-*.so.*' -print -quit)
    [ -n "${libc:+$loader}" ] || die "the packages hold no C library"
    final() { printf '%s' "$tree${1#"$tree.new"}"; }
    printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" "$@"\n' \
        "$(final "$loader")" "$(final "$(dirname "$libc")")" "$tree/root/usr/sbin/criu" >"$tree.new/bin/criu"
    chmod 755 "$tree.new/bin/criu"
    mv "$tree.new" "$tree"
fi
said=$("$tree/bin/criu" check 2>&1) || die "this criu does not work on this kernel either: $said"
echo "$tree/bin"
