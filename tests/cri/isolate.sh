# What the first process in the namespaces of tests/cri/enter.sh does before anything else. Sourced, with $RUN (a directory of the
# run) set, and with die().
# shellcheck shell=bash
# The machine's hierarchies again, as the cgroup namespace shows them: their roots are the cgroups of this run.
remount_cgroups() {
    local mounts links
    mounts=$(awk '{ for (i = 7; $i != "-"; i++); if ($(i + 1) ~ /^cgroup2?$/) print $5, $(i + 1), $(i + 3) }' /proc/self/mountinfo)
    links=$(find /sys/fs/cgroup -maxdepth 1 -type l -printf '%f %l\n')
    if [ "$mounts" != "${mounts#/sys/fs/cgroup cgroup2 }" ]; then
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        return
    fi
    mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
    while read -r mountpoint type options; do
        # crun refuses a hybrid layout whose version 2 has controllers of its own; version 1 alone it takes.
        [ "$type:${HANDLER:-}" != cgroup2:crun ] || continue
        mkdir -p "$mountpoint"
        if [ "$type" = cgroup2 ]; then
            mount -t cgroup2 cgroup2 "$mountpoint"
        else
            mount -t cgroup -o "${options#rw,}" cgroup "$mountpoint"
        fi
    done <<<"$mounts"
    while read -r name target; do
        [ -z "$name" ] || ln -s "$target" "/sys/fs/cgroup/$name"
    done <<<"$links"
}

# What servers and CNI plugins write outside of their own directories goes to places that end with this namespace.
isolate() {
    local resolv
    remount_cgroups
    resolv=$(realpath -m /etc/resolv.conf)
    mount -t tmpfs -o mode=755 run /run
    mkdir -p /run/lock /run/netns "$RUN/lib/upper" "$RUN/lib/work"
    mount -t overlay -o "lowerdir=/var/lib,upperdir=$RUN/lib/upper,workdir=$RUN/lib/work" overlay /var/lib
    if [ ! -e "$resolv" ]; then
        mkdir -p "${resolv%/*}"
        echo "nameserver 127.0.0.1" >"$resolv"
    fi
    # Specs on propagation mount in this namespace and look in a container's.
    mount --make-rshared /
    ip link set lo up
}

# wait_for SECONDS WHAT COMMAND...: until COMMAND succeeds.
wait_for() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || die "$what: not ready in time; see $RESULTS"
        sleep 0.1
    done
}
