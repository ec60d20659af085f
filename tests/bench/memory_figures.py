#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Memory out of a running stock guest and into it again, in framevisor or QEMU; prints JSON. Runs in
the test host, beside what it measures. See tests/bench/run.

  memory_figures.py balloon NAME      time and CPU of inflating, deflating, deflating and touching
  memory_figures.py plug NAME         the same for virtio-mem: plug, unplug untouched and touched
  memory_figures.py fresh NAME        frames that come back when a fresh guest gives up a half
  memory_figures.py fragmented NAME   the same of a guest with fragmented memory, and how long it takes
"""
import argparse
import json
import os
import sys
import tempfile
import time

from vm_figures import APPEND, MIB, Guest, Qmp, framevisor, framevisor_json, hugetlb

FRAME = 2 * MIB
# 9000 files of 32 KiB, of which two of three go: what stays is everywhere.
# By one process: 9000 processes would take minutes.
FRAGMENT = ("sh mkdir /data/d && cd /data/d && "
            "awk 'BEGIN { s = sprintf(\"%32760s\", \"x\"); for (i = 10000; i < 19000; i++) { print i s > i; close(i) } }' && "
            "ls | awk NR%3 | xargs rm && cat [0-9]* | md5sum >/tmp/sum")
VERIFY = "sh cd /data/d && [ \"$(cat [0-9]* | md5sum)\" = \"$(cat /tmp/sum)\" ]"
# What a background thread still has to do for an operation (zeroing) counts as part of it.
SETTLE_S = 1.0
# Looking costs time, too: not often, but soon enough for what is over soon.
POLL_S, POLL_MIN_S, POLL_PART = 0.05, 0.004, 16
# As clock_getcpuclockid() makes a clock of a process.
CPUCLOCK_SCHED = 2


def qemu(options, directory, guest):
    memory = "memory-backend-memfd,hugetlb=on,hugetlbsize=2M"
    command = ["qemu-system-x86_64", "-M", "pc,accel=kvm,memory-backend=ram", "-object", f"{memory},id=ram,size={guest['boot']}M",
               "-cpu", "host", "-m", f"{guest['boot']}M" + (f",maxmem={guest['max'] + 1024}M" if guest["max"] > guest["boot"] else ""),
               "-nodefaults", "-no-user-config", "-display", "none", "-kernel", options.kernel, "-initrd", options.initrd,
               "-qmp", f"unix:{directory}/qmp.sock,server=on,wait=off", "-serial", "stdio"]
    if guest["max"] == guest["boot"]:
        return [*command, "-device", "virtio-balloon-pci" + (",free-page-reporting=on" if "reporting" in options.name else "")]
    size = guest["max"] - guest["boot"]
    prealloc = ",prealloc=on" if options.name == "qemu-prealloc" else ""
    return [*command, "-object", f"{memory},id=hot,reserve=off,size={size}M",
            "-device", f"virtio-mem-pci,id=mem0,memdev=hot,requested-size={guest['size'] - guest['boot']}M{prealloc}"]


def ours(options, guest):
    mem = f"{guest['size']}M"
    if guest["max"] > guest["boot"]:
        mem = f"{guest['boot']}M,max={guest['max']}M" if guest["size"] == guest["boot"] else f"{guest['max']}M,boot={guest['boot']}M"
    reporting = ["--free-page-reporting=off"] if options.name == "framevisor-silent" else []
    return ["build/framevisor", "run", "--name", "bench", "--mem", mem, "--kernel", options.kernel, "--initrd", options.initrd,
            "--hugepages=require", *reporting]


class Subject:
    """A guest in one of the VMMs, with what is measured of it."""

    def __init__(self, options, directory, guest):
        self.ours = options.name.startswith("framevisor")
        self.rundir = f"{directory}/run"
        self.boot = guest["boot"] * MIB
        self.ready = options.name == "framevisor-ready"
        if self.ready:
            framevisor(directory, "pool", "start", "--hugepages=require", "--size", f"{guest['max'] + 64}M")
        command = ours(options, guest) if self.ours else qemu(options, directory, guest)
        append = f"{APPEND} memhp_default_state=online_movable {options.append} fv.test=lines".replace("  ", " ")
        self.guest = Guest(options, directory, "", [*command, "--append" if self.ours else "-append", append])
        self.guest.wait_for(rb"guest: ready for verbs", 240)
        self.qmp = Qmp(self.guest.qmp_path)

    def pids(self):
        """The VMM, and what works for it: the pool owner."""
        if not self.ours:
            return [self.guest.process.pid]
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    same = f"FRAMEVISOR_RUNDIR={self.rundir}".encode() in file.read().split(b"\0")
                if same and os.readlink(f"/proc/{pid}/exe").rsplit("/", 1)[1].startswith("framevisor"):
                    found.append(int(pid))
            except OSError:
                pass  # it ended just now, or is a kernel thread
        return found

    def cpu(self):
        """(ms on a CPU, ms of them in guest mode) of all threads, also of those that ended: the pool grows in one."""
        total, guest = 0, 0
        for pid in self.pids():
            try:
                total += 1000 * time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)
                with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                    guest += 1000 * int(file.read().rsplit(")", 1)[1].split()[40]) / os.sysconf("SC_CLK_TCK")
            except OSError:
                pass  # the process ended just now
        return total, guest

    def timed(self, action):
        """Runs it. Returns what it took, on the clock and of CPU."""
        before, start = self.cpu(), time.monotonic()
        action()
        elapsed = time.monotonic() - start
        time.sleep(SETTLE_S)
        after = self.cpu()
        guest = after[1] - before[1]
        return {"ms": 1000 * elapsed, "cpu-ms": after[0] - before[0] - guest, "guest-ms": guest}

    def wait(self, get, value, seconds=240):
        start = time.monotonic()
        while (now := get()) != value:
            elapsed = time.monotonic() - start
            if elapsed > seconds:
                return now
            time.sleep(min(max(elapsed / POLL_PART, POLL_MIN_S), POLL_S))
        return now

    def balloon(self, mib):
        """Sets what the guest is to have, below its boot memory, and waits until it has."""
        self.qmp.command("balloon", value=mib * MIB)
        return self.wait(lambda: self.qmp.command("query-balloon")["actual"], mib * MIB)

    def plugged(self):
        return sum(device["data"]["size"] for device in self.qmp.command("query-memory-devices"))

    def plug(self, mib):
        """Sets how much is to be plugged and waits until it is."""
        if self.ours:
            self.qmp.command("balloon", value=self.boot + mib * MIB)
        else:
            self.qmp.command("qom-set", path="/machine/peripheral/mem0", property="requested-size", value=mib * MIB)
        return self.wait(self.plugged, mib * MIB)

    def held(self):
        """Bytes of hugepages that are not free for others: of ours what is not in the pool."""
        if not self.ours:
            return hugetlb(self.guest.process.pid)
        pool = framevisor_json(self.rundir, "pool")
        return pool["held"] * FRAME

    def touched(self):
        """Frames that the guest has touched first, since it started; of ours only."""
        frames = self.memory().get("frames", {})
        return frames.get("faults", 0) + frames.get("faults-around", 0)

    def memory(self):
        return self.qmp.command("query-framevisor-memory") if self.ours else {}

    def end(self):
        self.qmp.socket.close()
        self.guest.end()
        if self.ready:
            framevisor(os.path.dirname(self.rundir), "pool", "stop")


def plain(mem):
    return {"boot": mem, "max": mem, "size": mem}


def measure_balloon(options, directory):
    subject = Subject(options, directory, plain(options.mem))
    half, result = options.mem // 2, {"frames": options.mem // 4}
    touched = options.mem * 2 // 3 // 4 * 4
    subject.guest.verb(f"touch {touched}")
    time.sleep(options.rest)
    result["inflate"] = subject.timed(lambda: subject.balloon(half))
    result["deflate"] = subject.timed(lambda: subject.balloon(options.mem))
    subject.balloon(half)

    def deflate_and_touch():
        subject.balloon(options.mem)
        subject.guest.verb(f"touch {touched}")

    result["deflate-touch"] = subject.timed(deflate_and_touch)
    subject.end()
    return result


def measure_plug(options, directory):
    size = options.mem
    subject = Subject(options, directory, {"boot": options.mem, "max": 2 * size, "size": options.mem})
    result = {"frames": size // 2}
    result["plug"] = subject.timed(lambda: subject.plug(size))
    touched = subject.touched()
    result["unplug-untouched"] = subject.timed(lambda: subject.plug(0))
    result["unplug-untouched"]["touched"] = subject.touched() - touched  # by the guest's own driver
    subject.plug(size)
    subject.guest.verb(f"sh mount -o remount,size={2 * size}m /data")
    subject.guest.verb(f"touch {size * 3 // 2}")
    result["unplug-touched"] = subject.timed(lambda: subject.plug(0))
    result["left"] = subject.plugged()
    subject.end()
    return result


def returned(subject, options, action):
    """What comes back when half of the memory is asked back."""
    before = subject.held()
    result = subject.timed(action)
    after = subject.held()
    asked = options.mem // 2 * MIB
    result |= {"held-before-mib": before / MIB, "held-after-mib": after / MIB, "asked-mib": asked / MIB}
    if subject.ours:
        memory = subject.memory()
        given = memory["balloon"]["frames-released"] * FRAME
        if "virtio-mem" in memory and memory["virtio-mem"]:
            given += options.mem * MIB - subject.boot - memory["virtio-mem"]["plugged"]
        result |= {"given-mib": given / MIB, "partial": memory["balloon"]["frames-partial"], "state": memory["target"]["state"],
                   "rounds": memory["target"]["compact-rounds"], "complete-before": memory["target"]["compact-before"],
                   "held": memory["target"]["compact-after"]}
    else:
        result["given-mib"] = max(before - after, 0) / MIB
    return result


def measure_fresh(options, directory):
    subject = Subject(options, directory, plain(options.mem))
    result = returned(subject, options, lambda: subject.balloon(options.mem // 2))
    subject.end()
    return result


def measure_fragmented(options, directory):
    elastic = options.name.endswith("-elastic")
    boot = max(options.mem // 4, 256)
    guest = {"boot": boot, "max": options.mem, "size": options.mem} if elastic else plain(options.mem)
    subject = Subject(options, directory, guest)
    if elastic:
        subject.wait(subject.plugged, (options.mem - boot) * MIB)
    subject.guest.verb(FRAGMENT)
    time.sleep(options.rest)
    half = options.mem // 2

    def give_back():
        if elastic:
            subject.plug(half - boot)
        else:
            subject.balloon(half)
            if subject.ours:  # it may go on to make more of the pages into frames
                subject.wait(lambda: subject.memory()["target"]["state"], "reached", 60)

    result = returned(subject, options, give_back)
    subject.guest.verb(VERIFY)
    subject.end()
    return result


def main():
    measures = {"balloon": measure_balloon, "plug": measure_plug, "fresh": measure_fresh, "fragmented": measure_fragmented}
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=measures)
    parser.add_argument("name", choices=["framevisor", "framevisor-ready", "framevisor-silent", "framevisor-elastic",
                                         "qemu", "qemu-prealloc", "qemu-reporting", "qemu-elastic"])
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--initrd", required=True)
    parser.add_argument("--mem", type=int, default=512)
    parser.add_argument("--append", default="")
    parser.add_argument("--rest", type=float, default=3.0, help="seconds for the guest to come to rest (free page reporting)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fvbench-") as directory:
        json.dump(measures[options.what](options, directory), sys.stdout)


if __name__ == "__main__":
    main()
