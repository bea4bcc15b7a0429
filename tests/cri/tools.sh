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

# shellcheck source=scripts/go.sh
. scripts/go.sh
build_tools() {
    local stamp
    stamp=$(cat tests/cri/go.mod tests/cri/go.sum tests/cri/client/*.go | sha256sum)
    [ "$(cat "$bin/.stamp" 2>/dev/null)" != "$stamp" ] || return 0
    find_go "$cri" || die "there is no Go to build them with"
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
