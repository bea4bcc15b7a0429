"""What is measured, each in the same words: a pod of one init container and two app containers is started, gets one more
container, a command is executed in it, it is stopped and removed. All times are nanoseconds."""

import itertools
import json
import os
import re
import select
import shutil
import subprocess
from pathlib import Path

from machine import RUN, STATES, Failed, hierarchies, now, processes, terminate, until

BENCH, CRI, PODSHIM = (Path(os.environ.get(name, "/nonexistent")) for name in ("BENCH", "CRI", "PODSHIM"))
REGISTRY = "127.0.0.1:5000"
IMAGE = f"{REGISTRY}/bench/program:latest"
STAMP = re.compile(r"stamp (\d+)")
SUBNETS = {"podshim": "10.88.0.0/16", "containerd": "10.89.0.0/16", "floor": "10.90.0.0/16"}
PLUGINS = Path("/usr/lib/cni")


def manifest(name="bench", words=("stamp",), init=True, grace=10, path=None):
    """The pod, in a file. RuntimeDefault: podman always filters, so all do."""
    command = json.dumps(["/program", *map(str, words)])
    text = f"""apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: {grace}
  securityContext: {{seccompProfile: {{type: RuntimeDefault}}}}
"""
    if init:
        text += f"  initContainers:\n  - {{name: init, image: {IMAGE}, imagePullPolicy: Never, command: [/program, once]}}\n"
    text += "  containers:\n"
    for container in ("one", "two") if init else ("one",):
        text += f"  - {{name: {container}, image: {IMAGE}, imagePullPolicy: Never, command: {command}}}\n"
    path = path or RUN / f"{name}.yaml"
    path.write_text(text)
    return path


def probed():
    """A pod of three containers, of which each has all three probes, one of each kind, once a second."""
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: probed}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n"
    for port in (8081, 8082, 8083):
        text += f"""  - name: c{port}
    image: {REGISTRY}/bench/busybox:latest
    imagePullPolicy: IfNotPresent
    command: [httpd, -f, -p, "{port}", -h, /etc]
    startupProbe: {{periodSeconds: 1, tcpSocket: {{port: {port}}}}}
    livenessProbe: {{periodSeconds: 1, exec: {{command: ["true"]}}}}
    readinessProbe: {{periodSeconds: 1, httpGet: {{port: {port}, path: /passwd}}}}
"""
    path = RUN / "probed.yaml"
    path.write_text(text)
    return path


def stamp_of(path):
    """The stamp in a log, or None."""
    try:
        found = STAMP.search(path.read_text())
    except FileNotFoundError:
        return None
    return int(found[1]) if found else None


def latest(began, *paths):
    """Nanoseconds from `began` to the latest of the stamps in the logs."""
    return max(until(lambda path=path: stamp_of(path), f"a stamp in {path}") for path in paths) - began


class Floor:
    """tests/bench/floor.c"""

    name = "floor"

    def __init__(self, worker):
        self.worker, self.count, self.process = worker, itertools.count(), None
        self.layer = RUN / "floor/layer"
        for directory in ("dev", "etc", "proc", "sys"):
            (self.layer / directory).mkdir(parents=True)
        for file in ("hostname", "hosts", "resolv.conf"):
            (self.layer / "etc" / file).touch()
        shutil.copy2(BENCH / "program", self.layer / "program")
        self.groups = hierarchies()

    def start(self, network="none"):
        self.base = RUN / f"floor/{next(self.count)}"
        self.base.mkdir()
        words = [BENCH / "floor", self.base, self.layer, *self.groups]
        began = now()
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return max(int(STAMP.search(self._line())[1]) for _ in range(3)) - began

    def _line(self):
        ready, _, _ = select.select([self.process.stdout], [], [], 20)
        line = ready and b""
        while ready and not line.endswith(b"\n"):
            # One byte at a time: what is buffered would not be seen by select().
            if not (byte := os.read(self.process.stdout.fileno(), 1)):
                break
            line += byte
        if not line:
            # Its containers end with it, and so the pipes do.
            self.process.kill()
            raise Failed(f"the floor: {self.process.communicate(timeout=10)[1].decode().strip() or 'no answer'}")
        return line.decode()

    def _done(self):
        """When what it was told began, the nanoseconds that it took, and the stamp of the program if there was one."""
        stamp = None
        while not (line := self._line()).startswith("began "):
            stamp = int(STAMP.search(line)[1])
        words = line.split()
        return int(words[1]), int(words[3]), stamp

    def _order(self, letter):
        self.process.stdin.write(letter)
        self.process.stdin.flush()
        return self._done()

    def _tell(self, letter):
        """As `_order`, by a command."""
        return self.worker.run(BENCH / "floor", "tell", self.base / "socket", letter)

    def container(self):
        began, _, stamp = self._order(b"c")
        return stamp - began

    def told_container(self):
        began = self._tell("c").began
        return self._done()[2] - began

    def exec(self):
        return self._order(b"e")[1]

    def stop(self):
        took = self._order(b"s")[1]
        self.process.communicate(timeout=10)
        return took

    def told_stop(self):
        ran = self._tell("s")
        self.process.communicate(timeout=10)
        return ran.ended - ran.began

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.kill()


class Podshim:
    name = "podshim"

    def __init__(self, worker):
        self.worker, self.dir, self.count = worker, RUN / "podshim", itertools.count()
        self.state = STATES / "podshim"
        for path in (self.dir / "root", self.state, self.dir / "log"):
            path.mkdir(parents=True)
        self.env = {"PODSHIM_ROOT": f"{self.dir}/root", "PODSHIM_STATE": str(self.state), "PODSHIM_LOG_DIR": f"{self.dir}/log"}
        self.manifest = manifest(path=RUN / "podshim.yaml")

    def version(self):
        return self.run("--version").out.strip()

    def files(self):
        return [PODSHIM]

    def run(self, *words, **more):
        return self.worker.run(PODSHIM, *words, env=self.env, **more)

    def pull(self, image=IMAGE):
        return self.run("image", "pull", image)

    def log(self, pod, container):
        return lambda: next(iter(self.dir.glob(f"log/default_{pod}_*/{container}/0.log")), None)

    def stamps(self, began, pod, *containers):
        paths = [until(self.log(pod, container), f"the log of {container}") for container in containers]
        return latest(began, *paths)

    def start(self, network="none"):
        return self.stamps(self.run("run", "-d", "--network", network, self.manifest).began, "bench", "one", "two")

    def container(self):
        name = f"more-{next(self.count)}"
        ran = self.run("debug", "bench", "--image", IMAGE, "--pull", "never", "--profile", "baseline", "-c", name, "--", "/program", "once")
        return self.stamps(ran.began, "bench", name)

    def exec(self):
        ran = self.run("exec", "bench", "-c", "one", "--", "/program", "once")
        return ran.ended - ran.began

    def stop(self):
        ran = self.run("rm", "bench")
        return ran.ended - ran.began

    def parts(self):
        """What `stop` does, in two commands."""
        stop, rm = self.run("stop", "bench"), self.run("rm", "bench")
        return {"stop": stop.ended - stop.began, "rm": rm.ended - rm.began}

    def end(self):
        self.run("rm", "--force", "--all", check=False)

    def of_pods(self):
        """Processes that are there for pods, besides the containers' own."""
        return processes(" supervise-pod ", str(self.state))

    def many(self, name):
        return self.run("run", "-d", "--network", "none", manifest(name, init=False)).began


class Podman:
    name = "podman"

    def __init__(self, worker):
        self.worker, self.dir = worker, RUN / "podman"
        self.dir.mkdir()
        self.manifest = manifest(path=RUN / "podman.yaml")
        (self.dir / "containers.conf").write_text(
            '[containers]\nlog_driver = "k8s-file"\npids_limit = 2048\n'
            f'[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "crun"\ntmp_dir = "{STATES}/podman-tmp"\n'
            f'[network]\nnetwork_config_dir = "{self.dir}/networks"\n')
        (self.dir / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self.dir}/storage"\nrunroot = "{STATES}/podman"\n')
        (self.dir / "registries.conf").write_text(f'[[registry]]\nlocation = "{REGISTRY}"\ninsecure = true\n')
        (self.dir / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.env = {
            "CONTAINERS_CONF": f"{self.dir}/containers.conf", "CONTAINERS_STORAGE_CONF": f"{self.dir}/storage.conf",
            "CONTAINERS_REGISTRIES_CONF": f"{self.dir}/registries.conf",
        }
        worker.run("mkdir", "-p", "/etc/containers")
        worker.run("cp", self.dir / "policy.json", "/etc/containers/policy.json")

    def version(self):
        return self.run("--version").out.strip()

    def run(self, *words, **more):
        return self.worker.run("podman", *words, env=self.env, **more)

    def pull(self, image=IMAGE):
        return self.run("pull", "--quiet", image)

    def files(self):
        return ["/usr/bin/podman", "/usr/bin/conmon", "/usr/bin/crun", "/usr/lib/podman/netavark", "/usr/lib/podman/aardvark-dns"]

    def stamp(self, began, container):
        return int(until(lambda: STAMP.search(self.run("logs", container).out), f"a stamp of {container}")[1]) - began

    def start(self, network="none"):
        # Its default network is a bridge, as podshim's is.
        network = [] if network == "bridge" else [f"--network={network}"]
        began = self.run("kube", "play", "--quiet", *network, self.manifest).began
        return max(self.stamp(began, "bench-one"), self.stamp(began, "bench-two"))

    def container(self):
        ran = self.run("run", "-d", "--rm=false", "--pod", "bench", IMAGE, "once")
        return self.stamp(ran.began, ran.out.strip())

    def exec(self):
        ran = self.run("exec", "bench-one", "/program", "once")
        return ran.ended - ran.began

    def stop(self):
        # Containers that were added are not kube play's.
        ran = self.run("pod", "stop", "bench"), self.run("pod", "rm", "bench")
        return sum(one.ended - one.began for one in ran)

    def end(self):
        self.run("pod", "rm", "--force", "--all", "--time=0", check=False)
        self.run("network", "prune", "--force", check=False)

    def of_pods(self):
        return processes("conmon", str(self.dir))

    def many(self, name):
        return self.run("kube", "play", "--quiet", "--network=none", manifest(name, init=False)).began


def conflist(name, place):
    """What a CRI server's network is made by."""
    plugins = [
        {"type": "bridge", "bridge": f"cni-{name[:6]}", "isGateway": True, "ipMasq": True, "hairpinMode": True,
         "ipam": {"type": "host-local", "dataDir": f"{place}/ipam", "ranges": [[{"subnet": SUBNETS[name]}]],
                  "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": True}}]
    return {"cniVersion": "0.4.0", "name": f"bench-{name}", "plugins": plugins}


class Plugins:
    """The floor of a CRI sandbox's network: its CNI plugins alone, in a network namespace that is there already."""

    name = "floor"

    def __init__(self, worker):
        self.worker, self.dir, self.count = worker, RUN / "cni-floor", itertools.count()
        self.dir.mkdir()
        self.list = conflist("floor", self.dir)

    def life(self):
        """Nanoseconds of all ADDs and of all DELs, and of CPU time."""
        name = f"floor-{next(self.count)}"
        namespace = self.dir / name
        namespace.touch()
        self.worker.run("unshare", f"--net={namespace}", "true")
        try:
            result, took, cpu = None, {"ADD": 0, "DEL": 0}, 0
            for verb, plugins in ("ADD", self.list["plugins"]), ("DEL", self.list["plugins"][::-1]):
                for plugin in plugins:
                    ran = self._call(verb, (name, namespace), {**plugin, **({"prevResult": result} if result else {})})
                    result = json.loads(ran.out) if verb == "ADD" else result
                    took[verb] += ran.ended - ran.began
                    cpu += ran.cpu
        finally:
            self.worker.run("umount", namespace)
        return took["ADD"], took["DEL"], cpu

    def _call(self, verb, pod, plugin):
        config = self.dir / "stdin.json"
        config.write_text(json.dumps({"cniVersion": self.list["cniVersion"], "name": self.list["name"], **plugin}))
        name, namespace = pod
        env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": name, "CNI_NETNS": str(namespace), "CNI_IFNAME": "eth0", "CNI_PATH": str(PLUGINS)}
        return self.worker.run(PLUGINS / plugin["type"], env=env, stdin=config)

    def end(self):
        pass


class Server:
    """A CRI server, and crictl."""

    def __init__(self, name, worker, here):
        self.name, self.worker, self.here, self.dir = name, worker, here, RUN / f"cri-{name}"
        self.socket, self.pid, self.count = self.dir / "cri.sock", None, itertools.count()
        self.state = STATES / self.dir.name
        self.endpoint = f"unix://{self.socket}"
        (self.dir / "cni").mkdir(parents=True)
        hosts = self.dir / "hosts" / REGISTRY
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").write_text(
            f'server = "http://{REGISTRY}"\n[host."http://{REGISTRY}"]\ncapabilities = ["pull", "resolve"]\n')
        (self.dir / "cni/10-bench.conflist").write_text(json.dumps(conflist(name, self.dir)))
        self.crictl_yaml = self.dir / "crictl.yaml"
        self.crictl_yaml.write_text(f"runtime-endpoint: {self.endpoint}\nimage-endpoint: {self.endpoint}\ntimeout: 60\n")

    def serve(self):
        log = self.dir / "server.log"
        self.pid = self._serve(log)
        until(lambda: self.crictl("version", check=False).code == 0, f"the server of {self.name}", 30, 0.1)
        self.pull()

    def _serve(self, log):
        if self.name == "podshim":
            config = f"""[registry]
config_path = "{self.dir}/hosts"
[network]
bin_dirs = ["{PLUGINS}"]
conf_dir = "{self.dir}/cni"
"""
            (self.dir / "config.toml").write_text(config)
            return self.worker.daemon(log, PODSHIM, "--root", self.dir / "root", "--state", self.state, "--log-dir", self.dir / "log",
                                      "cri", "--listen", self.endpoint, "--config", self.dir / "config.toml")
        plugins = '[plugins."io.containerd.grpc.v1.cri"'
        (self.dir / "config.toml").write_text(f"""version = 2
root = "{self.dir}/root"
state = "{self.state}"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{self.dir}/opt"
{plugins}]
  sandbox_image = "{IMAGE}"
  restrict_oom_score_adj = true
  {plugins}.cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "{self.dir}/cni"
  {plugins}.registry]
    config_path = "{self.dir}/hosts"
  {plugins}.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
""")
        return self.worker.daemon(log, "containerd", "--config", self.dir / "config.toml")

    def crictl(self, *words, **more):
        return self.here.run(CRI / "bin/crictl", "--config", self.crictl_yaml, *words, **more)

    def client(self, *words, seconds=600):
        """tests/cri/client: nanoseconds by call, and what it ran."""
        words = [CRI / "bin/criclient", "-endpoint", self.endpoint, "-image", IMAGE, "-dir", self.dir / "logs",
                 "-prefix", f"p{next(self.count)}", *words]
        ran = self.here.run(*words, seconds=seconds)
        return json.loads(ran.out), ran

    def version(self):
        return " ".join(re.findall(r"Runtime(?:Name|Version):\s*(\S+)", self.crictl("version").out))

    def files(self):
        return ["/usr/bin/containerd", "/usr/bin/containerd-shim-runc-v2", "/usr/sbin/runc"]

    def pull(self, image=IMAGE):
        return self.crictl("pull", image)

    def start(self, network="bridge"):
        """What a kubelet does, by crictl."""
        logs = self.dir / f"logs/pod-{next(self.count)}"
        logs.mkdir(parents=True)
        self.logs, seccomp = logs, {"profile_type": 0}
        self.pod = logs / "pod.json"
        self.pod.write_text(json.dumps({
            "metadata": {"name": logs.name, "namespace": "bench", "uid": logs.name}, "hostname": "bench", "log_directory": str(logs),
            "linux": {"security_context": {"seccomp": seccomp}}}))
        began = now()
        self.sandbox = self.crictl("runp", self.pod).out.strip()
        self.made("init", "once")
        latest(0, logs / "init.log")
        self.one = self.made("one", "stamp")
        self.made("two", "stamp")
        return latest(began, logs / "one.log", logs / "two.log")

    def made(self, name, word):
        path = self.logs / f"{name}.json"
        path.write_text(json.dumps({
            "metadata": {"name": name}, "image": {"image": IMAGE}, "command": ["/program", word], "log_path": f"{name}.log",
            "linux": {"security_context": {"seccomp": {"profile_type": 0}}, "resources": {"cpu_shares": 2}}}))
        container = self.crictl("create", self.sandbox, path, self.pod).out.strip()
        self.crictl("start", container)
        return container

    def container(self):
        name, began = f"more-{next(self.count)}", now()
        self.made(name, "once")
        return latest(began, self.logs / f"{name}.log")

    def exec(self):
        ran = self.crictl("exec", "-s", self.one, "/program", "once")
        return ran.ended - ran.began

    def stop(self):
        ran = self.crictl("stopp", self.sandbox), self.crictl("rmp", self.sandbox)
        return sum(one.ended - one.began for one in ran)

    def of_pods(self):
        if self.name == "podshim":
            return processes(" supervise-pod ", str(self.state))
        return processes("containerd-shim-runc-v2", str(self.socket))

    def end(self):
        if self.pid:
            self.crictl("rmp", "--force", "--all", check=False)
            terminate(self.pid, self.name)
            self.pid = None
            shutil.copy(self.dir / "server.log", BENCH / f"results/{self.name}-cri.log")


class Oci:
    """crun or runc, on bundles that are podshim's own. What podshim does itself is done for them before: namespaces of the pod are
    there, root file systems are mounted."""

    def __init__(self, name, worker, podshim):
        self.name, self.worker, self.podshim, self.dir = name, worker, podshim, RUN / name
        self.dir.mkdir()
        self.count, self.holder = itertools.count(), None

    def version(self):
        return self.worker.run(self.name, "--version").out.splitlines()[0]

    def files(self):
        return [f"/usr/bin/{self.name}" if self.name == "crun" else "/usr/sbin/runc"]

    def run(self, *words, **more):
        return self.worker.run(self.name, "--root", STATES / self.name, *words, **more)

    def prepare(self):
        """A pod of podshim's that stays gives the bundle."""
        if not (self.podshim.dir / "ground.json").exists():
            self.podshim.run("run", "-d", "--network", "none", manifest("ground"))
            until(self.podshim.log("ground", "two"), "the pod whose bundle is taken")
            found = [path for path in self.podshim.state.rglob("one/config.json") if self.is_ground(path)]
            if not found:
                raise Failed("no bundle of podshim's was found")
            shutil.copy(found[0], self.podshim.dir / "ground.json")
        self.holder = subprocess.Popen(["unshare", "--net", "--ipc", "--uts", "sleep", "100000"])
        own = os.stat("/proc/self/ns/net").st_ino
        until(lambda: os.stat(f"/proc/{self.holder.pid}/ns/net").st_ino != own, "namespaces")

    def source(self, theirs):
        """What is bound is of this runtime's own: podshim's may be of a mount that is not seen in the tree of peers."""
        source = self.dir / "sources" / theirs.name
        if theirs.is_dir():
            source.mkdir(parents=True, exist_ok=True)
        else:
            source.parent.mkdir(parents=True, exist_ok=True)
            source.touch()
        return source

    @staticmethod
    def is_ground(path):
        return "ground" in path.read_text()

    def bundle(self, word):
        """A bundle with a root file system, and the name of its container."""
        name = f"{self.name}-{next(self.count)}"
        bundle, layer = self.dir / name, RUN / "floor/layer"
        for part in ("rootfs", "upper", "work"):
            (bundle / part).mkdir(parents=True)
        config = json.loads((self.podshim.dir / "ground.json").read_text())
        config["root"]["path"] = str(bundle / "rootfs")
        config["process"]["args"] = ["/program", word]
        config["linux"]["cgroupsPath"] = f"/bench-{self.name}/{name}"
        config.pop("hooks", None)
        # podshim clamps what the caller may not raise; others fail.
        config["process"].pop("rlimits", None)
        # Of huge pages there is a hierarchy of version 2 only, on a hybrid machine.
        config["linux"]["resources"].pop("hugepageLimits", None)
        for mount in config["mounts"]:
            if str(mount.get("source", "")).startswith(str(RUN)):
                mount["source"] = str(self.source(Path(mount["source"])))
        files = {"network": "net"}
        for namespace in config["linux"]["namespaces"]:
            if namespace.get("path"):
                namespace["path"] = f"/proc/{self.holder.pid}/ns/{files.get(namespace['type'], namespace['type'])}"
        (bundle / "config.json").write_text(json.dumps(config))
        self.worker.run("mount", "-t", "overlay", "-o", f"lowerdir={layer},upperdir={bundle}/upper,workdir={bundle}/work", "overlay",
                        bundle / "rootfs")
        return name

    def create(self, name):
        """`run -d`; nanoseconds when it began, and the file with its output."""
        out = self.dir / name / "out"
        return self.run("run", "-d", "-b", self.dir / name, "--pid-file", self.dir / name / "pid", name, out=out).began, out

    def start(self, network="none"):
        if not self.holder:
            self.prepare()
        init, *self.apps = [self.bundle(word) for word in ("once", "stamp", "stamp")]
        self.run_to_end = init
        began = self.run("run", "-b", self.dir / init, init, out=self.dir / init / "out").began
        return latest(began, *[self.create(name)[1] for name in self.apps])

    def container(self):
        name = self.bundle("once")
        began, out = self.create(name)
        took = latest(began, out)
        self.delete(name)
        return took

    def exec(self):
        ran = self.run("exec", self.apps[0], "/program", "once")
        return ran.ended - ran.began

    def delete(self, name):
        """Once its process has ended; what the command itself took."""
        pid = int((self.dir / name / "pid").read_text())
        until(lambda: self.ended(pid), f"the end of {name}", pause=0.0005)
        ran = self.run("delete", name)
        self.worker.run("umount", self.dir / name / "rootfs")
        return ran.ended - ran.began

    @staticmethod
    def ended(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return True

    def stop(self):
        began, took = now(), 0
        for name in self.apps:
            self.run("kill", name, "TERM")
        took += now() - began
        return took + sum(self.delete(name) for name in self.apps)

    def end(self):
        if self.holder:
            for name in getattr(self, "apps", []):
                self.run("delete", "--force", name, check=False)
            self.holder.kill()
            self.holder.wait()
