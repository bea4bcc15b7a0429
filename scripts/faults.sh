#!/bin/sh
# Tries every fault of tests/faults, and the kills of tests/whole, for as long as it takes (some two hours, of which the soak is as
# long as it is told to be).
#
#   sudo scripts/faults.sh [TEST...]     TEST: part of a test's name; default all
#
# Needs what scripts/test.sh installs, and what it builds: run that first. `cargo test --test faults` tries a part, in minutes.
# Environment: PODSHIM_SOAK_SECONDS (default 3600), PODSHIM_KILLS and PODSHIM_TEST_KILLS (of supervisors and of CRI; default 1000,
# 500), PODSHIM_BIN, PODSHIM_TEST_IMAGES, CARGO_TARGET_DIR (as cargo's).
set -eu
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "faults.sh: pods take root: try again with sudo" >&2; exit 1; }
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
[ ! -d "${CARGO_HOME:-$HOME/.cargo}/bin" ] || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
export PODSHIM_FAULTS=all
export PODSHIM_SOAK_SECONDS="${PODSHIM_SOAK_SECONDS:-3600}"
export PODSHIM_BIN="${PODSHIM_BIN:-$target_dir/podshim}"
export PODSHIM_TEST_IMAGES="${PODSHIM_TEST_IMAGES:-$target_dir/images}"
export PODSHIM_KILLS="${PODSHIM_KILLS:-1000}" PODSHIM_TEST_KILLS="${PODSHIM_TEST_KILLS:-500}"
# One after the other: each uses what processors there are.
cargo test --locked --test faults -- --test-threads 1 --nocapture "$@" </dev/null
[ "$#" = 0 ] || exit 0
# Supervisors and servers that are killed and taken over.
for kills in takeover::it_can_be_killed cri::kills; do
    cargo test --locked --test whole -- --test-threads 1 --nocapture "$kills" </dev/null
done
