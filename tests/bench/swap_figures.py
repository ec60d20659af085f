#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A guest twice as large as its frames whose program uses its memory by Zipf's law; prints JSON. Runs in
the test host. See tests/bench/run, and guest-tests/linux/zipf.c for what the program does.

  swap_figures.py coldest     the coldest frames are swapped out, as ever
  swap_figures.py random      any frames are
"""
import argparse
import json
import re
import sys
import tempfile
import time

from vm_figures import APPEND, Guest, framevisor, framevisor_json

REPORT = re.compile(rb"guest: report ok (\d+) accesses, (\d+) wrong, (\d+) ms, longest (\d+) us, (\d+) MiB huge")


def report(guest):
    """What the program has done since the last one."""
    guest.verb("report", 300)
    return dict(zip(("accesses", "wrong", "ms", "longest-us", "huge-mib"), map(int, REPORT.findall(guest.text)[-1])))


def counters(directory):
    memory = framevisor_json(f"{directory}/run", "mem", "bench")
    frames, swap = memory["frames"], memory["swap"]
    return {"bound": frames["bound"], "ram": frames["ram"], "in": swap["in"], "out": swap["out"], "ahead": swap["ahead"], "bytes": swap["out-bytes"],
            "errors": swap["errors"], "sampled": frames.get("sampled", 0), "unparked": frames.get("unparked", 0)}


def measure(options, directory):
    framevisor(directory, "pool", "start", "--hugepages=require", "--size", f"{options.mem // 2}M", "--max", f"{options.mem // 2}M")
    framevisor(directory, "pool", "--set", "overcommit_memory=1")
    guest = Guest(options, directory, "", ["build/framevisor", "run", "--name", "bench", "--mem", f"{options.mem}M,min=64M", "--hugepages=require",
                                           "--kernel", options.kernel, "--initrd", options.initrd, "--swap", f"{directory},victims={options.victims}",
                                           "--append", f"{APPEND} fv.test=lines"])
    guest.wait_for(rb"guest: ready for verbs", 240)
    # A piece of the program's memory is to be a frame. The kernel leaves that off in small machines.
    guest.verb("sh echo madvise >/sys/kernel/mm/transparent_hugepage/enabled")
    empty = counters(directory)
    guest.verb(f"start zipf {options.use} {options.exponent} {options.content}", 600)
    time.sleep(options.warm)
    report(guest)
    before = counters(directory)
    time.sleep(options.seconds)
    result, after = report(guest), counters(directory)
    bound = (before["bound"] + after["bound"]) / 2
    result |= {key: after[key] - before[key] for key in ("in", "out", "ahead", "bytes", "sampled", "unparked")}
    # From the first page on: filling the memory swaps half of it out.
    result["all"] = {key: after[key] - empty[key] for key in ("out", "bytes")}
    result |= {"ram": after["ram"], "bound": bound, "errors": after["errors"]}
    begin = time.monotonic()
    guest.end(120)
    result["end-ms"] = round(1000 * (time.monotonic() - begin))
    framevisor(directory, "pool", "stop")
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("victims", choices=["coldest", "random"])
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--initrd", required=True)
    parser.add_argument("--mem", type=int, default=512, help="of the guest, in MiB; its pool is half of it")
    parser.add_argument("--use", type=int, default=384, help="what its program uses of that")
    parser.add_argument("--exponent", type=float, default=0.99)
    parser.add_argument("--content", choices=["zero", "text", "random", "mixed"], default="mixed")
    parser.add_argument("--warm", type=float, default=60)
    parser.add_argument("--seconds", type=float, default=90)
    options = parser.parse_args()
    options.name = "framevisor"
    with tempfile.TemporaryDirectory(prefix="fvbench-") as directory:
        json.dump(measure(options, directory), sys.stdout)


if __name__ == "__main__":
    main()
