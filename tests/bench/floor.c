// The floor: a pod of one init container and two app containers, by the system calls that its isolation takes and no other
// work. No manifest, no image store, no record of what was made, no logs, no second process that watches.
//
//   floor DIRECTORY LAYER MAIN-CGROUP...
//   floor tell SOCKET LETTER
//
// LAYER is below all containers, with /program and the mount points in it; DIRECTORY takes writable layers, and a socket.
// Prints the programs' stamps, as their standard output is this one's, then obeys letters of standard input, each answered by
// when it began and the nanoseconds that it took: c (one more container, to its end), e (exec of the program in a running one,
// to its end), s (stop all, remove all, end). `tell` is a command that says a letter to the socket of one that runs, and waits
// until that is done.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// <sys/mount.h> collides with <linux/mount.h>.
int mount(const char *, const char *, const char *, unsigned long, const void *);
int umount2(const char *, int);

// As podshim's RuntimeDefault and an empty securityContext: the 14 capabilities of Docker's default.
#define KEPT 0xa80425fbULL
enum { MOST = 16, BINDS = 5 };

static char *base, *layer, *groups[MOST];
static int group_count;
static int bind_files[BINDS], group_views[MOST];
static const char *const bound[BINDS] = {"etc/hosts", "etc/resolv.conf", "etc/hostname", "dev/shm", "dev/termination-log"};

static void fail(const char *what) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    _exit(1);
}
static long checked(long result, const char *what) {
    if (result < 0) fail(what);
    return result;
}
static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}
static void put(const char *path, const char *text) {
    int file = (int)checked(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644), path);
    checked(write(file, text, strlen(text)), path);
    close(file);
}
static const char *path(const char *format, const char *a, const char *b, const char *c) {
    static char text[4096];
    snprintf(text, sizeof text, format, a, b, c);
    return text;
}
static int unified(const char *group) {
    return !access(path("%s/cgroup.controllers", group, "", ""), F_OK);
}

// The pod's cgroups, or a container's below them, in every hierarchy.
static void make_groups(const char *name) {
    for (int i = 0; i < group_count; i++) {
        checked(mkdir(path("%s/floor/%s", groups[i], name, ""), 0755), "mkdir cgroup");
        if (*name && !access(path("%s/floor/%s/pids.max", groups[i], name, ""), F_OK))
            put(path("%s/floor/%s/pids.max", groups[i], name, ""), "2048");
        if (!*name && !access(path("%s/floor/cpu.shares", groups[i], "", ""), F_OK))
            put(path("%s/floor/cpu.shares", groups[i], "", ""), "2");
        // A new group of version 1's cpuset takes no process until it has processors and memory.
        for (int file = 0; file < 2; file++) {
            const char *of = file ? "cpuset.mems" : "cpuset.cpus";
            char text[256];
            int from;
            if (unified(groups[i]) || (from = open(path("%s/%s", groups[i], of, ""), O_RDONLY | O_CLOEXEC)) < 0) continue;
            ssize_t length = checked(read(from, text, sizeof text - 1), "read cpuset");
            text[length] = 0;
            close(from);
            put(path(*name ? "%s/floor/%s/%s" : "%s/floor%s/%s", groups[i], name, of), text);
        }
    }
}
static void remove_groups(const char *name) {
    for (int i = 0; i < group_count; i++)
        checked(rmdir(path("%s/floor/%s", groups[i], name, "")), "rmdir cgroup");
}
static void join_groups(const char *name) {
    for (int i = 0; i < group_count; i++) put(path("%s/floor/%s/cgroup.procs", groups[i], name, ""), "0");
}

static int file_system(const char *kind, const char *const *options, unsigned attributes) {
    int context = (int)checked(syscall(SYS_fsopen, kind, FSOPEN_CLOEXEC), "fsopen");
    for (; *options; options += 2)
        checked(syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, options[0], options[1], 0), options[0]);
    checked(syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0), kind);
    int made = (int)checked(syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes), "fsmount");
    close(context);
    return made;
}
static void attach(int made, const char *target) {
    checked(syscall(SYS_move_mount, made, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH), target);
    close(made);
}
static void attach_new(const char *kind, const char *target, unsigned attributes, const char *const *options) {
    attach(file_system(kind, options, attributes), target);
}

// Not the profile, but one of its kind and size: what it attaches and the kernel compiles is what costs.
static void filter(void) {
    enum { RULES = 300 };
    struct sock_filter code[RULES + 6];
    struct sock_fprog program = {RULES + 6, code};
    int n = 0;
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int rule = 0; rule < RULES; rule += 2) {
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 1000 + rule, 0, 1);
        code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    }
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    program.len = (unsigned short)n;
    checked(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "seccomp");
}
static void become(const char *word) {
    char *words[] = {"/program", (char *)word, NULL}, *environment[] = {"PATH=/bin", "HOME=/root", "HOSTNAME=floor", NULL};
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{(unsigned)KEPT, (unsigned)KEPT, 0}, {0, 0, 0}};
    gid_t none = 10;
    for (int capability = 0; capability <= 40; capability++)
        if (!(KEPT >> capability & 1)) checked(prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), "PR_CAPBSET_DROP");
    filter();
    umask(022);
    checked(syscall(SYS_setgroups, 1, &none), "setgroups");
    checked(syscall(SYS_setresgid, 0, 0, 0), "setresgid");
    checked(syscall(SYS_setresuid, 0, 0, 0), "setresuid");
    checked(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "PR_CAP_AMBIENT");
    checked(syscall(SYS_capset, &header, data), "capset");
    checked(syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC), "close_range");
    execve(words[0], words, environment);
    fail("execve /program");
}

#define OPTIONS(...) (const char *const[]){__VA_ARGS__ __VA_OPT__(,) NULL}
enum { NOSUID = MOUNT_ATTR_NOSUID, STRICT = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC };
static void fill_dev(void) {
    static const struct { const char *path; int major, minor; } devices[] = {
        {"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7}, {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0}};
    static const char *const links[][2] = {{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"},
        {"/proc/self/fd/1", "dev/stdout"}, {"/proc/self/fd/2", "dev/stderr"}, {"pts/ptmx", "dev/ptmx"}};
    umask(0);
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
        checked(mknod(devices[i].path, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)), devices[i].path);
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) checked(symlink(links[i][0], links[i][1]), links[i][1]);
    for (size_t i = 0; i < 3; i++) mkdir((const char *[]){"dev/pts", "dev/mqueue", "dev/shm"}[i], 0755);
}
static void cover(void) {
    static const char *const masked[] = {"proc/asound", "proc/acpi", "proc/interrupts", "proc/kcore", "proc/keys",
        "proc/latency_stats", "proc/timer_list", "proc/timer_stats", "proc/sched_debug", "proc/scsi", "sys/firmware",
        "sys/devices/virtual/powercap"};
    static const char *const readonly[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
    struct stat facts;
    for (size_t i = 0; i < sizeof masked / sizeof *masked; i++) {
        if (stat(masked[i], &facts)) continue;
        if (S_ISDIR(facts.st_mode))
            attach_new("tmpfs", masked[i], MOUNT_ATTR_RDONLY | STRICT, OPTIONS("nr_inodes", "1"));
        else
            checked(mount("/dev/null", masked[i], NULL, 4096 /* MS_BIND */, NULL), masked[i]);
    }
    for (size_t i = 0; i < sizeof readonly / sizeof *readonly; i++) {
        int made = (int)syscall(SYS_open_tree, AT_FDCWD, readonly[i], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
        if (made < 0) continue;
        checked(syscall(SYS_mount_setattr, made, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes), readonly[i]);
        attach(made, readonly[i]);
    }
}
static void view_of_groups(void) {
    struct mount_attr strict = {.attr_set = MOUNT_ATTR_RDONLY | STRICT, .propagation = 1 << 18 /* MS_PRIVATE */};
    int alone = group_count == 1 && unified(groups[0]);
    if (!alone) attach_new("tmpfs", "sys/fs/cgroup", STRICT, OPTIONS("mode", "755"));
    for (int i = 0; i < group_count; i++) {
        const char *at = alone ? "sys/fs/cgroup" : path("sys/fs/cgroup/%s", strrchr(groups[i], '/') + 1, "", "");
        if (!alone) checked(mkdir(at, 0755), at);
        checked(syscall(SYS_mount_setattr, group_views[i], "", AT_EMPTY_PATH, &strict, sizeof strict), "mount_setattr");
        attach(group_views[i], at);
    }
}
static void inside(const char *name, int root, const char *word) {
    struct mount_attr private = {.propagation = 1 << 19 /* MS_SLAVE */}, strict = {.attr_set = NOSUID | MOUNT_ATTR_NODEV};
    struct rlimit files;
    checked(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "PR_SET_PDEATHSIG");
    join_groups(name);
    syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL);
    put("/proc/self/oom_score_adj", "1000");
    checked(getrlimit(RLIMIT_NOFILE, &files), "getrlimit");
    files.rlim_cur = 1024;
    checked(setrlimit(RLIMIT_NOFILE, &files), "setrlimit");
    checked(unshare(CLONE_NEWCGROUP), "unshare");
    checked(syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &private, sizeof private), "mount_setattr");
    // The new root covers the base directory of this pod.
    attach(root, base);
    checked(chdir(base), base);
    checked(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    checked(umount2(".", 2 /* MNT_DETACH */), "umount2");
    checked(chdir("/"), "chdir");
    attach_new("proc", "proc", STRICT, OPTIONS());
    attach_new("tmpfs", "dev", NOSUID, OPTIONS("mode", "755", "size", "65536k"));
    fill_dev();
    attach_new("sysfs", "sys", MOUNT_ATTR_RDONLY | STRICT, OPTIONS());
    attach_new("devpts", "dev/pts", NOSUID | MOUNT_ATTR_NOEXEC, OPTIONS("ptmxmode", "0666", "mode", "0620", "gid", "5"));
    attach_new("mqueue", "dev/mqueue", STRICT, OPTIONS());
    for (int i = 0; i < BINDS; i++) {
        if (i == 4) close((int)checked(open(bound[i], O_WRONLY | O_CREAT | O_CLOEXEC, 0644), bound[i]));
        checked(syscall(SYS_mount_setattr, bind_files[i], "", AT_EMPTY_PATH, &strict, sizeof strict), "mount_setattr");
        attach(bind_files[i], bound[i]);
    }
    view_of_groups();
    cover();
    setsid();
    become(word);
}

struct container { const char *name; int pidfd; };
static struct container start(const char *name, const char *word) {
    struct container made = {name, -1};
    struct clone_args arguments = {.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_PIDFD, .exit_signal = SIGCHLD,
                                   .pidfd = (__u64)(size_t)&made.pidfd};
    char upper[4096], work[4096];
    make_groups(name);
    checked(mkdir(path("%s/%s", base, name, ""), 0755), "mkdir");
    snprintf(upper, sizeof upper, "%s/%s/upper", base, name);
    snprintf(work, sizeof work, "%s/%s/work", base, name);
    checked(mkdir(upper, 0755), upper);
    checked(mkdir(work, 0700), work);
    int root = file_system("overlay", OPTIONS("lowerdir", layer, "upperdir", upper, "workdir", work), 0);
    for (int i = 0; i < BINDS; i++) {
        const char *from = path("%s/bind/%s", base, i == 4 ? name : strrchr(bound[i], '/') + 1, "");
        if (i == 4) put(from, "");
        bind_files[i] = (int)checked(syscall(SYS_open_tree, AT_FDCWD, from, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), from);
    }
    for (int i = 0; i < group_count; i++) {
        const char *of = path("%s/floor/%s", groups[i], name, "");
        group_views[i] = (int)checked(syscall(SYS_open_tree, AT_FDCWD, of, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), of);
    }
    if (!checked(syscall(SYS_clone3, &arguments, sizeof arguments), "clone3")) inside(name, root, word);
    close(root);
    for (int i = 0; i < BINDS; i++) close(bind_files[i]);
    for (int i = 0; i < group_count; i++) close(group_views[i]);
    return made;
}
static void await(struct container container) {
    siginfo_t facts;
    checked(waitid(P_PIDFD, (id_t)container.pidfd, &facts, WEXITED), "waitid");
    if (facts.si_code != CLD_EXITED || facts.si_status != 0) {
        fprintf(stderr, "floor: %s ended with %d\n", container.name, facts.si_status);
        _exit(1);
    }
}
static void removed(struct container container) {
    remove_groups(container.name);
    checked(rmdir(path("%s/%s/work/work", base, container.name, "")), "rmdir work/work");
    checked(rmdir(path("%s/%s/work", base, container.name, "")), "rmdir work");
    checked(rmdir(path("%s/%s/upper", base, container.name, "")), "rmdir upper");
    checked(rmdir(path("%s/%s", base, container.name, "")), "rmdir");
    checked(unlink(path("%s/bind/%s", base, container.name, "")), "unlink");
    close(container.pidfd);
}
// exec in a running container: its namespaces and cgroups, and what its own process was restricted by.
static void exec_in(struct container container) {
    struct container child = {"exec", -1};
    struct clone_args arguments = {.flags = CLONE_PIDFD, .exit_signal = SIGCHLD, .pidfd = (__u64)(size_t)&child.pidfd};
    // The pid namespace is that of the next child; so the one that joins it makes one more.
    if (!checked(syscall(SYS_clone3, &arguments, sizeof arguments), "clone3")) {
        siginfo_t facts;
        join_groups(container.name);
        checked(setns(container.pidfd, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWCGROUP), "setns");
        pid_t pid = (pid_t)checked(fork(), "fork");
        if (!pid) {
            setsid();
            become("once");
        }
        checked(waitid(P_PID, (id_t)pid, &facts, WEXITED), "waitid");
        _exit(facts.si_status);
    }
    await(child);
    close(child.pidfd);
}

static struct sockaddr_un address(const char *at) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(at) >= sizeof address.sun_path) fail("too long for a socket's path");
    strcpy(address.sun_path, at);
    return address;
}
static int tell(const char *at, const char *letter) {
    struct sockaddr_un to = address(at);
    char nothing;
    int told = (int)checked(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), "socket");
    checked(connect(told, (struct sockaddr *)&to, sizeof to), "connect");
    checked(send(told, letter, 1, 0), "send");
    return checked(recv(told, &nothing, 1, 0), "recv") != 0;
}
// The next letter, and in `told` who waits for that it is done; -1 if it is of standard input.
static char next_letter(int listener, int *told) {
    struct pollfd asked[] = {{.fd = 0, .events = POLLIN}, {.fd = listener, .events = POLLIN}};
    char letter;
    checked(poll(asked, 2, -1), "poll");
    *told = asked[0].revents ? -1 : (int)checked(accept4(listener, NULL, NULL, SOCK_CLOEXEC), "accept4");
    return read(*told < 0 ? 0 : *told, &letter, 1) == 1 ? letter : 's';
}

int main(int count, char **words) {
    if (count == 4 && !strcmp(words[1], "tell")) return tell(words[2], words[3]);
    if (count < 4 || count - 3 > MOST) return 2;
    base = words[1], layer = words[2], groups[0] = words[3];
    for (int i = 3; i < count; i++) groups[group_count++] = words[i];
    make_groups("");
    checked(unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS), "unshare");
    checked(sethostname("floor", 5), "sethostname");
    struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int link = (int)checked(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
    checked(ioctl(link, SIOCSIFFLAGS, &loopback), "SIOCSIFFLAGS");
    close(link);
    checked(mkdir(path("%s/bind", base, "", ""), 0755), "mkdir");
    checked(mkdir(path("%s/bind/shm", base, "", ""), 0755), "mkdir");
    put(path("%s/bind/hosts", base, "", ""), "127.0.0.1 localhost\n");
    put(path("%s/bind/resolv.conf", base, "", ""), "nameserver 127.0.0.1\n");
    put(path("%s/bind/hostname", base, "", ""), "floor\n");
    attach_new("tmpfs", path("%s/bind/shm", base, "", ""), STRICT, OPTIONS("mode", "1777", "size", "64m"));
    struct container init = start("init", "once");
    await(init);
    struct container apps[] = {start("one", "stamp"), start("two", "stamp")};
    const struct sockaddr_un own = address(path("%s/socket", base, "", ""));
    int told, listener = (int)checked(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), "socket");
    checked(bind(listener, (const struct sockaddr *)&own, sizeof own), "bind");
    checked(listen(listener, 1), "listen");
    for (;;) {
        char letter = next_letter(listener, &told);
        long long begin = now();
        if (letter == 'c') {
            struct container more = start("more", "once");
            await(more);
            long long took = now() - begin;
            close(told);
            removed(more);
            printf("began %lld took %lld\n", begin, took);
        } else if (letter == 'e') {
            exec_in(apps[0]);
            printf("began %lld took %lld\n", begin, now() - begin);
            close(told);
        } else if (letter == 's') {
            for (int i = 0; i < 2; i++) checked(syscall(SYS_pidfd_send_signal, apps[i].pidfd, SIGTERM, NULL, 0), "pidfd_send_signal");
            for (int i = 0; i < 2; i++) {
                await(apps[i]);
                removed(apps[i]);
            }
            removed(init);
            remove_groups("");
            checked(umount2(path("%s/bind/shm", base, "", ""), 0), "umount2");
            checked(rmdir(path("%s/bind/shm", base, "", "")), "rmdir");
            for (int i = 0; i < 3; i++) checked(unlink(path("%s/bind/%s", base, strrchr(bound[i], '/') + 1, "")), "unlink");
            checked(rmdir(path("%s/bind", base, "", "")), "rmdir");
            printf("began %lld took %lld\n", begin, now() - begin);
            return 0;
        }
        fflush(stdout);
    }
}
