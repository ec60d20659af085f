#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""framevisor and QEMU under one libvirtd, with the same XML but for emulator and machine type, turn and turn about:
how long a start takes, and what a smaller balloon gives back. Prints JSON. Runs in the test host, beside what it
measures. See tests/bench/run.

  libvirt_figures.py --kernel FILE --initrd FILE --mem MIB --target MIB --runs N
"""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

import libvirt

MIB = 1 << 20
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIMIT = 600  # seconds: for what a guest does in an emulated machine
EMULATORS = {"framevisor": ("{directory}/framevisor", "framevisor"), "qemu": ("/usr/bin/qemu-system-x86_64", "pc")}

DOMAIN = """<domain type='kvm'><name>{name}</name><memory unit='MiB'>{mem}</memory><vcpu>1</vcpu>
  <memoryBacking><hugepages><page size='2' unit='MiB'/></hugepages></memoryBacking>
  <os><type arch='x86_64' machine='{machine}'>hvm</type><kernel>{directory}/kernel</kernel><initrd>{directory}/initrd</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 fv.test=lines</cmdline></os>
  <features><acpi/></features><cpu mode='host-passthrough'/>
  <on_reboot>destroy</on_reboot>
  <devices><emulator>{emulator}</emulator>
    <controller type='usb' model='none'/><controller type='pci' index='0' model='pci-root'/>
    <serial type='file'><source path='{serial}'/><target port='0'/></serial>
    <memballoon model='virtio'/>
  </devices></domain>"""


def wait_until(condition, what):
    """Returns when it became true, on the clock of time.monotonic()."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"libvirt_figures: not in {LIMIT} s: {what}")
        time.sleep(0.005)
    return time.monotonic()


def hugetlb_mib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return int(re.search(r"^HugetlbPages:\s+(\d+) kB", file.read(), re.MULTILINE)[1]) // 1024


def reserve_hugepages(more):
    path = "/proc/sys/vm/nr_hugepages"
    with open(path, encoding="ascii") as file:
        wanted = int(file.read()) + more
    with open(path, "w", encoding="ascii") as file:
        file.write(str(wanted))
    with open(path, encoding="ascii") as file:
        if int(file.read()) < wanted:
            sys.exit(f"libvirt_figures: this machine has not {more} hugepages to spare")


class Bench:
    """A pool owner and a libvirtd of their own, and the domains in them."""

    def __init__(self, options, directory):
        self.options, self.directory, self.nr = options, directory, 0
        self.running = {}  # when the domain of that name was told to run
        os.chmod(directory, 0o755)
        for source, name in ((options.kernel, "kernel"), (options.initrd, "initrd"), ("build/framevisor", "framevisor")):
            subprocess.run(["install", "-m", "755", source, f"{directory}/{name}"], check=True)
        subprocess.run(["build/framevisord", "--daemonize", "--pool", f"{options.mem + 32}M", "--hugepages=require"], check=True,
                       stdout=subprocess.DEVNULL)
        reserve_hugepages(options.mem // 2 + 8)  # QEMU's; the pool has taken its own
        subprocess.run([f"{ROOT}/tests/host/private_libvirt.sh", f"{directory}/libvirt", "root"], check=True)
        libvirt.virEventRegisterDefaultImpl()
        self.connection = libvirt.open(f"qemu+unix:///system?socket={directory}/libvirt/libvirt-sock")
        self.connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_life, None)
        threading.Thread(target=self._events, daemon=True).start()

    @staticmethod
    def _events():
        while True:
            libvirt.virEventRunDefaultImpl()

    def _on_life(self, _connection, domain, event, _detail, _opaque):
        if event == libvirt.VIR_DOMAIN_EVENT_RESUMED:
            self.running.setdefault(domain.name(), time.monotonic())

    def pid(self, name):
        with open(f"{self.directory}/libvirt/run/qemu/{name}.pid", encoding="ascii") as file:
            return int(file.read())

    def measure(self, kind):
        """One life: started, in user space, the balloon to the target."""
        options, self.nr = self.options, self.nr + 1
        name, serial = f"{kind}-{self.nr}", f"{self.directory}/{kind}-{self.nr}.serial"
        emulator, machine = EMULATORS[kind]
        xml = DOMAIN.format(name=name, mem=options.mem, machine=machine, directory=self.directory, serial=serial,
                            emulator=emulator.format(directory=self.directory))

        def says(words):
            with open(serial, encoding="utf-8", errors="replace") as file:
                return words in file.read()
        begin = time.monotonic()
        domain = self.connection.createXML(xml)
        returned = time.monotonic()
        wait_until(lambda: name in self.running, f"{name} runs")
        up = wait_until(lambda: says("guest: up"), f"{name} is in user space")
        wait_until(lambda: says("ready for verbs"), f"{name} is ready")
        before, start = hugetlb_mib(self.pid(name)), time.monotonic()
        domain.setMemory(options.target * 1024)
        reached = wait_until(lambda: domain.info()[2] == options.target * 1024, f"{name} has a balloon of {options.target} MiB less")
        time.sleep(1)  # what is still on its way
        after = hugetlb_mib(self.pid(name))
        domain.destroy()
        return {"running-ms": 1000 * (self.running[name] - begin), "create-ms": 1000 * (returned - begin), "up-ms": 1000 * (up - begin),
                "held-before-mib": before, "held-after-mib": after, "setmem-ms": 1000 * (reached - start)}

    def end(self):
        for path in (f"{self.directory}/libvirt/libvirtd.pid", f"{self.directory}/libvirt/virtlogd.pid", "/run/framevisor/pool.lock"):
            with open(path, encoding="ascii") as file:
                os.kill(int(file.read()), signal.SIGTERM)


def main():
    parser = argparse.ArgumentParser()
    for option in ("--kernel", "--initrd"):
        parser.add_argument(option, required=True)
    for option in ("--mem", "--target", "--runs"):
        parser.add_argument(option, type=int, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fvbench-") as directory:
        bench = Bench(options, directory)
        # The first define of each emulator has libvirt probe it; that is no start's.
        for emulator, machine in EMULATORS.values():
            bench.connection.getDomainCapabilities(emulator.format(directory=directory), "x86_64", machine, "kvm")
        for _ in range(options.runs):
            for kind in EMULATORS:
                print(json.dumps({"kind": kind, **bench.measure(kind)}), flush=True)
        bench.end()
    sys.stdout.flush()
    os._exit(0)  # the event thread never ends


if __name__ == "__main__":
    main()
