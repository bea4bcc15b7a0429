#!/bin/bash
# Boots a small virtual machine whose only cgroup hierarchy is version 2, runs a static program in it as root, prints
# what it prints and exits with its exit code.
#
#   scripts/v2-guest.sh [options] BINARY [ARGS...]
#     -a SRC[:DEST]   add a file or directory to the guest (default DEST: the same path); may be repeated
#     -e NAME=VALUE   set an environment variable of the program; may be repeated
#     -m MODULE       load one more kernel module; may be repeated
#     -s COMMAND      run this with the guest's shell (busybox) instead; the program is at /bin/<its name>
#     -t SECONDS      give up after this time (default 60), with exit code 124
#     -M MIB          memory of the guest (default 1536)
#
# Exit code: the program's; 124 after the time; 125 if the guest did not come up or died (its kernel's last messages go
# to stderr). Needs qemu-system-x86_64, and on first use `apt-get download` for Debian's cloud kernel and static busybox,
# which are unpacked below target/ (PODSHIM_GUEST_CACHE) and not installed. Reads no stdin, needs no terminal and no root;
# ends only the one qemu that it started. Several may run at once.
set -euo pipefail
export LC_ALL=C

fail() {
    echo "v2-guest: $*" >&2
    exit 125
}

# A word as the guest's plain shell reads it back (bash's own %q does not keep to what that knows).
quote() {
    printf "'%s'" "${1//\'/\'\\\'\'}"
}

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
    exit "$1"
}

here=$(cd "$(dirname "$0")/.." && pwd)
cache=${PODSHIM_GUEST_CACHE:-$here/target/v2-guest}
# Emulation works everywhere; nested KVM is often there and broken. PODSHIM_GUEST_ACCEL=kvm for those who know it works.
accel=${PODSHIM_GUEST_ACCEL:-tcg,thread=multi}
adds=() envs=() extra_modules=() command='' patience=60 memory=1536
while getopts 'a:e:m:s:t:M:h' option; do
    case $option in
    a) adds+=("$OPTARG") ;;
    e) envs+=("$OPTARG") ;;
    m) extra_modules+=("$OPTARG") ;;
    s) command=$OPTARG ;;
    t) patience=$OPTARG ;;
    M) memory=$OPTARG ;;
    h) usage 0 ;;
    *) usage 125 >&2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -ge 1 ] || usage 125 >&2
binary=$1
shift
[ -f "$binary" ] && [ -x "$binary" ] || fail "$binary is not an executable file"
# The loader's name is near the start of what needs one.
if head -c 4096 "$binary" | grep -aq 'ld-linux\|ld-musl'; then
    fail "$binary is not static: the guest has no shared libraries"
fi
command -v qemu-system-x86_64 >/dev/null || fail "qemu-system-x86_64 is missing: apt-get install qemu-system-x86"

# Overlay for root file systems; the rest for pod networks.
modules=(overlay veth bridge br_netfilter dummy loop nf_tables nf_conntrack nf_nat nft_chain_nat nft_nat nft_masq nft_ct
    nft_redir nft_reject_inet nft_fib_inet nft_limit nft_log nft_compat xt_MASQUERADE xt_conntrack xt_comment
    "${extra_modules[@]}")

# Unpacks one Debian package below $cache/<name>, once.
fetch() {
    local package=$1 into=$cache/$2
    [ -d "$into" ] && return
    rm -rf "$into.new" "$into.deb"
    mkdir -p "$into.new" "$into.deb"
    # apt's own sandbox user may not write here.
    (cd "$into.deb" && apt-get -q -o APT::Sandbox::User=root download "$package" >"$cache/apt.log" 2>&1) ||
        fail "apt-get download $package: $(tail -n 1 "$cache/apt.log") (does apt-get update help?)"
    dpkg-deb -x "$into.deb"/*.deb "$into.new"
    rm -rf "$into.deb"
    mv "$into.new" "$into"
}

# The path of a module in the kernel's tree, whose file names have - where module names have _.
module_file() {
    local pattern=${1//[_-]/[_-]}
    find "$tree/kernel" \( -name "$pattern.ko" -o -name "$pattern.ko.xz" \) -print -quit
}

# Copies a module and what it needs into the base, and lists them in the order of loading.
declare -A placed=()
place_module() {
    local name=${1//-/_} file needs need
    [ -z "${placed[$name]:-}" ] || return 0
    placed[$name]=1
    grep -Eq "/${name//_/[_-]}\.ko" "$tree/modules.builtin" && return 0
    file=$(module_file "$name")
    [ -n "$file" ] || fail "the kernel in $tree has no module $name"
    case $file in
    *.xz) xz -dc "$file" >"$base/modules/$name.ko" ;;
    *) cp "$file" "$base/modules/$name.ko" ;;
    esac
    needs=$(tr '\0' '\n' <"$base/modules/$name.ko" | sed -n 's/^depends=//p' | head -n 1)
    for need in ${needs//,/ }; do
        place_module "$need"
    done
    echo "$name" >>"$base/modules/order"
}

# Makes an initramfs archive of a directory; without root all files become root's.
pack() {
    local owner=()
    [ "$(id -u)" = 0 ] || owner=(-R 0:0)
    (cd "$1" && find . | "$busybox" cpio -o -H newc "${owner[@]}" 2>/dev/null) >"$2"
}

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [ ! -f "$cache/kernel.name" ]; then
    depends=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p')
    [ -n "$depends" ] || fail "apt knows no linux-image-cloud-amd64 (does apt-get update help?)"
    echo "$depends" | head -n 1 >"$cache/kernel.name"
fi
fetch "$(cat "$cache/kernel.name")" kernel
fetch busybox-static busybox
kernel=$(echo "$cache"/kernel/boot/vmlinuz-*)
tree=$(find "$cache/kernel" -path '*/lib/modules/*' -prune -type d -print -quit)
busybox=$(find "$cache/busybox" -path '*/bin/busybox' -type f -print -quit)
[ -f "$kernel" ] && [ -d "$tree" ] && [ -x "$busybox" ] || fail "$cache is not complete: remove it"

# The base archive depends only on this script and the list of modules.
stamp=$(cat "$0" - <<<"${modules[*]}" | sha256sum | cut -c 1-16)
if [ ! -f "$cache/base-$stamp.cpio" ]; then
    base=$cache/base
    rm -rf "$base" "$cache"/base-*.cpio
    mkdir -p "$base"/{bin,sbin,dev,etc,proc,sys,run,tmp,root,mnt,var/lib,var/log,modules,newroot}
    cp "$busybox" "$base/bin/busybox"
    for applet in $("$busybox" --list); do
        [ "$applet" = busybox ] || ln -sf busybox "$base/bin/$applet"
    done
    for module in "${modules[@]}"; do
        place_module "$module"
    done
    echo 'root:x:0:0:root:/root:/bin/sh' >"$base/etc/passwd"
    printf 'nobody:x:65534:65534:nobody:/:/bin/false\n' >>"$base/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$base/etc/group"
    echo '127.0.0.1 localhost v2-guest' >"$base/etc/hosts"
    # First stage: a file system that pivot_root(2) accepts, which the kernel's own initial one is not.
    cat >"$base/init" <<'INIT'
#!/bin/busybox sh
export PATH=/bin:/sbin
mount -t tmpfs -o mode=755,size=90% none /newroot
for entry in /*; do
    case $entry in
    /newroot | /init) ;;
    *) cp -a "$entry" /newroot/ ;;
    esac
done
exec switch_root /newroot /bin/second-stage
INIT
    # Second stage: mounts, modules, the program; then the exit code on the third serial port.
    cat >"$base/bin/second-stage" <<'INIT'
#!/bin/busybox sh
export PATH=/bin:/sbin HOME=/root
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o nosuid,mode=755 devtmpfs /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /dev/shm
mount -t mqueue -o nosuid,nodev,noexec mqueue /dev/mqueue
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /tmp
mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate cgroup2 /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
hostname v2-guest
ip link set lo up
while read -r module; do
    insmod "/modules/$module.ko" || echo "v2-guest: cannot load $module"
done </modules/order
# Bytes go out as they are.
stty -F /dev/ttyS1 raw -echo 2>/dev/null
stty -F /dev/ttyS2 raw -echo 2>/dev/null
# In a session of its own, without a controlling terminal.
setsid sh /bin/run-command </dev/null >/dev/ttyS1 2>&1
echo "exit $?" >/dev/ttyS2
# Closing a serial port waits until all is sent.
sync
poweroff -f
sleep 1000
INIT
    chmod 755 "$base/init" "$base/bin/second-stage"
    pack "$base" "$cache/base.new"
    mv "$cache/base.new" "$cache/base-$stamp.cpio"
    rm -rf "$base"
fi

run=$(mktemp -d "${TMPDIR:-/tmp}/v2-guest.XXXXXX")
qemu='' reader=''
end_guest() {
    if [ -n "$qemu" ]; then
        kill -KILL "$qemu" 2>/dev/null || true
        wait "$qemu" 2>/dev/null || true
    fi
    [ -z "$reader" ] || kill "$reader" 2>/dev/null || true
    rm -rf "$run"
}
trap end_guest EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# This run's own archive; the kernel unpacks one after the other.
mkdir -p "$run/root/bin"
name=$(basename "$binary")
cp -L "$binary" "$run/root/bin/$name"
for add in "${adds[@]}"; do
    source=${add%%:*} target=${add#*:}
    [ -e "$source" ] || fail "$source does not exist"
    mkdir -p "$run/root/$(dirname "$target")"
    cp -aT "$source" "$run/root/$target"
done
{
    for env in "${envs[@]}"; do
        echo "export ${env%%=*}=$(quote "${env#*=}")"
    done
    echo 'cd /root'
    if [ -n "$command" ]; then
        printf '%s\n' "$command"
    else
        printf exec
        for word in "/bin/$name" "$@"; do
            printf ' %s' "$(quote "$word")"
        done
        echo
    fi
} >"$run/root/bin/run-command"
pack "$run/root" "$run/own.cpio"
cat "$cache/base-$stamp.cpio" "$run/own.cpio" >"$run/initrd"
rm -rf "$run/root" "$run/own.cpio"
flock -u 9

mkfifo "$run/out"
cat "$run/out" 9>&- &
reader=$!
: >"$run/code"
qemu-system-x86_64 -machine q35 -accel "$accel" -cpu max -smp 2 -m "$memory" \
    -nodefaults -no-user-config -display none -monitor none -no-reboot \
    -serial "file:$run/kernel" -serial "file:$run/out" -serial "file:$run/code" \
    -kernel "$kernel" -initrd "$run/initrd" \
    -append 'console=ttyS0 quiet loglevel=4 panic=-1 cgroup_no_v1=all mitigations=off tsc=reliable random.trust_cpu=on' \
    </dev/null >"$run/qemu" 2>&1 9>&- &
qemu=$!

# Wait for qemu's end, at most so long.
code=125
deadline=$((SECONDS + patience))
while kill -0 "$qemu" 2>/dev/null; do
    if [ "$SECONDS" -ge "$deadline" ]; then
        echo "v2-guest: no end within $patience s" >&2
        code=124
        break
    fi
    sleep 0.1
done
if [ "$code" = 124 ]; then
    kill -KILL "$qemu" 2>/dev/null || true
fi
wait "$qemu" 2>/dev/null || true
qemu=''
wait "$reader" 2>/dev/null || true
reader=''
said=$(sed -n 's/^exit \([0-9]*\).*/\1/p' "$run/code")
if [ -n "$said" ]; then
    exit "$said"
fi
{
    echo "v2-guest: the guest gave no exit code; its kernel's and qemu's last messages:"
    tail -n 20 "$run/kernel" "$run/qemu" 2>/dev/null
} >&2
exit "$code"
