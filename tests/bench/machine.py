"""What the benchmark does to this machine: starts processes and times them, enters the tree of peers, reads memory and CPU time."""

import ctypes
import multiprocessing
import os
# wait4() looks for it, and in the tree of peers there is no Python.
import resource  # noqa: F401
import shutil
import signal
import subprocess
import tempfile
import time
from collections import namedtuple
from pathlib import Path

RUN = Path(os.environ.get("RUN", "/nonexistent"))
# On a tmpfs.
STATES = RUN / "run"
MS, MIB = 1e6, 1 << 20
CLONE_NEWNS = 0x00020000

# Nanoseconds of the monotonic clock, which the programs in containers print, too.
now = time.monotonic_ns

# began, ended: of the clock; cpu: nanoseconds of it and its children that it waited for; memory: the most bytes resident.
Ran = namedtuple("Ran", "began ended code out err cpu memory")


class Failed(Exception):
    """Something could not be measured; the row says why."""


class Worker:
    """A process of its own that starts commands and waits for them: here, or in the tree of peers."""

    def __init__(self, enter=None):
        self.pipe, other = multiprocessing.Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self.pipe.close()
            _serve(other, enter)
            os._exit(0)
        other.close()
        self._answer()

    def _answer(self):
        answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def run(self, *words, env=None, check=True, stdin="/dev/null", out=None, seconds=300):
        """Runs a command to its end; its children may live on. Its standard output goes to the file `out`, if given."""
        self.pipe.send(("run", [str(word) for word in words], env or {}, str(stdin), out and str(out), seconds))
        ran = self._answer()
        if check and ran.code != 0:
            raise Failed(f"{' '.join(map(str, words))[:200]}: exit code {ran.code}: {(ran.err or ran.out).strip()[-400:]}")
        return ran

    def daemon(self, log, *words, env=None):
        """Starts a command that stays; its pid."""
        self.pipe.send(("daemon", [str(word) for word in words], env or {}, str(log)))
        return self._answer()


def _serve(pipe, enter):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if enter:
            enter()
        pipe.send(None)
    except Exception as error:
        pipe.send(Failed(str(error)))
        return
    while True:
        try:
            what, words, env, *more = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((_run if what == "run" else _daemon)(words, env, *more))
        except Exception as error:
            pipe.send(Failed(f"{words[0]}: {error}"))


def _open_actions(stdin, out, err):
    return [(os.POSIX_SPAWN_OPEN, 0, stdin, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, err, 2)]


def _run(words, env, stdin, out_path, seconds):
    # Files, not pipes: a child that lives on would hold a pipe open.
    output = open(out_path, "w+b") if out_path else tempfile.TemporaryFile(dir=RUN)
    with output as out, tempfile.TemporaryFile(dir=RUN) as err:
        actions, environment = _open_actions(stdin, out.fileno(), err.fileno()), {**os.environ, **env}
        program = shutil.which(words[0]) or words[0]
        # An alarm's handler kills; waiting stays one call, which costs nothing.
        began = now()
        pid = os.posix_spawn(program, words, environment, file_actions=actions, setsigdef=[signal.SIGINT])
        signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
        signal.alarm(seconds)
        _, status, usage = os.wait4(pid, 0)
        ended = now()
        signal.alarm(0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read(8 * MIB).decode(errors="replace"))
    cpu = int((usage.ru_utime + usage.ru_stime) * 1e9)
    return Ran(began, ended, os.waitstatus_to_exitcode(status), *texts, cpu, usage.ru_maxrss * 1024)


def _daemon(words, env, log):
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    actions = _open_actions("/dev/null", file, file)
    program = shutil.which(words[0]) or words[0]
    pid = os.posix_spawn(program, words, {**os.environ, **env}, file_actions=actions, setsid=True, setsigdef=[signal.SIGINT])
    os.close(file)
    # Collected when it ends, so that it does not look alive.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return pid


def enter_peers(tree):
    """Makes the tree of Debian sid, which nothing is written to, the root of a mount namespace of its own."""

    def enter():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        root, work = RUN / "peers/root", RUN / "peers"
        for name in ("root", "upper", "work"):
            (work / name).mkdir(parents=True)

        def mount(*words):
            subprocess.run(["mount", *map(str, words)], check=True)

        mount("--make-rprivate", "/")
        mount("-t", "overlay", "-o", f"lowerdir={tree},upperdir={work}/upper,workdir={work}/work", "overlay", root)
        for name in ("proc", "dev"):
            mount("--rbind", f"/{name}", root / name)
        mount("-t", "sysfs", "sysfs", root / "sys")
        _cgroups_of_peers(mount, root / "sys/fs/cgroup")
        for name in ("run", "tmp"):
            mount("-t", "tmpfs", name, root / name)
        inside = Path(f"{root}{RUN}")
        inside.mkdir(parents=True)
        mount("--rbind", RUN, inside)
        (root / "run/netns").mkdir()
        (root / "put_old").mkdir()
        os.chdir(root)
        # It changes the root of every process that has the old one in this namespace: this one.
        subprocess.run(["pivot_root", ".", "put_old"], check=True)
        os.chdir("/")
        subprocess.run(["umount", "-l", "/put_old"], check=True)
        subprocess.run(["mount", "--make-rshared", "/"], check=True)

    return enter


def _cgroups_of_peers(mount, target):
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        mount("--bind", "/sys/fs/cgroup", target)
        return
    # Version 1 alone: crun and podman refuse a hybrid.
    mount("-t", "tmpfs", "-o", "mode=755", "cgroup", target)
    for entry in sorted(Path("/sys/fs/cgroup").iterdir()):
        if entry.is_symlink():
            (target / entry.name).symlink_to(os.readlink(entry))
        elif not (entry / "cgroup.controllers").exists():
            (target / entry.name).mkdir()
            mount("--bind", entry, target / entry.name)


def hierarchies():
    """This run's cgroup in every hierarchy."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return [entry for entry in sorted(root.iterdir()) if entry.is_dir() and not entry.is_symlink()]


def cpu_of_run():
    """Nanoseconds of CPU time of everything in this run's cgroup: servers, containers, clients, this process."""
    for name in ("cpuacct", "cpu,cpuacct", "cpu"):
        path = Path(f"/sys/fs/cgroup/{name}/cpuacct.usage")
        if path.exists():
            return int(path.read_text())
    for line in Path("/sys/fs/cgroup/cpu.stat").read_text().splitlines():
        if line.startswith("usage_usec "):
            return int(line.split()[1]) * 1000
    raise Failed("no accounting of CPU time")


def cpu_of(pids):
    """Nanoseconds that the processes, all their threads, have run."""
    total = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
    return total


def processes(*parts):
    """Pids of processes whose command line contains all the parts."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if line and all(part in line for part in parts):
                found.append(int(entry.name))
    return found


Memory = namedtuple("Memory", "dirty pss")


def memory(pids):
    """Bytes of Private_Dirty and Pss, of all together."""
    dirty = pss = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, *rest = line.split()
            if name == "Private_Dirty:":
                dirty += int(rest[0]) * 1024
            elif name == "Pss:":
                pss += int(rest[0]) * 1024
    return Memory(dirty, pss)


def peak(pid):
    """The most bytes that a process has had resident since forget_peak()."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise Failed(f"no VmHWM of {pid}")


def forget_peak(pid):
    """clear_refs(5): 5 resets VmHWM."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def until(condition, what, seconds=30, pause=0.002):
    """What condition() gives when it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(pause)
    return found


def terminate(pid, what):
    """SIGTERM to a daemon that a Worker started; SIGKILL after ten seconds."""

    def ended():
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except FileNotFoundError:
            return True

    if ended():
        return
    os.kill(pid, signal.SIGTERM)
    try:
        until(ended, what, 10, 0.05)
    except Failed:
        os.kill(pid, signal.SIGKILL)
        until(ended, what, 10, 0.05)
