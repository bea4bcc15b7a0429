#!/bin/bash
# Sets everything up and runs a pod in the foreground: an application that writes events into a volume, and a sidecar
# that ships them. Ctrl-C ends it.
#
#   sudo scripts/demo.sh [MANIFEST]      default: tests/pods/elastic-stack.yaml
#
# Builds podshim (scripts/build.sh) and the images (scripts/images.sh), imports the images into podshim's own store
# (/var/lib/podshim) and runs the manifest. Puts nothing on PATH; the pod is removed when it has ended, the images stay.
# Environment: PODSHIM_DEMO_SECONDS=N presses Ctrl-C after N seconds; PODSHIM_ROOT, PODSHIM_STATE and PODSHIM_LOG_DIR
# (as podshim's) put everything elsewhere; PODSHIM_NETWORK=none makes no bridge; CARGO_TARGET_DIR (as cargo's).
# Exit code: podshim's own, 130 after Ctrl-C; 0 if PODSHIM_DEMO_SECONDS ended it.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac
# A login shell finds cargo here; a CI job or `sudo` often does not.
[ ! -d "${CARGO_HOME:-$HOME/.cargo}/bin" ] || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

manifest=${1:-}
[ -z "$manifest" ] || manifest=$(realpath "$manifest")
cd "$(dirname "$0")/.."
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
manifest=${manifest:-$PWD/tests/pods/elastic-stack.yaml}
podshim=$target_dir/podshim

if [ "$(id -u)" != 0 ]; then
    echo "demo.sh: pods take root (namespaces, mounts and cgroups are made): try again with sudo" >&2
    exit 1
fi
step() {
    echo "== $*" >&2
}

step "building podshim"
scripts/build.sh
step "building the images"
PODSHIM_IMAGES=${PODSHIM_IMAGES:-busybox event-simulator filebeat} scripts/images.sh
step "importing the images"
"$podshim" image import "$target_dir/images/oci"

step "running $manifest"
echo "   Ctrl-C ends the pod. Meanwhile, in another terminal:" >&2
echo "   sudo $podshim ps" >&2
if [ -z "${PODSHIM_DEMO_SECONDS:-}" ]; then
    # In this process's place: Ctrl-C reaches podshim and nothing else.
    exec "$podshim" run "$manifest"
fi

# A background process of a script ignores SIGINT; podshim catches it anyway.
"$podshim" run "$manifest" &
pod=$!
trap 'kill -INT "$pod" 2>/dev/null || true' EXIT
deadline=$((SECONDS + PODSHIM_DEMO_SECONDS))
while [ "$SECONDS" -lt "$deadline" ] && kill -0 "$pod" 2>/dev/null; do sleep 0.1; done
kill -INT "$pod" 2>/dev/null || true
code=0
wait "$pod" || code=$?
trap - EXIT
[ "$code" != 130 ] || code=0
exit "$code"
