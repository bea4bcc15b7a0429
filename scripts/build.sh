#!/bin/sh
# Builds podshim for release as one static binary, target/podshim, and checks that it needs no shared library.
#
#   scripts/build.sh
#
# Needs cargo (Rust 1.95 or later) from rustup; a C compiler is installed with apt-get if it is missing (as root).
# Environment: CARGO_TARGET_DIR (as cargo's).
set -eu
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac
cd "$(dirname "$0")/.."
target_dir=${CARGO_TARGET_DIR:-target}

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

# A login shell finds cargo here; a CI job or `sudo` often does not.
[ ! -d "${CARGO_HOME:-$HOME/.cargo}/bin" ] || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
command -v cargo >/dev/null || fail "cargo is missing: install Rust 1.95 or later with rustup
(Debian's own rustc is too old)"
wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
have=$(cargo --version | cut -d ' ' -f 2)
oldest=$(printf '%s\n%s\n' "$wanted" "${have%%-*}" | sort -V | head -n 1)
[ "$oldest" = "$wanted" ] || fail "cargo is version $have, podshim needs $wanted or later: run \`rustup update stable\`"

# ring and zstd compile C; readelf (binutils) comes with the compiler.
if ! command -v gcc >/dev/null || ! command -v readelf >/dev/null; then
    [ "$(id -u)" = 0 ] || fail "gcc or readelf is missing, and only root can install it: apt-get install build-essential"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends build-essential >/dev/null
fi

rust_target=$(uname -m)-unknown-linux-musl
if rustup target list --installed 2>/dev/null | grep -qx "$rust_target" || rustup target add "$rust_target" 2>/dev/null; then
    :
else
    echo "build.sh: rustup has no $rust_target for this toolchain; linking glibc statically" >&2
    rust_target=$(uname -m)-unknown-linux-gnu
    export RUSTFLAGS="${RUSTFLAGS:-} -Ctarget-feature=+crt-static -Crelocation-model=static -Clink-arg=-Wl,-T,scripts/no-eh-frame.ld"
fi
# --target also with gnu: without it the flags would reach build scripts and procedural macros.
cargo build --locked --release -p podshim --bin podshim --target "$rust_target"

built=$target_dir/$rust_target/release/podshim
if readelf --wide --program-headers "$built" | grep -qw INTERP; then
    fail "$built asks for a dynamic loader, so it is not static"
fi
if readelf --wide --dynamic "$built" | grep -w NEEDED >&2; then
    fail "$built needs the shared libraries above, so it is not static"
fi
# Beside and renamed: the old file may be running.
cp "$built" "$target_dir/podshim.new"
mv "$target_dir/podshim.new" "$target_dir/podshim"
first=$(size --format=SysV "$built" | awk '$1 == ".text.first" { print $2 }')
echo "$target_dir/podshim: $("$target_dir/podshim" version 2>/dev/null | head -n 1 || true), static, $(stat -c %s "$target_dir/podshim") bytes,
of which ${first:-0} are put first by scripts/first.ld"
