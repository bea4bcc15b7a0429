# Tools that scripts/critest.sh and scripts/bench.sh share: Debian packages that are unpacked, and programs in Go from the module
# proxy. Sourced, with $cri (target/cri) and $bin (target/cri/bin) set, and with die().
# shellcheck shell=bash disable=SC2154 # the variables of who sources this
# unpack PACKAGE FILE: a Debian package below target/cri/debian, unless its FILE is there.
unpack() {
    local dir=$cri/debian
    [ ! -x "$dir/$2" ] || return 0
    mkdir -p "$dir/archives"
    (cd "$dir/archives" && apt-get -qq -o APT::Sandbox::User=root download "$1" && dpkg-deb -x "$1"_*.deb "$dir")
    rm -rf "$dir/archives"
}

# The Go that tests/cri/go.mod asks for. Where there is none, or one too old to fetch another by itself (before 1.21), it
# is taken as a module: Debian's old one suffices for that, and go.sum's database vouches for it.
find_go() {
    local version module dir
    version=$(sed -n 's/^go //p' tests/cri/go.mod)
    PATH=$PATH:/usr/local/go/bin
    if go version 2>/dev/null | grep -Eq 'go(1\.(2[1-9]|[3-9][0-9])|[2-9])'; then
        export GOTOOLCHAIN=auto
        return
    fi
    if ! command -v go >/dev/null; then
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends golang-go >/dev/null
    fi
    module=golang.org/toolchain@v0.0.1-go$version.linux-$(dpkg --print-architecture)
    dir=$(cd / && go mod download -json "$module" | sed -n 's/^.*"Dir": "\(.*\)".*$/\1/p')
    [ -d "$dir" ] || die "go mod download $module gave no directory"
    # Files of a module are not executable, and the module cache is read-only.
    if [ ! -x "$cri/go/bin/go" ]; then
        rm -rf "$cri/go.new" "$cri/go"
        cp -r --no-preserve=mode "$dir" "$cri/go.new"
        chmod -R +x "$cri/go.new/bin" "$cri/go.new/pkg/tool"
        mv "$cri/go.new" "$cri/go"
    fi
    export GOTOOLCHAIN=local
    PATH=$cri/go/bin:$PATH
}
build_tools() {
    local stamp
    stamp=$(cat tests/cri/go.mod tests/cri/go.sum tests/cri/client/main.go | sha256sum)
    [ "$(cat "$bin/.stamp" 2>/dev/null)" != "$stamp" ] || return 0
    find_go
    mkdir -p "$bin"
    # -modcacherw: `rm -r` of a module cache below target is then possible without chmod.
    (
        cd tests/cri || exit 1
        export GOFLAGS="-mod=readonly -modcacherw -buildvcs=false" CGO_ENABLED=0
        # critest is a test of its package, and no tool that `go build` would make.
        version=sigs.k8s.io/cri-tools/pkg/version.Version=$(go list -m -f '{{.Version}}' sigs.k8s.io/cri-tools)
        go test -c -ldflags "-X $version" -o "$bin/critest" sigs.k8s.io/cri-tools/cmd/critest
        go build -ldflags "-X $version" -o "$bin/crictl" sigs.k8s.io/cri-tools/cmd/crictl
        # With this critest runs specs in parallel; its version must be the one that critest is linked with.
        go build -o "$bin/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
        # What scripts/bench.sh times the calls of a server with.
        go build -o "$bin/criclient" ./client
    )
    echo "$stamp" >"$bin/.stamp"
}
