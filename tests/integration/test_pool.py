# SPDX-License-Identifier: MIT
"""The pool and its owner: who has which frame when processes come, go and are killed."""
import json
import time

import pytest

HELPER = "/usr/bin/python3 tests/integration/kill_and_watch.py"


def test_two_vms_share_the_pool(product):
    """Two VMs at once, with frames of their own; what one writes the other never sees."""
    vms = [product.linux(name, cpus=cpus, mem="384M") for name, cpus in (("one", 1), ("two", 2))]
    for vm in vms:
        vm.wait_until_up(150)
    for vm in vms:
        vm.verb("fill 64")
    pool = product.check_conservation()
    assert {vm["name"]: vm["ram"] for vm in pool["vms"]} == {"one": 192, "two": 192}
    assert all(vm["held"] >= 32 for vm in pool["vms"]), pool["vms"]
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
    victim.hold(300)
    result = product.run(f"{HELPER} {victim.pid} {product.rundir}/pool-qmp.sock victim", timeout=30)
    assert result.rc == 0, result
    seen = json.loads(result.out)
    assert seen["held"] >= 150, seen
    assert seen["gone"] and seen["seconds"] < 10, seen
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


def wait_for_owner(product, wanted):
    """Waits until a pool owner runs (wanted) or none does. Returns its PID, or None."""
    deadline = time.monotonic() + 120
    while True:
        owner = next((line.split()[0] for line in product.processes() if "framevisord" in line), None)
        if bool(owner) == wanted:
            return owner
        assert time.monotonic() < deadline, product.processes()
        time.sleep(0.5)


def limits_of(product, name):
    """What a VM is guaranteed, may have at most, and weighs."""
    vm = next(vm for vm in product.pool()["vms"] if vm["name"] == name)
    return {word: vm[word] for word in ("min", "max", "shares", "oom-score-adj")}


@pytest.mark.parametrize("how", ["killed", "upgraded"])
def test_owner_goes_under_a_running_vm(product, how):
    """kill -9 of the pool owner must not stop a VM at work: it keeps the frames it has, and the next owner takes
    them over with the rest of the pool, and what was set. So it does from one that was told to end."""
    vm = product.linux("web", mem="256M")
    vm.wait_until_up()
    for setting in ("oom_policy=kill", "overcommit_memory=0", "lowmem_reserve_ratio=64,16", "lowmem_reserve_ratio=32"):
        product.ok(f"pool --set {setting}")
    product.ok("set web --min 64M --shares 500")
    settings = product.json("pool settings")
    limits = limits_of(product, "web")
    assert settings["oom_policy"] == "kill" and settings["lowmem_reserve_ratio"][:2] == [32, 16], settings
    vm.verb("fill 64")
    vm.verb("load 2")
    owner = wait_for_owner(product, True)
    if how == "killed":
        product.run(f"kill -9 {owner}", check=True)
    else:
        assert product.framevisor("pool stop").rc != 0
        product.ok("pool stop --force")
    vm.verb("verify")
    assert vm.verb("echo alive") == "alive"
    deadline = time.monotonic() + 120
    while True:  # the next owner answers, and the VM is its client
        asked = product.framevisor("pool --json")
        if asked.rc == 0 and json.loads(asked.out)["vms"]:
            break
        assert time.monotonic() < deadline, asked
        time.sleep(0.5)
    assert wait_for_owner(product, True) != owner
    assert product.check_conservation()["held"] >= 32
    assert product.json("pool settings") == settings
    assert limits_of(product, "web") == limits
    vm.verb("verify")
    assert int(vm.verb("unload").split()[0]) > 0
    assert "LOST DATA" not in vm.describe()
    vm.type("poweroff")
    assert vm.wait_until_ended() == 0, vm.describe()
    wait_for_owner(product, False)


def test_grow_and_shrink(product):
    """pool grow and shrink over two nodes: each node of the host has exactly as many hugepages more or
    fewer, ZONE_MOVABLE goes first, and a refusal says by how much."""
    def reserved():
        paths = "/sys/devices/system/node/node[01]/hugepages/hugepages-2048kB/nr_hugepages"
        return [int(word) for word in product.run(f"cat {paths}", check=True).out.split()]

    def nodes(what):
        return [node[what] for node in product.check_conservation()["nodes"]]

    before = reserved()
    product.ok("pool start --size 256M --max 512M --movable 50% --hugepages=require")
    assert nodes("total") == [64, 64] and nodes("movable") == [32, 32]
    assert [now - then for now, then in zip(reserved(), before)] == [64, 64]
    told = product.json("pool grow 128M")
    assert told["done"] == 64 and told["hugepages"] == 64, told
    assert nodes("total") == [96, 96] and nodes("movable") == [48, 48]
    assert [now - then for now, then in zip(reserved(), before)] == [96, 96]
    told = product.json("pool shrink 32M --node 1")
    assert [node["frames"] for node in told["nodes"]] == [0, 16], told
    assert nodes("total") == [96, 80] and nodes("movable") == [48, 32]
    product.ok("pool shrink 160M")
    assert nodes("movable") == [0, 0] and nodes("total") == [48, 48]
    assert sum(reserved()) - sum(before) == 96
    refused = product.framevisor("pool grow 512M")
    assert refused.rc == 1 and "it can grow by 320 MiB, not by 512 MiB" in refused.err, refused
    refused = product.framevisor("pool shrink 192M")
    assert refused.rc == 1 and "too much" in refused.err, refused
    jobs = [(job["data"]["operation"], job["data"]["state"], job["data"]["done"]) for job in product.events() if job["event"] == "POOL_JOB_CONCLUDED"]
    assert jobs[:3] == [("grow", "concluded", 64), ("shrink", "concluded", 16), ("shrink", "concluded", 80)], jobs
    product.ok("pool stop")
    product.assert_nothing_left()
    assert reserved() == before


def in_buddy_lists(product):
    """Frames on the pool's free lists, by buddyinfo."""
    frames = 0
    for line in product.ok("buddyinfo").splitlines():
        counts = line.partition("zone")[2].split()[1:]
        frames += sum(int(count) << order for order, count in enumerate(counts))
    return frames


def test_reports(product):
    """pool, buddyinfo and zoneinfo agree with each other; both NUMA nodes are there."""
    vm = product.linux("web", mem="256M", extra="--hugepages=require --pool 512M")
    vm.wait_until_up()
    product.ok("pause web")
    pool = product.check_conservation()
    assert pool["total"] == 256, pool
    assert len(pool["nodes"]) == 2, pool["nodes"]
    assert all(node["total"] > 0 for node in pool["nodes"]), pool["nodes"]
    deadline = time.monotonic() + 10
    while (free := in_buddy_lists(product)) != product.pool()["free"]:
        assert time.monotonic() < deadline, (free, product.pool())  # what came before it was stopped is soon done with
    assert "Node 1" in product.ok("zoneinfo")
    assert product.ok("pool").strip()
    caches = {line.split()[0]: line.split()[1:] for line in product.ok("pool slabinfo").splitlines()[2:]}
    assert int(caches["client"][0]) == 5, caches["client"]  # one VM, four in reserve


def test_no_hugepages_to_be_had(product):
    """--hugepages=never runs on ordinary memory; auto falls back to it with one warning."""
    vm = product.linux("web", mem="256M", extra="--hugepages=never")
    vm.wait_until_up()
    assert product.check_conservation()["memory"] == "ordinary"
    assert product.hugepages()["HugePages_Total"] == product.hugepages_before
    vm.verb("fill 32")
    vm.verb("verify")
