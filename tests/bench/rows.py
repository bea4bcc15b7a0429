"""What is measured: a function for each group of rows, which gives lines of the table."""

import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from machine import MIB, MS, RUN, Failed, cpu_of, cpu_of_run, forget_peak, memory, now, peak, until
from runtimes import BENCH, CRI, IMAGE, PODSHIM, REGISTRY, Podshim, Server, manifest, probed
from table import Line, at_least, at_most, below, both, p99

POD = "1 init + 2 apps"


def taking_turns(bench, lines, wanted, rounds, measure):
    """measure(runtime) → nanoseconds by line, each round of each runtime; the first round of each is not counted."""
    failed = {}
    for turn in range(rounds + 1):
        for name in wanted:
            runtime = bench.get(name)
            if not runtime or name in failed:
                continue
            try:
                figures = measure(runtime)
            except Failed as error:
                print(f"bench: {name}: {error}", file=sys.stderr)
                failed[name] = f"failed: {str(error)[:80]}"
                runtime.end() if name in ("podshim", "floor") else None
                continue
            if turn:
                for key, value in figures.items():
                    lines[key].add(column(name), value / MS)
    for line in lines.values():
        for name in wanted:
            why = failed.get(name) or bench.missing.get(name)
            if why and column(name) not in line.cells:
                line.missing[column(name)] = why
    if "podshim" in failed or "podshim-cri" in failed:
        raise Failed(failed.get("podshim") or failed["podshim-cri"])


def column(name):
    return name.removesuffix("-cri")


def of_pod(bench):
    """`run -d` of 1 init + 2 apps until all have executed; one more container; exec; stop and remove: without a network"""
    lines = {
        "run": Line(f"`podshim run -d`, {POD}, until all have executed; no network but loopback", "ms",
                    "≤ 1.5 × floor; podman ≥ 30 ×", judge=both(at_most(1.5, "floor"), at_most(1 / 30, "podman"))),
        "container": Line("one more container in that pod, until it has executed", "ms", "≤ 0.5 × crun run",
                          judge=at_most(0.5, "crun")),
        "exec": Line("exec of a command in it, to its end", "ms", "≤ 0.5 × crun exec", judge=at_most(0.5, "crun")),
        "stop": Line("stop and remove of that pod", "ms", "≤ 1.5 × floor", judge=at_most(1.5, "floor")),
    }

    def measure(runtime):
        took = {"run": runtime.start(network="none")}
        took["container"] = runtime.container()
        took["exec"] = statistics.median(runtime.exec() for _ in range(3))
        took["stop"] = runtime.stop()
        return took

    taking_turns(bench, lines, ["floor", "podshim", "podman", "crun", "runc"], 3 if bench.quick else 30, measure)
    return [lines[name] for name in lines if name in bench.chosen.only]


def of_parts(bench):
    """a container, and stop and remove, beside a floor that a command tells to; stop and remove by two commands instead of one"""
    lines = {
        "container": Line("one more container (floor: a command starts, tells it over a socket, and waits)", "ms"),
        "all": Line("stop and remove of the pod (floor: likewise)", "ms"),
        "stop": Line("of it `podshim stop`, until the pod's supervisor is gone (two commands instead of one)", "ms"),
        "rm": Line("of it `podshim rm`, after that", "ms"),
    }

    def measure(runtime):
        runtime.start()
        if runtime.name == "floor":
            return {"container": runtime.told_container(), "all": runtime.told_stop()}
        took = {"container": runtime.container(), "all": runtime.stop()}
        if runtime.name == "podshim":
            runtime.start()
            took |= runtime.parts()
        return took

    taking_turns(bench, lines, ["floor", "podshim", "crun"], 3 if bench.quick else 30, measure)
    return list(lines.values())


def of_bridge(bench):
    """the same on a bridge; containerd by crictl, as a kubelet would do it"""
    lines = {
        "start": Line(f"{POD} until all have executed; on a bridge (containerd: crictl, CNI)", "ms", "podman ≥ 30 ×",
                      judge=at_most(1 / 30, "podman")),
        "stop": Line("stop and remove of that pod", "ms"),
    }
    taking_turns(bench, lines, ["podshim", "podman", "containerd"], 2 if bench.quick else 15,
                 lambda runtime: {"start": runtime.start(network="bridge"), "stop": runtime.stop()})
    return list(lines.values())


def of_memory(bench):
    """memory of what stays for an idle pod: one, and per pod of 100"""
    many = 10 if bench.quick else 100
    one = Line("memory of an idle pod's supervisor (podman: its conmons; containerd: its shim): Private_Dirty", "KiB", "≤ 200 KiB",
               judge=below(200))
    # Of fewer each has a larger share of the binary's own pages.
    all_of_them = Line(f"the same, Pss, per pod of {many}", "KiB", "≤ 400 KiB of 100", judge=None if bench.quick else below(400))
    for name in ("podshim", "podman", "containerd"):
        if not (runtime := bench.get(name)):
            why = bench.missing.get(name)
            if why:
                one.missing[name] = all_of_them.missing[name] = why
            continue
        if isinstance(runtime, Server):
            runtime.client("-keep", many)
        else:
            for number in range(many):
                began = runtime.many(f"idle-{number}")
            if isinstance(runtime, Podshim):
                runtime.stamps(began, f"idle-{many - 1}", "one")
        # Pages of a binary that are not on the disk yet would count as dirty.
        os.sync()
        time.sleep(1)
        pids = runtime.of_pods()
        if not pids:
            raise Failed(f"no process of {name}'s was found")
        found = memory(pids)
        # Of one container or two, podman has one more conmon for the pod.
        one.add(name, found.dirty / many / 1024)
        all_of_them.add(name, found.pss / many / 1024)
        if isinstance(runtime, Server):
            runtime.client("-remove")
        else:
            runtime.end()
    return [one, all_of_them]


def of_many(bench):
    """500 pods of 2 containers in a row and in parallel: what the last costs beside the first; memory by pod"""
    many = 20 if bench.quick else 500
    podshim = bench.get("podshim")
    edge = max(3, many // 20)
    row = Line(f"{many} pods, {2 * many} containers, in a row: one of the last {edge}", "ms")
    first = Line(f"the same: one of the first {edge}", "ms")
    ratio = Line("the same: last by first", "×", "≤ 1.2", judge=below(1.2))
    parallel = Line(f"{many} pods at once, 8 commands at a time: per pod", "ms")
    half = Line(f"memory (Pss of supervisors) per pod, of {many // 2}", "KiB")
    whole = Line(f"memory per pod, of {many}: linear", "KiB", "≤ 1.1 × that of half", judge=lambda line, values: below(
        1.1 * half.cells["podshim"][0])(line, values))
    path = RUN / "many"
    path.mkdir(exist_ok=True)
    manifests = []
    for number in range(many):
        text = manifest(path=path / "one.yaml").read_text().replace("name: bench", f"name: many-{number}")
        # Two containers that stay, no init container.
        text = text[: text.index("  initContainers:")] + text[text.index("  containers:"):]
        manifests.append(path / f"{number}.yaml")
        manifests[-1].write_text(text)
    try:
        took = []
        for number, one in enumerate(manifests):
            began = podshim.run("run", "-d", "--network", "none", one).began
            took.append(podshim.stamps(began, f"many-{number}", "one", "two") / MS)
            if number + 1 == many // 2:
                half.add("podshim", memory(podshim.of_pods()).pss / (number + 1) / 1024)
        whole.add("podshim", memory(podshim.of_pods()).pss / many / 1024)
        first.cells["podshim"], row.cells["podshim"] = took[:edge], took[-edge:]
        ratio.add("podshim", statistics.median(took[-edge:]) / statistics.median(took[:edge]))
        podshim.end()
        began = now()
        queue, failures = list(enumerate(manifests)), []

        def work():
            while queue and not failures:
                _, one = queue.pop()
                ran = subprocess.run([PODSHIM, "run", "-d", "--network", "none", one], stdout=subprocess.DEVNULL,
                                     stderr=subprocess.PIPE, text=True, env={**os.environ, **podshim.env})
                if ran.returncode:
                    failures.append(ran.stderr.strip())

        workers = [threading.Thread(target=work) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if failures:
            raise Failed(f"in parallel: {failures[0][-300:]}")
        ended = max(podshim.stamps(0, f"many-{number}", "one", "two") for number in range(many))
        parallel.add("podshim", (ended - began) / many / MS)
    finally:
        podshim.end()
    return [row, first, ratio, parallel, half, whole]


def written(text):
    """Nanoseconds that a writer took, by its last line."""
    words = text.split()
    return int(words[words.index("ended") + 1]) - int(words[words.index("began") + 1])


def of_logs(bench):
    """log throughput: short lines and long ones, rotation included, and CPU time of who reads them"""
    size = (32 if bench.quick else 1024) * MIB
    lines = []
    for title, length in (("short lines (64 bytes)", 64), ("long lines (16 KiB)", 16 << 10)):
        speed = Line(f"logs of a container that writes {size // MIB} MiB in {title}: throughput", "MiB/s", "≥ 2 × conmon, containerd",
                     judge=at_least(2, ["podman", "containerd"]))
        cpu = Line("the same: CPU time per GiB of who takes them (containerd: daemon and shim)", "ms", "less than theirs",
                   judge=at_most(1, ["podman", "containerd"]))
        for _ in range(1 if bench.quick else 3):
            for name, log in (("podshim", podshim_logs), ("podman", podman_logs), ("containerd", containerd_logs)):
                if not (runtime := bench.get(name)):
                    missing(bench, [speed, cpu], name)
                    continue
                try:
                    took, used = log(runtime, ["lines", size, length])
                except Failed as failed:
                    if name == "podshim":
                        raise
                    print(f"bench: logs: {name}: {failed}", file=sys.stderr)
                    speed.missing[name] = cpu.missing[name] = f"failed: {str(failed)[:80]}"
                    continue
                speed.add(name, size / MIB / (took / 1e9))
                cpu.add(name, used / MS * 1024 * MIB / size)
        lines += [speed, cpu]
    return lines


def last_line(find):
    def found():
        for path in find():
            try:
                with open(path, "rb") as file:
                    file.seek(max(0, os.fstat(file.fileno()).st_size - 400))
                    tail = file.read().decode(errors="replace")
            except FileNotFoundError:
                continue
            if " ended " in tail and tail.endswith("\n"):
                return tail[tail.rindex("began "):]
        return None

    return until(found, "the writer's last line", 600, 0.02)


def podshim_logs(podshim, words):
    podshim.run("run", "-d", "--network", "none", manifest("writer", words, init=False, grace=0))
    try:
        pids = podshim.of_pods()
        used = cpu_of(pids)
        took = written(last_line(lambda: podshim.dir.glob("log/default_writer_*/one/*.log")))
        return took, cpu_of(pids) - used
    finally:
        podshim.end()


def podman_logs(podman, words):
    # podman's own limit, of the size that podshim rotates at; conmon starts the file again.
    name = podman.run("run", "-d", "--network=none", "--log-driver=k8s-file", "--log-opt=max-size=10mb", IMAGE, *words).out.strip()
    try:
        path = Path(podman.run("inspect", "--format", "{{.HostConfig.LogConfig.Path}}", name).out.strip())
        pids = podman.of_pods()
        used = cpu_of(pids)
        took = written(last_line(lambda: [path]))
        return took, cpu_of(pids) - used
    finally:
        podman.run("rm", "--force", "--time=0", name)


class Watch:
    """Calls something again and again until it is ended."""

    def __init__(self, call, pause=0.01):
        self.ended, self.pause, self.call = threading.Event(), pause, call
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.ended.wait(self.pause):
            self.call()

    def end(self):
        self.ended.set()
        self.thread.join()


def containerd_logs(server, words):
    server.start()
    logs, pids = server.logs, [server.pid, *server.of_pods()]
    config = logs / "writer.json"
    log = logs / "writer.log"
    text = (logs / "one.json").read_text().replace('"one"', '"writer"').replace('"one.log"', '"writer.log"')
    config.write_text(text.replace('"stamp"', ", ".join(f'"{word}"' for word in words)))
    container = server.crictl("create", server.sandbox, config, server.pod).out.strip()
    parts = iter(range(1, 10**6))

    def rotate():
        # As a kubelet does it, which looks every ten seconds; five are kept.
        if log.exists() and log.stat().st_size > 10 * MIB:
            number = next(parts)
            log.rename(logs / f"writer.log.{number}")
            subprocess.run([CRI / "bin/crictl", "--config", server.crictl_yaml, "logs", "--reopen", container], capture_output=True)
            (logs / f"writer.log.{number - 5}").unlink(missing_ok=True)

    used = cpu_of(pids)
    watch = Watch(rotate, 10)
    try:
        server.crictl("start", container)
        took = written(last_line(lambda: logs.glob("writer.log*")))
        return took, cpu_of(pids) - used
    finally:
        watch.end()
        server.stop()


def big_image(size):
    """The image of 8 layers, in a layout below target/bench that is kept."""
    layout = BENCH / f"images/{size >> 20}"
    if (layout / "done").exists():
        return layout
    subprocess.run(["rm", "-rf", layout], check=True)
    (layout / "layers").mkdir(parents=True)
    words = []
    for number in range(8):
        layer = layout / f"layers/{number}/data/{number}"
        layer.mkdir(parents=True)
        for part in range(size // 8 // MIB):
            # Half of it is as compressible as text, half as little as programs that are packed.
            noise = os.urandom(MIB // 2)
            text = (b"%08d the quick brown fox jumps over the lazy dog\n" * 12000 % tuple(range(part, part + 12000)))[: MIB // 2]
            (layer / f"{part}").write_bytes(noise + text)
        words += ["--layer", layout / f"layers/{number}"]
    first, *rest = words[1::2]
    words = [word for layer in rest for word in ("--layer", layer)]
    subprocess.run([os.environ["TOOLS"], "dir", first, *words, "--tag", "localhost/bench/big", "--entrypoint", "/program", "-o", layout / "oci"],
                   check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["rm", "-rf", layout / "layers"], check=True)
    (layout / "done").touch()
    return layout


def of_pull(bench):
    """pull and unpack of a 1 GiB image of 8 layers from a registry on loopback"""
    size = (32 if bench.quick else 1024) * MIB
    subprocess.run([os.environ["TOOLS"], "push", big_image(size) / "oci", REGISTRY], check=True, stdout=subprocess.DEVNULL)
    image = f"{REGISTRY}/bench/big:latest"
    took = Line(f"pull and unpack, {size // MIB} MiB in 8 layers, from a registry on loopback (others: skopeo and umoci)", "ms",
                "least", judge=at_most(1, ["podman", "containerd", "others"]))
    most = Line("the same: most memory resident (containerd: of the daemon)", "KiB", "≤ 64 MiB", judge=below(64 * 1024))
    cpu = Line("the same: CPU time", "ms", "least", judge=at_most(1, ["podman", "containerd", "others"]))

    def podshim(runtime):
        ran = runtime.pull(image)
        runtime.run("image", "rm", image)
        return ran.ended - ran.began, ran.memory

    def podman(runtime):
        ran = runtime.pull(image)
        runtime.run("rmi", "--force", image)
        return ran.ended - ran.began, ran.memory

    def containerd(runtime):
        forget_peak(runtime.pid)
        ran = runtime.pull(image)
        used = peak(runtime.pid)
        runtime.crictl("rmi", image)
        return ran.ended - ran.began, used

    def skopeo(worker):
        place = RUN / "skopeo"
        worker.run("mkdir", "-p", place)
        ran = [worker.run("skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{image}", f"oci:{place}/oci:big"),
               worker.run("umoci", "raw", "unpack", "--image", f"{place}/oci:big", place / "rootfs")]
        worker.run("rm", "-rf", place)
        return sum(one.ended - one.began for one in ran), max(one.memory for one in ran)

    ways = {"podshim": podshim, "podman": podman, "containerd": containerd, "others": skopeo}
    for turn in range(2 if bench.quick else 4):
        for name, way in ways.items():
            if name == "others":
                bench.get("podman")
                runtime = bench.peers if "skopeo" in bench.chosen.peers and "skopeo" not in bench.missing else None
            else:
                runtime = bench.get(name)
            if not runtime:
                if why := bench.missing.get({"others": "skopeo"}.get(name, name)):
                    for line in took, most, cpu:
                        line.missing[name] = why
                continue
            os.sync()
            used = cpu_of_run()
            figures = way(runtime)
            # The registry's is in it, for all alike; what cleaning up used is too.
            used = cpu_of_run() - used
            if turn:
                took.add(name, figures[0] / MS)
                most.add(name, figures[1] / 1024)
                cpu.add(name, used / MS)
    return [took, most, cpu]


CALLS = {"RunPodSandbox": 3, "CreateContainer": 3, "StartContainer": 3, "ExecSync": 3, "StopContainer": 3, "RemoveContainer": 3,
         "StopPodSandbox": 3, "RemovePodSandbox": 3}


def of_cri(bench):
    """CRI calls of a pod's life, on a CNI bridge: medians, p99, CPU time per life; the floor is what its plugins take"""
    servers = [(name, server) for name in ("podshim-cri", "containerd") if (server := bench.get(name))]
    samples, used = {}, {}
    block, blocks = (5, 2) if bench.quick else (10, 10)
    for _, server in servers:
        server.client("-lives", 2)
    for _ in range(blocks):
        for name, server in servers:
            before = cpu_of_run()
            found, ran = server.client("-lives", block)
            used.setdefault(column(name), []).append((cpu_of_run() - before - ran.cpu) / block / MS)
            for call, times in found.items():
                samples.setdefault(call, {}).setdefault(column(name), []).extend(value / MS for value in times)
        for add, delete, cpu in [bench.get("floor-cri").life() for _ in range(block)]:
            used.setdefault("floor", []).append(cpu / MS)
            for call, took in (("RunPodSandbox", add), ("StopPodSandbox", delete)):
                samples[call].setdefault("floor", []).append(took / MS)
    lines = []
    for call, times in {"running": 5, **CALLS}.items():
        title = "CRI: from nothing to a running container" if call == "running" else f"CRI: {call}"
        aim = f"containerd ≥ {times} ×"
        lines.append(Line(title, "ms", aim, cells=samples[call], judge=at_most(1 / times, "containerd")))
        late = {name: [p99(values)] for name, values in samples[call].items()}
        lines.append(Line("the same: p99", "ms", aim, cells=late, judge=at_most(1 / times, "containerd")))
    lines.append(Line("CRI: CPU time of a pod's life, everything but the client", "ms", "≤ 1/10 × containerd", cells=used,
                      judge=at_most(0.1, "containerd")))
    missing(bench, lines, "containerd")
    return lines


def missing(bench, lines, *names):
    for line in lines:
        for name in names:
            if name in bench.missing and name not in line.cells:
                line.missing[name] = bench.missing[name]


def of_list(bench):
    """CRI ListContainers with 500 containers; the floor is the same client at a server that has podshim's answer ready"""
    many = 20 if bench.quick else 500
    median = Line(f"CRI: ListContainers with {many} containers", "ms", "containerd ≥ 3 ×", judge=at_most(1 / 3, "containerd"))
    late = Line("the same: p99", "ms", "containerd ≥ 3 ×", judge=at_most(1 / 3, "containerd"))
    for name in ("podshim-cri", "containerd"):
        if server := bench.get(name):
            server.client("-keep", many)
            found, _ = server.client("-list", 100)
            answers = {column(name): found["ListContainers"]}
            if name == "podshim-cri":
                answers["floor"] = found["answered"]
            for cell, taken in answers.items():
                times = [value / MS for value in taken]
                median.cells[cell], late.cells[cell] = times, [p99(times)]
            server.client("-remove")
    missing(bench, [median, late], "containerd")
    return [median, late]


def of_binary(bench):
    """size of the binary; `podshim --version` as a new process"""
    size = Line("size of what runs a pod (peers: with the programs that they start)", "KiB", "≤ 12 MiB", judge=below(12 * 1024))
    start = Line("`--version` as a new process", "ms", "≤ 2 ms", judge=below(2))
    words = {"floor": ["/bin/true"], "podshim": [PODSHIM, "--version"], "podman": ["podman", "--version"],
             "containerd": ["containerd", "--version"], "crun": ["crun", "--version"], "runc": ["runc", "--version"]}
    for turn in range((10 if bench.quick else 100) + 1):
        for name, command in words.items():
            if not (runtime := bench.get(name)):
                continue
            worker = bench.here if name in ("floor", "podshim") else bench.peers
            ran = worker.run(*command)
            if turn:
                start.add(name, (ran.ended - ran.began) / MS)
            elif name != "floor":
                listed = worker.run("stat", "-L", "-c", "%s", *runtime.files()).out.split()
                size.add(name, sum(map(int, listed)) / 1024)
    missing(bench, [size, start], "podman", "containerd", "crun", "runc")
    return [size, start]


def of_network(bench):
    """podshim's bridge: a name asked for from a pod; throughput between pods, beside a pair of veth links"""
    podshim = bench.get("podshim")
    try:
        for name in ("server", "client"):
            podshim.run("run", "-d", "--network", "bridge", manifest(name, init=False))
        script = Path(__file__).with_name("network.py")
        ran = bench.here.run("python3", "-B", script, podshim.state, 1 if bench.quick else 3)
        figures = dict(line.split("|") for line in ran.out.splitlines())
    finally:
        podshim.end()
    name = Line("a name of another pod, asked for from a pod: median of 1000", "µs", cells={"podshim": [float(figures["median"])]})
    late = Line("the same: p99", "µs", cells={"podshim": [float(figures["p99"])]})
    speed = Line("one TCP connection from pod to pod (floor: between two ends of a veth pair)", "Gbit/s",
                 cells={"podshim": [float(figures["pods"])], "floor": [float(figures["veth"])]})
    return [name, late, speed]


def ticks(pid):
    """Seconds of CPU time: of the process itself, and with its children that have ended (proc_pid_stat(5), fields 14 to 17)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    own, children = (sum(map(int, fields[first:first + 2])) for first in (11, 13))
    return own / os.sysconf("SC_CLK_TCK"), (own + children) / os.sysconf("SC_CLK_TCK")


def of_probing(bench):
    """a supervisor with 3 containers of 3 probes each, once a second: memory, CPU time per hour"""
    podshim, seconds = bench.get("podshim"), 10 if bench.quick else 60
    podshim.pull(f"{REGISTRY}/bench/busybox:latest")
    podshim.run("run", "-d", "--wait=ready", "--timeout=60s", "--network", "none", probed())
    try:
        # What it has forked for a moment has its name too.
        pid = min(podshim.of_pods())
        before = ticks(pid)
        time.sleep(seconds)
        own, whole = (3600 * (after - first) / seconds for first, after in zip(before, ticks(pid)))
        found = memory([pid])
        listed = podshim.run("ps").out
        if "3/3" not in listed:
            raise Failed(f"the probes failed: {listed}")
    finally:
        podshim.end()
    title = "supervisor with 3 containers of 3 probes (tcpSocket until started, then exec and httpGet), once a second"
    return [Line(f"{title}: Private_Dirty", "KiB", cells={"podshim": [found.dirty / 1024]}),
            Line("the same: CPU time per hour of the supervisor alone", "s", cells={"podshim": [own]}),
            Line("the same: with the 3 commands per second that it executes in the containers", "s", cells={"podshim": [whole]})]


ROWS = {"binary": of_binary, "run": of_pod, "container": of_pod, "exec": of_pod, "stop": of_pod, "parts": of_parts, "bridge": of_bridge,
        "memory": of_memory, "many": of_many, "logs": of_logs, "pull": of_pull, "cri": of_cri, "list": of_list,
        "network": of_network, "probing": of_probing}
