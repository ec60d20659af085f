# SPDX-License-Identifier: MIT
"""framevisor migrate: a stock guest that writes to most of its memory all the time moves from one node of the
host to the other and back. No write is lost, and its pages are where the command says, as the kernel of the host
tells it."""
import re
import time

from product import SLOW, kernel_versions
from test_numa import where

import pytest

REPORT = re.compile(r"(\d+) turns, (\d+) writes, (\d+) wrong, longest (\d+) us, (\d+) slow")


def report(vm):
    """(turns over all counters, writes, wrong ones) since the last time."""
    return tuple(map(int, REPORT.search(vm.verb("report")).groups()[:3]))


def see_all_again(vm):
    """Waits until the guest has looked at each counter after now. None of them may be wrong."""
    report(vm)
    turns, deadline = 0, time.monotonic() + 60 * SLOW
    while turns < 2:  # the first one may have begun before
        time.sleep(0.5)
        more, _, wrong = report(vm)
        assert wrong == 0, vm.describe()
        turns += more
        assert time.monotonic() < deadline, vm.describe()


@pytest.mark.parametrize("kernel", kernel_versions()[:1])
def test_guest_that_writes_moves(product, kernel):
    # Both nodes of the host have room for all of it.
    product.ok("pool start --hugepages=require --size 1200M", timeout=120)
    vm = product.linux("web", kernel, cpus=2, mem="384M", extra="--hugepages=require --free-page-reporting=off")
    vm.wait_until_up()
    vm.verb("start counters 200 2")
    see_all_again(vm)
    for node in (1, 0, 1):
        report(vm)
        moved = product.json(f"migrate web --guest-node 0 --host-node {node}", timeout=120)
        _, writes, wrong = report(vm)
        assert wrong == 0 and writes > 0, (moved, writes, wrong)
        assert moved["moved"] == moved["total"] and moved["error"] == 0, moved
        # What was there already did not move: only the first of the moves may find anything.
        assert moved["moved"] >= 100 or node == 1, moved
        (found,) = where(product, vm)
        assert set(found) <= {str(node), "absent"} and found[str(node)] >= 100, found
        product.check_conservation()
    see_all_again(vm)
    vm.verb("finish")
    vm.verb("fill 60", timeout=60)
    vm.verb("verify", timeout=60)
    vm.type("poweroff")
    assert vm.wait_until_ended() == 0, vm.describe()
    assert product.check_conservation()["held"] == 0
    product.ok("pool stop")
