# SPDX-License-Identifier: MIT
"""The pool and its owner: who has which frame when processes come, go and are killed."""
import json
import time

HELPER = "/usr/bin/python3 tests/integration/kill_and_watch.py"


def test_two_vms_share_the_pool(product):
    """Two VMs at once, with frames of their own; what one writes the other never sees."""
    vms = [product.linux(name, cpus=cpus, mem="384M") for name, cpus in (("one", 1), ("two", 2))]
    for vm in vms:
        vm.wait_until_up(150)
    for vm in vms:
        vm.verb("fill 128")
    pool = product.check_conservation()
    assert {vm["name"]: vm["ram"] for vm in pool["vms"]} == {"one": 192, "two": 192}
    assert all(vm["held"] >= 64 for vm in pool["vms"]), pool["vms"]
    assert sum(vm["held"] for vm in pool["vms"]) == pool["held"]
    for vm in vms:
        vm.verb("verify")
    product.ok("kill one")
    pool = product.check_conservation()
    assert [vm["name"] for vm in pool["vms"]] == ["two"]
    vms[1].verb("verify")
    vms[1].type("poweroff")
    assert vms[1].wait_until_ended() == 0, vms[1].describe()


def test_killed_vmm_gives_its_frames_back(product):
    """kill -9 of a VMM: within a second the pool has all of its frames again."""
    stays = product.linux("stays", mem="128M")
    victim = product.linux("victim")
    for vm in (stays, victim):
        vm.wait_until_up(150)
    victim.verb("fill 300", timeout=120)
    result = product.run(f"{HELPER} {victim.pid} {product.rundir}/pool-qmp.sock victim", timeout=30)
    assert result.rc == 0, result
    seen = json.loads(result.out)
    assert seen["held"] >= 150, seen
    assert seen["gone"] and seen["seconds"] < 1, seen
    assert victim.wait_until_ended(5) == 137
    assert [vm["name"] for vm in product.json("ps")] == ["stays"]
    # Its name is free again, and its frames are clean.
    again = product.linux("victim")
    again.wait_until_up()
    assert stays.verb("echo alive") == "alive"


def test_owner_killed_while_no_vm_runs(product):
    """kill -9 of an idle pool owner: the next VM starts a new one, and no hugepage stays reserved."""
    before = product.hugepages()["HugePages_Total"]
    product.ok("pool start --size 256M --hugepages=require")
    pool = product.check_conservation()
    assert pool["total"] == 128 and pool["held"] == 0, pool
    owner = [line for line in product.processes() if "framevisord" in line]
    assert len(owner) == 1, owner
    product.run(f"kill -9 {owner[0].split()[0]}", check=True)
    time.sleep(0.5)
    assert product.framevisor("pool").rc == 1
    vm = product.linux("web", mem="256M")
    vm.wait_until_up()
    product.check_conservation()
    vm.type("poweroff")
    assert vm.wait_until_ended() == 0, vm.describe()
    product.assert_nothing_left()
    assert product.hugepages()["HugePages_Total"] == before


def test_owner_killed_under_a_running_vm(product):
    """kill -9 of the pool owner must not stop a VM: it keeps the frames it has."""
    vm = product.linux("web", mem="256M")
    vm.wait_until_up()
    vm.verb("fill 64")
    owner = [line for line in product.processes() if "framevisord" in line]
    product.run(f"kill -9 {owner[0].split()[0]}", check=True)
    vm.verb("verify")
    assert vm.verb("echo alive") == "alive"
    vm.type("poweroff")
    assert vm.wait_until_ended() == 0, vm.describe()
    # The next pool owner gives back what the dead one had reserved.
    product.ok("pool start --size 64M --hugepages=require")
    product.check_conservation()
    product.ok("pool stop")


def test_reports(product):
    """pool, buddyinfo and zoneinfo agree with each other; both NUMA nodes are there."""
    vm = product.linux("web", mem="256M", extra="--hugepages=require --pool 512M")
    vm.wait_until_up()
    pool = product.check_conservation()
    assert pool["total"] == 256, pool
    assert len(pool["nodes"]) == 2, pool["nodes"]
    assert all(node["total"] > 0 for node in pool["nodes"]), pool["nodes"]
    free = 0
    for line in product.ok("buddyinfo").splitlines():
        counts = line.partition("zone")[2].split()[1:]
        free += sum(int(count) << order for order, count in enumerate(counts))
    assert abs(free - pool["free"]) <= 16, (free, pool)  # a running guest may take frames in between
    assert "Node 1" in product.ok("zoneinfo")
    assert product.ok("pool").strip()


def test_no_hugepages_to_be_had(product):
    """--hugepages=never runs on ordinary memory; auto falls back to it with one warning."""
    vm = product.linux("web", mem="256M", extra="--hugepages=never")
    vm.wait_until_up()
    assert product.check_conservation()["memory"] == "ordinary"
    assert product.hugepages()["HugePages_Total"] == product.hugepages_before
    vm.verb("fill 32")
    vm.verb("verify")
