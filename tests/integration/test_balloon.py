# SPDX-License-Identifier: MIT
"""Memory that a guest gives up is in the pool again, as frames, and comes back with the guest's data
intact."""
import pytest
from product import FRAME_MIB, kernel_versions

BACK_FRAMES = 240 // FRAME_MIB
RAM_FRAMES = 512 // FRAME_MIB


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("kernel", kernel_versions())
def test_balloon_down_and_up_twice(product, kernel, cpus):
    """512M to 256M and back, twice. The guest has used its memory before, so that the frames that
    come back were really under it."""
    vm = product.linux("web", kernel, cpus)
    vm.wait_until_up()
    vm.verb("fill 64")
    for _ in range(2):
        vm.verb("touch 340")
        before = product.check_conservation()
        assert before["memory"] == "hugepages"
        assert before["held"] >= 200, before

        product.ok("balloon web 256M", timeout=90)
        after = product.check_conservation()
        assert after["free"] - before["free"] >= BACK_FRAMES, (before, after)
        assert after["held"] <= RAM_FRAMES - BACK_FRAMES, after
        memory = product.json("mem web")["balloon"]
        assert memory["actual"] == 256 << 20, memory
        assert memory["frames-released"] >= BACK_FRAMES, memory
        vm.verb("verify")

        product.ok("balloon web 512M", timeout=90)
        assert product.json("mem web")["balloon"]["inflated"] == 0
        vm.verb("verify")
    vm.verb("touch 340")
    vm.verb("verify")
    vm.type("poweroff")
    assert vm.wait_until_ended() == 0, vm.describe()


@pytest.mark.parametrize("kernel", kernel_versions())
def test_balloon_fresh_guest(product, kernel):
    """The same right after boot: at least 240 MiB of the 512 are in the free lists, and stay there."""
    vm = product.linux("web", kernel)
    vm.wait_until_up()
    product.ok("balloon web 256M", timeout=90)
    pool = product.check_conservation()
    assert pool["held"] <= RAM_FRAMES - BACK_FRAMES, pool
    assert pool["total"] - pool["held"] - pool["cached"] >= BACK_FRAMES, pool
    vm.verb("touch 120")
    again = product.check_conservation()
    assert again["held"] <= RAM_FRAMES - BACK_FRAMES, again


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
    second.verb("fill 32")
    second.verb("touch 340")
    pool = product.check_conservation()
    assert {vm["name"] for vm in pool["vms"]} == {"first", "second"}
    assert before["total"] == pool["total"] == 530, pool
    assert pool["held"] > 200 + before["held"], (before, pool)
    assert sum(vm["held"] for vm in pool["vms"]) == pool["held"]
    product.ok("balloon first 512M", timeout=90)
    for vm in (first, second):
        vm.verb("verify")
        product.ok(f"stop {vm.name}")
        assert vm.wait_until_ended() == 0, vm.describe()


def test_balloon_around_much_data(product):
    """Data in two thirds of the memory that the guest keeps: it stays intact, whatever came back."""
    vm = product.linux("web")
    vm.wait_until_up()
    vm.verb("fill 160")
    product.ok("balloon web 256M", timeout=120)
    vm.verb("verify", timeout=120)
    product.ok("balloon web 512M", timeout=90)
    vm.verb("fill 320", timeout=120)
    vm.verb("verify", timeout=120)


def test_balloon_bad_requests(product):
    """Each is one clear line and status 1, and changes nothing."""
    vm = product.linux("web")
    vm.wait_until_up()
    for size in ("0", "1G", "-5M", "lots", "99999999999999G", "''"):
        result = product.framevisor(f"balloon web {size}")
        assert result.rc == 1, result
        assert len(result.err.strip().splitlines()) == 1, result
    assert product.json("mem web")["balloon"]["inflated"] == 0
    assert vm.verb("echo alive") == "alive"
