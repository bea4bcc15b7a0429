# Functions for the scripts of lessons (README, "The lab"). bash, on the host, as root.

# hint TEXT: ends a check; TEXT is what the student is told.
hint() {
    printf '%s\n' "$*"
    exit 90
}

# ns PID KIND: the namespace of a process, like net:[4026531840]. KIND is a name of /proc/PID/ns.
ns() { readlink "/proc/$1/ns/$2"; }

# own PID KIND: whether a process is in another namespace than this shell.
own() { [ "$(ns "$1" "$2")" != "$(ns $$ "$2")" ]; }

# the_pid NAME: what the student wrote to $LAB/NAME, in the variable pid: a process that runs. unshare(1) and nsenter(1),
# which wait for a child, are skipped: the child is meant.
the_pid() {
    local file=$LAB/$1 child
    [ -e "$file" ] || hint "There is no file \$LAB/$1 yet: write the process id into it (echo PID > \$LAB/$1)."
    [ -f "$file" ] && [ ! -L "$file" ] || hint "\$LAB/$1 is no plain file."
    pid=$(head -c 64 "$file" | tr -d ' \n')
    [[ $pid =~ ^[1-9][0-9]{0,8}$ ]] || hint "\$LAB/$1 does not hold one process id, but: $(head -c 64 "$file" | tr '\n' ' ')"
    [ "$pid" != 1 ] || hint "Process 1 was there before you. Is the number from inside a PID namespace? The host's number is wanted."
    [ -d "/proc/$pid/ns" ] && [ "$(state "$pid")" != Z ] ||
        hint "No process has the id $pid that is in \$LAB/$1. Has it ended? Or is the number from inside a PID namespace?"
    for _ in 1 2 3 4; do
        case $(cat "/proc/$pid/comm") in unshare | nsenter) ;; *) break ;; esac
        read -r child _ <"/proc/$pid/task/$pid/children" || true
        [ -n "${child:-}" ] || break
        pid=$child
    done
}

# state PID: its state's letter, as in /proc/PID/status.
state() { sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null; }

# status PID FIELD: a line of /proc/PID/status.
status() { sed -n "s/^$2:[[:space:]]*//p" "/proc/$1/status"; }

# has_cap PID SET NUMBER: whether a set of a process (CapEff, CapBnd, ...) has a capability.
has_cap() { [ $(((16#$(status "$1" "$2") >> $3) & 1)) = 1 ]; }

# in_net PID COMMAND...: runs one of the host's programs in the network namespace of a process.
in_net() { nsenter --net="/proc/$1/ns/net" -- "${@:2}"; }

# cgroup_of PID CONTROLLER: the path of a process's cgroup in the hierarchy that has the controller.
cgroup_of() {
    local v1
    v1=$(sed -n "s/^[0-9]*:\([^:]*,\)\{0,1\}$2\(,[^:]*\)\{0,1\}:\(.*\)/\3/p" "/proc/$1/cgroup")
    if [ -n "$v1" ]; then echo "$v1"; else sed -n 's/^0:://p' "/proc/$1/cgroup"; fi
}

# busybox_root DIR: a directory that can be a root: busybox and the links to it.
busybox_root() {
    local applet
    [ -x /bin/busybox ] || hint "This lesson takes busybox: apt-get install busybox-static"
    mkdir -p "$1"/{bin,proc,dev,sys,tmp,etc,data,old}
    cp /bin/busybox "$1/bin/busybox"
    for applet in sh ls cat echo sleep mount umount hostname id ps touch mkdir rm ip wc head test kill nc sync true; do
        ln -sf busybox "$1/bin/$applet"
    done
    echo 'root:x:0:0:root:/:/bin/sh' >"$1/etc/passwd"
}

# busybox_image NAME: imports an image of busybox into podshim's store.
busybox_image() {
    local dir=$LAB/.image digest
    busybox_root "$dir/root"
    tar -C "$dir/root" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf "$dir/layer.tar" .
    digest=$(sha256sum <"$dir/layer.tar" | cut -d ' ' -f 1)
    printf '{"architecture":"%s","os":"linux","config":{"Cmd":["sh"],"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$(uname -m | sed 's/x86_64/amd64/;s/aarch64/arm64/')" "$digest" >"$dir/config.json"
    printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$1" >"$dir/manifest.json"
    tar -C "$dir" -cf "$dir/image.tar" manifest.json config.json layer.tar
    podshim image import "$dir/image.tar" >/dev/null
    rm -rf "$dir"
}

# eventually COMMAND...: runs a command again and again until it succeeds, for five seconds.
eventually() {
    local end=$((SECONDS + 5))
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}

# root_of_namespace PID: the root of a process's mount namespace, as device:inode. perl(1), already running, enters the
# namespace: nothing that is in it is executed.
root_of_namespace() {
    perl -e 'open(my $ns, "<", "/proc/$ARGV[0]/ns/mnt") or exit 1;
        my %setns = ("x86_64", 308, "aarch64", 268);
        syscall($setns{$ARGV[1]}, fileno($ns), 0) == 0 or exit 1;
        my @at = stat("/"); print "$at[0]:$at[1]\n"' "$1" "$(uname -m)"
}

# knocks PID PORT: whether somebody listens on 127.0.0.1 in the network namespace of a process.
knocks() { nsenter --net="/proc/$1/ns/net" -- timeout 2 bash -c "exec 3<>/dev/tcp/127.0.0.1/$2" 2>/dev/null; }

# put_program DIR PROGRAM: copies one of the host's programs, with the libraries that it needs, into a root.
put_program() {
    local program file
    program=$(command -v "$2") || hint "This lesson takes $2."
    cp -L "$program" "$1/bin/$2"
    for file in $(ldd "$program" 2>/dev/null | grep -o '/[^ ]*'); do
        mkdir -p "$1/$(dirname "$file")"
        cp -L "$file" "$1/$file"
    done
}
