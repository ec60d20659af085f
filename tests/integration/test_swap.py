# SPDX-License-Identifier: MIT
"""Guests that use more together than their pool has, and have a swap file each: nobody stops, and nothing is lost."""
import os

from failing_disk import FailingDisk
from test_overcommit import follower, start_pool, status, wait_until
from test_qmp import talk

UNREADABLE = "cannot be read from the swap file"


def swap_files(product, vm):
    """Mode and links of what the VM's process has open in the directory that it swaps to. Where /tmp is a mount of its
    own the name begins there: the process has left all mounts."""
    directory = f"{os.path.basename(product.directory)}/swap/"
    words = f"for fd in /proc/{vm.pid}/fd/*; do readlink $fd | grep -q '/{directory}' && stat -L -c '%a %h' $fd; done"
    return product.run(words).out.split("\n")[:-1]


def test_counting_guests(product_anywhere):
    """Two of 96M in 128M that count in all of it: one count lost would end them."""
    product = product_anywhere
    start_pool(product, "128M", "oom_delay_ms=60000")
    product.run(f"mkdir {product.directory}/swap", check=True)
    vms = [follower(product, name, "96M,min=16M", f"--swap {product.directory}/swap") for name in ("one", "two")]
    for vm in vms:
        vm.wait_for(r"^follower: (\d+) frames, 0 blocks", 60)
    wait_until(lambda: product.json("vmstat")["pswpin"] >= 100, 120, vms[0])
    assert product.json("vmstat")["pswpout"] >= 100
    # Nobody finds what guests had in memory: the file has no name.
    assert product.run(f"ls -A {product.directory}/swap", check=True).out == ""
    for vm in vms:
        assert swap_files(product, vm) == ["600 0"], swap_files(product, vm)
    product.check_conservation()
    for vm in vms:
        vm.type("q")
        vm.wait_for(r"^PASS follower", 120)
        assert vm.wait_until_ended(60) == 0, vm.describe()
    assert product.json("vmstat")["oom_pause"] == 0
    product.check_conservation()
    product.ok("pool stop")


def test_no_room_to_swap_to(product):
    """What both swap to is full: they say so and go on with what they have. When there is room again it is used, and no
    count was lost."""
    start_pool(product, "128M", "oom_delay_ms=600000")
    directory = f"{product.directory}/swap"
    product.run(f"mkdir {directory} && mount -t tmpfs -o size=64k tmpfs {directory}", check=True)
    try:
        vms = [follower(product, name, "96M,min=16M", f"--swap {directory}") for name in ("one", "two")]
        for vm in vms:
            vm.wait_for(r"^follower: (\d+) frames, 0 blocks", 60)
        wait_until(lambda: any("swap file cannot take more" in vm.messages() for vm in vms), 60, vms[0])
        swapped = product.json("vmstat")["pswpout"]
        assert [status(product, name) for name in ("one", "two")] == ["running", "running"]
        product.check_conservation()
        product.run(f"mount -o remount,size=64M {directory}", check=True)
        wait_until(lambda: product.json("vmstat")["pswpout"] >= swapped + 20, 60, vms[0])
        for vm in vms:
            vm.type("q")
            vm.wait_for(r"^PASS follower", 120)
            assert vm.wait_until_ended(60) == 0, vm.describe()
    finally:
        product.run(f"umount -l {directory}")
    product.check_conservation()
    product.ok("pool stop")


def swapping(product, disk):
    """Two of 96M in 128M that swap to a disk and have come to do so."""
    start_pool(product, "128M", "oom_delay_ms=600000")
    vms = [follower(product, name, "96M,min=16M", f"--swap {disk.directory}") for name in ("one", "two")]
    for vm in vms:
        vm.wait_for(r"^follower: (\d+) frames, 0 blocks", 60)
    wait_until(lambda: product.json("vmstat")["pswpin"] >= 30, 120, vms[0])
    return vms


def third_guest(product):
    """A guest beside them that has taken the rest of the pool."""
    third = follower(product, "third", "44M,min=44M")
    third.wait_for(r"^follower: (\d+) frames, 0 blocks", 60)
    wait_until(lambda: product.json("mem third")["frames"]["bound"] >= 10, 60, third)
    return third


def end_guest(vm):
    """Its frames are for those who wait."""
    vm.type("q")
    vm.wait_for(r"^PASS follower", 60)
    assert vm.wait_until_ended(60) == 0, vm.describe()


def finish_counting(product, vms):
    """Both have counted all the time, and nothing was lost."""
    for vm in vms:
        vm.type("q")
        vm.wait_for(r"^PASS follower", 120)
        assert vm.wait_until_ended(60) == 0, vm.describe()
    product.check_conservation()
    product.ok("pool stop")


def test_disk_that_cannot_be_written(product):
    """Writes fail, reads do not: nobody is paused, who gets frames goes on, and when writes work again so does swapping."""
    with FailingDisk(product) as disk:
        vms = swapping(product, disk)
        third = third_guest(product)
        disk.become("no writes")
        wait_until(lambda: all("swap file cannot take more of the guest's memory: Input/output error" in vm.messages() for vm in vms),
                   60, vms[0])
        swapped = product.json("vmstat")
        assert [status(product, name) for name in ("one", "two")] == ["running", "running"]
        assert all(product.json(f"mem {vm.name}")["swap"]["errors"] > 0 for vm in vms)
        product.check_conservation()
        # Whoever gets a frame goes on: what was written before can be read.
        end_guest(third)
        wait_until(lambda: product.json("vmstat")["pswpin"] >= swapped["pswpin"] + 4, 60, vms[0])
        disk.become("good")
        wait_until(lambda: product.json("vmstat")["pswpout"] >= swapped["pswpout"] + 20, 60, vms[0])
        assert not any(UNREADABLE in vm.messages() for vm in vms)
        finish_counting(product, vms)


def test_disk_that_is_gone_for_a_while(product):
    """Reads fail, too: a VM whose guest needs one is paused and says what to do. Resumed too early it is paused again; with the
    disk back it goes on, and no count was lost. Who finds no frame to read into waits for one, since none can be written
    either: there are some when the third ends. While it is there neither has all it needs, so that both have to read."""
    with FailingDisk(product) as disk:
        vms = swapping(product, disk)
        third = third_guest(product)
        disk.become("gone")
        end_guest(third)
        for vm in vms:
            wait_until(lambda vm=vm: f"'framevisor resume {vm.name}' tries again" in vm.messages(), 60, vm)
            wait_until(lambda vm=vm: status(product, vm.name) == "paused", 10, vm)
            assert UNREADABLE in vm.messages()
        product.check_conservation()
        _, replies, events = talk(product, "one", [{"execute": "qmp_capabilities"}, {"execute": "cont"}],
                                  events=["RESUME", "FRAMEVISOR_SWAP_UNREADABLE", "STOP"], timeout=60)
        assert replies[1] == {"return": {}}, replies
        assert [event["event"] for event in events if event["event"] in ("RESUME", "STOP")] == ["RESUME", "STOP"], events
        assert status(product, "one") == "paused"
        disk.become("good")
        for vm in vms:
            assert status(product, vm.name) == "paused"
            product.ok(f"resume {vm.name}")
        before = product.json("vmstat")["pswpin"]
        wait_until(lambda: product.json("vmstat")["pswpin"] >= before + 20, 60, vms[0])
        assert [status(product, name) for name in ("one", "two")] == ["running", "running"]
        finish_counting(product, vms)
