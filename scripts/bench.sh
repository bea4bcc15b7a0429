#!/bin/bash
# Measures podshim beside podman, containerd (by crictl and by CRI), crun, runc, skopeo with umoci, and a floor that does only the
# system calls that the same pod's isolation takes (tests/bench/floor.c), in one run, and prints one table.
#
#   sudo scripts/bench.sh [--quick] [--only ROW,...] [--peers NAME,...] [--rows]
#
#   --quick           a bounded version, for CI: fewer rounds, 20 pods in the place of 500, 32 MiB in the place of 1 GiB
#   --only ROW,...    these rows (--rows lists them)
#   --peers NAME,...  beside these: podman, containerd, crun, runc, skopeo; "none"; all by default
#   --rows            the names of the rows, and what they are
#
# A figure is a median of rounds in which all that are measured take turns; what is in parentheses is how many times podshim's it
# is. Where an aim is not met, the table says so; the exit code is 1 only if something could not be measured, or if podshim or
# what it has in memory is larger than its aim: that does not depend on what else the machine does.
#
# Needs scripts/build.sh and scripts/images.sh to have run; the rest is made here, as root on Debian (bookworm or later). Peers are
# those of Debian sid, in a tree below target/bench (mmdebstrap, once; remove target/bench/peers to have today's). Everything runs
# in a network, mount, pid, ipc, uts and cgroup namespace of its own and ends with the first process of it. crun and podman
# refuse a hybrid layout of cgroups, so peers have a mount namespace without version 2's mount there.
#
# Environment: PODSHIM_BIN (target/podshim), CARGO_TARGET_DIR. Results stay in target/bench/results: table.md, figures.json, *.log.
set -euo pipefail
exec </dev/null
export LC_ALL=C
cd "$(dirname "$0")/.."
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
cri=$target_dir/cri
# shellcheck disable=SC2034 # tools.sh reads it
bin=$cri/bin
bench=$target_dir/bench
podshim=$(realpath -m "${PODSHIM_BIN:-$target_dir/podshim}")
peers=$bench/peers

die() {
    echo "bench.sh: $*" >&2
    exit 2
}
case " $* " in
*" -h "* | *" --help "*) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
esac
# Wrong words are told before anything is made.
python3 -B tests/bench/bench.py --check "$@" || exit 2
[[ " $* " != *" --rows "* ]] || exit 0
[ "$(id -u)" = 0 ] || die "namespaces, mounts and cgroups are made: try again with sudo"
[ -x "$podshim" ] || die "$podshim is missing: scripts/build.sh makes it"

# shellcheck source=tests/cri/tools.sh
. tests/cri/tools.sh
# shellcheck source=tests/cri/cgroups.sh
. tests/cri/cgroups.sh

install_packages() {
    local package missing=()
    for package in build-essential busybox-static ca-certificates containernetworking-plugins debian-archive-keyring iproute2 iptables mmdebstrap procps \
        python3 util-linux; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ] || ! apt-cache show docker-registry >/dev/null 2>&1; then
        apt-get update -qq
    fi
    [ ${#missing[@]} = 0 ] ||
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
    unpack docker-registry usr/bin/docker-registry
}
# Debian sid with the peers. A failure is no end: rows say that peers are missing.
make_peers() {
    local mirror packages=podman,conmon,netavark,aardvark-dns,catatonit,crun,runc,containerd,skopeo,umoci
    [ ! -d "$peers" ] || return 0
    echo "bench.sh: making $peers" >&2
    # The first of the machine's own mirrors that carries Debian itself.
    # shellcheck disable=SC2016 # apt's words, not the shell's
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        sed -n '/security/d;s/^Debian main //p' | head -n 1)
    rm -rf "$peers.new"
    # A mirror may lag behind for longer than sid's lists are valid; their signature is still checked.
    if [ -n "$mirror" ] && mmdebstrap --quiet --variant=apt --mode=root --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
        --include="$packages,containernetworking-plugins,iptables,nftables,iproute2,mount,procps,util-linux,ca-certificates" \
        --aptopt='APT::Sandbox::User "root"' --aptopt='Acquire::Check-Valid-Until "false"' sid "$peers.new" \
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$bench/mmdebstrap.log" 2>&1; then
        mv "$peers.new" "$peers"
    else
        rm -rf "$peers.new"
        echo "bench.sh: no tree of Debian sid (see $bench/mmdebstrap.log): peers are not measured" >&2
    fi
}
build_programs() {
    local program
    for program in program floor; do
        [ "$bench/$program" -nt "tests/bench/$program.c" ] ||
            cc -static -O2 -Wall -Wextra -Werror -o "$bench/$program" "tests/bench/$program.c"
    done
}

inside_pid='' run=''
end() {
    if [ -n "$inside_pid" ]; then
        # unshare ignores SIGTERM; its end is that of the first process of the pid namespace (--kill-child), and so of all.
        kill -KILL "$inside_pid" 2>/dev/null || true
        wait "$inside_pid" 2>/dev/null || true
    fi
    remove_cgroups
    [ -z "$run" ] || rm -rf --one-file-system "$run"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir -p "$cri" "$bench/results"
install_packages
[[ " $* " == *" --peers none "* ]] || make_peers
build_tools
build_programs
tools=$(find "$target_dir" -maxdepth 3 -path '*-linux-*/release/rootfs-tools' -type f -print -quit)
[ -x "$tools" ] || die "rootfs-tools is missing: scripts/images.sh makes it"
# Short: sockets' paths end at 107 bytes.
run=$(mktemp -d /tmp/bench.XXXXXX)
make_cgroups
RUN=$run BENCH=$bench CRI=$cri PODSHIM=$podshim TOOLS=$tools PEERS=$peers CGROUPS=$(printf '%s\n' "${cgroups[@]}") \
    tests/cri/enter.sh tests/bench/inside.sh "$@" &
inside_pid=$!
code=0
wait "$inside_pid" || code=$?
inside_pid=''
[ "$code" = 0 ] || exit "$code"
