# SPDX-License-Identifier: MIT
"""A pool of hugepages of 1 GiB, and stock guests on one and two of them."""
import time

import pytest
from product import SLOW
from test_memory_hotplug import room, total_mib

SYSFS = "/sys/kernel/mm/hugepages/hugepages-1048576kB"


def reserved(product):
    """How many of these pages the host has. The test host has them from its boot: later no 1 GiB may be left in one piece."""
    out = product.run(f"cat {SYSFS}/nr_hugepages").out.strip()
    if not out:
        pytest.skip("the kernel has no hugepages of 1 GiB")
    return int(out)


def start_pool(product, gib):
    started = product.framevisor(f"pool start --hugepages=1G --size {gib}G")
    if started.rc and "too fragmented" in started.err:
        pytest.skip(f"{gib} GiB of memory in pieces of 1 GiB are not left in this host")
    assert started.rc == 0, started


def end(product, vm, before):
    """The guest switches itself off, and everything is where it was."""
    vm.type("poweroff")
    assert vm.wait_until_ended() == 0, vm.describe()
    assert product.check_conservation()["held"] == 0
    product.ok("pool stop")
    assert reserved(product) == before


def test_guest_on_a_gigantic_page(product):
    before = reserved(product)
    start_pool(product, 1)
    vm = product.linux("web", cpus=2, mem="1G", extra="--hugepages=1G")
    total, _, _ = vm.wait_until_up()
    assert total > 900 * 1024
    pool = product.check_conservation()
    assert pool["frame-size"] == 1 << 30 and pool["held"] == pool["total"] == 1, pool
    # One mapping of one page is behind all of it.
    smaps = product.run(f"grep -c 'KernelPageSize:  1048576 kB' /proc/{vm.pid}/smaps", check=True).out
    assert int(smaps) >= 1
    vm.verb("fill 160", timeout=120)
    vm.verb("verify", timeout=120)
    # The second does not fit, and a guest of 2 MiB frames gets none of these.
    for options, word in (("--mem 1G --hugepages=1G", "does not fit"), ("--mem 512M", "1 GiB"),
                          ("--mem 1536M --hugepages=1G", "multiple of 1 GiB")):
        result = product.framevisor(f"run --kernel build/guest-tests/touch.elf {options}", timeout=60)
        assert result.rc == 1 and len(result.err.strip().splitlines()) == 1 and word in result.err, result
    # What the balloon takes is less than a frame: nothing comes back, and the command says so.
    out = product.ok("balloon web 700M", timeout=120)
    assert "1 frame partly ballooned" in out, out
    vm.verb("verify", timeout=120)
    end(product, vm, before)


def wait_for_plugged(product, frames):
    """A guest takes its time to empty 1 GiB. Returns what framevisor says of the VM's memory."""
    deadline = time.monotonic() + 60 * SLOW
    while (state := product.json("mem web"))["frames"]["plugged"] != frames:
        assert time.monotonic() < deadline, state
        time.sleep(0.5)
    return state


def test_gigantic_blocks_come_and_go(product):
    """virtio-mem with blocks of 1 GiB in a stock guest: one is plugged, used, and goes again, twice, and the
    guest's data outside of it and moved out of it is what it was."""
    before = reserved(product)
    start_pool(product, 2)
    vm = product.linux("web", cpus=2, mem="1G,max=2G", extra="--hugepages=1G")
    small, _, _ = vm.wait_until_up()
    small //= 1024
    vm.verb("fill 60", timeout=120)
    for once_more in (False, True):
        product.ok("balloon web 2G --timeout 60", timeout=120)
        state = wait_for_plugged(product, 1)
        assert state["virtio-mem"]["plugged"] == 1 << 30, state
        assert total_mib(vm) > small + 1000
        room(vm, 1500)
        if once_more:
            vm.verb("touch 300", timeout=90)
        else:
            vm.hold(1050, timeout=180)  # more than the boot memory: the block is in use
        pool = product.check_conservation()
        assert pool["held"] == 2 and pool["free"] == 0, pool
        vm.verb("verify", timeout=120)
        vm.verb("sh rm -f /data/held")
        product.ok("balloon web 1G --timeout 60", timeout=120)  # a block is empty or not, there is nothing between
        wait_for_plugged(product, 0)
        pool = product.check_conservation()
        assert pool["held"] == 1 and pool["free"] == 1, pool
        assert total_mib(vm) <= small + 1
        vm.verb("verify", timeout=120)
    end(product, vm, before)
