# SPDX-License-Identifier: MIT
"""Guests that use more together than their pool has, and have a swap file each: nobody stops, and nothing is lost."""
import os

from test_overcommit import follower, start_pool, status, wait_until


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
