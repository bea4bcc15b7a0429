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
