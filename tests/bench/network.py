#!/usr/bin/env python3
"""Measures the network of two pods, `server` and `client`, which the row "network" runs on a bridge: how long a name takes, and
how much goes from pod to pod, beside a pair of veth links without a bridge in the same run.

    network.py STATE ROUNDS

Prints lines of `name|figure`: median and p99 in microseconds, pods and veth in Gbit/s. All traffic is in network namespaces of the pods and of this program's own.
"""
import ctypes
import glob
import json
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import time

SECONDS = 3
CLONE_NEWNET = 0x40000000


def enter(path):
    # os.setns came with Python 3.12; Debian bookworm has 3.11.
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path) as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")


def in_child(path, work):
    """Runs work() in a network namespace, in a process of its own; what it returns, as JSON, can be read from the pipe."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        enter(path)
        os.write(write, json.dumps(work()).encode())
        os._exit(0)
    os.close(write)
    return pid, os.fdopen(read)


def lookup(server, name):
    """Microseconds of one A query over UDP."""
    identifier = random.randrange(1 << 16)
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = struct.pack(">6H", identifier, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(2)
        asking.connect((server, 53))
        start = time.perf_counter()
        asking.send(query)
        answer = asking.recv(512)
        took = (time.perf_counter() - start) * 1e6
    if answer[:2] != query[:2] or answer[3] & 15 or answer[7] == 0:
        sys.exit(f"no answer for {name}: {answer!r}")
    return took


def throughput(server, client, address):
    """Gbit/s of one TCP connection between two namespaces, the receiver counting."""

    def receive():
        with socket.create_server((address, 5001)) as listener:
            listener.settimeout(10)
            connection, _ = listener.accept()
            connection.settimeout(10)
            buffer, count, start = bytearray(1 << 18), 0, time.perf_counter()
            while got := connection.recv_into(buffer):
                count += got
            return count * 8 / (time.perf_counter() - start) / 1e9

    def send():
        for _ in range(100):
            try:
                connection = socket.create_connection((address, 5001), timeout=5)
                break
            except OSError:
                time.sleep(0.05)
        data, end = bytes(1 << 18), time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            connection.sendall(data)
        connection.close()

    receiver, answer = in_child(server, receive)
    sender, _ = in_child(client, send)
    os.waitpid(sender, 0)
    os.waitpid(receiver, 0)
    return json.load(answer)


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def holder():
    """A process with a network namespace: its path, and how to end it."""
    process = subprocess.Popen(["unshare", "--net", "sleep", "1000"])
    own = os.stat("/proc/self/ns/net").st_ino
    path = f"/proc/{process.pid}/ns/net"
    while os.stat(path).st_ino == own:
        time.sleep(0.01)
    return process, path


def main():
    state = sys.argv[1]
    members = [json.load(open(path)) for path in glob.glob(f"{state}/network/members/*.json")]
    pods = {member["name"]: member for member in members}
    pin = {name: f"{state}/pods/{pod['uid']}/ns/net" for name, pod in pods.items()}
    address = pods["server"]["addresses"][0]

    def lookups():
        names = [lookup("10.86.0.2", "server.default.svc.cluster.local") for _ in range(1000)]
        return [statistics.median(names), sorted(names)[989]]

    pid, answer = in_child(pin["client"], lookups)
    os.waitpid(pid, 0)
    median, late = json.load(answer)
    print(f"median|{median:.0f}\np99|{late:.0f}")

    (one, first), (two, second) = holder(), holder()
    try:
        ip("link", "add", "fig0", "netns", str(one.pid), "type", "veth", "peer", "name", "fig1", "netns", str(two.pid))
        for process, link, own in ((one, "fig0", "192.0.2.1/24"), (two, "fig1", "192.0.2.2/24")):
            enters = ["nsenter", f"--net=/proc/{process.pid}/ns/net"]
            subprocess.run([*enters, "ip", "address", "add", own, "dev", link], check=True)
            subprocess.run([*enters, "ip", "link", "set", link, "up"], check=True)
        raw, podded = [], []
        for _ in range(int(sys.argv[2])):
            raw.append(throughput(first, second, "192.0.2.1"))
            podded.append(throughput(pin["server"], pin["client"], address))
        raw, podded = statistics.median(raw), statistics.median(podded)
        print(f"pods|{podded:.2f}\nveth|{raw:.2f}")
    finally:
        for process in (one, two):
            process.kill()
            process.wait()


main()
