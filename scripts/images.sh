#!/bin/sh
# Builds the images that the tests and the owner's pods name, without network but for Debian's packages.
#
#   scripts/images.sh [DIR]      default: target/images
#
# DIR/oci is one OCI layout with all of them; DIR/facts.docker.tar and DIR/busybox.oci.tar are archives for the tests
# of `podshim image import`. An image whose inputs did not change is not made again.
# Environment: CARGO_TARGET_DIR (as cargo's), PODSHIM_IMAGES (only these, e.g. "busybox facts"; default all but "cri",
# which are those of tests/cri/images.sh).
set -eu
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac
# A login shell finds cargo here; a CI job or `sudo` often does not.
[ ! -d "${CARGO_HOME:-$HOME/.cargo}/bin" ] || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

case ${1:-} in
"" | /*) ;;
*) set -- "$PWD/$1" ;;
esac
cd "$(dirname "$0")/.."
target_dir=${CARGO_TARGET_DIR:-target}
out=${1:-$target_dir/images}
wanted=${PODSHIM_IMAGES:-busybox event-simulator filebeat facts git}
layout=$out/oci
stamps=$out/.stamps
mkdir -p "$stamps"

# Debian's packages that are missing. `busybox` (not static) may be there in its place, so the package is asked for.
install_missing() {
    missing=
    for package; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    [ "$(id -u)" = 0 ] || { echo "images.sh: needs root to install:$missing" >&2; exit 1; }
    apt-get update -qq
    # shellcheck disable=SC2086 # one word per package
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing
}

wants() {
    case " $wanted " in *" $1 "*) return 0 ;; *) return 1 ;; esac
}

install_missing busybox-static
if wants git; then install_missing mmdebstrap; fi

# The programs: static, so that an image needs nothing else.
rust_target=x86_64-unknown-linux-musl
if rustup target list --installed 2>/dev/null | grep -qx "$rust_target" || rustup target add "$rust_target" 2>/dev/null; then
    :
else
    echo "images.sh: no $rust_target; linking glibc statically" >&2
    rust_target=x86_64-unknown-linux-gnu
    export RUSTFLAGS="${RUSTFLAGS:-} -Ctarget-feature=+crt-static"
fi
# --target also with gnu: without it the flags would reach build scripts and procedural macros.
cargo build --quiet --release -p rootfs-tools --bins --target "$rust_target"
bin=$target_dir/$rust_target/release
tools=$bin/rootfs-tools
busybox=/bin/busybox

# make_image NAME FACTS... -- COMMAND...: runs COMMAND unless it was run before with the same words and the same FACTS
# (files, whose content counts, or other words), and its image is still there.
make_image() {
    name=$1
    shift
    facts=$(sha256sum "$tools")
    while [ "$1" != -- ]; do
        if [ -f "$1" ]; then facts="$facts $(sha256sum <"$1")"; else facts="$facts $1"; fi
        shift
    done
    shift
    stamp=$(echo "$facts $* ${SOURCE_DATE_EPOCH:-0}" | sha256sum)
    if [ -f "$stamps/$name" ] && [ "$(cat "$stamps/$name")" = "$stamp" ]; then
        for word; do
            case $word in
            "$out"/*) [ -e "$word" ] || rm -f "$stamps/$name" ;;
            esac
        done
        [ ! -f "$stamps/$name" ] || return 0
    fi
    rm -f "$stamps/$name"
    "$@"
    echo "$stamp" >"$stamps/$name"
}

if [ ! -f "$layout/oci-layout" ]; then rm -f "$stamps"/*; fi

if wants busybox; then
    make_image busybox "$busybox" -- \
        "$tools" busybox "$busybox" --tag busybox --tag busybox:1.28 -o "$layout"
    make_image busybox.oci "$busybox" -- \
        "$tools" busybox "$busybox" --tag busybox --format oci-archive -o "$out/busybox.oci.tar"
fi

# With a shell, as the real ones have, so that `exec` and `sh -c` work in them.
if wants event-simulator; then
    make_image event-simulator "$busybox" "$bin/event-simulator" -- \
        "$tools" program "$bin/event-simulator" --applets "$busybox" \
        --tag kodekloud/event-simulator -o "$layout"
fi
if wants filebeat; then
    make_image filebeat "$busybox" "$bin/filebeat" -- \
        "$tools" program "$bin/filebeat" --applets "$busybox" \
        --tag kodekloud/filebeat-configured -o "$layout"
fi

if wants facts; then
    make_image facts "$bin/facts" -- \
        "$tools" program "$bin/facts" --basics --tag localhost/facts -o "$layout"
    make_image facts.docker "$bin/facts" -- \
        "$tools" program "$bin/facts" --basics --tag localhost/facts --format docker-archive -o "$out/facts.docker.tar"
fi

# git: entrypoint and folder of the real alpine/git. git needs perl only for send-email, svn and the like.
if wants git; then
    versions=$(apt-cache policy git libc6 libcurl3-gnutls libgnutls30 ca-certificates | sed -n 's/^  Candidate: //p' | tr '\n' ' ')
    make_image git "$busybox" "$versions" -- \
        "$tools" debian --include git,ca-certificates --applets "$busybox" \
        --exclude 'usr/bin/perl*' --exclude 'usr/share/perl*' --exclude 'usr/lib/x86_64-linux-gnu/perl*' \
        --exclude 'usr/lib/x86_64-linux-gnu/libperl*' --exclude etc/perl --exclude usr/share/gitweb \
        --exclude usr/lib/x86_64-linux-gnu/gconv --exclude 'usr/lib/x86_64-linux-gnu/libdb-*' \
        --exclude usr/lib/git-core/git-imap-send --exclude usr/lib/git-core/git-http-push \
        --exclude usr/lib/git-core/git-shell --exclude usr/bin/git-shell --exclude usr/bin/scalar \
        --exclude usr/lib/git-core/scalar --exclude usr/lib/git-core/git-sh-i18n--envsubst \
        --exclude var/lib/dpkg/info --exclude usr/share/zsh --exclude usr/share/debconf \
        --mkdir /git --workdir /git --entrypoint git --cmd --help --tag alpine/git -o "$layout"
fi

if wants cri; then
    . tests/cri/images.sh
fi

"$tools" list "$layout"
