# SPDX-License-Identifier: MIT
"""Guests with NUMA nodes: what they see, and that each node's frames come from the node of the host that
was asked for, at boot and when memory is plugged. The kernel of the host is asked where the pages are."""
import json

from product import FRAME_MIB
from test_memory_hotplug import wait_for_stand_in

MIB = 1 << 20


def where(product, vm):
    """Frames of the VM's process by host node, as the kernel says, one dict per range of guest memory."""
    ranges = product.json(f"mem {vm.name}")["ranges"]
    words = " ".join(f"{r['address']} {r['size']}" for r in ranges)
    out = product.run(f"python3 tests/integration/where_pages.py {vm.pid} {words}", check=True).out
    return [json.loads(line) for line in out.splitlines()]


def frames_by_node(product, name):
    """{guest node: {host node: frames}}, as framevisor says."""
    nodes = product.json(f"mem {name}")["nodes"]
    return {node["node"]: {host["node"]: host["frames"] for host in node["host"]} for node in nodes}


def node_mib(vm, node):
    """MemTotal of one of the guest's nodes."""
    vm.type(f"sh echo node: $(grep MemTotal /sys/devices/system/node/node{node}/meminfo)")
    return int(vm.wait_for(r"^node: Node \d+ MemTotal: +(\d+) kB$", 30)[1]) // 1024


def use(vm, node, mib):
    """Fills memory of that guest node."""
    vm.verb(f"sh mkdir -p /n{node} && mount -t tmpfs -o size={mib + 8}m,mpol=bind:{node} tmpfs /n{node} && "
            f"dd if=/dev/zero of=/n{node}/file bs=1M count={mib} 2>/dev/null", timeout=120)


def test_guest_nodes_from_host_nodes(product):
    """Guest node 0 from host node 1 and the other way round, so that nothing comes right by itself."""
    vm = product.linux("web", cpus=2, mem="512M,max=1G",
                       extra="--hugepages=require --numa node=0,host-node=1 --numa node=1,host-node=0,policy=bind "
                             "--numa-dist 0:1=33")
    vm.wait_until_up()
    vm.type("sh echo nodes: $(cat /sys/devices/system/node/online) $(cat /sys/devices/system/node/node*/distance) "
            "$(cat /sys/devices/system/node/node1/cpulist)")
    assert vm.wait_for(r"^nodes: (.*)$", 30)[1] == "0-1 10 33 33 10 1"
    small = node_mib(vm, 0), node_mib(vm, 1)
    assert 150 < small[0] <= 256 and 150 < small[1] <= 256, small

    for node in (0, 1):
        use(vm, node, 100)
    product.ok("balloon web 1G", timeout=120)
    assert node_mib(vm, 0) > small[0] + 240
    assert node_mib(vm, 1) > small[1] + 240
    for node in (0, 1):
        vm.verb(f"sh mount -o remount,size=400m,mpol=bind:{node} /n{node} && dd if=/dev/zero of=/n{node}/more bs=1M count=200 2>/dev/null",
                timeout=120)

    # Boot memory of node 0 and 1, then what was plugged there.
    found = where(product, vm)
    assert len(found) == 4, found
    for i, host in enumerate("1010"):
        assert found[i].get(host, 0) > 0, found
        assert set(found[i]) <= {host, "absent"}, found
    told = frames_by_node(product, "web")
    # The guest goes on between the two looks, so only their nodes are the same to the frame.
    assert told.keys() == {0, 1} and told[0].keys() == {1} and told[1].keys() == {0}, (told, found)
    assert min(told[0][1], told[1][0]) >= 100, (told, found)
    text = product.ok("mem web")
    assert "guest node 0" in text and "in host node 1" in text, text
    product.check_conservation()

    # Half of each goes again; what is left is still where it belongs. A block in which the guest has put
    # what cannot move stays, and the balloon stands in for it.
    vm.verb("sh rm /n0/more /n1/more")
    product.ok("balloon web 512M", timeout=120)
    _, plugged = wait_for_stand_in(product, 128)
    found = where(product, vm)
    for i, host in enumerate("1010"):
        assert set(found[i]) <= {host, "absent"}, found
    assert sum(range_found["absent"] for range_found in found[2:]) >= 256 - plugged, found


def test_policies_and_refusals(product):
    """Interleaved and preferred memory, and one clear line for what cannot be."""
    vm = product.linux("web", mem="256M", extra="--hugepages=require --prealloc --free-page-reporting=off "
                                                "--numa node=0,host-node=0-1,policy=interleave")
    vm.wait_until_up()
    (found,) = where(product, vm)
    # In turn, but the pool may be short of one node for a moment: it grows in steps.
    assert found.keys() == {"0", "1"} and min(found.values()) >= 56, found
    other = product.linux("other", mem="256M", extra="--hugepages=require --prealloc --free-page-reporting=off "
                                                     "--numa node=0,host-node=1,policy=preferred")
    other.wait_until_up()
    (found,) = where(product, other)
    assert found == {"1": 256 // FRAME_MIB}, found
    product.check_conservation()
    for options, word in (("--numa node=0,host-node=5", "no node 5"),
                          ("--cpus 2 --numa node=0,cpus=0-1 --numa node=1,cpus=1", "CPU 1"),
                          ("--mem 512M --numa node=0,mem=128M --numa node=1,mem=128M", "256 MiB"),
                          ("--mem 99G --numa node=0,host-node=1", "99 GiB")):
        result = product.framevisor(f"run --kernel build/guest-tests/touch.elf {options}", timeout=30)
        assert result.rc == 1 and len(result.err.strip().splitlines()) == 1 and word in result.err, result


def test_preferred_node_is_full(product):
    """Memory that would better be on a node comes from another one when the node has no more; bound memory is refused
    then, with how much is missing."""
    product.ok("pool start --size 640M --max 640M --hugepages=require")
    numa = "--hugepages=require --prealloc --free-page-reporting=off --numa node=0,host-node=1,policy="
    first = product.linux("first", mem="256M", extra=f"{numa}bind")
    first.wait_until_up()
    second = product.linux("second", mem="256M", extra=f"{numa}preferred")
    second.wait_until_up()
    (found,) = where(product, first)
    assert found == {"1": 256 // FRAME_MIB}, found
    (found,) = where(product, second)
    assert found.keys() == {"0", "1"} and sum(found.values()) == 256 // FRAME_MIB, found
    # All of the node but its reserve is in use.
    free = {node["node"]: node["free"] + node["cached"] for node in product.check_conservation()["nodes"]}
    assert free[1] <= 16 <= free[0], (free, found)
    refused = product.framevisor("run --kernel build/guest-tests/touch.elf --mem 64M --numa node=0,host-node=1,policy=bind", timeout=30)
    assert refused.rc == 1 and len(refused.err.strip().splitlines()) == 1 and "node 1" in refused.err, refused
    for vm in (first, second):
        product.ok(f"kill {vm.name}")
        vm.wait_until_ended()
    product.ok("pool stop")
