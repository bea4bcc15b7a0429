#!/bin/bash

# The pod elastic-stack/app, built by hand: what `podshim run` does, step by step and in its order,
# with the tools of a Debian 12.
#
#   sudo bash pod.sh up      # builds it, runs its init containers, starts the others
#   sudo bash pod.sh down    # takes it down: the host is as before
#
# Begin to read at the end, at `up`: it is the recipe. Files with secrets of the manifest are in this text, too.
# podshim is one process that makes system calls; here each line is a program that makes one or two of them.

# shellcheck disable=SC2016 # what is in single quotes is meant as it is written
set -euo pipefail
# Texts are bytes here, whatever language you speak; and only the system's own programs are used.
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 0022

# Everything that is made is below this directory, and in cgroups of this name below each hierarchy.
POD=${POD:-/run/podshim-by-hand/elastic-stack_app}
CGROUP=${CGROUP:-podshim-by-hand-elastic-stack_app}
POD=$(realpath --canonicalize-missing -- "$POD")
SELF=$(realpath -- "${BASH_SOURCE[0]}")
export POD CGROUP

# Where cgroups are, on the host that this was written for.
HIERARCHIES=(/sys/fs/cgroup)

# ---- small helpers -----------------------------------------------------------

say() { printf 'pod: %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# What this shell was given open beside its standard descriptors would be handed on to the containers: closed.
# (255 is where bash reads this script.)
close_inherited() {
    local path number
    for path in /proc/self/fd/*; do
        number=${path##*/}
        case $number in
        0 | 1 | 2 | 255) ;;
        *) exec {number}>&- ;;
        esac
    done
}

# inside PATH: where PATH of the container is on the host: the variable $found. An image may hold symbolic links, and
# what they say is meant inside of the container's root; followed by the host, `/dev -> /etc` would lead to the host's /etc.
# podshim has the kernel do this (openat2 with RESOLVE_IN_ROOT), which nothing that changes meanwhile can deceive. Here,
# looking and using are two things: run such a script with images that you trust.
inside() {
    local rest=$1 links=0 name text
    found=$root
    while [ -n "$rest" ]; do
        name=${rest%%/*}
        rest=${rest#"$name"}
        rest=${rest#/}
        case $name in
        '' | .) ;;
        ..) [ "$found" = "$root" ] || found=${found%/*} ;;
        *)
            if [ -L "$found/$name" ]; then
                links=$((links + 1))
                [ "$links" -le 40 ] || die "$1 leads through too many symbolic links"
                # The x keeps newlines at the end of the link's text.
                text=$(readlink --no-newline -- "$found/$name" && printf x)
                text=${text%x}
                case $text in /*) found=$root ;; esac
                rest=$text/$rest
            else
                found=$found/$name
            fi
            ;;
        esac
    done
}

# skeleton PATH: a directory of the container that may be reached through no symbolic link at all; made if missing.
skeleton() {
    inside "$1"
    [ "$found" = "$root$1" ] || die "$1 or a part of it is a symbolic link in the image"
    mkdir --parents -- "$found"
}

# directory PATH, file PATH: a directory or a file of the container, made if missing.
directory() {
    inside "$1"
    mkdir --parents -- "$found"
}

file() {
    inside "$1"
    mkdir --parents -- "${found%/*}"
    [ -e "$found" ] || : >"$found"
}

# restrict TARGET FLAGS: adds flags to a mount that is there. "remount,bind" changes this one mount. Without "bind" it would
# change the file system behind it, which others have mounted too: a read-only cgroup file system for the whole host.
restrict() {
    local now
    now=$(findmnt --noheadings --output VFS-OPTIONS --mountpoint "$1" | tail -n 1)
    mount --options "remount,bind,$now,$2" none "$1"
}

# restrict_all TARGET FLAGS: the same for the mounts below it, too.
restrict_all() {
    local line target
    findmnt --noheadings --raw --submounts --output TARGET "$1" | while read -r line; do
        printf -v target '%b' "${line//\\x/\\x}"
        restrict "$target" "$2"
    done
}

# file_system KIND TARGET OPTIONS: a new instance of a file system.
file_system() {
    skeleton "$2"
    mount --types "$1" --options "$3" none "$found"
}

# show_cgroup DIRECTORY TARGET FLAGS: a cgroup of the host's hierarchy, and those below it, appear there.
show_cgroup() {
    mount --bind -- "$1" "$2"
    mount --make-private "$2"
    restrict "$2" "$3"
}

# attach bind|rbind SOURCE TARGET: a file or directory of the host appears in the container; "rbind" takes along what is
# mounted below it. Where it appears is $found.
attach() {
    if [ -d "$2" ]; then directory "$3"; else file "$3"; fi
    case $(stat --file-system --format=%T -- "$found" "$2" | tr '\n' ' ')$2 in
    sysfs\ tmpfs\ /sys/fs/cgroup | sysfs\ cgroup* | sysfs\ sysfs\ * | sysfs\ bpf_fs\ * | sysfs\ debugfs\ * | sysfs\ tracefs\ *) ;;
    sysfs\ * | proc\ *)
        [ "$found" = "$root/proc" ] || [ "$found" = "$root/sys" ] || die "$3 is in procfs or sysfs, where nothing may be mounted"
        ;;
    esac
    mount "--$1" -- "$2" "$found"
}

# device PATH MAJOR MINOR: a character device that every user may open.
device() {
    local there wanted
    skeleton "${1%/*}"
    found=$found/${1##*/}
    if [ -e "$found" ] || [ -L "$found" ]; then
        # A volume at /dev may hold it already. (stat does not follow a link, and writes device numbers in hexadecimal.)
        there=$(stat --format=%F:%t:%T -- "$found")
        wanted=$(printf 'character special file:%x:%x' "$2" "$3")
        [ "$there" = "$wanted" ] || die "$1 is there already, and not the device $2:$3"
        return
    fi
    mknod --mode=0666 "$found" c "$2" "$3"
}

# link TEXT PATH: a symbolic link.
link() {
    skeleton "${2%/*}"
    found=$found/${2##*/}
    if [ -L "$found" ] && [ "$(readlink -- "$found")" = "$1" ]; then return; fi
    ln --symbolic --no-target-directory -- "$1" "$found"
}

# kernel_path PATH: a path of procfs or sysfs, which must be one; false if it does not exist.
kernel_path() {
    inside "$1"
    [ "$found" = "$root$1" ] || die "$1 or a part of it is a symbolic link"
    [ -e "$found" ] || return 1
    case $(stat --file-system --format=%T -- "$found") in
    proc | sysfs) ;;
    *) die "$1 is neither of procfs nor of sysfs" ;;
    esac
}

# mask PATH: something empty is put over it. The host's device read-only: the container's root could change its mode.
mask() {
    kernel_path "$1" || return 0
    if [ -d "$found" ]; then
        mount --bind -- "$POD/empty" "$found"
    else
        mount --bind -o ro -- /dev/null "$found"
    fi
    mount --make-private "$found"
}

# read_only PATH: it is mounted over itself, read-only.
read_only() {
    kernel_path "$1" || return 0
    mount --rbind -- "$found" "$found"
    mount --make-rprivate "$found"
    restrict_all "$found" ro
}

# host_devices: a node for each of the host's devices, which sysfs lists (privileged containers).
host_devices() {
    local list kind entry key value name
    for list in char block; do
        case $list in char) kind=c ;; block) kind=b ;; esac
        for entry in "/sys/dev/$list"/*; do
            name=''
            while IFS='=' read -r key value; do
                [ "$key" != DEVNAME ] || name=$value
            done <"$entry/uevent"
            case $name in '' | console | ptmx | pts/* | *..*) continue ;; esac
            directory "/dev/$(dirname -- "$name")"
            found=$found/$(basename -- "$name")
            [ -e "$found" ] || mknod --mode=0660 "$found" "$kind" "$(basename -- "${entry%:*}")" "${entry##*:}"
        done
    done
}

# sub_path VOLUME PATH: a path in a volume, made if missing; one that leads out of it is refused.
sub_path() {
    local volume real mode part at
    volume=$(realpath -- "$1")
    real=$(realpath --canonicalize-missing -- "$volume/$2")
    case $real/ in "$volume"/*) ;; *) die "subPath $2 leads out of the volume $1" ;; esac
    mode=$(stat --format=%a -- "$volume")
    at=$volume
    part=${real#"$volume"}
    while [ ! -e "$real" ]; do
        part=${part#/}
        at=$at/${part%%/*}
        case $part in */*) part=${part#*/} ;; *) part='' ;; esac
        if [ ! -e "$at" ]; then
            mkdir -- "$at"
            chmod -- "$mode" "$at"
        fi
    done
    found=$real
}

# overlay DIRECTORY: the layers of an image, of which DIRECTORY/layers/0 is the lowest, and above them a writable directory,
# seen as one at DIRECTORY/rootfs. The layers stay as they are: what is changed is copied up, and a file that is removed is
# marked as removed in the upper directory. The short names are for the kernel, which takes no more than a page of options.
overlay() {
    local lower='' number=0
    mkdir -- "$1/rootfs" "$1/upper" "$1/work"
    # The container's root directory has this one's mode.
    chmod 0755 -- "$1/upper"
    while [ -e "$1/layers/$number" ]; do
        lower=layers/$number${lower:+:$lower}
        number=$((number + 1))
    done
    (cd -- "$1" && mount --types overlay --options "lowerdir=$lower,upperdir=upper,workdir=work" overlay rootfs)
}

# The program that waits at the gate, in the container's namespaces but with nothing of the container's opened yet, until
# its new root is in place. Then it becomes the container's own program. It is written in Perl, as a shell would change the
# environment (PWD, SHLVL, _) that it hands on.
GATE='
open(my $go, "<&=", 3) or die "gate: $!\n";
open(my $ready, ">&=", 4) or die "gate: $!\n";
syswrite($ready, "ready\n");
close($ready);
<$go>;
close($go);
exec { $ARGV[0] } @ARGV;
print STDERR "$ARGV[0]: $!\n";
exit 127;'

# remember_pid DIRECTORY: writes the pid of this shell, as the host counts, to DIRECTORY/pid. A shell in a pid namespace does
# not know it ($$ is 1 there), but this procfs is still the host's.
remember_pid() {
    local pid rest
    read -r pid rest </proc/self/stat
    printf '%s\n' "$pid" >"$1/pid"
}

# born DIRECTORY: waits until the process that was started for DIRECTORY has come to its gate.
born() {
    local word=''
    read -r word <"$1/ready" || true
    [ "$word" = ready ] || die "it ended before it was ready: see $POD/log/${1##*/}.log"
}

# pivot DIRECTORY ROOT: ROOT becomes the root of the mount namespace that the process of DIRECTORY is in. It is done from
# outside, by processes that enter that namespace, as no program of the host is to be found there once it is done.
#  1. pivot_root(2) with the same directory twice puts the new root at / and the old one on top of it.
#  2. The old root's mounts stop telling the host's of what happens to them; or else the host's would go with them.
#  3. The old root, which is on top, is taken off. What is still used of it lives on, but no path leads to it any more.
pivot() {
    local pid
    pid=$(cat -- "$1/pid")
    nsenter --target="$pid" --mount -- pivot_root "$2" "$2"
    nsenter --target="$pid" --mount -- mount --make-rslave /
    nsenter --target="$pid" --mount -- umount --lazy /
}

# go DIRECTORY: opens the gate.
go() {
    printf 'go\n' 1<>"$1/go"
}

# make_cgroup NAME: the pod's cgroup NAME, or the pod's own if NAME is empty, in every hierarchy. A cgroup is a directory:
# the kernel fills it with files as soon as it is made.
make_cgroup() {
    local mount at part parts
    IFS=/ read -r -a parts <<<"$CGROUP${1:+/$1}"
    for mount in "${HIERARCHIES[@]}"; do
        at=$mount
        for part in "${parts[@]}"; do
            pass_down "$at"
            at=$at/$part
            [ -d "$at" ] || mkdir -- "$at"
            inherit_cpuset "$at"
        done
    done
}

# pass_down DIRECTORY: with cgroup v2 a cgroup has the controllers (cpu, memory, ...) that its parent passes down, and a
# parent that does holds no processes itself.
pass_down() {
    local controller
    [ -e "$1/cgroup.subtree_control" ] || return 0
    if [ -e "$1/cgroup.type" ] && [ -n "$(cat -- "$1/cgroup.procs")" ]; then return; fi
    for controller in cpu cpuset io memory pids hugetlb; do
        if grep --quiet --word-regexp "$controller" "$1/cgroup.controllers"; then
            # If it is refused, the limit that needs it will say so.
            printf '+%s' "$controller" 2>/dev/null >"$1/cgroup.subtree_control" || true
        fi
    done
}

# inherit_cpuset DIRECTORY: with cgroup v1 a new cgroup may use no cpu at all, and nobody can enter it, until it is told.
inherit_cpuset() {
    local file
    [ -e "$1/cpuset.cpus" ] && [ ! -e "$1/cgroup.controllers" ] || return 0
    for file in cpuset.cpus cpuset.mems; do
        [ -n "$(cat -- "$1/$file")" ] || cat -- "${1%/*}/$file" >"$1/$file"
    done
}

# join_cgroup NAME: this process and what it starts are counted there from now on. "0" means the one that writes.
join_cgroup() {
    local mount
    for mount in "${HIERARCHIES[@]}"; do
        printf 0 >"$mount/$CGROUP/$1/cgroup.procs"
    done
}

# rlimit NAME SOFT HARD: a limit of this process and what comes of it. Only who has CAP_SYS_RESOURCE may raise a hard limit:
# others get as much as they may have.
rlimit() {
    local soft=$2 hard
    if prlimit --pid "$$" "--$1=$2:$3" 2>/dev/null; then return; fi
    hard=$(prlimit --pid "$$" --noheadings --raw --output HARD "--$1")
    if [ "$soft" = unlimited ] || [ "$soft" -gt "$hard" ]; then soft=$hard; fi
    prlimit --pid "$$" "--$1=$soft:$hard"
    say "$1 is $soft:$hard, a hard limit of $3 takes CAP_SYS_RESOURCE"
}

# limit FILE VALUE: writes a file of a cgroup.
limit() {
    printf '%s' "$2" >"$1" || die "$1 does not take $2"
}

# limit_if_there FILE VALUE: without the file there is nothing to limit on this kernel.
limit_if_there() {
    [ ! -e "$1" ] || limit "$1" "$2"
}

# set_ipv6 LINK NAME=VALUE...: settings of a link; one without IPv6 has none.
set_ipv6() {
    local at=/proc/sys/net/ipv6/conf/$1 setting
    shift
    [ -d "$at" ] || return 0
    for setting in "$@"; do
        printf '%s' "${setting#*=}" >"$at/${setting%%=*}"
    done
}

# wait_for NAME: waits for the end of an init container, which must be a good one.
wait_for() {
    local code=0
    wait "$(cat -- "$POD/containers/$1/waiting")" || code=$?
    say "$1 ended with $code"
    if [ "$code" != 0 ]; then
        tail --lines=5 -- "$POD/log/$1.log" >&2
        die "an init container failed: podshim would try again, and so on"
    fi
}


# ---- volumes and files ---------------------------------------------------------

volumes() {
    local v

    # Volume log-volume: a path of the host. It is checked to be what the manifest says it is.
    v=/var/log/webapp
    [ -e "$v" ] || mkdir --parents -- "$v"
    [ -d "$v" ] || die 'hostPath /var/log/webapp is not a directory'
}

own_files() {
    # What containers may write of the host's memory is little: these file systems have a limit.
    mkdir --mode=1777 -- "$POD/shm"
    chmod 1777 -- "$POD/shm"
    mount --types tmpfs --options nosuid,nodev,mode=1777,size=67108864 none "$POD/shm"
    mkdir -- "$POD/etc"
    mount --types tmpfs --options nosuid,nodev,mode=0755,size=16777216,nr_inodes=1024 none "$POD/etc"

    # How the pod's containers find names: files of podshim's, in the place of what their images
    # have.
    printf '%s' '127.0.0.1	localhost
' >"$POD/etc/hosts"
    printf '%s' 'nameserver 10.86.0.2
' >"$POD/etc/resolv.conf"
    printf '%s' 'x
' >"$POD/etc/hostname"

    # Something empty, to be put over directories that containers shall not see.
    mkdir -- "$POD/empty"
    mount --types tmpfs --options nosuid,nodev,noexec,nr_inodes=1 none "$POD/empty"
    restrict "$POD/empty" ro
}

# ---- what the containers share -------------------------------------------------

pod_cgroup() {
    # The pod's cgroup. Those of its containers are in it, so its limits hold for all of them
    # together, and whatever its processes do, they can be found here.
    make_cgroup ''
    limit /sys/fs/cgroup/"$CGROUP"/cpu.weight 1
}

sandbox() {
    # A namespace lives as long as a process is in it, or something is mounted that refers to it. So
    # each is mounted to a file: it needs no process, and can be entered by the file's name (nsenter
    # --net=FILE).
    mkdir -- "$POD/ns"
    : >"$POD/ns/net"
    : >"$POD/ns/uts"
    : >"$POD/ns/ipc"

    # unshare(1) makes new namespaces, mounts each to its file, and runs a program in them.
    unshare --net="$POD/ns/net" --uts="$POD/ns/uts" --ipc="$POD/ns/ipc" -- bash "$SELF" inside_sandbox
}

inside_sandbox() {
    # The pod's own host name, in its uts namespace.
    hostname -- app

    # A new network namespace has nothing but a loopback interface that is off. By it the pod's
    # containers reach each other at 127.0.0.1; no other pod is there.
    ip link set lo up
}

# ---- network -------------------------------------------------------------------

network() {
    local mtu uplink file

    # What podshim does more, for all of its pods together: an address that no other pod has (here
    # it is the network's first, so let no other pod be on it), Services, network policies, names,
    # ports of the host, and rules that keep pods from using each other's addresses.

    # A packet should not be larger than what leaves the host in one piece.
    mtu=1500
    uplink=$(ip -oneline route show default | sed --quiet '1s/.* dev \([^ ]*\).*/\1/p')
    [ -z "$uplink" ] || mtu=$(ip -oneline link show dev "$uplink" | sed 's/.* mtu \([0-9]*\).*/\1/')

    # The host passes on packets from one interface to another: it is the pods' router. `down` puts
    # back what was there.
    cat /proc/sys/net/ipv4/ip_forward >"$POD/forward4"
    printf 1 >/proc/sys/net/ipv4/ip_forward

    # A host that passes on IPv6 packets takes no more advice about routes from its own router,
    # unless this says 2.
    for file in /proc/sys/net/ipv6/conf/*/accept_ra; do
        [ "$(cat "$file")" = 1 ] || continue
        printf '%s\n' "$file" >>"$POD/accept_ra"
        printf 2 >"$file"
    done

    # The host passes on packets from one interface to another: it is the pods' router. `down` puts
    # back what was there.
    cat /proc/sys/net/ipv6/conf/all/forwarding >"$POD/forward6"
    printf 1 >/proc/sys/net/ipv6/conf/all/forwarding

    # The bridge: a switch in the kernel, to which each pod has a cable. It has the pods' gateway
    # address, by which they reach everything else.
    if ! ip link show dev podshim0 >/dev/null 2>&1; then
        : >"$POD/made-bridge"
        ip link add podshim0 mtu "$mtu" address 86:89:29:79:3d:29 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
        # Nor does the bridge take advice from pods.
        set_ipv6 podshim0 accept_ra=0 accept_redirects=0 accept_dad=0
        printf 0 >/proc/sys/net/ipv4/conf/podshim0/send_redirects
        printf 0 >/proc/sys/net/ipv4/conf/podshim0/accept_redirects
    fi
    ip -4 address replace 10.86.0.1/16 dev podshim0
    ip -6 address replace fd86::1/64 dev podshim0 nodad
    ip link set podshim0 up

    # A pair of interfaces is like a cable: what goes in at one end comes out at the other. One end
    # is made in the pod's network namespace, as eth0; the other is on the host.
    ip link add veth127c195e6b3 mtu "$mtu" address 6a:72:fc:42:cc:e3 type veth \
        peer name eth0 mtu "$mtu" address ca:3e:ef:06:ec:b4 netns "$POD/ns/net"
    ip link set veth127c195e6b3 addrgenmode none
    set_ipv6 veth127c195e6b3 accept_ra=0

    # The host's end is a port of the bridge. The bridge learns nothing from what the pod sends, and
    # takes packets from the pod's own hardware address only: no pod can pretend to be another one.
    ip link set veth127c195e6b3 master podshim0
    bridge link set dev veth127c195e6b3 learning off flood off mcast_flood off bcast_flood off hairpin on locked on
    bridge fdb replace ca:3e:ef:06:ec:b4 dev veth127c195e6b3 master static
    nsenter --net="$POD/ns/net" -- bash "$SELF" inside_network
    ip link set veth127c195e6b3 up

    # Nobody outside knows the way to the pod's address. What it sends there gets the host's
    # address, and the kernel brings the answers back to the pod (masquerading).
    nft add table inet podshim-by-hand-veth127c195e6b3
    nft add chain inet podshim-by-hand-veth127c195e6b3 postrouting '{ type nat hook postrouting priority srcnat; }'
    nft add rule inet podshim-by-hand-veth127c195e6b3 postrouting ip saddr 10.86.0.3 ip daddr != 224.0.0.0/4 oifname != podshim0 masquerade fully-random
    nft add rule inet podshim-by-hand-veth127c195e6b3 postrouting ip6 saddr fd86::3 ip6 daddr != ff00::/8 oifname != podshim0 masquerade fully-random
}

inside_network() {
    # The pod takes no advice about routes from what is sent to it.
    printf 0 >/proc/sys/net/ipv4/conf/all/accept_redirects
    printf 0 >/proc/sys/net/ipv4/conf/eth0/accept_redirects
    set_ipv6 default accept_ra=0 accept_redirects=0 accept_dad=0
    set_ipv6 all accept_ra=0 accept_redirects=0 accept_dad=0
    set_ipv6 eth0 accept_ra=0 accept_redirects=0 accept_dad=0

    # The pod's addresses. The prefix is that of one address, as nothing else is on the cable: all
    # packets, to other pods too, go to the gateway, the bridge's own address.
    ip -4 address add 10.86.0.3/32 dev eth0
    ip -6 address add fd86::3/128 dev eth0 nodad
    ip link set eth0 up
    ip -4 route add 10.86.0.1 dev eth0 proto static scope link src 10.86.0.3
    ip -4 route add default via 10.86.0.1 dev eth0 proto static src 10.86.0.3
    ip -6 route add fd86::1 dev eth0 proto static scope link src fd86::3
    ip -6 route add default via fd86::1 dev eth0 proto static src fd86::3
}

network_down() {
    local result=0 file

    # With one end of the pair the other one goes, too.
    ! ip link show dev veth127c195e6b3 >/dev/null 2>&1 || ip link delete veth127c195e6b3 || result=1
    ! nft list table inet podshim-by-hand-veth127c195e6b3 >/dev/null 2>&1 || nft delete table inet podshim-by-hand-veth127c195e6b3 || result=1

    # Others may have come to use the bridge: then it stays, and the host goes on passing on their
    # packets.
    if [ -e "$POD/made-bridge" ]; then
        if [ -n "$(ip -oneline link show master podshim0 2>/dev/null)" ]; then return "$result"; fi
        ! ip link show dev podshim0 >/dev/null 2>&1 || ip link delete podshim0 || result=1
        [ ! -s "$POD/forward4" ] || cat "$POD/forward4" >/proc/sys/net/ipv4/ip_forward || result=1
        [ ! -s "$POD/forward6" ] || cat "$POD/forward6" >/proc/sys/net/ipv6/conf/all/forwarding || result=1
        if [ -e "$POD/accept_ra" ]; then
            while read -r file; do printf 1 >"$file" || result=1; done <"$POD/accept_ra"
        fi
    fi
    return "$result"
}

# ---- container app -------------------------------------------------------------

start_app() {
    local c=$POD/containers/app
    mkdir --parents -- "$c/layers"

    # The layers of its image, kodekloud/event-simulator, as podshim has unpacked them: the lowest
    # one is 0.
    ln --symbolic -- /var/lib/podshim/layers/1 "$c/layers"/0
    ln --symbolic -- /var/lib/podshim/layers/2 "$c/layers"/1
    overlay "$c"

    # What it leaves as its last words: a file on a file system that cannot grow.
    mkdir --parents -- "$POD/termination/app"
    mount --types tmpfs --options nosuid,nodev,mode=0755,size=1048576,nr_inodes=1024 none "$POD/termination/app"
    : >"$POD/termination/app/0"
    chmod 0666 -- "$POD/termination/app/0"

    # Its cgroup, with its limits.
    make_cgroup app
    limit /sys/fs/cgroup/"$CGROUP"/app/cpu.weight 1
    limit /sys/fs/cgroup/"$CGROUP"/app/pids.max 2048
    limit /sys/fs/cgroup/"$CGROUP"/app/memory.oom.group 1
    limit_if_there /sys/fs/cgroup/"$CGROUP"/app/memory.swap.max 0

    # NOT MADE: with cgroup v2, which devices may be opened is decided by a program in the kernel
    # (BPF).

    # What it writes to its standard output; the container's user may open it again, as /dev/stdout.
    : >"$POD/log/app.log"
    chown 0:0 -- "$POD/log/app.log"

    # net: The pod's network: its containers have the same addresses and ports, and meet on
    # localhost.

    # uts: The pod's host name.

    # ipc: The pod's shared memory, semaphores and message queues.

    # mnt: podshim keeps a mount namespace without any mounts, of which those of containers begin as
    # copies. Here it begins with a copy of the host's mounts, which are taken away later (see
    # pivot): all that is mounted before is below $POD, which is private.

    # pid: the process that goes on is pid 1 of a new numbering, and sees no process of anybody
    # else's. unshare(1) itself stays outside, and waits for its end.
    mkfifo -- "$c/ready" "$c/go"
    nsenter --net="$POD/ns/net" --uts="$POD/ns/uts" --ipc="$POD/ns/ipc" -- \
        unshare --mount --propagation unchanged --pid --fork -- bash "$SELF" in_app \
        </dev/null >>"$POD/log/app.log" 2>&1 3<>"$c/go" 4>"$c/ready" &
    printf '%s\n' "$!" >"$c/waiting"
    born "$c"

    # The container has its own copy of this mount; the host needs none.
    umount -- "$c/rootfs"
    pivot "$c" "$c/rootfs"
    go "$c"
}

in_app() {
    local c=$POD/containers/app
    remember_pid "$c"

    # podshim's init first asks to be killed when its supervisor ends before it does. There is no
    # supervisor here.

    # Whatever it uses from here on is counted, and limited, as the container's.
    join_cgroup app

    # NOT MADE: a session keyring of its own (keyctl(1) of the package keyutils could make one).
    # Debian's tools cannot do it. What it is for: Keys that the kernel keeps for whoever called
    # podshim are handed on with every fork; the container gets a ring of its own.

    # When the host runs out of memory, this number decides who is killed first.
    printf '%s' 1000 >/proc/self/oom_score_adj || say "oom_score_adj stays as it is: a lower one takes CAP_SYS_RESOURCE"

    # NOT MADE: the AppArmor profile podshim-default. Debian's tools cannot do it. What it is for:
    # AppArmor confines the program that is executed later to the rules of this profile.

    # How much of this the process may use at most, and what it may raise that to by itself.
    rlimit nofile 1024 524288

    # A cgroup namespace: the cgroup that was just joined becomes the root of all it sees of
    # cgroups.
    exec unshare --cgroup -- bash "$SELF" root_of_app
}

root_of_app() {
    local root=$POD/containers/app/rootfs

    # podshim now changes to the new root (pivot_root), and mounts from inside. The programs that
    # are needed here are in the host's root, so that comes last: see pivot.

    # /proc: A procfs shows the processes of the pid namespace of who mounts it: these, and no
    # others.
    file_system proc /proc nosuid,nodev,noexec

    # /dev: An empty directory in memory, in the place of what the image has here.
    file_system tmpfs /dev nosuid,mode=755,size=65536k

    # One of the few devices that every program may expect, and that are harmless.
    device /dev/null 1 3
    device /dev/zero 1 5
    device /dev/full 1 7
    device /dev/random 1 8
    device /dev/urandom 1 9
    device /dev/tty 5 0

    # Programs expect this name in /dev.
    link /proc/self/fd /dev/fd
    link /proc/self/fd/0 /dev/stdin
    link /proc/self/fd/1 /dev/stdout
    link /proc/self/fd/2 /dev/stderr
    link pts/ptmx /dev/ptmx

    # /sys: A sysfs shows the network devices of the network namespace of who mounts it.
    file_system sysfs /sys nosuid,nodev,noexec
    restrict "$found" ro

    # /log: the volume log-volume.
    attach rbind /var/log/webapp /log
    mount --make-rprivate "$found"

    # /dev/pts: Terminals of the container's own.
    file_system devpts /dev/pts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5

    # /dev/mqueue: The message queues of the pod's ipc namespace.
    file_system mqueue /dev/mqueue nosuid,nodev,noexec

    # /etc/hosts: a file or directory that podshim makes for the pod.
    attach bind "$POD"/etc/hosts /etc/hosts
    mount --make-rprivate "$found"
    restrict "$found" nosuid,nodev

    # /etc/resolv.conf: a file or directory that podshim makes for the pod.
    attach bind "$POD"/etc/resolv.conf /etc/resolv.conf
    mount --make-rprivate "$found"
    restrict "$found" nosuid,nodev

    # /etc/hostname: a file or directory that podshim makes for the pod.
    attach bind "$POD"/etc/hostname /etc/hostname
    mount --make-rprivate "$found"
    restrict "$found" nosuid,nodev

    # /dev/shm: a file or directory that podshim makes for the pod.
    attach bind "$POD"/shm /dev/shm
    mount --make-rprivate "$found"
    restrict "$found" nosuid,nodev

    # /dev/termination-log: a file or directory that podshim makes for the pod.
    attach bind "$POD"/termination/app/0 /dev/termination-log
    mount --make-rprivate "$found"
    restrict "$found" nosuid,nodev

    # /sys/fs/cgroup: Programs read their own limits here. It is the container's part of the host's
    # hierarchy: a file system of its own for each container would take the kernel longer the more
    # of them there are.
    skeleton /sys/fs/cgroup
    show_cgroup /sys/fs/cgroup/"$CGROUP"/app "$found" ro,nosuid,nodev,noexec

    # It tells of the host, or lets one change it: something empty is put over it.
    mask /proc/asound
    mask /proc/acpi
    mask /proc/interrupts
    mask /proc/kcore
    mask /proc/keys
    mask /proc/latency_stats
    mask /proc/timer_list
    mask /proc/timer_stats
    mask /proc/sched_debug
    mask /proc/scsi
    mask /sys/firmware
    mask /sys/devices/virtual/powercap

    # The kernel's settings can be read here, not changed.
    read_only /proc/bus
    read_only /proc/fs
    read_only /proc/irq
    read_only /proc/sys
    read_only /proc/sysrq-trigger

    # The program begins here; the directory is made if it is missing.
    directory /
    cd -- "$found"

    # setsid: a session of its own, so that no signal of your terminal reaches it.

    # The gate: podshim's init waits here for the word to start. This one will wait when it has
    # given up its privileges, too, as the programs that do so are in the host's root.

    # --bounding-set: Capabilities that are dropped from this set can never be had again, not even
    # by executing a setuid program.

    # NOT MADE: a seccomp filter of 18 rules (a system call that has none: SCMP_ACT_ERRNO); see
    # `podshim plan -o json`. Debian's tools cannot do it. What it is for: From here on the kernel
    # asks this filter about each system call.

    # --reuid, --regid: It stops being the host's root, if it is to; the capabilities it keeps are
    # chosen next.
    umask 0022

    # --inh-caps, --ambient-caps: with these empty, execve(2) gives root all of the bounding set,
    # and nobody else anything. So it is under podshim, too, once the program is executed.

    # env: the program's variables, and no others; signals that this shell ignores are not ignored
    # any more.
    exec setsid \
        setpriv --bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap --reuid=0 --regid=0 --clear-groups --inh-caps=-all --ambient-caps=-all -- \
        env --ignore-environment --default-signal \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        HOSTNAME=app \
        HOME=/ \
        /usr/bin/perl -e "$GATE" -- \
        '<command of kodekloud/event-simulator>'
}

# ---- container sidecar ---------------------------------------------------------

start_sidecar() {
    local c=$POD/containers/sidecar
    mkdir --parents -- "$c/layers"

    # The layers of its image, kodekloud/filebeat-configured, as podshim has unpacked them: the
    # lowest one is 0.
    ln --symbolic -- /var/lib/podshim/layers/1 "$c/layers"/0
    ln --symbolic -- /var/lib/podshim/layers/2 "$c/layers"/1
    overlay "$c"

    # What it leaves as its last words: a file on a file system that cannot grow.
    mkdir --parents -- "$POD/termination/sidecar"
    mount --types tmpfs --options nosuid,nodev,mode=0755,size=1048576,nr_inodes=1024 none "$POD/termination/sidecar"
    : >"$POD/termination/sidecar/0"
    chmod 0666 -- "$POD/termination/sidecar/0"

    # Its cgroup, with its limits.
    make_cgroup sidecar
    limit /sys/fs/cgroup/"$CGROUP"/sidecar/cpu.weight 1
    limit /sys/fs/cgroup/"$CGROUP"/sidecar/pids.max 2048
    limit /sys/fs/cgroup/"$CGROUP"/sidecar/memory.oom.group 1
    limit_if_there /sys/fs/cgroup/"$CGROUP"/sidecar/memory.swap.max 0

    # NOT MADE: with cgroup v2, which devices may be opened is decided by a program in the kernel
    # (BPF).

    # What it writes to its standard output; the container's user may open it again, as /dev/stdout.
    : >"$POD/log/sidecar.log"
    chown 0:0 -- "$POD/log/sidecar.log"

    # net: The pod's network: its containers have the same addresses and ports, and meet on
    # localhost.

    # uts: The pod's host name.

    # ipc: The pod's shared memory, semaphores and message queues.

    # mnt: podshim keeps a mount namespace without any mounts, of which those of containers begin as
    # copies. Here it begins with a copy of the host's mounts, which are taken away later (see
    # pivot): all that is mounted before is below $POD, which is private.

    # pid: the process that goes on is pid 1 of a new numbering, and sees no process of anybody
    # else's. unshare(1) itself stays outside, and waits for its end.
    mkfifo -- "$c/ready" "$c/go"
    nsenter --net="$POD/ns/net" --uts="$POD/ns/uts" --ipc="$POD/ns/ipc" -- \
        unshare --mount --propagation unchanged --pid --fork -- bash "$SELF" in_sidecar \
        </dev/null >>"$POD/log/sidecar.log" 2>&1 3<>"$c/go" 4>"$c/ready" &
    printf '%s\n' "$!" >"$c/waiting"
    born "$c"

    # The container has its own copy of this mount; the host needs none.
    umount -- "$c/rootfs"
    pivot "$c" "$c/rootfs"
    go "$c"
}

in_sidecar() {
    local c=$POD/containers/sidecar
    remember_pid "$c"

    # podshim's init first asks to be killed when its supervisor ends before it does. There is no
    # supervisor here.

    # Whatever it uses from here on is counted, and limited, as the container's.
    join_cgroup sidecar

    # NOT MADE: a session keyring of its own (keyctl(1) of the package keyutils could make one).
    # Debian's tools cannot do it. What it is for: Keys that the kernel keeps for whoever called
    # podshim are handed on with every fork; the container gets a ring of its own.

    # When the host runs out of memory, this number decides who is killed first.
    printf '%s' 1000 >/proc/self/oom_score_adj || say "oom_score_adj stays as it is: a lower one takes CAP_SYS_RESOURCE"

    # NOT MADE: the AppArmor profile podshim-default. Debian's tools cannot do it. What it is for:
    # AppArmor confines the program that is executed later to the rules of this profile.

    # How much of this the process may use at most, and what it may raise that to by itself.
    rlimit nofile 1024 524288

    # A cgroup namespace: the cgroup that was just joined becomes the root of all it sees of
    # cgroups.
    exec unshare --cgroup -- bash "$SELF" root_of_sidecar
}

root_of_sidecar() {
    local root=$POD/containers/sidecar/rootfs

    # podshim now changes to the new root (pivot_root), and mounts from inside. The programs that
    # are needed here are in the host's root, so that comes last: see pivot.

    # /proc: A procfs shows the processes of the pid namespace of who mounts it: these, and no
    # others.
    file_system proc /proc nosuid,nodev,noexec

    # /dev: An empty directory in memory, in the place of what the image has here.
    file_system tmpfs /dev nosuid,mode=755,size=65536k

    # One of the few devices that every program may expect, and that are harmless.
    device /dev/null 1 3
    device /dev/zero 1 5
    device /dev/full 1 7
    device /dev/random 1 8
    device /dev/urandom 1 9
    device /dev/tty 5 0

    # Programs expect this name in /dev.
    link /proc/self/fd /dev/fd
    link /proc/self/fd/0 /dev/stdin
    link /proc/self/fd/1 /dev/stdout
    link /proc/self/fd/2 /dev/stderr
    link pts/ptmx /dev/ptmx

    # /sys: A sysfs shows the network devices of the network namespace of who mounts it.
    file_system sysfs /sys nosuid,nodev,noexec
    restrict "$found" ro

    # /dev/pts: Terminals of the container's own.
    file_system devpts /dev/pts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5

    # /dev/mqueue: The message queues of the pod's ipc namespace.
    file_system mqueue /dev/mqueue nosuid,nodev,noexec

    # /etc/hosts: a file or directory that podshim makes for the pod.
    attach bind "$POD"/etc/hosts /etc/hosts
    mount --make-rprivate "$found"
    restrict "$found" nosuid,nodev

    # /etc/resolv.conf: a file or directory that podshim makes for the pod.
    attach bind "$POD"/etc/resolv.conf /etc/resolv.conf
    mount --make-rprivate "$found"
    restrict "$found" nosuid,nodev

    # /etc/hostname: a file or directory that podshim makes for the pod.
    attach bind "$POD"/etc/hostname /etc/hostname
    mount --make-rprivate "$found"
    restrict "$found" nosuid,nodev

    # /dev/shm: a file or directory that podshim makes for the pod.
    attach bind "$POD"/shm /dev/shm
    mount --make-rprivate "$found"
    restrict "$found" nosuid,nodev

    # /dev/termination-log: a file or directory that podshim makes for the pod.
    attach bind "$POD"/termination/sidecar/0 /dev/termination-log
    mount --make-rprivate "$found"
    restrict "$found" nosuid,nodev

    # /sys/fs/cgroup: Programs read their own limits here. It is the container's part of the host's
    # hierarchy: a file system of its own for each container would take the kernel longer the more
    # of them there are.
    skeleton /sys/fs/cgroup
    show_cgroup /sys/fs/cgroup/"$CGROUP"/sidecar "$found" ro,nosuid,nodev,noexec

    # /var/log/event-simulator: the volume log-volume.
    attach rbind /var/log/webapp /var/log/event-simulator
    mount --make-rprivate "$found"

    # It tells of the host, or lets one change it: something empty is put over it.
    mask /proc/asound
    mask /proc/acpi
    mask /proc/interrupts
    mask /proc/kcore
    mask /proc/keys
    mask /proc/latency_stats
    mask /proc/timer_list
    mask /proc/timer_stats
    mask /proc/sched_debug
    mask /proc/scsi
    mask /sys/firmware
    mask /sys/devices/virtual/powercap

    # The kernel's settings can be read here, not changed.
    read_only /proc/bus
    read_only /proc/fs
    read_only /proc/irq
    read_only /proc/sys
    read_only /proc/sysrq-trigger

    # The program begins here; the directory is made if it is missing.
    directory /
    cd -- "$found"

    # setsid: a session of its own, so that no signal of your terminal reaches it.

    # The gate: podshim's init waits here for the word to start. This one will wait when it has
    # given up its privileges, too, as the programs that do so are in the host's root.

    # --bounding-set: Capabilities that are dropped from this set can never be had again, not even
    # by executing a setuid program.

    # NOT MADE: a seccomp filter of 18 rules (a system call that has none: SCMP_ACT_ERRNO); see
    # `podshim plan -o json`. Debian's tools cannot do it. What it is for: From here on the kernel
    # asks this filter about each system call.

    # --reuid, --regid: It stops being the host's root, if it is to; the capabilities it keeps are
    # chosen next.
    umask 0022

    # --inh-caps, --ambient-caps: with these empty, execve(2) gives root all of the bounding set,
    # and nobody else anything. So it is under podshim, too, once the program is executed.

    # env: the program's variables, and no others; signals that this shell ignores are not ignored
    # any more.
    exec setsid \
        setpriv --bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap --reuid=0 --regid=0 --clear-groups --inh-caps=-all --ambient-caps=-all -- \
        env --ignore-environment --default-signal \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        HOSTNAME=app \
        HOME=/ \
        /usr/bin/perl -e "$GATE" -- \
        '<command of kodekloud/filebeat-configured>'
}

# ---- taking it down ----------------------------------------------------------
#
# Everything is found by its name, so this works after an `up` that failed half way, and any number of times. Each thing is
# tried whatever became of the others.

# try WHAT COMMAND...: says so if it fails, and goes on.
try() {
    local what=$1
    shift
    if ! "$@"; then
        say "$what failed"
        failed=1
    fi
}

# The processes in the pod's cgroups: nothing that a container started can leave these.
pod_processes() {
    local mount
    for mount in "${HIERARCHIES[@]}"; do
        [ ! -d "$mount/$CGROUP" ] || find "$mount/$CGROUP" -name cgroup.procs -exec cat {} + 2>/dev/null || true
    done
}

# Kills until nobody is left: while a list is gone through, a process on it may have started another.
kill_all() {
    local pids turn
    for turn in {1..100}; do
        mapfile -t pids < <(pod_processes)
        [ ${#pids[@]} -gt 0 ] || return 0
        kill -KILL "${pids[@]}" 2>/dev/null || true
        sleep 0.05
    done
    say "still there after $turn attempts: ${pids[*]}"
    return 1
}

# Each container has a process outside of its namespaces that waits for its end: unshare or nsenter.
wait_for_waiting() {
    local file pid
    for file in "$POD"/containers/*/waiting; do
        [ -e "$file" ] || continue
        pid=$(cat -- "$file")
        for _ in {1..100}; do
            grep --quiet --fixed-strings --no-messages -- "$POD" "/proc/$pid/cmdline" || break
            sleep 0.05
        done
    done
}

# Mount points at and below $POD, the last one first.
pod_mounts() {
    local target
    while read -r _ _ _ _ target _; do
        # Blanks and the like are written as \040.
        printf -v target '%b' "$target"
        case $target/ in "$POD"/*) printf '%s\0' "$target" ;; esac
    done </proc/self/mountinfo | tac --separator=$'\0'
}

unmount_all() {
    local target result=0
    while IFS= read -r -d '' target; do
        umount --lazy --no-canonicalize -- "$target" || result=1
    done < <(pod_mounts)
    return "$result"
}

remove_cgroups() {
    local mount result=0
    for mount in "${HIERARCHIES[@]}"; do
        [ -d "$mount/$CGROUP" ] || continue
        # A cgroup's files go with its directory, and cannot be removed by themselves.
        find "$mount/$CGROUP" -depth -type d -exec rmdir -- {} + || result=1
    done
    return "$result"
}

remove_files() {
    [ -e "$POD" ] || return 0
    # What is still mounted there must not be walked into.
    [ -z "$(pod_mounts | tr '\0' ' ')" ] || return 1
    rm --recursive --force --one-file-system -- "$POD"
}

down() {
    # An empty one is of an `up` that was ended at once.
    if [ -e "$POD" ] && [ ! -e "$POD/by-hand" ]; then
        rmdir -- "$POD" || die "$POD was not made by this script: it is left alone"
    fi
    failed=0
    try "ending the processes" kill_all
    try "waiting for their ends" wait_for_waiting
    try "taking down the network" network_down
    try "unmounting" unmount_all
    try "removing the cgroups" remove_cgroups
    try "removing $POD" remove_files
    [ "$failed" = 0 ] || die "something is left: try again"
}

# ---- the recipe ----------------------------------------------------------------

up() {
    local tool
    [ "$(id --user)" = 0 ] || die "namespaces, mounts and cgroups are made: this takes root"
    for tool in unshare nsenter setpriv setsid prlimit findmnt pivot_root ip bridge nft perl hostname; do
        command -v "$tool" >/dev/null || die "$tool is not installed"
    done
    say 'pod: not made: starting containers again (restartPolicy), and reporting how they are, which podshim'\''s supervisor does'
    say 'pod: not made: the network'\''s name server, which resolv.conf names: give the pod `dnsPolicy: Default` to use the host'\''s'
    say 'pod: not made: which devices may be opened, which takes a BPF program with cgroup v2'
    say 'app: not made: a session keyring of its own (keyctl(1) of the package keyutils could make one)'
    say 'app: not made: the AppArmor profile podshim-default'
    say 'app: not made: a seccomp filter of 18 rules (a system call that has none: SCMP_ACT_ERRNO); see `podshim plan -o json`'
    say 'sidecar: not made: a session keyring of its own (keyctl(1) of the package keyutils could make one)'
    say 'sidecar: not made: the AppArmor profile podshim-default'
    say 'sidecar: not made: a seccomp filter of 18 rules (a system call that has none: SCMP_ACT_ERRNO); see `podshim plan -o json`'
    close_inherited
    mkdir --parents -- "$(dirname -- "$POD")"
    [ ! -e "$POD" ] || die "$POD is there already: first bash $SELF down"
    mkdir -- "$POD"
    trap 'say "up failed: look around, and then: bash $SELF down"' EXIT
    : >"$POD/by-hand"

    # A mount of its own, and private: what is mounted below it stays a matter of this mount
    # namespace.
    mount --bind -- "$POD" "$POD"
    mount --make-private "$POD"
    mkdir -- "$POD/log" "$POD/containers"
    volumes
    own_files
    pod_cgroup
    sandbox
    network

    # Init containers, one after the other; each must end well before the next one starts. Those
    # that are to go on (restartPolicy: Always) are only started. Then all the others.
    start_app
    start_sidecar
    trap - EXIT
    say "it runs; what it prints is in $POD/log; to end it: bash $SELF down"
}

# The first two are for you; the others are parts that run in new namespaces.
case ${1:-} in
up | down) "$1" ;;
inside_sandbox | inside_network | in_app | root_of_app | in_sidecar | root_of_sidecar) "$1" ;;
*)
    printf 'usage: %s up|down\n' "$0" >&2
    exit 2
    ;;
esac
