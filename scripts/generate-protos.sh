#!/bin/bash
# Generates src/cri/api/*.rs from tools/protos/*/api.proto. What it writes is committed: nothing that builds podshim runs this.
#
#   scripts/generate-protos.sh
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cargo run --quiet --manifest-path tools/protos/Cargo.toml --target-dir "${CARGO_TARGET_DIR:-target}/protos" -- "$scratch"
install -m 644 "$scratch/runtime.v1.rs" src/cri/api/runtime.v1.rs
install -m 644 "$scratch/nri.pkg.api.v1alpha1.rs" src/cri/api/nri.v1alpha1.rs
