# Sourced by test.sh and critest.sh.
# shellcheck shell=bash

# find_go DIRECTORY: has the Go that tests/cri/go.mod asks for first in PATH. Where there is none, or one too old to fetch
# another by itself (before 1.21), it is taken as a module, into DIRECTORY/go: Debian's old one suffices for that, and go.sum's
# database vouches for it.
find_go() {
    local version module unpacked
    version=$(sed -n 's/^go //p' tests/cri/go.mod)
    PATH=$PATH:/usr/local/go/bin
    if go version 2>/dev/null | grep -Eq 'go(1\.(2[1-9]|[3-9][0-9])|[2-9])'; then
        export GOTOOLCHAIN=auto
        return
    fi
    if ! command -v go >/dev/null; then
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends golang-go >/dev/null || return 1
    fi
    module=golang.org/toolchain@v0.0.1-go$version.linux-$(dpkg --print-architecture)
    unpacked=$(cd / && go mod download -json "$module" | sed -n 's/^.*"Dir": "\(.*\)".*$/\1/p')
    if [ ! -d "$unpacked" ]; then
        echo "go mod download $module gave no directory" >&2
        return 1
    fi
    # Files of a module are not executable, and the module cache is read-only.
    if [ ! -x "$1/go/bin/go" ]; then
        rm -rf "$1/go.new" "$1/go"
        mkdir -p "$1"
        cp -r --no-preserve=mode "$unpacked" "$1/go.new" &&
            chmod -R +x "$1/go.new/bin" "$1/go.new/pkg/tool" &&
            mv "$1/go.new" "$1/go" || return 1
    fi
    export GOTOOLCHAIN=local
    PATH=$1/go/bin:$PATH
}
