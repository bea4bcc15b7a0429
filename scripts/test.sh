#!/bin/bash
# Passes all the tests, on a fresh Debian (bookworm or later), as root: installs what they need, builds, and runs them.
#
#   sudo scripts/test.sh
#
# Needs cargo (see scripts/build.sh) and the network for Debian's packages, crates and Go modules. Reads no stdin, needs no terminal.
# Without the packages, criu, Go, the release build or the images it ends. Every other step runs even if one before it failed; the
# summary at the end says which; exit code 1 if any did.
# Environment: PODSHIM_MAY_SKIP (what may be missing, e.g. "docker-registry,criu,v2-guest,critest,bench"; nothing by default),
# CARGO_TARGET_DIR (as cargo's).
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac
exec </dev/null
cd "$(dirname "$0")/.."
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
# The tests choose their own directories, and golden files are compared, not rewritten.
unset PODSHIM_NETWORK PODSHIM_BRIDGE PODSHIM_POD_CIDR PODSHIM_SERVICE_CIDR PODSHIM_ROOT PODSHIM_STATE PODSHIM_LOG_DIR PODSHIM_CGROUP_PARENT PODSHIM_REGISTRIES PODSHIM_BLESS
[ ! -d "${CARGO_HOME:-$HOME/.cargo}/bin" ] || export PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

# shellcheck source=scripts/go.sh
. scripts/go.sh

if [ "$(id -u)" != 0 ]; then
    echo "test.sh: pods take root (namespaces, mounts and cgroups are made): try again with sudo.
Without root there is \`PODSHIM_MAY_SKIP=root cargo test --lib\`." >&2
    exit 1
fi

summary=() failures='' failed=0
output=$(mktemp)
begun_dir=$(mktemp -d)
declare -A begun=()
trap 'rm -rf "$output" "$begun_dir"; [ ${#begun[@]} = 0 ] || kill "${begun[@]}" 2>/dev/null || true' EXIT
# step NAME COMMAND... (a function must not rely on `set -e`, which is off in a condition). Of a failed step, what failed is
# said again at the end. No pipe: what a function exports is for later steps.
step() {
    local name=$1 begin=$SECONDS result=ok
    shift
    echo
    echo "== $name: $*"
    if ! "$@" > >(tee "$output") 2>&1; then
        result=FAILED
        failed=1
    fi
    # Its last line may not have come yet; whoever holds the output open holds nothing up.
    timeout 5 tail --pid="$!" -f /dev/null || true
    if [ "$result" = FAILED ]; then
        # Not every step has such lines: its last ones tell the rest.
        failures+=$(
            printf '\n== %s failed; of what it said:\n' "$name"
            grep -E -A 4 'panicked at|FAILED|NOT EXPECTED|^(left|suite|error):' "$output" | tail -n 80
            tail -n 20 "$output"
        )
    fi
    summary+=("$(printf '%-7s %4d s  %s' "$result" $((SECONDS - begin)) "$name")")
    [ "$result" = ok ]
}
# begin NAME COMMAND...: in the background, on the processor that a link leaves idle. `step NAME outcome NAME` waits for it.
begin() {
    local name=$1
    shift
    (echo "$*" && exec "$@") >"$begun_dir/$name" 2>&1 &
    begun[$name]=$!
}
outcome() {
    local result=0
    wait "${begun[$1]}" || result=$?
    unset "begun[$1]"
    cat "$begun_dir/$1"
    return "$result"
}
finish() {
    printf '%s\n\n' "$failures"
    echo "== summary"
    printf '%s\n' "${summary[@]}"
    exit "$failed"
}
may_skip() { [[ ,${PODSHIM_MAY_SKIP:-}, = *,$1,* ]]; }

install_packages() {
    local package missing=()
    # For podshim and its images; for the tests; for the guest with cgroup v2.
    for package in build-essential busybox-static mmdebstrap \
        ca-certificates chromium containernetworking-plugins fonts-dejavu-core git iproute2 iptables nftables openssl \
        perl-base procps python3 runc shellcheck strace util-linux qemu-system-x86 xz-utils; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ] || ! apt-cache show docker-registry >/dev/null 2>&1; then
        apt-get update -qq || return 1
    fi
    if [ ${#missing[@]} -gt 0 ]; then
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null ||
            return 1
    fi
    # Unpacked, not installed: its package starts a server that listens on all addresses.
    if ! command -v docker-registry >/dev/null && ! may_skip docker-registry; then
        local tools=$target_dir/tools
        if [ ! -x "$tools/usr/bin/docker-registry" ]; then
            rm -rf "$tools"
            mkdir -p "$tools"
            (cd "$tools" && apt-get -qq -o APT::Sandbox::User=root download docker-registry && dpkg-deb -x ./*.deb .) ||
                return 1
        fi
        export PATH=$PATH:$tools/usr/bin
    fi
}
rust_components() {
    local component
    for component in rustfmt clippy; do
        cargo "${component/rust/}" --version >/dev/null 2>&1 || rustup component add "$component" || return 1
    done
}

# criu of the host, or one that is unpacked below target.
find_criu() {
    local directory
    directory=$(scripts/criu.sh) && export PATH=$PATH:$directory
}

# Without these nothing else makes sense.
step "packages" install_packages || finish
may_skip criu || step "criu" find_criu || finish
step "rust components" rust_components || finish
# Clients of other people's that podshim is tested with (client-go, NRI's plugins, critest) are written in it.
step "Go" find_go "$target_dir/cri" || finish
# Half of the release build is one link, in one thread.
begin "lints" cargo clippy --locked --quiet --workspace --all-targets -- -D warnings
begin "test build" cargo test --locked --quiet --workspace --no-run
step "release build" scripts/build.sh || finish
step "images" scripts/images.sh || finish

export PODSHIM_BIN=$target_dir/podshim PODSHIM_TEST_IMAGES=$target_dir/images
step "format" cargo fmt --check --all || true
step "lints" outcome "lints" || true
step "test build" outcome "test build" || true
if cargo deny --version >/dev/null 2>&1; then
    step "licences" cargo deny check licenses bans || true
else
    summary+=("skipped         licences (cargo-deny is not installed)")
fi
step "rows" scripts/rows.sh --strict || true
# A job in the background has SIGINT ignored, one of nohup(1) SIGHUP: tests send them.
step "tests" env --default-signal=HUP,INT cargo test --locked --workspace --no-fail-fast || true
if may_skip v2-guest; then
    summary+=("skipped         cgroup v2 (PODSHIM_MAY_SKIP)")
else
    step "cgroup v2" scripts/test-v2.sh || true
fi
# The ecosystem's own suite, in the ways a kubelet may use a server; it installs what it needs.
if may_skip critest; then
    summary+=("skipped         critest (PODSHIM_MAY_SKIP)")
else
    step "critest" scripts/critest.sh --nri || true
    step "critest, parallel" scripts/critest.sh --parallel 4 || true
    step "critest, WebSocket" scripts/critest.sh --websocket --focus Streaming || true
    step "critest, crun" scripts/critest.sh --parallel 4 --runtime-handler crun || true
    step "critest, benchmark" scripts/critest.sh --benchmark || true
    step "crictl" scripts/critest.sh --crictl || true
fi
# Its peers come from Debian sid; where that is not to be had, it says so and measures podshim alone.
if may_skip bench; then
    summary+=("skipped         benchmark (PODSHIM_MAY_SKIP)")
else
    step "benchmark" scripts/bench.sh --quick || true
fi
# The machine's own network is not for tests: no bridge there.
step "demo" env PODSHIM_DEMO_SECONDS=5 PODSHIM_NETWORK=none PODSHIM_ROOT="$target_dir/demo/root" PODSHIM_STATE="$target_dir/demo/run" \
    PODSHIM_LOG_DIR="$target_dir/demo/log" scripts/demo.sh || true
finish
