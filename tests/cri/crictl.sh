#!/bin/bash
# Drives a CRI server with crictl, as a person at a node would: called by inside.sh (scripts/critest.sh --crictl), which has
# started the server and a registry. Prints a line for each check; exit code 1 if any failed.
#
# Environment: ENDPOINT (unix://...), WORK (a directory for this run), HANDLER (of the pod; may be empty), TRANSPORTS (of exec,
# attach and port-forward, e.g. "spdy websocket"), SERVER (podshim or containerd), CRIU (where criu is, in PATH, too; may be empty).
# shellcheck disable=SC2016,SC2317 # scripts for containers; functions that are called by name
set -uo pipefail
busybox=registry.k8s.io/e2e-test-images/busybox:1.29-2
nginx=registry.k8s.io/e2e-test-images/nginx:1.14-2
failed=0

ctl() { crictl --runtime-endpoint "$ENDPOINT" --timeout 30s "$@"; }
# ok NAME COMMAND...: COMMAND must succeed.
ok() {
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then
        echo "ok      $name"
    else
        failed=1
        printf 'FAILED  %s: %s\n%s\n' "$name" "$*" "${output:0:1000}"
    fi
}
# says NAME REGEX COMMAND...: and print a line that matches.
says() {
    local name=$1 wanted=$2 output code=0
    shift 2
    output=$("$@" 2>&1) || code=$?
    if [ "$code" = 0 ] && grep -Eq -- "$wanted" <<<"$output"; then
        echo "ok      $name"
    else
        failed=1
        printf 'FAILED  %s: %s: exit code %s, no line matches %s\n%s\n' "$name" "$*" "$code" "$wanted" "${output:0:1000}"
    fi
}
# fails NAME REGEX COMMAND...: COMMAND must fail and print a line that matches.
fails() {
    local name=$1 wanted=$2 output
    shift 2
    if output=$("$@" 2>&1) || ! grep -Eq -- "$wanted" <<<"$output"; then
        failed=1
        printf 'FAILED  %s: %s: did not fail with a line that matches %s\n%s\n' "$name" "$*" "$wanted" "${output:0:1000}"
    else
        echo "ok      $name"
    fi
}
# eventually COMMAND...: tries for 20 s.
eventually() {
    local end=$((SECONDS + 20))
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.2
    done
}
# with_input TEXT COMMAND...
with_input() {
    local text=$1
    shift
    printf '%s' "$text" | "$@"
}

mkdir -p "$WORK/logs"
cat >"$WORK/pod.json" <<END
{
  "metadata": { "name": "by-crictl", "namespace": "default", "uid": "4f7d8b1e-9a53-4d0e-8a51-0c1df1a2f2a9", "attempt": 1 },
  "hostname": "by-crictl", "log_directory": "$WORK/logs", "labels": { "app": "crictl" },
  "port_mappings": [{ "protocol": 0, "container_port": 80, "host_port": 12010 }], "linux": {}
}
END
cat >"$WORK/shell.json" <<END
{
  "metadata": { "name": "shell" }, "image": { "image": "$busybox" }, "log_path": "shell.log",
  "command": ["sh", "-c", "echo began; echo to-stderr >&2; while read -r line; do echo got \$line; done; sleep 1000"],
  "stdin": true, "envs": [{ "key": "COLOUR", "value": "green" }], "working_dir": "/tmp",
  "linux": { "resources": { "memory_limit_in_bytes": 67108864, "cpu_shares": 512 } }
}
END
cat >"$WORK/web.json" <<END
{ "metadata": { "name": "web" }, "image": { "image": "$nginx" }, "log_path": "web.log", "linux": {} }
END

says "version" "RuntimeApiVersion: +v1" ctl version
says "info tells that the runtime and its network are ready" '"reason": ""|"status": true' ctl info
ok "pull" ctl pull "$busybox"
ok "pull another" ctl pull "$nginx"
says "images" "e2e-test-images/busybox +1.29-2" ctl images
says "inspecti" "\"$busybox\"" ctl inspecti "$busybox"
says "imagefsinfo" '"usedBytes"' ctl imagefsinfo
fails "pull what the registry does not have" "not found|no such|unknown" ctl pull registry.k8s.io/none:1
fails "pull a name that is none" "invalid|could not parse|not a" ctl pull "UPPER:CASE:x"

pod=$(ctl runp ${HANDLER:+--runtime "$HANDLER"} "$WORK/pod.json") || { echo "FAILED  runp" && exit 1; }
says "pods" "Ready +by-crictl +default" ctl pods
says "pods by label" "^$pod$" ctl pods -q --no-trunc --label app=crictl
says "inspectp" '"state": "SANDBOX_READY"' ctl inspectp "$pod"
fails "a pod that is there already" "reserved|already" ctl runp "$WORK/pod.json"
shell=$(ctl create "$pod" "$WORK/shell.json" "$WORK/pod.json") || { echo "FAILED  create" && exit 1; }
says "a created container" "Created +shell" ctl ps -a
ok "start" ctl start "$shell"
says "a running container" "Running +shell" ctl ps
says "inspect" '"state": "CONTAINER_RUNNING"' ctl inspect "$shell"
says "exec, synchronous" "^green$" ctl exec -s "$shell" sh -c 'echo $COLOUR'
fails "exec, synchronous, that fails" "(exit code|exited with|status).* 7" ctl exec -s "$shell" sh -c 'exit 7'
fails "exec, synchronous, that takes too long" "[Dd]eadline|timed? ?out" ctl exec -s --timeout 1 "$shell" sleep 30
fails "exec of a program that is not there" "not found|no such file" ctl exec -s "$shell" /none
for transport in ${TRANSPORTS:-spdy}; do
    says "exec over $transport" "^/tmp$" ctl exec --transport "$transport" "$shell" pwd
    # script(1) gives crictl a terminal; its size, which is nobody's default, comes after the command has begun.
    says "exec over $transport with a terminal" "size=31 101" script -qec "stty rows 31 cols 101
        crictl -r $ENDPOINT exec --transport $transport -it $shell sh -c '
            tty >/dev/null || exit
            for _ in \$(seq 100); do [ \"\$(stty size)\" != \"31 101\" ] || break; sleep 0.1; done
            echo size=\$(stty size)'" /dev/null
    says "exec over $transport with input, to its end" "^3 lines$" with_input $'a\nb\nc\n' ctl exec --transport "$transport" -i "$shell" \
        sh -c 'echo $(wc -l) lines'
    fails "exec over $transport that fails" "exit code 9|exit status 9" ctl exec --transport "$transport" "$shell" sh -c 'exit 9'
    says "exec over $transport keeps the two outputs apart" "^only this$" bash -c \
        "crictl -r $ENDPOINT exec --transport $transport $shell sh -c 'echo only this; echo not this >&2' 2>/dev/null"
done
says "logs" "^began$" ctl logs "$shell"
says "logs of one stream" "^to-stderr$" ctl logs --stream stderr "$shell"
says "log file, as the kubelet reads it" "^[0-9T:.+-]+Z? stdout F began$" cat "$WORK/logs/shell.log"
mv "$WORK/logs/shell.log" "$WORK/logs/shell.old"
ok "logs -r: a file that was moved away is written anew" ctl logs --reopen "$shell"
ok "the new file is there" eventually test -e "$WORK/logs/shell.log"
says "stats" "^${shell:0:13}.* shell " eventually ctl stats
says "statsp" "by-crictl" ctl statsp
ok "update" ctl update --memory 33554432 "$shell"
says "what was updated" "33554432" ctl inspect "$shell"
if [ -n "${CRIU:-}" ]; then
    ok "checkpoint" ctl checkpoint --export="$WORK/checkpoint.tar" "$shell"
    says "what is in it" "^checkpoint/inventory.img$" tar -tf "$WORK/checkpoint.tar"
    says "what it is of" '"name": "shell"' tar -xOf "$WORK/checkpoint.tar" config.dump
    says "the container goes on after it" "^green$" ctl exec -s "$shell" sh -c 'echo $COLOUR'
    fails "a checkpoint to where there is one" "there already|AlreadyExists" ctl checkpoint --export="$WORK/checkpoint.tar" "$shell"
elif [ "${SERVER:-}" = podshim ]; then
    fails "checkpoint without criu" "Unimplemented.*criu" ctl checkpoint --export="$WORK/checkpoint.tar" "$shell"
fi
says "runtime-config" "cgroup ?driver: +(CGROUPFS|SYSTEMD)" ctl runtime-config
says "metricdescs" "container_" ctl metricdescs
says "metricsp" "container_" ctl metricsp

web=$(ctl create "$pod" "$WORK/web.json" "$WORK/pod.json") || { echo "FAILED  create" && exit 1; }
ok "start another" ctl start "$web"
address=$(ctl inspectp -o go-template --template '{{.status.network.ip}}' "$pod")
# fetch HOST PORT: a page, by HTTP 1.0.
fetch() {
    (
        exec 3<>"/dev/tcp/$1/$2" || exit 1
        printf 'GET / HTTP/1.0\r\n\r\n' >&3
        timeout 10 cat <&3
    ) 2>/dev/null
}
fetched() { fetch "$@" | grep -q "nginx on port 80"; }
ok "a page from the pod's address" eventually fetched "$address" 80
ok "a page from the host's port" eventually fetched 127.0.0.1 12010
port=12020
for transport in ${TRANSPORTS:-spdy}; do
    crictl --runtime-endpoint "$ENDPOINT" port-forward --transport "$transport" "$pod" $port:80 >"$WORK/forward.log" 2>&1 &
    forward=$!
    ok "a page through port-forward over $transport" eventually fetched 127.0.0.1 $port
    kill "$forward" 2>/dev/null
    wait "$forward" 2>/dev/null
    port=$((port + 1))
    mkfifo "$WORK/attach.in"
    crictl --runtime-endpoint "$ENDPOINT" attach --transport "$transport" -i "$shell" <"$WORK/attach.in" >"$WORK/attach.out" 2>&1 &
    attach=$!
    exec 4>"$WORK/attach.in"
    echo "by $transport" >&4
    ok "attach over $transport" eventually grep -q "^got by $transport" "$WORK/attach.out"
    exec 4>&-
    # The end of its input does not end it, and its first SIGTERM it only notes.
    kill -KILL "$attach" 2>/dev/null
    wait "$attach" 2>/dev/null
    rm "$WORK/attach.in"
done

ok "stop" ctl stop --timeout 2 "$shell"
says "a stopped container" "Exited +shell" ctl ps -a
ok "stop again" ctl stop "$shell"
fails "exec in a stopped container" "not running|CONTAINER_EXITED|not found|stopped" ctl exec -s "$shell" true
ok "rm" ctl rm "$shell"
fails "inspect what is gone" "not found|NotFound" ctl inspect "$shell"
ok "rm of a running one, by force" ctl rm -f "$web"
ok "stopp" ctl stopp "$pod"
says "a stopped pod" "NotReady +by-crictl" ctl pods
ok "stopp again" ctl stopp "$pod"
ok "rmp" ctl rmp "$pod"
ok "no pod is left" test -z "$(ctl pods -q)"
ok "rmi" ctl rmi "$busybox" "$nginx"
fails "inspecti what is gone" "no such image|not found|not present" ctl inspecti "$busybox"
exit "$failed"
