# SPDX-License-Identifier: MIT
"""One target after the other, at random, while the guest writes and checks what it wrote, with reboots in
between: no byte is lost, nothing crashes, and the books balance. FRAMEVISOR_TARGETS=1000 makes it longer: guests
of PART targets each, so that an emulated host that dies costs no more than one of them. FRAMEVISOR_SEED repeats
an order."""
import json
import os
import random
import time

import pytest
from product import FRAME_MIB, kernel_versions

TARGETS = int(os.environ.get("FRAMEVISOR_TARGETS", "0"))
FEW = 8  # without it; half of that on the older kernel
PART, REBOOT_EVERY = 200, 50
# Two writers keep 40 MiB between them; below this there is no room for the kernel and them.
SMALLEST_MIB, LARGEST_MIB = 192, 1024


def many_targets(product, count, seed):
    """So many targets while the guest is busy. Returns how many it reached."""
    result = product.run(f"/usr/bin/python3 tests/integration/many_targets.py {product.rundir} web {count} {seed} "
                         f"{SMALLEST_MIB} {LARGEST_MIB}", timeout=60 + 5 * count)
    assert result.rc == 0 and not result.timed_out, result
    found = json.loads(result.out)
    # With nothing beyond the limit (and the frames that are on their way).
    assert found["held-max"] <= LARGEST_MIB // FRAME_MIB + 64, found
    assert found["smallest-mib"] < found["largest-mib"], found  # something came of them
    print(found, flush=True)
    return found["reached"]


def cases():
    """Kernel, which of its guests, targets, targets between reboots."""
    for kernel in kernel_versions():
        few = FEW if kernel == kernel_versions()[0] else FEW // 2
        if not TARGETS:
            yield pytest.param(kernel, 0, few, FEW // 2, id=kernel)
        for part in range((TARGETS + PART - 1) // PART):
            yield pytest.param(kernel, part, min(PART, TARGETS - part * PART), REBOOT_EVERY, id=f"{kernel}-{part}")


@pytest.mark.parametrize("kernel, part, targets, reboot_every", cases())
def test_random_targets(product, kernel, part, targets, reboot_every):
    seed = int(os.environ.get("FRAMEVISOR_SEED", random.randrange(1 << 32))) + 1000 * part
    vm = product.linux("web", kernel, cpus=2, mem="512M,max=1G")
    vm.wait_until_up()
    written, reached, reboots, start = 0, 0, 0, time.monotonic()
    for done in range(0, targets, reboot_every):
        if done:
            vm.type("reboot")
            vm.wait_until_up()
            reboots += 1
        vm.verb("load 2")
        reached += many_targets(product, min(reboot_every, targets - done), seed + done)
        assert vm.status is None, vm.describe()
        written += int(vm.verb("unload", timeout=180).split()[0])
        product.check_conservation()
    print(f"seed {seed - 1000 * part}: {targets} targets, {reached} of them reached, and {reboots} reboots in {time.monotonic() - start:.0f} s; "
          f"{written} files written and checked", flush=True)
    assert written > targets / 4
    assert "LOST DATA" not in open(vm.log, encoding="utf-8", errors="replace").read()
    product.ok("balloon web 512M --timeout 60", timeout=180)
    memory = product.json("mem web")
    assert memory["frames"]["bound"] + memory["frames"]["stock"] <= LARGEST_MIB // FRAME_MIB, memory
    assert memory["guest"]["stats"].get("stat-oom-kills", 0) == 0, memory
    vm.verb("fill 120", timeout=120)
    vm.verb("verify", timeout=120)
