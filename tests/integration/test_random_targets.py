# SPDX-License-Identifier: MIT
"""One target after the other, at random, while the guest writes and checks what it wrote, with reboots in
between: no byte is lost, nothing crashes, and the books balance. FRAMEVISOR_TARGETS=1000 makes it longer,
FRAMEVISOR_SEED repeats an order."""
import os
import random

import pytest
from product import FRAME_MIB, kernel_versions

TARGETS = int(os.environ.get("FRAMEVISOR_TARGETS", "0"))
FEW = 4  # without it; half of that on the older kernel
# Two writers keep 40 MiB between them; below this there is no room for the kernel and them.
SMALLEST_MIB, LARGEST_MIB = 192, 1024


def one_target(product, vm, dice):
    size = dice.randrange(SMALLEST_MIB, LARGEST_MIB + 1, 2)
    # Three of four are waited for; the next one overtakes the others.
    if dice.random() < 0.25:
        product.ok(f"balloon web {size}M --no-wait")
    else:
        result = product.framevisor(f"balloon web {size}M --timeout 10", timeout=90)
        # A guest that needs its memory is a good reason to stop short.
        assert result.rc in (0, 1) and not result.timed_out, result
        assert result.rc == 0 or "on the way to" in result.err, result
    product.check_conservation()
    assert vm.status is None, vm.describe()


@pytest.mark.parametrize("kernel", kernel_versions())
def test_random_targets(product, kernel):
    seed = int(os.environ.get("FRAMEVISOR_SEED", random.randrange(1 << 32)))
    print(f"FRAMEVISOR_SEED={seed}")
    dice = random.Random(seed)
    vm = product.linux("web", kernel, cpus=2, mem="512M,max=1G")
    vm.wait_until_up()
    written = 0
    targets = TARGETS or (FEW if kernel == kernel_versions()[0] else FEW // 2)
    reboot_every = 50 if targets >= 100 else FEW // 2
    for done in range(targets):
        if done % reboot_every == 0:
            if done:
                written += int(vm.verb("unload", timeout=180).split()[0])
                vm.type("reboot")
                vm.wait_until_up()
            vm.verb("load 2")
        one_target(product, vm, dice)
    written += int(vm.verb("unload", timeout=180).split()[0])
    assert written > targets / 2
    assert "LOST DATA" not in open(vm.log, encoding="utf-8", errors="replace").read()
    product.ok("balloon web 512M --timeout 60", timeout=180)
    memory = product.json("mem web")
    assert memory["frames"]["bound"] + memory["frames"]["stock"] <= LARGEST_MIB // FRAME_MIB, memory
    assert memory["guest"]["stats"].get("stat-oom-kills", 0) == 0, memory
    vm.verb("fill 120", timeout=120)
    vm.verb("verify", timeout=120)
