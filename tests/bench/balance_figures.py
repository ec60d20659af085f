#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Guests that share a pool smaller than what they may have, and a load that moves from one to the next;
prints JSON. Runs in the test host. See tests/bench/run.

  balance_figures.py framevisor   they share the pool, which promises more than it has
  balance_figures.py elastic      the same with --mem ...,elastic=on: the larger part of their memory is hot-plugged
  balance_figures.py fixed        each has an equal part of the pool, and no more
  balance_figures.py qemu         guests of QEMU on as many hugepages: how many of them start
"""
import argparse
import glob
import json
import subprocess
import sys
import tempfile
import threading
import time

from vm_figures import APPEND, Guest, Qmp, framevisor, framevisor_json

MIN_MIB = 128
RESERVE_MIB = 32  # of the pool, for itself: what is divided is the rest
STILL_S = 200  # who works so long at what takes seconds stands still


def ours(options, number, mem):
    return ["build/framevisor", "run", "--name", f"guest{number}", "--mem", mem, "--kernel", options.kernel, "--initrd", options.initrd,
            "--hugepages=require", "--append", f"{APPEND} fv.test=lines"]


def events(directory):
    """How often each kind of event is in the pool's log."""
    counts = {}
    with open(f"{directory}/run/pool.log", encoding="utf-8") as log:
        for line in log:
            if line.startswith("{"):
                name = json.loads(line).get("event", "")
                counts[name] = counts.get(name, 0) + 1
    return counts


class Watch(threading.Thread):
    """Looks all the time at what is left to the VMs, less their tax: the least of it, in MiB."""

    def __init__(self, directory):
        super().__init__(daemon=True)
        self.qmp, self.least, self.over = Qmp(f"{directory}/run/pool-qmp.sock"), None, threading.Event()

    def run(self):
        while not self.over.wait(1):
            left = [2 * (vm["target"] - vm["tax"]) for vm in self.qmp.command("query-vms") if vm.get("target")]
            self.least = min(left + ([] if self.least is None else [self.least]), default=None)


def tell_state(directory):
    """What the pool, its VMs and their threads are at: a guest stands still."""
    state = {"vms": Qmp(f"{directory}/run/pool-qmp.sock").command("query-vms")}
    for path in sorted(glob.glob(f"{directory}/run/vm/*/qmp.sock")):
        state[path.split("/")[-2]] = Qmp(path).command("query-framevisor-memory")
    print(json.dumps(state), file=sys.stderr)
    shell = (f"tail -n 40 {directory}/run/pool.log; for p in $(pgrep -x 'framevisord?'); do for t in /proc/$p/task/*; "
             "do echo $p $(cat $t/comm $t/wchan); done; done")
    subprocess.run(shell, shell=True, check=False, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno())


def work(guest, options, directory):
    """One work of a guest: some seconds. If it takes minutes, what holds it up is to be seen before the guest is ended."""
    watch = threading.Timer(STILL_S, tell_state, [directory])
    watch.daemon = True
    watch.start()
    guest.verb(f"work {options.disk} {options.memory}", 2 * STILL_S)
    watch.cancel()


def share(options, directory):
    """All guests in one pool, each at work in its turn."""
    fixed = options.name == "fixed"
    mem = f"{(options.pool - RESERVE_MIB) // options.guests // 2 * 2}M" if fixed else f"{options.max}M,min={MIN_MIB}M"
    if options.name == "elastic":
        mem += ",elastic=on"
    framevisor(directory, "pool", "start", "--hugepages=require", "--size", f"{options.pool}M", "--max", f"{options.pool}M")
    if not fixed:
        framevisor(directory, "pool", "--set", "overcommit_memory=0")
    guests = []
    for number in range(options.guests):
        guests.append(Guest(options, directory, "", ours(options, number, mem)))
        guests[-1].wait_for(rb"guest: ready for verbs", 400)
    for guest in guests:  # what it reads for the first time is not yet a load that moves
        work(guest, options, directory)
    turns, watch, start = [], Watch(directory), time.monotonic()
    watch.start()
    for _ in range(options.rounds):
        for guest in guests:
            begin = time.monotonic()
            for _ in range(options.repeat):
                work(guest, options, directory)
            turns.append(round(time.monotonic() - begin, 2))
    total = time.monotonic() - start
    watch.over.set()
    watch.join()
    pool = framevisor_json(f"{directory}/run", "pool")
    result = {"seconds": total, "turns": turns, "least-mib": watch.least, "min-mib": 0 if fixed else MIN_MIB, "events": events(directory), "vmstat": framevisor_json(f"{directory}/run", "vmstat"),
              "pressure": framevisor_json(f"{directory}/run", "pressure"),
              "conserved": all(part["free"] + part["cached"] + part["held"] + part["quarantined"] == part["total"] for part in [pool, *pool["nodes"]])}
    for guest in guests:
        guest.end()
    framevisor(directory, "pool", "stop")
    return result


def start_many(options, directory):
    """Guests of QEMU with all that they may have: how many there are hugepages for."""
    guests, why = [], ""
    for number in range(options.guests):
        memory = f"memory-backend-memfd,id=ram,size={options.max}M,hugetlb=on,hugetlbsize=2M"
        command = ["qemu-system-x86_64", "-M", "pc,accel=kvm,memory-backend=ram", "-object", memory, "-cpu", "host", "-m", f"{options.max}M",
                   "-nodefaults", "-no-user-config", "-display", "none", "-kernel", options.kernel, "-initrd", options.initrd,
                   "-serial", f"file:{directory}/serial-{number}"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            process.wait(5)
            why = process.stderr.read().decode(errors="replace").strip()
        except subprocess.TimeoutExpired:
            guests.append(process)
    for process in guests:
        process.kill()
        process.wait()
    return {"started": len(guests), "why-not": why}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=["framevisor", "elastic", "fixed", "qemu"])
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--initrd", required=True)
    parser.add_argument("--pool", type=int, default=2048)
    parser.add_argument("--guests", type=int, default=4)
    parser.add_argument("--max", type=int, default=768)
    parser.add_argument("--disk", type=int, default=320)
    parser.add_argument("--memory", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=2, help="how often a guest works in its turn")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fvbench-") as directory:
        json.dump(start_many(options, directory) if options.name == "qemu" else share(options, directory), sys.stdout)


if __name__ == "__main__":
    main()
