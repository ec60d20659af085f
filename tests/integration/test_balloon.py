# SPDX-License-Identifier: MIT
"""Memory that a guest gives up is in the pool again, as frames, and comes back with the guest's data
intact."""
import pytest
from product import FRAME_MIB, KERNELS_AND_CPUS, kernel_versions

RAM_FRAMES = 512 // FRAME_MIB
BACK_FRAMES = 240 // FRAME_MIB
# What a guest still has in complete frames after it has been busy: fragmentation is its own affair.
BACK_FRAMES_USED = 200 // FRAME_MIB


def granted(pool, name):
    """Frames that a VM has ever been given."""
    return next(vm["granted"] for vm in pool["vms"] if vm["name"] == name)


def give_back_fresh(product, vm):
    """Right after boot, at least 240 MiB of the 512 are in the pool's free lists, as the pool counts,
    and stay there while the guest works with what it has."""
    product.ok("balloon web 256M", timeout=90)
    memory = product.json("mem web")["balloon"]
    assert memory["frames-released"] >= BACK_FRAMES, memory
    for _ in range(2):
        pool = product.check_conservation()
        assert pool["held"] <= RAM_FRAMES - BACK_FRAMES, pool
        assert pool["free"] >= pool["total"] - RAM_FRAMES + BACK_FRAMES, pool
        vm.verb("touch 120")
    product.ok("balloon web 512M", timeout=90)


@pytest.mark.parametrize(("kernel", "cpus"), KERNELS_AND_CPUS)
def test_balloon_down_and_up_twice(product, kernel, cpus):
    """512M to 256M and back, fresh, and (on the newest kernel twice) with a guest that has used its memory, so that the frames
    were really under it: they are free again, and the guest's data stays intact."""
    vm = product.linux("web", kernel, cpus)
    vm.wait_until_up()
    give_back_fresh(product, vm)
    vm.verb("fill 64")
    for _ in range(2 if kernel == kernel_versions()[0] else 1):
        vm.verb("touch 340")
        before = product.check_conservation()
        assert before["memory"] == "hugepages"
        assert granted(before, "web") >= 200, before

        product.ok("balloon web 256M", timeout=90)
        after = product.check_conservation()
        memory = product.json("mem web")["balloon"]
        assert memory["actual"] == 256 << 20, memory
        assert memory["frames-released"] >= BACK_FRAMES_USED, memory
        assert after["held"] <= RAM_FRAMES - memory["frames-released"], (memory, after)
        assert after["free"] >= after["total"] - RAM_FRAMES + BACK_FRAMES_USED, after
        vm.verb("verify")

        product.ok("balloon web 512M", timeout=90)
        assert product.json("mem web")["balloon"]["inflated"] == 0
        vm.verb("verify")
    vm.verb("touch 340")
    vm.type("poweroff")
    assert vm.wait_until_ended() == 0, vm.describe()


def test_frames_go_from_one_guest_to_another(product):
    """What one guest gave up serves the next one: in a pool of fixed size nothing else is free."""
    first = product.linux("first", extra="--hugepages=require --pool 1060M")
    first.wait_until_up()
    first.verb("fill 32")
    first.verb("touch 340")
    product.ok("balloon first 256M", timeout=90)
    before = product.check_conservation()
    second = product.linux("second", extra="--hugepages=require")
    second.wait_until_up()
    second.verb("fill 64")
    second.hold(236)
    pool = product.check_conservation()
    held = {vm["name"]: vm["held"] for vm in pool["vms"]}
    assert before["total"] == pool["total"] == 530, pool
    assert held["second"] >= 150 and held["first"] <= RAM_FRAMES - BACK_FRAMES_USED, held
    assert sum(held.values()) == pool["held"]
    product.ok("balloon first 512M", timeout=90)
    for vm in (first, second):
        vm.verb("verify")
        product.ok(f"stop {vm.name}")
        assert vm.wait_until_ended() == 0, vm.describe()


def test_balloon_around_much_data(product):
    """Data in half of the memory that the guest keeps: it stays intact, and so does new data."""
    vm = product.linux("web")
    vm.wait_until_up()
    vm.verb("fill 160")
    product.ok("balloon web 320M", timeout=120)
    vm.verb("verify", timeout=120)
    product.ok("balloon web 512M", timeout=90)
    vm.verb("fill 240", timeout=120)
    vm.verb("verify", timeout=120)


def test_hints(product):
    """What the guest has free comes back when it is asked to hint, while it goes on writing: what it took
    back meanwhile keeps its data."""
    vm = product.linux("web", extra="--hugepages=require --free-page-reporting=off")
    vm.wait_until_up()
    vm.verb("fill 64")
    vm.verb("touch 300")
    before = product.check_conservation()
    assert before["held"] >= 150, before
    vm.verb("load 2")
    report = product.json("mem web --hint", timeout=120)
    assert report["hinted"] >= 200 << 20 and report["frames-back"] >= 75, report
    after = product.check_conservation()
    assert after["held"] <= before["held"] - report["frames-back"] + 60, (before, after, report)
    # Again, with what was free before in use now and the other way round.
    vm.verb("touch 200")
    product.ok("mem web --hint", timeout=120)
    assert int(vm.verb("unload", timeout=120).split()[0]) > 0
    assert "LOST DATA" not in vm.describe()
    vm.verb("verify", timeout=120)
    vm.verb("fill 200", timeout=120)
    vm.verb("verify", timeout=120)


def test_balloon_asks_too_much(product):
    """Each bad request is one clear line and status 1, and changes nothing. A guest that needs its memory
    gives up what it can and lives on, and the user is told."""
    vm = product.linux("web")
    vm.wait_until_up()
    for size in ("0", "1G", "-5M", "lots", "99999999999999G", "''"):
        result = product.framevisor(f"balloon web {size}")
        assert result.rc == 1, result
        assert len(result.err.strip().splitlines()) == 1, result
    assert product.json("mem web")["balloon"]["inflated"] == 0
    vm.verb("fill 48")
    vm.hold(192)
    result = product.framevisor("balloon web 128M --timeout 5", timeout=180)
    assert result.rc == 1 and "on the way to 128 MiB" in result.err, result
    assert vm.verb("echo alive", timeout=120) == "alive"
    vm.verb("verify", timeout=180)
    product.ok("balloon web 512M", timeout=120)
    vm.verb("verify", timeout=120)


def test_deflate_on_oom(product):
    """A guest that runs out of memory takes from the balloon, without being allowed to first: nothing in it is
    killed, and what it took is charged to it."""
    vm = product.linux("web")
    vm.wait_until_up()
    vm.verb("fill 32")
    product.ok("balloon web 200M", timeout=90)
    before = product.json("mem web")
    assert before["balloon"]["actual"] == 200 << 20, before["balloon"]
    vm.hold(240, 90)
    after = product.json("mem web")
    assert after["balloon"]["actual"] >= 280 << 20, after["balloon"]
    assert after["frames"]["bound"] >= before["frames"]["bound"] + 40 // FRAME_MIB, (before["frames"], after["frames"])
    assert after["guest"]["stats"].get("stat-oom-kills", 0) == 0, after["guest"]
    product.check_conservation()
    vm.verb("verify")
    # When the guest needs it no more it is the pool's again.
    vm.verb("drop")
    product.ok("balloon web 200M", timeout=90)
    assert product.json("mem web")["balloon"]["actual"] == 200 << 20
