# Builds the place in which a student's script runs, and stays as its process 1 (src/lab/sandbox.rs). bash, as the host's
# root, in a mount and a PID namespace of its own. T: an empty directory of the host. ID: the host's id of the script's
# root, or empty for the host's root. BIN: podshim's directory.
set -eu
mount -t tmpfs -o mode=755,nosuid,size=256m,nr_inodes=65536 lab-grade "$T"
cd "$T"
mkdir usr etc proc sys dev tmp run var var/lib var/log var/tmp root lab mnt old
# Programs, read only. What is mounted here belongs to the host's user namespace: who is root in another one can neither
# unmount it nor make it writable.
read_only() {
    mount --bind "$1" "$T$1"
    mount -o remount,bind,ro,nosuid "$T$1"
}
read_only /usr
for directory in bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$directory" ]; then
        cp -P "/$directory" "$directory"
    elif [ -d "/$directory" ]; then
        mkdir "$directory"
        read_only "/$directory"
    fi
done
case $BIN in
/usr/* | /bin | /sbin) ;;
*)
    mkdir -p "$T$BIN"
    read_only "$BIN"
    ;;
esac
for file in passwd group ld.so.cache alternatives; do
    [ ! -e "/etc/$file" ] || cp -a "/etc/$file" "etc/$file"
done
printf '127.0.0.1 localhost\n' >etc/hosts
mkdir dev/shm dev/pts
for node in null zero full random urandom tty; do
    : >"dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mount -t tmpfs -o mode=1777,nosuid,nodev,size=64m shm dev/shm
chmod 1777 tmp var/tmp
mount -t proc proc proc
mount --rbind /sys sys
pivot_root . old
cd /
umount -l /old
rmdir /old

inner='mount -t proc proc /proc && hostname lab && : >/run/ready && while :; do sleep 3600 & wait; done'
spaces=(--mount --pid --fork --net --ipc --uts)
if [ -z "$ID" ]; then
    # podshim needs most of root's capabilities; not these.
    gone=-sys_module,-sys_rawio,-sys_boot,-sys_time,-syslog,-wake_alarm,-mac_admin,-mac_override,-audit_control,-perfmon
    setpriv --bounding-set="$gone" unshare "${spaces[@]}" bash -c "$inner" &
else
    chown "$ID:$ID" / etc tmp run var var/lib var/log var/tmp root lab mnt dev/shm
    unshare --user sleep 3600 &
    holder=$!
    until [ "$(readlink "/proc/$holder/ns/user")" != "$(readlink /proc/self/ns/user)" ]; do sleep 0.01; done
    echo "0 $ID 262144" >"/proc/$holder/uid_map"
    echo "0 $ID 262144" >"/proc/$holder/gid_map"
    nsenter --user="/proc/$holder/ns/user" --setuid 0 --setgid 0 unshare "${spaces[@]}" bash -c "$inner" &
fi
while :; do wait; sleep 1; done
