# The images that critest (cri-tools v1.37.0, pkg/framework and pkg/validate) names, under the names by which it does.
# Read by scripts/images.sh when PODSHIM_IMAGES holds "cri"; uses what is set and defined there.
# shellcheck shell=sh disable=SC2154 # the variables of images.sh
#
# What differs from the images of those names in public registries, besides their age:
# - busybox is 1.35 from Debian's source as defconfig has it, because Debian's own binary lacks pgrep and ipcs, and newer
#   ones begin an error with "line 0:", which a spec does not expect.
# - nginx is Debian's nginx. Its two images differ in the port only, as the originals do.
# - httpd is busybox's httpd, which says its name on stderr as Apache does; the specs look at no more than that and the port.
# - pause and nonewprivs are small programs (programs/*.c).
# - test-image-digest cannot be rebuilt: the spec names a digest. Its repository is there, so that the answer is "no such
#   manifest" and nothing else.
# Manifests are Docker's or OCI's, single or behind an index with a second platform, so that clients meet all of them.

cri=$target_dir/cri
programs=$cri/programs
e2e=registry.k8s.io/e2e-test-images
staging=gcr.io/k8s-staging-cri-tools

# Unpacks Debian's source of busybox (with its security fixes) and builds it: static, all of the default configuration.
# The sources are those of bookworm, whatever this machine runs; its own lists of packages are not touched.
build_busybox() {
    [ ! -x "$cri/busybox" ] || return 0
    echo "images.sh: building busybox from Debian's source" >&2
    install_missing build-essential debian-archive-keyring
    work=$(realpath "$cri")/busybox.work
    rm -rf "$work"
    mkdir -p "$work/sources" "$work/lists/partial" "$work/cache/archives/partial"
    # The first of the machine's own mirrors that carries Debian itself.
    # shellcheck disable=SC2016 # apt's words, not the shell's
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        sed -n '/security/d;s/^Debian main //p' | head -n 1)
    [ -n "$mirror" ] || { echo "images.sh: no mirror of Debian among apt's sources" >&2; exit 1; }
    printf 'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s bookworm main\n' "$mirror" \
        >"$work/sources/busybox.list"
    (
        cd "$work" || exit 1
        set -- -qq -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$work/sources" \
            -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root
        apt-get "$@" update
        apt-get "$@" --only-source source busybox >/dev/null
        cd busybox-1.35.*/ || exit 1
        make defconfig >/dev/null
        # tc does not compile with the headers of kernels from 6.8 on, and nothing here needs it.
        sed -i 's/^# CONFIG_STATIC is not set/CONFIG_STATIC=y/; s/^CONFIG_TC=y/# CONFIG_TC is not set/' .config
        make -j"$(nproc)" busybox >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 1; }
        mv busybox "$work/busybox"
    )
    for applet in ipcs pgrep httpd; do
        "$work/busybox" --list | grep -qx "$applet" ||
            { echo "images.sh: the busybox that was built has no $applet" >&2; exit 1; }
    done
    mv "$work/busybox" "$cri/busybox"
    rm -rf "$work"
}

# busybox_image NAME TAG WORDS...: the official image's shape: one layer, hard links, `sh`.
busybox_image() {
    name=$1 tag=$2
    shift 2
    make_image "$name" "$cri/busybox" -- "$tools" busybox "$cri/busybox" --tag "$tag" "$@" -o "$layout"
}

# index NAME TAG TYPES MEMBER...: an index of the images made as MEMBER, whose references are localhost/MEMBER.
index_of() {
    name=$1 tag=$2 types=$3
    shift 3
    facts='' words=''
    for member; do
        facts="$facts $stamps/$member"
        words="$words --image localhost/$member"
    done
    # shellcheck disable=SC2086 # words
    make_image "$name" $facts -- "$tools" index "$layout" --tag "$tag" --types "$types" $words
}

# layer_with PATH CONTENT: a folder with one file, for a layer that no other image has.
layer_with() {
    layer=$cri/layers/$(echo "$1" | tr / _)
    rm -rf "$layer"
    mkdir -p "$layer/$(dirname "$1")"
    printf '%s\n' "$2" >"$layer/$1"
}

mkdir -p "$programs" "$cri/layers"
build_busybox
install_missing build-essential mmdebstrap
mkdir -p "$programs/nnp" "$programs/pause"
for program in nnp pause; do
    cc -static -Os -Wall -Wextra -Werror -o "$programs/$program/$program" "tests/cri/programs/$program.c"
    strip "$programs/$program/$program"
done
chmod 4755 "$programs/nnp/nnp"
# What the other platform of an index holds: nothing that could run, so that a wrong choice is seen.
layer_with other-platform "This image is for another platform."
other=$layer

busybox_image cri-busybox localhost/cri-busybox --types docker
make_image cri-busybox-arm64 -- \
    "$tools" dir "$other" --arch arm64 --types docker --tag localhost/cri-busybox-arm64 -o "$layout"
index_of cri-busybox-index "$e2e/busybox:1.29-2" docker cri-busybox-arm64 cri-busybox

# nginx: config FILE PORT
for server in nginx:80 hostnet-nginx:12003; do
    server_name=${server%:*} port=${server#*:}
    layer_with etc/nginx/nginx.conf "user www-data;
worker_processes 1;
error_log /dev/stderr notice;
pid /var/run/nginx.pid;
events {}
http {
    access_log /dev/stdout;
    server {
        listen $port;
        root /usr/share/nginx/html;
    }
}"
    mkdir -p "$layer/usr/share/nginx/html"
    echo "<title>nginx on port $port</title>" >"$layer/usr/share/nginx/html/index.html"
    mv "$layer" "$cri/layers/$server_name.new"
    rm -rf "$cri/layers/$server_name"
    mv "$cri/layers/$server_name.new" "$cri/layers/$server_name"
    case $server_name in
    nginx) tag=$e2e/nginx:1.14-2 types=docker ;;
    *) tag=$staging/hostnet-nginx-$(dpkg --print-architecture) types=oci ;;
    esac
    versions=$(apt-cache policy nginx-light libc6 libssl3 | sed -n 's/^  Candidate: //p' | tr '\n' ' ')
    make_image "cri-$server_name" "$cri/busybox" "$cri/layers/$server_name/etc/nginx/nginx.conf" "$versions" -- \
        "$tools" debian --include nginx-light --applets "$cri/busybox" --exclude 'usr/bin/perl*' --exclude 'usr/lib/x86_64-linux-gnu/perl*' \
        --exclude usr/lib/x86_64-linux-gnu/gconv --exclude usr/share/debconf --exclude usr/share/perl5 --exclude var/lib/dpkg/info \
        --mkdir var/run --mkdir var/log/nginx --mkdir var/lib/nginx --layer "$cri/layers/$server_name" --expose "$port" --stop-signal SIGQUIT \
        --cmd '["nginx", "-g", "daemon off;"]' --types "$types" --tag "$tag" -o "$layout"
done

busybox_image cri-httpd "$e2e/httpd:2.4.39-4" --expose 80 --cmd \
    '["sh", "-c", "mkdir -p /var/www && echo It works >/var/www/index.html && echo httpd: serving port 80 >&2 && exec httpd -f -v -p 80 -h /var/www"]'

make_image cri-nonewprivs "$programs/nnp/nnp" -- \
    "$tools" dir "$programs/nnp" --entrypoint /nnp --types docker --tag "$e2e/nonewprivs:1.3" -o "$layout"

# pause:3.9 is the image that specs remove; 3.10 is for a server that needs a sandbox image, which must be another one.
make_image cri-pause "$programs/pause/pause" -- \
    "$tools" program "$programs/pause/pause" --user 65535:65535 --tag localhost/cri-pause -o "$layout"
make_image cri-pause-arm64 -- "$tools" dir "$other" --arch arm64 --tag localhost/cri-pause-arm64 -o "$layout"
index_of cri-pause-index registry.k8s.io/pause:3.9 oci cri-pause cri-pause-arm64
make_image cri-pause-sandbox "$programs/pause/pause" -- \
    "$tools" program "$programs/pause/pause" --user 65535:65535 --label for=sandboxes --tag registry.k8s.io/pause:3.10 -o "$layout"

busybox_image cri-user-uid "$staging/test-image-user-uid" --user 1002 --types docker
busybox_image cri-user-username "$staging/test-image-user-username" --user www-data
busybox_image cri-user-uid-group "$staging/test-image-user-uid-group" --user 1003:1004 --types docker
busybox_image cri-user-username-group "$staging/test-image-user-username-group" --user www-data:1004

# As adduser and addgroup would leave the two files.
layer_with etc/passwd "root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
default-user:x:1000:1000:Linux User,,,:/home/default-user:/bin/sh"
groups=$layer
cat >"$groups/etc/group" <<'END'
root:x:0:
www-data:x:33:
nogroup:x:65534:
default-user:x:1000:
group-defined-in-image:x:50000:default-user
END
mkdir -p "$groups/home/default-user"
chown 1000:1000 "$groups/home/default-user"
busybox_image cri-predefined-group "$staging/test-image-predefined-group" --layer "$groups" --user 1000

# Images that differ in one file: TAG TYPES COMPRESSION, under the name of the file.
while read -r file types compression tags; do
    layer_with "$file" "$file"
    words=
    for tag in $tags; do words="$words --tag $tag"; done
    # shellcheck disable=SC2086 # words
    make_image "cri-$file" "$cri/busybox" -- "$tools" busybox "$cri/busybox" --layer "$layer" --types "$types" "--$compression" \
        $words -o "$layout"
done <<END
test-image-latest oci gzip $staging/test-image-latest
test-image-tag-test docker gzip localhost/cri-test-image-tag-test
test-image-tag-all oci uncompressed $staging/test-image-tag:all
test-image-1 oci gzip $staging/test-image-1
test-image-2 docker gzip $staging/test-image-2
test-image-3 oci uncompressed $staging/test-image-3
test-image-tags docker gzip $staging/test-image-tags:1 $staging/test-image-tags:2 $staging/test-image-tags:3
test-image-digest oci gzip $staging/test-image-digest
benchmark-1 docker gzip public.ecr.aws/docker/library/busybox:1
benchmark-glibc docker gzip public.ecr.aws/docker/library/busybox:1-glibc
benchmark-musl oci gzip public.ecr.aws/docker/library/busybox:1-musl
benchmark-uclibc oci gzip public.ecr.aws/docker/library/busybox:1-uclibc
benchmark-1.35 oci gzip public.ecr.aws/docker/library/busybox:1.35.0-glibc
END
index_of cri-test-image-tag-index "$staging/test-image-tag:test" docker cri-test-image-tag-test cri-busybox-arm64
