#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""One measurement of one VMM with a stock Linux guest on hugepages; prints JSON. Runs in the test
host, beside what it measures. See tests/bench/run.

  vm_figures.py start NAME     time to the guest's first serial byte, private memory of the process
"""
import argparse
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tty

APPEND = "console=ttyS0 earlyprintk=ttyS0 quiet"
MIB = 1 << 20


def qemu_command(options, directory, machine):
    memory = f"memory-backend-memfd,id=ram,size={options.mem}M,hugetlb=on,hugetlbsize=2M"
    return ["qemu-system-x86_64", "-M", f"{machine},accel=kvm,memory-backend=ram", "-object", memory, "-cpu", "host", "-m", f"{options.mem}M",
            "-nodefaults", "-no-user-config", "-display", "none", "-kernel", options.kernel, "-initrd", options.initrd,
            "-qmp", f"unix:{directory}/qmp.sock,server=on,wait=off", "-serial", "stdio"]


def command_for(options, directory):
    """The VMM's command line up to the option that takes the kernel's."""
    if options.name.startswith("framevisor"):
        return ["build/framevisor", "run", "--name", "bench", "--mem", f"{options.mem}M", "--kernel", options.kernel,
                "--initrd", options.initrd, "--hugepages=require", "--append"]
    if options.name == "qemu-microvm":
        return [*qemu_command(options, directory, "microvm,pit=off,pic=off,rtc=on,isa-serial=on"), "-append"]
    return [*qemu_command(options, directory, "pc"), "-device", "virtio-balloon-pci", "-append"]


def framevisor(directory, *arguments):
    subprocess.run(["build/framevisor", *arguments], env={**os.environ, "FRAMEVISOR_RUNDIR": f"{directory}/run"}, check=True,
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def framevisor_json(rundir, *arguments):
    output = subprocess.run(["build/framevisor", *arguments, "--json"], env={**os.environ, "FRAMEVISOR_RUNDIR": rundir}, check=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    return json.loads(output.stdout)


class Guest:
    """A VMM with the guest's console on a pseudo terminal."""

    def __init__(self, options, directory, test, command=None):
        self.qmp_path = f"{directory}/run/vm/bench/qmp.sock" if options.name.startswith("framevisor") else f"{directory}/qmp.sock"
        self.master, slave = pty.openpty()
        tty.setraw(slave)
        self.text = b""
        env = {**os.environ, "FRAMEVISOR_RUNDIR": f"{directory}/run"}
        command = command or command_for(options, directory) + [f"{APPEND} {test}"]
        self.started = time.monotonic()
        # A terminal that is not its own is not read by a program: the keyboard is a pipe.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=slave, stderr=subprocess.PIPE, env=env)
        os.close(slave)

    def read(self, deadline):
        ready = select.select([self.master], [], [], max(deadline - time.monotonic(), 0))[0]
        if ready:
            try:
                self.text += os.read(self.master, 65536)
            except OSError:
                ready = []
        if not ready and (self.process.poll() is not None or time.monotonic() >= deadline):
            self.process.kill()
            sys.exit(f"the guest did not get there: {self.text[-600:]} {self.process.stderr.read()[-600:]}")

    def first_byte(self, seconds=60):
        while not self.text:
            self.read(self.started + seconds)
        return time.monotonic() - self.started

    def wait_for(self, pattern, seconds=120):
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            self.read(deadline)

    def verb(self, text, seconds=600):
        """Has the guest do something and waits until it did."""
        seen = len(self.text)
        self.process.stdin.write(f"{text}\n".encode())
        self.process.stdin.flush()
        deadline = time.monotonic() + seconds
        while not (done := re.search(rf"guest: {text.split()[0]} (ok|failed).*\n", self.text[seen:].decode(errors="replace"))):
            self.read(deadline)
        if done[1] != "ok":
            sys.exit(f"in the guest: {done[0]}")

    def end(self, seconds=20):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(seconds)


class Qmp:
    """One command at a time, events skipped."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(path)
        self.file = self.socket.makefile("r", encoding="utf-8", newline="\n")
        self.file.readline()
        self.command("qmp_capabilities")

    def command(self, name, **arguments):
        self.socket.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        while True:
            reply = json.loads(self.file.readline())
            if "error" in reply:
                sys.exit(f"{name}: {reply['error']['desc']}")
            if "return" in reply:
                return reply["return"]


def private_memory(pid):
    """Bytes of (clean, dirty) private memory, guest memory left out: hugepages are not in these."""
    with open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace") as file:
        text = file.read()
    return tuple(1024 * sum(map(int, re.findall(rf"^Private_{kind}:\s+(\d+) kB", text, re.MULTILINE))) for kind in ("Clean", "Dirty"))


def hugetlb(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return 1024 * int(re.search(r"^HugetlbPages:\s+(\d+) kB", file.read(), re.MULTILINE)[1])


def measure_start(options, directory):
    if options.name == "framevisor-pool":
        framevisor(directory, "pool", "start", "--hugepages=require", "--size", f"{options.mem + 64}M")
    guest = Guest(options, directory, "fv.test=lines")
    first = guest.first_byte()
    guest.wait_for(rb"guest: ready for verbs")
    clean, dirty = private_memory(guest.process.pid)
    guest.end()
    if options.name == "framevisor-pool":
        framevisor(directory, "pool", "stop")
    return {"first-byte-ms": 1000 * first, "private-mib": (clean + dirty) / MIB, "private-dirty-mib": dirty / MIB}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["start"])
    parser.add_argument("name", choices=["framevisor", "framevisor-pool", "qemu-microvm", "qemu-pc"])
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--initrd", required=True)
    parser.add_argument("--mem", type=int, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fvbench-") as directory:
        json.dump(measure_start(options, directory), sys.stdout)


if __name__ == "__main__":
    main()
