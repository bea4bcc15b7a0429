#!/bin/bash
# Runs the ecosystem's own suite for container runtimes, critest (cri-tools, unmodified), against a CRI server.
#
#   sudo scripts/critest.sh [--server podshim|containerd] [--parallel N] [--websocket] [--runtime-handler NAME] [--nri]
#                           [--focus REGEX] [--seed N] [--benchmark | --crictl]
#
#   --server podshim        what is tested; containerd is Debian's, to see what is the suite's or the machine's fault
#   --parallel N            N specs at once, as ginkgo does it; those that are marked serial still run alone
#   --websocket             exec, attach and port-forward over WebSocket instead of SPDY
#   --runtime-handler NAME  every sandbox with this handler; "crun" and "runc" are there (Debian's)
#   --nri                   with an NRI socket: without it the NRI specs are skipped
#   --focus REGEX           only specs whose full name matches
#   --benchmark             `critest -benchmark` instead, against podshim and containerd in turn, and the ratio of their times
#                           (with --server containerd: that one alone)
#   --crictl                tests/cri/crictl.sh instead: what a person does with crictl
#   --seed N                the order of the specs, as an earlier run printed it
#
# Everything is made here, as root on a fresh Debian (bookworm or later): packages, critest and crictl from the Go module
# proxy (tests/cri/go.mod), the images that the specs name (tests/cri/images.sh), a registry on loopback that serves them, and
# hosts.toml files that lead the names of public registries to it. The server and critest run in a network, mount, pid, ipc,
# uts and cgroup namespace of their own: nothing of the machine's is touched, and all ends with the first process of it.
#
# Prints a table of passed, failed and skipped specs, and what was left behind. Exit code 1 if a spec failed that is not in
# tests/cri/expected.tsv, if one was skipped for a reason that is not there, if fewer passed than it says, or if something was left
# behind (podshim only: containerd is not under test).
#
# Results are kept in target/cri/results/NAME: report.json (ginkgo's), critest.log, server.log, table.txt.
# Environment: PODSHIM_BIN (target/podshim), CARGO_TARGET_DIR, PODSHIM_CRITEST_SECONDS (patience, default 900),
# PODSHIM_CRITEST_IMAGES (a layout with the images, instead of building them), PODSHIM_CONTAINERD (another containerd: a
# directory into which its package, and runc's if wanted, are unpacked), PODSHIM_MAY_SKIP (with --crictl: "criu").
set -euo pipefail
exec </dev/null
cd "$(dirname "$0")/.."
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
cri=$target_dir/cri
bin=$cri/bin
podshim=$(realpath -m "${PODSHIM_BIN:-$target_dir/podshim}")

die() {
    echo "critest.sh: $*" >&2
    exit 2
}

server=podshim parallel=1 websocket='' handler='' nri='' focus='' benchmark='' crictl='' seed=''
while [ $# -gt 0 ]; do
    case $1 in
    --server) server=${2:?} && shift ;;
    --parallel) parallel=${2:?} && shift ;;
    --runtime-handler) handler=${2:?} && shift ;;
    --focus) focus=${2:?} && shift ;;
    --seed) seed=${2:?} && shift ;;
    --websocket) websocket=yes ;;
    --nri) nri=yes ;;
    --benchmark) benchmark=yes ;;
    --crictl) crictl=yes ;;
    -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    *) die "unknown option $1 (--help tells what there is)" ;;
    esac
    shift
done
case $server in podshim | containerd) ;; *) die "--server is podshim or containerd, not $server" ;; esac
[[ $parallel =~ ^[1-9][0-9]?$ ]] || die "--parallel takes a number from 1 to 99, not $parallel"
[ "$(id -u)" = 0 ] || die "namespaces, mounts and cgroups are made: try again with sudo"

install_packages() {
    local package missing=()
    for package in build-essential busybox-static ca-certificates containernetworking-plugins crun debian-archive-keyring \
        iproute2 iptables mmdebstrap procps python3 runc util-linux; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ] || ! apt-cache show docker-registry >/dev/null 2>&1; then
        apt-get update -qq
    fi
    [ ${#missing[@]} = 0 ] ||
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
    # Unpacked, not installed: their packages start servers.
    unpack docker-registry usr/bin/docker-registry
    if [ "$server" = containerd ] || [ -n "$benchmark" ]; then
        unpack containerd usr/bin/containerd
    fi
}

# shellcheck source=tests/cri/tools.sh
. tests/cri/tools.sh
# shellcheck source=tests/cri/cgroups.sh
. tests/cri/cgroups.sh

inside_pid='' run=''
end() {
    if [ -n "$inside_pid" ]; then
        # unshare ignores SIGTERM; its end is that of the first process of the pid namespace (--kill-child), and so of all.
        kill -KILL "$inside_pid" 2>/dev/null || true
        wait "$inside_pid" 2>/dev/null || true
    fi
    remove_cgroups
    [ -z "$run" ] || rm -rf "$run"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# run_inside SERVER NAME WORDS...: one server, one run of critest with WORDS; results to target/cri/results/NAME.
run_inside() {
    local server=$1 results=$cri/results/$2 code=0
    shift 2
    rm -rf "$results"
    mkdir -p "$results"
    # Short: sockets' paths end at 107 bytes.
    run=$(mktemp -d /tmp/critest.XXXXXX)
    make_cgroups
    CONTAINERD=${PODSHIM_CONTAINERD:-$cri/debian} SERVER=$server RUN=$run RESULTS=$results CRI=$cri PODSHIM=$podshim HANDLER=$handler NRI=$nri IMAGES=$images TOOLS=$tools \
        SECONDS_AT_MOST=${PODSHIM_CRITEST_SECONDS:-900} CGROUPS=$(printf '%s\n' "${cgroups[@]}") \
        tests/cri/enter.sh tests/cri/inside.sh "$@" &
    inside_pid=$!
    wait "$inside_pid" || code=$?
    inside_pid=''
    remove_cgroups
    rm -rf "$run"
    run=''
    return "$code"
}

mkdir -p "$cri"
install_packages
build_tools
images=${PODSHIM_CRITEST_IMAGES:-$cri/images/oci}
if [ -z "${PODSHIM_CRITEST_IMAGES:-}" ]; then
    PODSHIM_IMAGES=cri scripts/images.sh "$cri/images" >/dev/null
fi
tools=$(find "$target_dir" -maxdepth 3 -path '*-linux-*/release/rootfs-tools' -type f -print -quit)
[ -x "$tools" ] || die "rootfs-tools is missing: scripts/images.sh makes it"
if [ "$server" = podshim ]; then
    [ -x "$podshim" ] || die "$podshim is missing: scripts/build.sh makes it"
fi

if [ -n "$benchmark" ]; then
    mkdir -p "$cri/results"
    servers=(podshim containerd)
    [ "$server" = podshim ] || servers=("$server")
    for server in "${servers[@]}"; do
        run_inside "$server" "benchmark-$server" -benchmark -benchmarking-params-file "$PWD/tests/cri/benchmark.yaml" \
            -benchmarking-output-dir "$cri/results/benchmark-$server" || die "the benchmark of $server failed: see $cri/results"
    done
    python3 tests/cri/report.py benchmark "${servers[@]/#/$cri/results/benchmark-}" | tee "$cri/results/benchmark.txt"
    exit
fi

if [ -n "$crictl" ]; then
    code=0
    if [ "$server" = podshim ] && [[ ,${PODSHIM_MAY_SKIP:-}, != *,criu,* ]]; then
        CRIU=$(scripts/criu.sh)
        export CRIU
    fi
    export TRANSPORTS="spdy websocket"
    [ "$server" = podshim ] || TRANSPORTS=spdy
    run_inside "$server" "$server-crictl" crictl || code=$?
    cat "$cri/results/$server-crictl/table.txt"
    left=$cri/results/$server-crictl/left.txt
    if [ -s "$left" ]; then
        sed 's/^/left: /' "$left"
        [ "$server" != podshim ] || code=1
    fi
    exit "$code"
fi

name=$server-serial words=() options=()
[ "$parallel" = 1 ] || name=$server-parallel words+=(-parallel "$parallel")
[ -z "$websocket" ] || name+=-websocket options+=(--websocket) words+=(-websocket-exec -websocket-attach -websocket-portforward)
[ -z "$handler" ] || name+=-$handler options+=(--runtime-handler "$handler") words+=(-runtime-handler "$handler")
[ -z "$nri" ] || name+=-nri options+=(--nri)
[ -z "$focus" ] || name+=-focus options+=(--focus "$focus") words+=(-ginkgo.focus "$focus")
[ -z "$seed" ] || words+=(-ginkgo.seed "$seed")
code=0
run_inside "$server" "$name" "${words[@]}" || code=$?
python3 tests/cri/report.py table --server "$server" --expected tests/cri/expected.tsv --run="${options[*]}" --code "$code" "$cri/results/$name"
