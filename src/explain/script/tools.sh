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
