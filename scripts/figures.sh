#!/bin/bash
# Measures podshim and prints the figures as a Markdown table: start of a pod, memory of its supervisor, memory and CPU time
# of one that probes, its network, size of the binary.
#
#   sudo scripts/figures.sh [RUNS] [SECONDS]       default: 20 pods; probing is watched for 60 seconds
#
# Needs scripts/build.sh and scripts/images.sh to have run. Everything is made below a directory of its own and removed.
# Environment: FIGURES_PIE=1 also measures a position-independent build of the same source (in target/pie);
# PODSHIM_BIN, CARGO_TARGET_DIR.
set -euo pipefail
# A login shell finds cargo here; a CI job or `sudo` often does not.
[ ! -d "${CARGO_HOME:-$HOME/.cargo}/bin" ] || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
export LC_ALL=C
runs=${1:-20}
probing_seconds=${2:-60}
cd "$(dirname "$0")/.."
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
podshim=$(realpath -m "${PODSHIM_BIN:-$target_dir/podshim}")

fail() {
    echo "figures.sh: $*" >&2
    exit 1
}
[ "$(id -u)" = 0 ] || fail "pods take root: try again with sudo"
[ -x "$podshim" ] || fail "$podshim is missing: scripts/build.sh makes it"
[ -d "$target_dir/images/oci" ] || fail "$target_dir/images/oci is missing: scripts/images.sh makes it"

# In a network of its own: the machine's is not for bridges of ours.
if [ -z "${FIGURES_NETWORK:-}" ]; then
    FIGURES_NETWORK=own exec unshare --net "$0" "$@"
fi
ip link set lo up

work=$(mktemp -d /tmp/podshim-figures.XXXXXX)
export PODSHIM_NETWORK=none PODSHIM_ROOT=$work/root PODSHIM_STATE=$work/run PODSHIM_LOG_DIR=$work/log
cleanup() {
    "$podshim" rm --force --all >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap cleanup EXIT
"$podshim" image import "$target_dir/images/oci" >/dev/null 2>&1

# What is timed: the two app processes print the clock (adjtimex, to the microsecond) as the first thing they do.
# What is weighed: two that only wait.
pod() {
    cat <<POD
apiVersion: v1
kind: Pod
metadata: {name: figures}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  initContainers:
  - {name: init, image: busybox, imagePullPolicy: Never, command: ["true"]}
  containers:
  - {name: one, image: busybox, imagePullPolicy: Never, command: [$1]}
  - {name: two, image: busybox, imagePullPolicy: Never, command: [$1]}
POD
}
# Three containers, of which each has all three probes, one of each kind, once a second.
probing_pod() {
    local port
    cat <<POD
apiVersion: v1
kind: Pod
metadata: {name: figures}
spec:
  terminationGracePeriodSeconds: 0
  containers:
POD
    for port in 8081 8082 8083; do
        cat <<POD
  - name: c$port
    image: busybox
    imagePullPolicy: Never
    command: [httpd, -f, -p, "$port", -h, /etc]
    startupProbe: {periodSeconds: 1, tcpSocket: {port: $port}}
    livenessProbe: {periodSeconds: 1, exec: {command: ["true"]}}
    readinessProbe: {periodSeconds: 1, httpGet: {port: $port, path: /passwd}}
POD
    done
}
pod adjtimex >"$work/clock.yaml"
probing_pod >"$work/probing.yaml"
pod 'sleep, "100000"' >"$work/idle.yaml"
for name in server client; do sed "s/name: figures/name: $name/" "$work/idle.yaml" >"$work/$name.yaml"; done

now() { date +%s%N; }
median() { sort -n | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
milliseconds() { awk '{ printf "%.1f ms", $1 / 1e6 }'; }

# $1: podshim, $2: container. The clock that it printed, in nanoseconds.
executed() {
    "$1" logs figures -c "$2" | awk '
        $1 == "status:" { nano = int($2 / 8192) % 2 }
        $1 == "time.tv_sec:" { seconds = $2 }
        $1 == "time.tv_usec:" { printf "%d%09d\n", seconds, nano ? $2 : $2 * 1000 }'
}
# $1: podshim. Per pod: nanoseconds from the start of `run -d` until the later app process was executed, and until it returned.
measure_starts() {
    local start end one two
    for _ in $(seq "$runs"); do
        start=$(now)
        "$1" run -d "$work/clock.yaml" >/dev/null 2>"$work/stderr" || fail "run: $(cat "$work/stderr")"
        end=$(now)
        "$1" wait figures >/dev/null
        one=$(executed "$1" one) two=$(executed "$1" two)
        [ -n "$one" ] && [ -n "$two" ] || fail "the containers printed no time: $("$1" logs figures -c one 2>&1)"
        [ "$one" -gt "$two" ] || one=$two
        echo "$((one - start)) $((end - start))"
        "$1" rm --force figures >/dev/null
    done
}
measure_command() {
    local start
    for _ in $(seq "$runs"); do
        start=$(now)
        "$@" >/dev/null 2>&1
        echo $(($(now) - start))
    done | median | milliseconds
}
supervisor_pid() {
    local process
    for process in /proc/[0-9]*; do
        if tr '\0' ' ' 2>/dev/null <"$process/cmdline" | grep -q " supervise-pod $work/run/"; then
            echo "${process#/proc/}"
            return
        fi
    done
    fail "no supervisor was found"
}
# $1: pid. Pss and Private_Dirty in KiB.
memory() {
    awk '$1 == "Pss:" { pss = $2 } $1 == "Private_Dirty:" { dirty = $2 } END { print pss, dirty }' "/proc/$1/smaps_rollup"
}
# $1: podshim. Prints Pss and Private_Dirty, in KiB, of the supervisor of an idle pod.
measure_memory() {
    "$1" run -d "$work/idle.yaml" >/dev/null 2>"$work/stderr" || fail "run: $(cat "$work/stderr")"
    # Pages of the binary that are not on the disk yet would count as dirty.
    sync
    sleep 1
    memory "$(supervisor_pid)"
    "$1" rm --force figures >/dev/null
}
# $1: pid. Clock ticks of CPU time: its own, and those of its children that have ended (proc_pid_stat(5), fields 14 to 17).
own_ticks() { sed 's/^.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'; }
all_ticks() { sed 's/^.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 + $14 + $15 }'; }
# $1: podshim. Of the supervisor of a pod that is probed: Pss, Private_Dirty, and the CPU time of an hour in seconds: its
# own, and with that of the probes' processes.
measure_probing() {
    local pid own all
    "$1" run -d --wait=ready --timeout=60s "$work/probing.yaml" >/dev/null 2>"$work/stderr" ||
        fail "run: $(cat "$work/stderr")"
    pid=$(supervisor_pid)
    own=$(own_ticks "$pid") all=$(all_ticks "$pid")
    sleep "$probing_seconds"
    own=$(($(own_ticks "$pid") - own)) all=$(($(all_ticks "$pid") - all))
    "$1" ps | grep -q '3/3 *Running *0 ' || fail "the probes failed: $("$1" ps)"
    awk -v own="$own" -v all="$all" -v memory="$(memory "$pid")" -v ticks="$(($(getconf CLK_TCK) * probing_seconds))" \
        'BEGIN { printf "%s %.1f %.1f\n", memory, own * 3600 / ticks, all * 3600 / ticks }'
    "$1" rm --force figures >/dev/null
}

row() { echo "| $1 | $2 |"; }
measure_starts "$podshim" >"$work/starts"
read -r pss dirty <<<"$(measure_memory "$podshim")"

echo "$(date -u +%Y-%m-%d), $(uname -srm), $(nproc) CPUs ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)), median of $runs"
echo
row "what" "figure"
echo "|---|---|"
row "\`podshim run -d\` to both app processes executed (1 init + 2 app containers, images local)" \
    "$(cut -d ' ' -f 1 "$work/starts" | median | milliseconds)"
row "the same to the return of \`podshim run -d\`" "$(cut -d ' ' -f 2 "$work/starts" | median | milliseconds)"
PODSHIM_NETWORK=bridge measure_starts "$podshim" >"$work/bridged"
# With a pod that stays, the bridge and the name server are there already.
PODSHIM_NETWORK=bridge "$podshim" run -d "$work/server.yaml" >/dev/null 2>&1
PODSHIM_NETWORK=bridge measure_starts "$podshim" >"$work/attached"
row "the first, on the bridge: the first pod, which has the bridge and the name server made" \
    "$(cut -d ' ' -f 1 "$work/bridged" | median | milliseconds)"
row "the first, on the bridge: a further pod" "$(cut -d ' ' -f 1 "$work/attached" | median | milliseconds)"
PODSHIM_NETWORK=bridge "$podshim" run -d "$work/client.yaml" >/dev/null 2>&1
scripts/figures-network.py "$PODSHIM_STATE" >"$work/network" || fail "figures-network.py failed"
while IFS='|' read -r what figure; do row "$what" "$figure"; done <"$work/network"
"$podshim" rm --force --all >/dev/null
row "floor: starting one process (\`busybox true\`)" "$(measure_command /bin/busybox true)"
row "\`podshim version\`" "$(measure_command "$podshim" version)"
for other in crun podman; do
    if command -v "$other" >/dev/null; then
        row "\`$other --version\` ($("$other" --version | head -n 1))" "$(measure_command "$other" --version)"
    else
        row "\`$other\`" "not installed here, not measured"
    fi
done
row "supervisor of an idle pod: Pss" "$pss KiB"
row "supervisor of an idle pod: Private_Dirty" "$dirty KiB"
read -r pss dirty own all <<<"$(measure_probing "$podshim")"
probing="supervisor with 3 containers × 3 probes (tcpSocket until started, then exec and httpGet), period 1 s"
row "$probing: Pss" "$pss KiB"
row "$probing: Private_Dirty" "$dirty KiB"
row "the same: CPU time per hour of the supervisor alone (watched for $probing_seconds s)" "$own s"
row "the same: with the 3 commands per second that it executes in the containers" "$all s"
row "size of the binary" "$(stat -c %s "$podshim" | awk '{ printf "%.1f MiB", $1 / 1048576 }')"

if [ "${FIGURES_PIE:-}" = 1 ]; then
    rust_target=$(uname -m)-unknown-linux-musl
    # RUSTFLAGS replace those of .cargo/config.toml.
    RUSTFLAGS="-Crelocation-model=pic" CARGO_TARGET_DIR=$target_dir/pie \
        cargo build --quiet --locked --release -p podshim --bin podshim --target "$rust_target"
    pie=$target_dir/pie/$rust_target/release/podshim
    read -r pss dirty <<<"$(measure_memory "$pie")"
    row "position-independent build: Pss of the supervisor" "$pss KiB"
    row "position-independent build: Private_Dirty of the supervisor" "$dirty KiB"
    row "position-independent build: size" "$(stat -c %s "$pie" | awk '{ printf "%.1f MiB", $1 / 1048576 }')"
fi
