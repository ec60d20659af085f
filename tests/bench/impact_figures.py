#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What a guest's own work loses while its memory shrinks and grows, in framevisor or QEMU; prints JSON.
Runs in the test host, beside what it measures. See tests/bench/run.

  impact_figures.py balloon NAME    half of the memory goes and comes, by the balloon
  impact_figures.py elastic NAME    the same by virtio-mem, behind which that half is
  impact_figures.py move NAME       the guest writes all over its memory while that moves to the other
                                    node of the host, there and back (framevisor alone)

The first two print the rates of the slices in which the guest copies memory and computes
(guest-tests/linux/rates.c), undisturbed and while the target changes; the third what
guest-tests/linux/counters.c prints.
"""
import argparse
import json
import re
import sys
import tempfile
import time

from memory_figures import Subject, plain
from vm_figures import framevisor, framevisor_json

COPY_MIB, SLICE_MS = 64, 30
SETTLE_S = 3
# The target stays for so long, or until it is reached: whoever is faster has the rest of it as a rest.
HALF_PERIOD_S = 3
# No more rounds after so long: on a busy machine a target takes its time.
LONGEST_S = 150
REPORT = r"guest: report ok (.*)\n"


def report(subject):
    """What the program in the guest has to say since the last time."""
    seen = len(subject.guest.text)
    subject.guest.verb("report", 120)
    return subject.guest.text[seen:].decode(errors="replace").replace("\r", "")


def rates(subject):
    """{loop: rates of its slices} since the last time."""
    found = {"copy": [], "work": []}
    for loop, values in re.findall(r"^guest: rates (\w+) ([\d ]+)$", report(subject), re.MULTILINE):
        found[loop] += map(int, values.split())
    return found


def add(sums, found):
    for loop, values in found.items():
        sums[loop] += values


def change(subject, elastic, wanted, boot):
    """Sets what the guest is to have. Returns whether it came to have it."""
    if elastic:
        return subject.plug(wanted - boot) == (wanted - boot) << 20
    return subject.balloon(wanted) == wanted << 20


def measure_rates(options, directory):
    half = options.mem // 2
    elastic = options.what == "elastic"
    subject = Subject(options, directory, {"boot": half, "max": options.mem, "size": options.mem} if elastic else plain(options.mem))
    if elastic:
        subject.wait(subject.plugged, half << 20)
    # What was never touched costs nobody anything.
    subject.guest.verb(f"touch {options.mem * 5 // 8}")
    subject.guest.verb(f"start rates {COPY_MIB} {SLICE_MS}")
    time.sleep(SETTLE_S)
    result = {"undisturbed": {"copy": [], "work": []}, "disturbed": {"copy": [], "work": []}, "change-ms": [], "missed": 0}
    # In turns: what else the machine does meets both alike.
    begin = time.monotonic()
    for done in range(options.rounds):
        if done and time.monotonic() - begin > LONGEST_S:
            break
        report(subject)
        time.sleep(options.seconds)
        add(result["undisturbed"], rates(subject))
        for wanted in (half, options.mem):
            start = time.monotonic()
            result["missed"] += not change(subject, elastic, wanted, half)
            elapsed = time.monotonic() - start
            result["change-ms"].append(1000 * elapsed)
            time.sleep(max(HALF_PERIOD_S - elapsed, 0))
        add(result["disturbed"], rates(subject))
    subject.end()
    return result


def count(subject):
    """What the counters in the guest have seen since the last time."""
    found = re.search(r"(\d+) turns, (\d+) writes, (\d+) wrong, longest (\d+) us, (\d+) slow", report(subject))
    return dict(zip(("turns", "writes", "wrong", "longest-us", "slow"), map(int, found.groups())))


def on_node(subject):
    """{node of the host: frames}."""
    (node,) = framevisor_json(subject.rundir, "mem", "bench")["nodes"]
    return {host["node"]: host["frames"] for host in node["host"]}


def measure_move(options, directory):
    # Room for all of it on either node, which are the host's to give.
    framevisor(directory, "pool", "start", "--hugepages=require", "--size", f"{2 * options.mem + 256}M")
    subject = Subject(options, directory, plain(options.mem))
    subject.guest.verb(f"start counters {options.mem * 3 // 4} 1")
    time.sleep(SETTLE_S)
    report(subject)
    time.sleep(options.seconds)
    result = {"mem-mib": options.mem, "undisturbed": count(subject), "moves": []}
    for node in [1, 0] * options.rounds:
        start = time.monotonic()
        framevisor_json(subject.rundir, "migrate", "bench", "--guest-node", "0", "--host-node", str(node))
        elapsed = time.monotonic() - start
        frames = on_node(subject)
        result["moves"].append({"ms": 1000 * elapsed, "frames": frames.get(node, 0), "elsewhere": sum(frames.values()) - frames.get(node, 0),
                                **count(subject)})
    time.sleep(SETTLE_S)  # all over once more: what was lost in the last move shows now
    result["after"] = count(subject)
    subject.end()
    framevisor(directory, "pool", "stop")
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["balloon", "elastic", "move"])
    parser.add_argument("name", choices=["framevisor", "framevisor-silent", "qemu", "qemu-reporting"])
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--initrd", required=True)
    parser.add_argument("--mem", type=int, required=True)
    parser.add_argument("--append", default="")
    parser.add_argument("--rounds", type=int, default=8, help="how many times it shrinks and grows, or moves there and back")
    parser.add_argument("--seconds", type=float, default=6, help="undisturbed, each time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fvbench-") as directory:
        json.dump((measure_move if options.what == "move" else measure_rates)(options, directory), sys.stdout)


if __name__ == "__main__":
    main()
