# SPDX-License-Identifier: MIT
"""A guest that uses more memory than it may have is paused, and its user can see why."""
import time

from test_qmp import talk

OPTIONS = "--cpus 2 --mem 66M,boot=64M,max=192M --kernel build/guest-tests/over-limit.elf"


def status(product, name):
    """What ps says of a VM; of one that is not there yet, nothing."""
    vms = [vm for vm in product.json("ps") if vm["name"] == name]
    return vms[0] if vms else {"status": "absent"}


def start_greedy(product):
    """Starts the guest and waits until it went too far."""
    vm = product.start("greedy", OPTIONS)
    deadline = time.monotonic() + 90
    while status(product, "greedy")["status"] != "paused":
        assert time.monotonic() < deadline and vm.status is None, vm.describe()
        time.sleep(0.2)
    return vm


def test_paused_beyond_the_limit(product_anywhere):
    """Paused with a reason when it goes too far, goes on by QMP cont, and is answered when it has given
    up a frame."""
    product = product_anywhere
    vm = start_greedy(product)
    state = status(product, "greedy")
    assert state["waits-for-memory"] and state["frames"]["over-limit"] == 1, state
    assert state["frames"]["bound"] == 33, state
    assert "paused (memory)" in product.ok("ps"), product.ok("ps")
    # A user's own stop stays a stop.
    _, replies, _ = talk(product, "greedy", [{"execute": "qmp_capabilities"}, {"execute": "stop"}, {"execute": "query-status"}])
    state = replies[2]["return"]
    assert state["status"] == "paused" and not state["framevisor-waits-for-memory"], replies
    talk(product, "greedy", [{"execute": "qmp_capabilities"}, {"execute": "cont"}])
    vm.wait_for(r"^over-limit: waiting", 90)
    assert status(product, "greedy")["status"] == "running"
    vm.type("go on")
    vm.wait_for(r"^PASS over-limit", 90)
    assert vm.wait_until_ended(30) == 0, vm.describe()


def test_paused_guest_can_be_ended(product_anywhere):
    """With its vCPU blocked in the kernel, a VM still stops and leaves nothing."""
    vm = start_greedy(product_anywhere)
    talk(product_anywhere, "greedy", [{"execute": "qmp_capabilities"}, {"execute": "quit"}])
    assert vm.wait_until_ended(60) == 0, vm.describe()
