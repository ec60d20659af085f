#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""One target after the other, at random, for a VM that runs; after each the pool's books have to balance.

  many_targets.py RUNDIR NAME COUNT SEED SMALLEST-MIB LARGEST-MIB

Runs beside the processes, on open connections: starting programs for it would take more of an
emulated machine than the targets do. A target stays for up to a second and a half, half of them until it is
reached, if it is before. Prints JSON: how many were set and reached, the least and the most memory that the
guest had after one, and the most frames that the VM held.
"""
import json
import random
import sys
import time

from kill_and_watch import Qmp

MIB = 1 << 20
LONGEST_S = 1.5
POLL_S = 0.1
ANSWER_S = 120  # a VM answers when the pool has grown for it, and that is slow on a busy emulated machine


def check_pool(pool):
    """The owner's own check, and free + cached + held + quarantined = total as we count. Returns frames held."""
    verdict = pool.command("x-validate")
    if not verdict["ok"]:
        sys.exit(f"the pool's books do not balance: {verdict['message']}")
    state = pool.command("query-pool")
    for part in [state, *state["nodes"]]:
        if part["free"] + part["cached"] + part["held"] + part["quarantined"] != part["total"] or part["quarantined"]:
            sys.exit(f"the pool's frames are not all there: {part}")
    return state["held"]


def wait(vm, size, seconds, leave_early):
    """Lets the target stay. Returns what the guest has then."""
    deadline = time.monotonic() + seconds
    while True:
        actual = vm.command("query-balloon")["actual"]
        left = deadline - time.monotonic()
        if left <= 0 or (actual == size and leave_early):
            return actual
        time.sleep(min(POLL_S, left))


def main():
    rundir, name = sys.argv[1:3]
    count, seed, smallest, largest = map(int, sys.argv[3:7])
    dice = random.Random(seed)
    vm, pool = Qmp(f"{rundir}/vm/{name}/qmp.sock"), Qmp(f"{rundir}/pool-qmp.sock")
    vm.socket.settimeout(ANSWER_S)
    pool.socket.settimeout(ANSWER_S)
    reached, held, had = 0, [], []
    for _ in range(count):
        size = dice.randrange(smallest, largest + 1, 2) * MIB
        vm.command("balloon", value=size)
        had.append(wait(vm, size, dice.uniform(0, LONGEST_S), dice.random() < 0.5))
        reached += had[-1] == size
        held.append(check_pool(pool))
    json.dump({"targets": count, "reached": reached, "smallest-mib": min(had) // MIB, "largest-mib": max(had) // MIB,
               "held-max": max(held)}, sys.stdout)


main()
