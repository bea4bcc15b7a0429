#!/usr/bin/env python3
"""The benchmark of scripts/bench.sh, which says what it does; tests/bench/rows.py has what is measured."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import rows
import runtimes
from machine import RUN, Failed, Worker, enter_peers, until
from table import markdown

PEERS = ("podman", "containerd", "crun", "runc", "skopeo")


def names(known):
    def read(text):
        chosen = [] if text == "none" else text.split(",")
        if wrong := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(wrong)}: there are {', '.join(known)}")
        return chosen

    return read


def options():
    parser = argparse.ArgumentParser(prog="bench.sh", add_help=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", type=names(list(rows.ROWS)), default=list(rows.ROWS))
    parser.add_argument("--peers", type=names(PEERS), default=list(PEERS))
    parser.add_argument("--rows", action="store_true")
    parser.add_argument("--check", action="store_true")
    return parser.parse_args()


class Bench:
    """What rows measure with: sizes, and the runtimes, each made when it is first asked for."""

    def __init__(self, chosen):
        self.quick, self.chosen = chosen.quick, chosen
        self.made, self.missing = {}, {}
        self.here = Worker()
        self.peers = None
        if chosen.peers:
            tree = Path(os.environ["PEERS"])
            try:
                if not tree.is_dir():
                    raise Failed("no tree of Debian sid")
                self.peers = Worker(enter_peers(tree))
            except Failed as failed:
                self.missing = {name: f"missing: {failed}" for name in chosen.peers}

    def get(self, name):
        """A runtime by name, or None if it is not measured; `missing` says why."""
        of = name.removesuffix("-cri")
        if of in self.missing or (of not in ("floor", "podshim") and of not in self.chosen.peers):
            return None
        if name not in self.made:
            try:
                self.made[name] = self._make(name)
            except Failed as failed:
                print(f"bench: {name}: {failed}", file=sys.stderr)
                if of == "podshim":
                    raise
                self.missing[of] = f"missing: {str(failed)[:80]}"
                return None
        return self.made[name]

    def _make(self, name):
        match name:
            case "floor":
                return runtimes.Floor(self.here)
            case "floor-cri":
                made = runtimes.Plugins(self.here)
            case "podshim":
                made = runtimes.Podshim(self.here)
                made.pull()
            case "podman":
                made = runtimes.Podman(self.peers)
                made.pull()
            case "crun" | "runc":
                made = runtimes.Oci(name, self.peers, self.get("podshim"))
                made.version()
            case "podshim-cri":
                made = runtimes.Server("podshim", self.here, self.here)
                self.made[name] = made
                made.serve()
            case "containerd":
                made = runtimes.Server("containerd", self.peers, self.here)
                # Even if it does not come up: its log is kept.
                self.made[name] = made
                made.serve()
            case _:
                raise Failed("it is no runtime")
        return made

    def end(self):
        for runtime in reversed(list(self.made.values())):
            try:
                runtime.end()
            except Failed as failed:
                print(f"bench: the end of {runtime.name}: {failed}", file=sys.stderr)


def start_registry():
    cri = Path(os.environ["CRI"])
    config = RUN / "registry.yml"
    config.write_text(f"""version: 0.1
log:
  level: error
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: {RUN}/registry
http:
  addr: {runtimes.REGISTRY}
""")
    log = open(runtimes.BENCH / "results/registry.log", "w")
    registry = subprocess.Popen([cri / "debian/usr/bin/docker-registry", "serve", config], stdout=log, stderr=log)
    tools = os.environ["TOOLS"]
    layer, layout = RUN / "image/layer", RUN / "image/oci"
    layer.mkdir(parents=True)
    subprocess.run(["cp", runtimes.BENCH / "program", layer / "program"], check=True)
    subprocess.run([tools, "dir", layer, "--tag", "localhost/bench/program", "--entrypoint", "/program", "--cmd", "stamp", "-o", layout],
                   check=True, stdout=subprocess.DEVNULL)
    # For pods that need more than one program; Debian's, static.
    subprocess.run([tools, "busybox", "/bin/busybox", "--tag", "localhost/bench/busybox", "-o", layout], check=True, stdout=subprocess.DEVNULL)
    host, port = runtimes.REGISTRY.split(":")
    until(lambda: subprocess.run(["bash", "-c", f"exec 3<>/dev/tcp/{host}/{port}"], stderr=subprocess.DEVNULL).returncode == 0, "the registry")
    subprocess.run([tools, "push", layout, runtimes.REGISTRY], check=True, stdout=subprocess.DEVNULL)
    return registry


def machine():
    model = next((line.split(": ", 1)[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?")
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    return (f"{time.strftime('%Y-%m-%d')}, {platform.system()} {platform.release()} {platform.machine()}, cgroup "
            f"{'v2' if unified else 'v1 and hybrid'}, {os.cpu_count()} CPUs ({model})")


def main():
    chosen = options()
    if chosen.rows:
        width = max(map(len, rows.ROWS))
        print("\n".join(f"{name:{width}}  {function.__doc__.splitlines()[0]}" for name, function in rows.ROWS.items()))
    if chosen.rows or chosen.check:
        return 0
    results = runtimes.BENCH / "results"
    registry, failures, lines = start_registry(), [], []
    bench = Bench(chosen)
    try:
        done = set()
        for name in chosen.only:
            function = rows.ROWS[name]
            if function in done:
                continue
            done.add(function)
            began = time.monotonic()
            try:
                lines += function(bench)
            except Failed as failed:
                failures.append(f"{name}: {failed}")
            print(f"bench: {name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
        versions = {name: runtime.version() for name, runtime in bench.made.items()
                    if hasattr(runtime, "version") and name not in bench.missing}
    finally:
        bench.end()
        registry.terminate()
        registry.wait()
    text = f"{machine()}{', --quick' if bench.quick else ''}\n" + "".join(f"{name}: {version}\n" for name, version in versions.items())
    text += "\n" + markdown(lines) + "\n" if lines else ""
    for name, why in bench.missing.items():
        text += f"\n{name} {why}"
    (results / "table.md").write_text(text)
    (results / "figures.json").write_text(json.dumps(
        [{"title": line.title, "unit": line.unit, "samples": line.cells} for line in lines], indent=1))
    print(text)
    # Sizes do not depend on what else the machine does, as times do.
    failures += [f"{line.title}: not {line.aim}" for line in lines if line.unit == "KiB" and line.verdict().startswith("not met")]
    for failure in failures:
        print(f"bench: FAILED {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
