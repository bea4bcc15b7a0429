#!/bin/busybox sh
# What scripts/test-v2.sh runs inside a machine that has only cgroup version 2. Asserts on the kernel's own files.
# Written for busybox; podshim is /bin/podshim, the images are in /images.
set -u
failures=0
cgroups=/sys/fs/cgroup

note() { echo "v2: $*"; }
# same WHAT EXPECTED FOUND
same() {
    if [ "$2" = "$3" ]; then
        note "ok: $1"
    else
        failures=$((failures + 1))
        note "FAILED: $1: expected $(echo "$2" | head -n 5), found $(echo "$3" | head -n 5)"
    fi
}
# succeeds WHAT COMMAND...: the command succeeds.
succeeds() {
    what=$1
    shift
    if out=$("$@" 2>&1); then note "ok: $what"; else
        failures=$((failures + 1))
        note "FAILED: $what: $* said: $(echo "$out" | tail -n 5)"
    fi
}
# Seconds since the boot, which no setting of the clock changes.
up() { cut -d . -f 1 /proc/uptime; }
# eventually SECONDS WHAT COMMAND...: the command succeeds within the time.
eventually() {
    seconds=$1 what=$2
    shift 2
    end=$(($(up) + seconds))
    until "$@" >/dev/null 2>&1; do
        if [ "$(up)" -ge "$end" ]; then
            failures=$((failures + 1))
            note "FAILED: within $seconds s: $what"
            return 1
        fi
        sleep 0.2
    done
    note "ok: $what"
}

# The uid of a pod, as its cgroup has it.
uid() { podshim inspect -o json "$1" | sed -n 's/^ *"uid": "\(.*\)",*$/\1/p' | head -n 1; }
status_word() { podshim ps | awk -v name="$1" '$2 == name { print $4 }'; }
has_status() { [ "$(status_word "$1")" = "$2" ]; }
restarts() { podshim ps | awk -v name="$1" '$2 == name { print $5 }'; }
has_restarts() { [ "$(restarts "$1")" -ge "$2" ]; }

note "kernel $(uname -r); $(grep cgroup /proc/mounts)"
same "only version 2 is mounted" "cgroup2" "$(awk '$3 ~ /^cgroup/ { print $3 }' /proc/mounts | sort -u)"
same "nothing is there before" "" "$(find $cgroups -name '*podshim*')"
# This guest's kernel has no modules of bridges and packet filters.
export PODSHIM_NETWORK=none
if ! podshim image import /images; then
    note "FAILED: image import"
    exit 1
fi

### Limits, as the kernel shows them.
cat >/tmp/limits.yaml <<'POD'
apiVersion: v1
kind: Pod
metadata: {name: limits}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: limited
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sleep, "100000"]
    resources:
      requests: {cpu: 250m, memory: 32Mi}
      limits: {cpu: 500m, memory: 64Mi}
  - name: requested
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sleep, "100000"]
    resources:
      requests: {cpu: "1"}
  - name: free
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sleep, "100000"]
POD
succeeds "run -d of a pod with limits" podshim run -d /tmp/limits.yaml
pod=$cgroups/podshim/pod$(uid limits)
# 10^((l² + 125 l) / 612 − 7/34), rounded up, l = log2(shares); 250m are 256 shares, 1 CPU 1024, none 2.
same "cpu.weight of 256 shares" 35 "$(cat "$pod/limited/cpu.weight")"
same "cpu.weight of 1024 shares" 100 "$(cat "$pod/requested/cpu.weight")"
same "cpu.weight of no request" 1 "$(cat "$pod/free/cpu.weight")"
same "cpu.max" "50000 100000" "$(cat "$pod/limited/cpu.max")"
same "cpu.max without a limit" "max 100000" "$(cat "$pod/free/cpu.max")"
same "memory.max" 67108864 "$(cat "$pod/limited/memory.max")"
same "memory.max without a limit" max "$(cat "$pod/free/memory.max")"
same "pids.max" 2048 "$(cat "$pod/free/pids.max")"
if [ -e "$pod/limited/memory.swap.max" ]; then
    same "memory.swap.max" 0 "$(cat "$pod/limited/memory.swap.max")"
fi
same "memory.oom.group" 1 "$(cat "$pod/limited/memory.oom.group")"
same "the pod's own cgroup holds no process" "" "$(cat "$pod/cgroup.procs")"
same "one process in the container's" 1 "$(wc -l <"$pod/limited/cgroup.procs")"
same "and it is the container's" "sleep 100000 " "$(tr '\0' ' ' <"/proc/$(cat "$pod/limited/cgroup.procs")/cmdline")"
same "oom_score_adj of no request in a Burstable pod" 999 "$(cat "/proc/$(cat "$pod/free/cgroup.procs")/oom_score_adj")"

# The pod has what its containers request together, by a kubelet's older formula; not all are limited, so the pod is not.
same "the pod's cpu.weight of 1282 shares" 49 "$(cat "$pod/cpu.weight")"
same "the pod's cpu.max" "max 100000" "$(cat "$pod/cpu.max")"
same "the pod's memory.max" max "$(cat "$pod/memory.max")"
same "memory.oom.group without a limit" 1 "$(cat "$pod/free/memory.oom.group")"
if [ -e "$pod/free/memory.swap.max" ]; then
    same "memory.swap.max without a limit" 0 "$(cat "$pod/free/memory.swap.max")"
fi
same "stats have a row for each" "free limited requested" \
    "$(podshim stats --no-stream -i 100ms | awk 'NR > 1 { print $3 }' | xargs)"
same "with the limit of memory" 64Mi "$(podshim stats --no-stream -i 100ms | awk '$3 == "limited" { print $6 }')"
same "top has one for the pod" "default limits" "$(podshim top -i 100ms | awk 'NR > 1 { print $1, $2 }')"

### What a container sees.
inside() { podshim exec -c limited limits -- "$@"; }
same "the cgroup namespace begins at the container's" "0::/" "$(inside cat /proc/self/cgroup)"
same "its limits are visible inside" 67108864 "$(inside cat /sys/fs/cgroup/memory.max)"
same "and read-only" "sh: can't create /sys/fs/cgroup/memory.max: Read-only file system" \
    "$(inside sh -c 'echo max >/sys/fs/cgroup/memory.max' 2>&1 | tail -n 1)"
same "no other cgroup is visible" "" "$(inside find /sys/fs/cgroup -mindepth 1 -type d)"
same "a device node may be made" "" "$(inside mknod /tmp/mem c 1 1 2>&1)"
same "but not opened" "dd: can't open '/tmp/mem': Operation not permitted" \
    "$(inside dd if=/tmp/mem of=/dev/null bs=1 count=1 2>&1 | tail -n 1)"
succeeds "allowed devices open" inside dd if=/dev/zero of=/dev/null bs=1 count=1

### exec joins the cgroup.
podshim exec -c limited limits -- sleep 54321 &
exec_client=$!
in_cgroup() {
    for pid in $(cat "$pod/limited/cgroup.procs"); do
        grep -q 54321 "/proc/$pid/cmdline" && return 0
    done
    return 1
}
eventually 20 "an exec's process is in the container's cgroup" in_cgroup

### Stop and remove: by TERM, which sleep as pid 1 ignores, then by KILL.
succeeds "stop" podshim stop limits
wait "$exec_client"
same "the exec ended with its container" 137 "$?"
same "the stopped pod has no process" "" "$(find "$pod" -name cgroup.procs -exec cat {} + 2>/dev/null)"
succeeds "rm" podshim rm limits
same "rm leaves no cgroup" "" "$(find $cgroups -name '*podshim*')"

### Out of memory: the whole container ends, is reported, and starts again.
cat >/tmp/oom.yaml <<'POD'
apiVersion: v1
kind: Pod
metadata: {name: oom}
spec:
  restartPolicy: Always
  terminationGracePeriodSeconds: 1
  containers:
  - name: hungry
    image: localhost/facts
    imagePullPolicy: Never
    args: [alloc, "200"]
    resources: {limits: {memory: 24Mi}}
POD
succeeds "run -d of a pod that takes too much memory" podshim run -d /tmp/oom.yaml
oom_reported() { podshim inspect -o json oom | grep -q '"reason": "OOMKilled"'; }
eventually 60 "OOMKilled is reported" oom_reported
succeeds "with exit code 137" sh -c "podshim inspect -o json oom | grep -q '\"exitCode\": 137'"
eventually 90 "it is started again" has_restarts oom 1
succeeds "rm -f" podshim rm -f oom
same "no cgroup is left" "" "$(find $cgroups -name '*podshim*')"

### The pod's own limits, and their change while it runs.
whole() {
    cat >/tmp/whole.yaml <<POD
apiVersion: v1
kind: Pod
metadata: {name: whole}
spec:
  terminationGracePeriodSeconds: 1
  resources:
    limits: {cpu: "$1", memory: $2}
    requests: {cpu: 250m, memory: 32Mi}
  containers:
  - name: own
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sleep, "100000"]
    resources: {limits: {memory: 16Mi}}
  - name: free
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sleep, "100000"]
    resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]
POD
}
whole 1 64Mi
succeeds "run -d of a pod with limits of its own" podshim run -d /tmp/whole.yaml
pod=$cgroups/podshim/pod$(uid whole)
shown() { cat "$pod/cpu.max" "$pod/memory.max" "$pod/own/memory.max" "$pod/free/cpu.max" "$pod/free/memory.max" | xargs; }
same "the pod's limits are those of containers without" "100000 100000 67108864 16777216 100000 100000 67108864" "$(shown)"
whole 500m 64Mi
same "apply of less cpu" "pod/whole configured" "$(podshim apply /tmp/whole.yaml)"
same "is done in place" "50000 100000 67108864 16777216 50000 100000 67108864" "$(shown)"
same "without a restart" 0 "$(restarts whole)"
whole 500m 48Mi
same "apply of less memory" "pod/whole configured" "$(podshim apply /tmp/whole.yaml)"
eventually 30 "restarts the container whose policy says so" has_restarts whole 1
in_effect() { [ "$(shown)" = "50000 100000 50331648 16777216 50000 100000 50331648" ]; }
eventually 10 "and then holds for the pod" in_effect
succeeds "rm -f of it" podshim rm -f whole

### Huge pages.
cat >/tmp/pages.yaml <<'POD'
apiVersion: v1
kind: Pod
metadata: {name: pages}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: some
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sleep, "100000"]
    resources: {limits: {hugepages-2Mi: 4Mi, memory: 32Mi}}
    volumeMounts: [{name: v, mountPath: /v}]
  - name: none
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sleep, "100000"]
  volumes:
  - name: v
    emptyDir: {medium: HugePages}
POD
setting=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
echo 0 >$setting
same "a host without huge pages refuses" 1 "$(podshim run -d /tmp/pages.yaml 2>&1 | grep -c 'OutOfhugepages-2Mi.*the host has 0')"
echo 4 >$setting
succeeds "run -d of a pod with huge pages" podshim run -d /tmp/pages.yaml
pod=$cgroups/podshim/pod$(uid pages)
same "hugetlb.2MB.max" "4194304 4194304 0" "$(cat "$pod/hugetlb.2MB.max" "$pod/some/hugetlb.2MB.max" "$pod/none/hugetlb.2MB.max" | xargs)"
same "the volume is of huge pages" 1 "$(podshim exec -c some pages -- cat /proc/mounts | grep -c ' /v hugetlbfs .*pagesize=2M')"
succeeds "rm -f of it" podshim rm -f pages
echo 0 >$setting

### A limit of disk space.
cat >/tmp/full.yaml <<'POD'
apiVersion: v1
kind: Pod
metadata: {name: full}
spec:
  containers:
  - name: writer
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "dd if=/dev/zero of=/v/x bs=1M count=4 2>/dev/null; exec sleep 100000"]
    volumeMounts: [{name: v, mountPath: /v}]
  volumes:
  - name: v
    emptyDir: {sizeLimit: 2Mi}
POD
succeeds "run -d of a pod that writes too much" podshim run -d /tmp/full.yaml
evicted() { podshim inspect -o json full | grep -q '"reason": "Evicted"'; }
eventually 60 "it is evicted" evicted
succeeds "rm of it" podshim rm full

### Below a slice of systemd's that is named, from within a unit of it.
unit=$cgroups/some.slice/some.service
mkdir -p $unit
cat >/tmp/unit.yaml <<'POD'
apiVersion: v1
kind: Pod
metadata: {name: unit}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: a
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sleep, "100000"]
    resources: {limits: {memory: 16Mi}}
POD
in_leaf() { sh -c 'echo $$ >"$0" && exec podshim "$@"' $unit/podshim-supervisor/cgroup.procs "$@"; }
in_unit() { sh -c 'echo $$ >"$0" && exec podshim "$@"' $unit/cgroup.procs "$@"; }
succeeds "run -d in a slice that is named" in_unit run -d --cgroup-parent some.slice /tmp/unit.yaml
same "the pod is in the slice" 16777216 "$(cat "$cgroups/some.slice/podshim/pod$(uid unit)/a/memory.max")"
same "and nowhere else" "" "$(find $cgroups -maxdepth 1 -name podshim)"
same "stats find it there" a "$(podshim stats --no-stream -i 100ms | awk '$2 == "unit" { print $3 }')"
succeeds "rm -f of it, by somebody else" podshim rm -f unit
same "no cgroup of podshim's is left in the slice" some.service "$(find $cgroups/some.slice -mindepth 1 -type d -exec basename {} \;)"
refused=$(in_unit run -d --cgroup-parent some.slice/some.service /tmp/unit.yaml 2>&1)
same "a unit that holds processes cannot be the parent, which is said" 1 "$(echo "$refused" | grep -c 'holds processes')"
same "and nothing is left of the attempt" "" "$(podshim ps -q)"
rmdir $unit $cgroups/some.slice

### Below a unit with Delegate=yes, as systemd makes one: a mark, and the controllers that the unit has.
control() { cat "$cgroups/$1/cgroup.subtree_control"; }
mkdir -p $unit
echo "+cpu +memory +pids" >$cgroups/cgroup.subtree_control
echo "+cpu +memory +pids" >$cgroups/some.slice/cgroup.subtree_control
succeeds "systemd's mark" /bin/facts xattr $unit trusted.delegate 1
before=$(control .)/$(control some.slice)
succeeds "run -d in a delegated unit" in_unit run -d /tmp/unit.yaml
same "the pod is below the unit" 16777216 "$(cat "$unit/podshim/pod$(uid unit)/a/memory.max")"
same "and nowhere else" "" "$(find $cgroups -maxdepth 2 -name '*podshim*')"
same "podshim itself has left the unit's own cgroup" "" "$(cat $unit/cgroup.procs)"
same "its supervisor is in a leaf" podshim "$(cat "/proc/$(head -n 1 $unit/podshim-supervisor/cgroup.procs)/comm")"
same "the unit passes its controllers on" "cpu memory pids" "$(control some.slice/some.service)"
same "what is systemd's is as it was" "$before" "$(control .)/$(control some.slice)"
sed 's/name: unit/name: paged/; s/memory: 16Mi/hugepages-2Mi: 2Mi, memory: 16Mi/' /tmp/unit.yaml >/tmp/paged.yaml
refused=$(in_leaf run -d --no-capacity-check /tmp/paged.yaml 2>&1)
same "what it was not given is refused by name" 1 "$(echo "$refused" | grep -c 'hugetlb.2MB.max.*some.service is delegated')"
sed 's/name: unit/name: unit2/' /tmp/unit.yaml >/tmp/unit2.yaml
succeeds "another one from the leaf" in_leaf run -d /tmp/unit2.yaml
same "is beside it" 2 "$(find $unit/podshim -mindepth 1 -maxdepth 1 -name 'pod*' | wc -l)"
succeeds "rm -f of both" podshim rm -f unit unit2
gone() { rmdir $unit/podshim-supervisor 2>/dev/null || [ ! -e $unit/podshim-supervisor ]; }
eventually 10 "nothing of them is left but the leaf, which is empty" gone
same "the unit is as it was" "" "$(find $unit -mindepth 1 -type d)"
# Somebody else's process cannot be moved: it may be the unit's shell.
echo "-cpu -memory -pids" >$unit/cgroup.subtree_control
sleep 77777 &
other=$!
echo $other >$unit/cgroup.procs
said=$(in_unit run -d /tmp/unit.yaml 2>&1)
same "a delegated unit with other processes is passed over, which is said" 1 "$(echo "$said" | grep -c 'some.slice/some.service is delegated, but holds other processes')"
same "and the pod is below the root" 16777216 "$(cat "$cgroups/podshim/pod$(uid unit)/a/memory.max")"
succeeds "rm -f of it" podshim rm -f unit
kill $other
wait $other
rmdir $unit $cgroups/some.slice

### Restart after a kill from outside; a process that leaves children behind is killed with them.
cat >/tmp/again.yaml <<'POD'
apiVersion: v1
kind: Pod
metadata: {name: again}
spec:
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "setsid sleep 100000 & setsid sleep 100000 & exec sleep 100000"]
POD
succeeds "run -d of a pod with child processes" podshim run -d /tmp/again.yaml
pod=$cgroups/podshim/pod$(uid again)
three() { [ "$(wc -l <"$pod/app/cgroup.procs")" = 3 ]; }
eventually 20 "three processes in its cgroup" three
echo 1 >"$pod/app/cgroup.kill"
eventually 60 "killed, it is started again" has_restarts again 1
eventually 20 "and its processes are three again" three
succeeds "rm -f with processes" podshim rm -f again
same "no cgroup is left of it" "" "$(find $cgroups -name '*podshim*')"
same "no process is left of it" "" "$(pidof sleep)"

### Supervisors are killed: what runs goes on, and nothing that is written is lost.
cat >/tmp/taken.yaml <<'POD'
apiVersion: v1
kind: Pod
metadata: {name: taken}
spec:
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: counter
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "i=0; while :; do i=$((i + 1)); echo line $i; sleep 0.1; done"]
  - name: beside
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sleep, "4242"]
POD
# The pod's pid 1, too, is a podshim, but for its name.
supervisors() { for pid in $(pidof podshim); do [ "$(cat "/proc/$pid/comm")" = podshim ] && echo "$pid"; done; }
beside() { for pid in $(pidof sleep); do grep -q 4242 "/proc/$pid/cmdline" 2>/dev/null && echo "$pid"; done; }
succeeds "run -d of a pod that counts" podshim run -d /tmp/taken.yaml
beside=$(beside)
for round in 1 2 3; do
    sleep 1
    succeeds "kill of supervisor $round" kill -9 "$(supervisors)"
    sleep 0.5
    eventually 20 "supervisor $round is replaced" podshim exec -c counter taken -- true
done
same "nothing was missed" 0 "$(podshim events taken | grep -c TakeOverError)"
same "nothing was started again" 0 "$(restarts taken)"
same "the process is the same" "$beside" "$(beside)"
podshim logs -c counter taken >/tmp/lines
same "every line is there, once" "$(seq "$(wc -l </tmp/lines)" | sed 's/^/line /' | md5sum)" "$(md5sum </tmp/lines)"
succeeds "kill of supervisor and process" kill -9 "$(supervisors)" "$beside"
eventually 60 "what ended when nobody watched is started again" has_restarts taken 1
succeeds "rm -f of it" podshim rm -f taken
same "no cgroup is left of it" "" "$(find $cgroups -name '*podshim*')"

### The wall clock is set while a pod runs: its deadline, probes, back-offs and grace period are on another one.
cat >/tmp/clock.yaml <<'POD'
apiVersion: v1
kind: Pod
metadata: {name: clock}
spec:
  activeDeadlineSeconds: 3600
  terminationGracePeriodSeconds: 5
  containers:
  - name: steady
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sleep, "100000"]
    livenessProbe: {periodSeconds: 1, timeoutSeconds: 30, exec: {command: ["true"]}}
  - name: crashing
    image: busybox
    imagePullPolicy: IfNotPresent
    command: ["false"]
POD
booted=$(($(date +%s) - $(up)))
# set_clock SECONDS: so many seconds from the right time.
set_clock() { date -s "@$((booted + $(up) + $1))" >/dev/null; }
year=31536000
succeeds "run -d of a pod with a deadline" podshim run -d /tmp/clock.yaml
# Not the first one of its cgroup: that may be a probe.
steady=$(pidof sleep)
eventually 60 "a container that crashes is started twice more" has_restarts clock 2
set_clock $year
sleep 6
same "a year ahead, its next pause of 20 s is not over" 2 "$(restarts clock)"
same "nor is the pod's deadline" 0 "$(podshim inspect -o json clock | grep -c DeadlineExceeded)"
set_clock -$year
eventually 60 "a year back, the pause ends in its time" has_restarts clock 3
# Kernels before 6.14 mount no pidfd: the process is found by its pid, and when it started.
kill -9 "$(supervisors)"
eventually 20 "another supervisor takes the pod over" podshim exec -c steady clock -- true
same "and misses nothing" 0 "$(podshim events clock | grep -c TakeOverError)"
set_clock $((2 * year))
succeeds "exec two years ahead" podshim exec -c steady clock -- true
same "the other container has run all the time" "sleep 100000 " "$(tr '\0' ' ' <"/proc/$steady/cmdline")"
began=$(up)
podshim stop clock &
stopping=$!
sleep 1
set_clock 0
wait "$stopping"
took=$(($(up) - began))
same "its grace period is 5 s whatever the clock is set to ($took s)" yes "$([ $took -ge 4 ] && [ $took -le 25 ] && echo yes)"
succeeds "rm of it" podshim rm clock
same "no cgroup is left of it" "" "$(find $cgroups -name '*podshim*')"

### A user namespace of the pod's own. tmpfs, which all is on here, has id-mapped mounts since Linux 6.3.
cat >/tmp/users.yaml <<'POD'
apiVersion: v1
kind: Pod
metadata: {name: users}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 1
  containers:
  - name: a
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "echo x >/v/file && chown 5:6 /v/file && exec sleep 100000"]
    volumeMounts: [{name: v, mountPath: /v}]
    resources: {limits: {memory: 16Mi}}
  volumes:
  - {name: v, emptyDir: {}}
POD
release=$(uname -r | awk -F '[.-]' '{ print $1 * 1000 + $2 }')
if [ "$release" -ge 6003 ]; then
    succeeds "run -d with hostUsers: false" podshim run -d /tmp/users.yaml
    pod=$(uid users)
    pid=$(cat "$cgroups/podshim/pod$pod/a/cgroup.procs")
    map=$(awk '{ print $1, ($2 >= 65536), $3 }' "/proc/$pid/uid_map")
    same "65536 ids from 0 on are others' on the host" "0 1 65536" "$map"
    same "its gids are the same" "$(cat "/proc/$pid/uid_map")" "$(cat "/proc/$pid/gid_map")"
    first=$(awk '{ print $2 }' "/proc/$pid/uid_map")
    same "its root is nobody here" "$first" "$(awk '$1 == "Uid:" { print $2 }' "/proc/$pid/status")"
    eventually 20 "it writes into its volume" podshim exec users -- grep x /v/file
    same "the volume is id-mapped: inside" 5:6 "$(podshim exec users -- stat -c %u:%g /v/file)"
    same "and on disk" 5:6 "$(stat -c %u:%g "/var/lib/podshim/pods/$pod/volumes/v/file")"
    same "a file of the image is its root's" 0:0 "$(podshim exec users -- stat -c %u:%g /bin/busybox)"
    same "the limit holds" 16777216 "$(cat "$cgroups/podshim/pod$pod/a/memory.max")"
    succeeds "rm -f of it" podshim rm -f users
else
    said=$(podshim run -d /tmp/users.yaml 2>&1)
    same "run -d with hostUsers: false fails on Linux $(uname -r)" 125 $?
    same "and says why" 1 "$(echo "$said" | tail -n 1 | grep -c 'tmpfs, which has no id-mapped mounts before Linux 6.3.*hostUsers: false needs them')"
fi
same "nothing is left of it" "" "$(podshim ps -q; find $cgroups -name '*podshim*'; grep podshim /proc/mounts)"

### Several layers below one another.
cat >/tmp/layered.yaml <<'POD'
apiVersion: v1
kind: Pod
metadata: {name: layered}
spec:
  restartPolicy: Never
  containers:
  - name: app
    image: localhost/layered
    imagePullPolicy: Never
    command: [sh, -c, "cat /which; test ! -e /gone && echo new >/which && cat /which; echo end"]
POD
same "layers and the writable one" "app | third
app | new
app | end" "$(podshim run /tmp/layered.yaml)"

### Two pods at once, one with a shared pid namespace, and init containers.
cat >/tmp/two.yaml <<'POD'
apiVersion: v1
kind: Pod
metadata: {name: first}
spec:
  terminationGracePeriodSeconds: 1
  shareProcessNamespace: true
  initContainers:
  - {name: before, image: busybox, imagePullPolicy: IfNotPresent, command: ["true"]}
  containers:
  - {name: a, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "100000"]}
  - {name: b, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "100000"]}
---
apiVersion: v1
kind: Pod
metadata: {name: second}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: a, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "100000"]}
POD
succeeds "run -d of two pods" podshim run -d /tmp/two.yaml
same "a shared pid namespace has the reaper and both" 2 "$(podshim exec -c a first -- pidof sleep | wc -w)"
same "the init container's cgroup is gone" "" "$(find $cgroups -name before)"
succeeds "rm -f of one" podshim rm -f first
eventually 10 "the other goes on" has_status second Running
succeeds "rm -f of the other" podshim rm -f second
same "no cgroup is left of both" "" "$(find $cgroups -name '*podshim*')"
same "no mount is left" "" "$(grep podshim /proc/mounts)"
same "no podshim runs" "" "$(pidof podshim)"

if [ "$failures" != 0 ]; then
    note "$failures assertions failed"
    exit 1
fi
note "all passed"
