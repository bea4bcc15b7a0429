#!/bin/bash
# The part of scripts/critest.sh that runs in namespaces of its own, as the first process of the pid namespace: starts the
# registry and the CRI server, runs critest with the words given (or tests/cri/crictl.sh for the word "crictl"), ends the server and tells what is left.
#
# Environment, all from critest.sh: SERVER (podshim or containerd), RUN (a short directory, for this run only), RESULTS, CRI
# (target/cri), CONTAINERD (where its package is unpacked), PODSHIM (the binary), HANDLER (of all sandboxes; may be empty),
# NRI (not empty: with a socket), IMAGES (the layout), TOOLS (rootfs-tools),
# SECONDS_AT_MOST (for critest).
set -euo pipefail
trap 'echo "critest: inside.sh line $LINENO: $BASH_COMMAND: exit code $?" >&2' ERR
export CRI_CONFIG_FILE=$RUN/crictl.yaml
export PATH=$CRI/bin:$CONTAINERD/usr/bin:$CONTAINERD/usr/sbin:$CRI/debian/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin${CRIU:+:$CRIU}
HERE=$(cd "$(dirname "$0")" && pwd)
registry=127.0.0.1:5000
socket=$RUN/cri.sock
nri_socket=$RUN/nri.sock
endpoint=unix://$socket

die() {
    echo "critest: $*" >&2
    exit 2
}

# shellcheck source=tests/cri/isolate.sh
. "$HERE/isolate.sh"

start_registry() {
    local host
    cat >"$RUN/registry.yml" <<END
version: 0.1
log:
  level: error
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: $RUN/registry
http:
  addr: $registry
END
    docker-registry serve "$RUN/registry.yml" >"$RESULTS/registry.log" 2>&1 &
    registry_pid=$!
    wait_for 20 "the registry" bash -c "exec 3<>/dev/tcp/${registry/://}"
    "$TOOLS" push "$IMAGES" "$registry" >"$RESULTS/images.txt"
    for host in docker.io gcr.io k8s.gcr.io public.ecr.aws registry.k8s.io; do
        mkdir -p "$RUN/hosts/$host"
        printf 'server = "http://%s"\n\n[host."http://%s"]\n  capabilities = ["pull", "resolve"]\n' "$registry" "$registry" \
            >"$RUN/hosts/$host/hosts.toml"
    done
}

write_cni() {
    mkdir -p "$RUN/cni"
    cat >"$RUN/cni/10-critest.conflist" <<END
{
  "cniVersion": "0.4.0",
  "name": "critest",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": {
        "type": "host-local", "dataDir": "$RUN/ipam",
        "ranges": [[{ "subnet": "10.88.0.0/16" }]], "routes": [{ "dst": "0.0.0.0/0" }]
      }
    },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}
END
}

start_containerd() {
    cat >"$RUN/config.toml" <<END
version = 2
root = "$RUN/root"
state = "$RUN/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "$socket"
[plugins."io.containerd.internal.v1.opt"]
  path = "$RUN/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10"
  stream_server_address = "127.0.0.1"
  # Lowering the score takes CAP_SYS_RESOURCE, which root of a container may lack.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$RUN/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "$RUN/hosts"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
      BinaryName = "/usr/bin/crun"
END
    if [ -n "$NRI" ]; then
        printf '[plugins."io.containerd.nri.v1.nri"]\n  disable = false\n  socket_path = "%s"\n  plugin_path = "%s"\n' \
            "$nri_socket" "$RUN/nri-plugins" >>"$RUN/config.toml"
    fi
    containerd --config "$RUN/config.toml" >"$RESULTS/server.log" 2>&1 &
    server_pid=$!
}

start_podshim() {
    cat >"$RUN/config.toml" <<END
[registry]
config_path = "$RUN/hosts"

[network]
without_cni = "wait"
bin_dirs = ["/usr/lib/cni"]
conf_dir = "$RUN/cni"

[runtime_handlers.crun]
path = "/usr/bin/crun"

[runtime_handlers.runc]
path = "/usr/bin/runc"
END
    if [ -n "$NRI" ]; then
        printf '\n[nri]\nenabled = true\nsocket_path = "%s"\nplugin_path = "%s"\n' "$nri_socket" "$RUN/nri-plugins" >>"$RUN/config.toml"
    fi
    "$PODSHIM" --root "$RUN/root" --state "$RUN/state" --log-dir "$RUN/log" cri --listen "$endpoint" \
        --config "$RUN/config.toml" >"$RESULTS/server.log" 2>&1 &
    server_pid=$!
}

# What a run may leave: one fact a line. Taken before the server starts and after it has ended.
facts() (
    local depth=3
    # What is not there is nothing: no pipe here fails.
    set +e +o pipefail
    # Version 2 has no directory for each controller.
    [ ! -f /sys/fs/cgroup/cgroup.controllers ] || depth=2
    findmnt -rn -o TARGET | sed 's/^/mount /'
    ip -o link | sed -E 's/^[0-9]+: ([^:@]+).*/link \1/'
    find /run/netns -mindepth 1 2>/dev/null | sed 's/^/network namespace /'
    # Addresses and rules of pods, which CNI plugins keep until they are told that a pod is gone.
    find "$RUN/ipam" -type f -name '[0-9]*.*' 2>/dev/null | sed 's/^/address /'
    iptables-save 2>/dev/null | grep -F ' id: ' | sed 's/^/rule /'
    # podshim's own of pods; no such directories otherwise.
    find "$RUN/state/pods" "$RUN/state/names" "$RUN/root/pods" "$RUN/root/claims" "$RUN/root/tmp" -mindepth 1 -maxdepth 1 \
        2>/dev/null | sed 's/^/file /'
    # The groups that a server makes for itself once are no leak: only what is below them counts.
    find /sys/fs/cgroup -mindepth $depth -type d ! -path '/sys/fs/cgroup/harness/*' | sed 's/^/cgroup /'
)
tell_what_is_left() {
    local process
    facts | sort | comm -13 "$RUN/facts" - | grep -vx 'link cni0' || true
    for process in /proc/[0-9]*; do
        case ${process#/proc/} in
        1 | "$registry_pid" | "$BASHPID") continue ;;
        esac
        [ ! -e "$process/exe" ] || echo "process ${process#/proc/} $(tr '\0' ' ' <"$process/cmdline" | cut -c1-150)"
    done
}

# Ends the server, and the pods that specs did not remove, which are told too.
stop_server() {
    local pods
    pods=$(crictl --runtime-endpoint "$endpoint" --timeout 20s pods -q 2>/dev/null || echo "unknown: the server does not answer")
    if [ -n "$pods" ]; then
        echo "pods not removed by their specs: ${pods//$'\n'/ }" >>"$RESULTS/notes.txt"
        # shellcheck disable=SC2086 # one word per pod
        crictl --runtime-endpoint "$endpoint" --timeout 60s rmp -f $pods >>"$RESULTS/server.log" 2>&1 || true
    fi
    kill -TERM "$server_pid" 2>/dev/null || true
    for _ in $(seq 100); do
        kill -0 "$server_pid" 2>/dev/null || return 0
        sleep 0.1
    done
    echo "the server did not end within 10 s of SIGTERM" >>"$RESULTS/left.txt"
    kill -KILL "$server_pid"
}

isolate
touch "$CRI_CONFIG_FILE"
export TMPDIR=$RUN/tmp
mkdir -p "$TMPDIR"
start_registry
write_cni
facts | sort >"$RUN/facts"
case $SERVER in
containerd) start_containerd ;;
*) start_podshim ;;
esac
wait_for 30 "$SERVER" crictl --runtime-endpoint "$endpoint" --timeout 5s version
crictl --runtime-endpoint "$endpoint" version >"$RESULTS/version.txt"

cd "$TMPDIR"
code=0
if [ "${1:-}" = crictl ]; then
    ENDPOINT=$endpoint WORK=$TMPDIR timeout --kill-after=10 "$SECONDS_AT_MOST" "$HERE/crictl.sh" >"$RESULTS/table.txt" 2>&1 || code=$?
else
    words=(-runtime-endpoint "$endpoint" -config "$CRI_CONFIG_FILE" -ginkgo.no-color -ginkgo.json-report "$RESULTS/report.json")
    [ -z "$NRI" ] || words+=(-nri-socket "$nri_socket")
    timeout --kill-after=10 "$SECONDS_AT_MOST" critest "${words[@]}" "$@" >"$RESULTS/critest.log" 2>&1 || code=$?
fi
cd /
kill -0 "$server_pid" 2>/dev/null || echo "the server ended during the run" >>"$RESULTS/left.txt"
stop_server
# Ended processes leave some things a moment later, mounts above all.
for _ in $(seq 20); do
    left=$(tell_what_is_left)
    [ -n "$left" ] || break
    sleep 0.5
done
[ -z "$left" ] || echo "$left" >>"$RESULTS/left.txt"
exit "$code"
