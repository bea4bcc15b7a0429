# cgroups for a run of scripts/critest.sh or scripts/bench.sh, below the caller's own, in every hierarchy; tests/cri/enter.sh joins
# them. Sourced.
# shellcheck shell=bash
# Where this process is in each cgroup hierarchy: one directory a line; empty names are version 2.
own_cgroups() {
    local controllers path root mountpoint directory
    while IFS=: read -r _ controllers path; do
        read -r root mountpoint < <(awk -v want="${controllers%%,*}" '{
            for (i = 7; $i != "-"; i++);
            if (want == "" ? $(i + 1) == "cgroup2" : $(i + 1) == "cgroup" && ("," $(i + 3) ",") ~ ("," want ",")) {
                print $4, $5
                exit
            }
        }' /proc/self/mountinfo) || continue
        [ "$root" = / ] || path=${path#"$root"}
        directory=$mountpoint/${path#/}
        # Version 2 gives children controllers only where the parent hands them down.
        if [ -z "$controllers" ] && [ "$mountpoint" = /sys/fs/cgroup ] &&
            ! grep -qw memory "$directory/cgroup.subtree_control"; then
            directory=$mountpoint
        fi
        echo "${directory%/}"
    done </proc/self/cgroup
}
cgroups=()
make_cgroups() {
    local directory file
    while read -r directory; do
        directory=$directory/podshim-${0##*/}.$$
        mkdir "$directory"
        cgroups+=("$directory")
        # A new group of cpuset has no processors and no memory, and takes no process.
        for file in cpuset.cpus cpuset.mems; do
            [ ! -f "$directory/$file" ] || [ -f "$directory/cgroup.controllers" ] ||
                cat "${directory%/*}/$file" >"$directory/$file"
        done
        [ ! -f "$directory/cgroup.controllers" ] || mkdir "$directory/harness"
    done < <(own_cgroups)
}
remove_cgroups() {
    local directory
    for directory in "${cgroups[@]}"; do
        # The last process of a namespace that was killed may need a moment.
        for _ in $(seq 50); do
            find "$directory" -depth -type d -exec rmdir {} + 2>/dev/null && break
            sleep 0.1
        done
        [ ! -d "$directory" ] || echo "${0##*/}: left behind: $directory" >&2
    done
    cgroups=()
}
