#!/bin/bash
# Writes scripts/first.ld, by which the linker puts those functions first that are executed when pods are run, in the order of
# their first execution. A process maps the pages of its program as it comes to them, sixteen at a time, and unmaps them when it
# ends: of functions that lie all over the binary that is a good part of what a short command takes. To be run again when much
# has changed; a name that is no function's any more is of no effect.
#
#   scripts/order.sh
#
# As root, in namespaces of its own. Needs what scripts/build.sh needs, and images (scripts/images.sh makes them).
# Environment: CARGO_TARGET_DIR (as cargo's), PODSHIM_TEST_IMAGES (the images' folder).
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac
cd "$(dirname "$0")/.."
target_dir=${CARGO_TARGET_DIR:-target}
images=$(realpath "${PODSHIM_TEST_IMAGES:-$target_dir/images}")
order=$target_dir/order

if [ "${1:-}" != inside ]; then
    CARGO_TARGET_DIR=$order CARGO_PROFILE_RELEASE_STRIP=none scripts/build.sh
    cc -O2 -Wall -Wextra -Werror -o "$order/functions" tests/bench/functions.c
    nm --defined-only "$order/podshim" | awk '$2 ~ /^[tTwW]$/ && $3 ~ /^(_R|memcpy$|memmove$|memcmp$)/ { print $1, $3 }' >"$order/symbols"
    # Its bridge and its rules are no concern of the machine's.
    unshare --net --mount --propagation private scripts/order.sh inside
    {
        echo '/* Written by scripts/order.sh. What stands for a crate differs from build to build. */'
        echo 'SECTIONS { .text.first : {'
        sed -E 's/Cs[0-9A-Za-z]+_/Cs*_/g; s/.*/*(.text.&)/' "$order/names" | awk '!seen[$0]++'
        echo '} }'
        echo 'INSERT BEFORE .text;'
    } >scripts/first.ld.new
    mv scripts/first.ld.new scripts/first.ld
    echo "scripts/first.ld: $(grep -c text scripts/first.ld) lines"
    exit
fi

podshim=$(realpath "$order/podshim")
run=$(mktemp -d)
mount -t tmpfs order "$run"
export PODSHIM_ROOT=$run/root PODSHIM_STATE=$run/state PODSHIM_LOG_DIR=$run/log
trap '"$podshim" rm --force --all >/dev/null; umount "$run"; rmdir "$run"' EXIT
ip link set lo up
"$podshim" image import "$images/busybox.oci.tar" >/dev/null
cat >"$run/pod.yaml" <<'POD'
apiVersion: v1
kind: Pod
metadata: {name: order, labels: {app: order}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {seccompProfile: {type: RuntimeDefault}}
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: config, configMap: {name: order}}
  initContainers:
  - {name: init, image: busybox, command: [touch, /shared/made], volumeMounts: [{name: shared, mountPath: /shared}]}
  containers:
  - name: one
    image: busybox
    command: [sh, -c, "echo started; exec sleep 1000"]
    env: [{name: KEY, valueFrom: {configMapKeyRef: {name: order, key: key}}}]
    resources: {requests: {memory: 10Mi}, limits: {memory: 50Mi, cpu: 500m}}
    readinessProbe: {periodSeconds: 1, exec: {command: ["true"]}}
    volumeMounts: [{name: shared, mountPath: /shared}, {name: config, mountPath: /config}]
  - {name: two, image: busybox, command: [sleep, "1000"]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: order}
data: {key: value}
POD
cat >"$run/commands" <<'COMMANDS'
set -e
"$1" run -d "$2"
"$1" exec order -c one -- true
"$1" debug order --image busybox --profile baseline -c more -- true
"$1" ps
"$1" wait order --for condition=Ready
"$1" logs order -c one
"$1" inspect order
"$1" stop order
"$1" rm order
COMMANDS
"$order/functions" "$podshim" "$order/symbols" "$order/names" sh "$run/commands" "$podshim" "$run/pod.yaml" >/dev/null
