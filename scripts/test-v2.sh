#!/bin/bash
# Tests podshim where cgroup version 2 is the only one: boots a small virtual machine (scripts/v2-guest.sh) with a Debian
# kernel, the static podshim and a few images, and runs tests/v2/guest.sh in it.
#
#   scripts/test-v2.sh
#
# Needs target/podshim (scripts/build.sh) and qemu-system-x86_64. Environment: PODSHIM_BIN (another static podshim),
# PODSHIM_V2_SECONDS (patience, default 600: emulation is slow), CARGO_TARGET_DIR.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac
# A login shell finds cargo here; a CI job or `sudo` often does not.
[ ! -d "${CARGO_HOME:-$HOME/.cargo}/bin" ] || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
cd "$(dirname "$0")/.."
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
podshim=${PODSHIM_BIN:-$target_dir/podshim}
images=$target_dir/v2-images

[ -x "$podshim" ] || {
    echo "test-v2.sh: $podshim is missing: scripts/build.sh makes it" >&2
    exit 1
}
PODSHIM_IMAGES="busybox facts" scripts/images.sh "$images" >/dev/null
# An image of three layers, of which the upper ones change the lowest: kernels before 6.8 mount it in another way.
layers=$(mktemp -d)
trap 'rm -rf "$layers"' EXIT
mkdir -p "$layers/second" "$layers/third"
echo second >"$layers/second/which"
echo second >"$layers/second/gone"
echo third >"$layers/third/which"
find "$target_dir" -maxdepth 3 -path '*-linux-*/release/rootfs-tools' -type f -print -quit >"$layers/tools"
facts=$(dirname "$(cat "$layers/tools")")/facts
"$(cat "$layers/tools")" busybox /bin/busybox --layer "$layers/second" --layer "$layers/third" --delete gone \
    --tag localhost/layered -o "$images/oci" >/dev/null

PODSHIM_GUEST_CACHE=${PODSHIM_GUEST_CACHE:-$target_dir/v2-guest} scripts/v2-guest.sh -t "${PODSHIM_V2_SECONDS:-600}" \
    -a "$images/oci:/images" -a "$facts:/bin/facts" -a tests/v2/guest.sh:/tests/guest.sh -s 'sh /tests/guest.sh' "$podshim"
