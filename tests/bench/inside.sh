#!/bin/bash
# The part of scripts/bench.sh that runs in namespaces of its own, as the first process of the pid namespace.
#
# Environment, all from bench.sh: RUN (a short directory, for this run only), BENCH and CRI (below target), PODSHIM (the binary),
# TOOLS (rootfs-tools), PEERS (the tree of Debian sid; may be missing).
set -euo pipefail
# shellcheck disable=SC2034 # for isolate.sh
RESULTS=$BENCH/results
HERE=$(cd "$(dirname "$0")" && pwd)
export PATH=$CRI/bin:$CRI/debian/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

die() {
    echo "bench: $*" >&2
    exit 2
}
# shellcheck source=tests/cri/isolate.sh
. "$HERE/../cri/isolate.sh"

isolate
# What runtimes keep of what runs is on a tmpfs, as it is below /run.
mkdir "$RUN/run"
mount -t tmpfs -o mode=700 run "$RUN/run"
# Not exec: this process is the one that orphans are handed to, and bash collects them.
python3 -B "$HERE/bench.py" "$@"
