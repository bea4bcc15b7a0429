#!/bin/sh
# Runs the fuzz targets (fuzz/), each for a bounded time, from fuzz/seeds and what earlier runs found (fuzz/corpus).
#
#   sudo scripts/fuzz.sh [SECONDS] [TARGET...]       default: 60 seconds each, all targets
#
# An input that breaks a target is left in fuzz/artifacts: put it into fuzz/seeds/TARGET, where the ordinary tests find it, and
# mend what it broke. `unpack` takes root. Needs a C++ compiler (libFuzzer); cargo-fuzz is installed if it is missing.
set -eu
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac
# A login shell finds cargo here; a CI job or `sudo` often does not.
[ ! -d "${CARGO_HOME:-$HOME/.cargo}/bin" ] || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
cd "$(dirname "$0")/../fuzz"
seconds=${1:-60}
[ $# = 0 ] || shift
[ $# != 0 ] || set -- $(ls fuzz_targets | sed 's/\.rs$//')
command -v c++ >/dev/null || { echo "fuzz.sh: a C++ compiler is missing: apt install g++" >&2; exit 1; }
command -v cargo-fuzz >/dev/null || cargo install --locked --quiet cargo-fuzz
# Without a sanitizer it works with the stable compiler; there is next to no unsafe code here to be watched.
cargo fuzz build --sanitizer none
failed=
for target; do
    mkdir -p "corpus/$target" "artifacts/$target"
    seeds=seeds/$target
    [ "$target" != manifest ] || seeds="$seeds ../tests/manifests ../tests/pods"
    echo "== $target: $seconds s"
    # shellcheck disable=SC2086 # one word per directory
    target/*/release/"$target" "corpus/$target" $seeds -artifact_prefix="artifacts/$target/" \
        -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=10 -max_len=8192 -verbosity=0 -print_final_stats=1 ||
        failed="$failed $target"
done
[ -z "$failed" ] || { echo "fuzz.sh: broken:$failed (see fuzz/artifacts)" >&2; exit 1; }
