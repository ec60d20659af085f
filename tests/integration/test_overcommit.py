# SPDX-License-Identifier: MIT
"""VMs that were promised more memory together than their pool has."""
import time

from product import SLOW


def start_pool(product, size, *settings, hugepages="never"):
    product.ok(f"pool start --size {size} --max {size} --hugepages={hugepages}")
    for setting in ("overcommit_memory=0", *settings):
        product.ok(f"pool --set {setting}")


def follower(product, name, mem, extra=""):
    """A guest that counts in all of its memory, and finds it when a count was lost."""
    return product.start(name, f"--cpus 1 --mem {mem} --kernel build/guest-tests/follower.elf {extra}")


def status(product, name):
    """What ps says of a VM; of one that is not there yet, nothing."""
    vms = [vm for vm in product.json("ps") if vm["name"] == name]
    return vms[0]["status"] if vms else "absent"


def wait_until(what, seconds, vm):
    deadline = time.monotonic() + seconds * SLOW
    while not what():
        assert time.monotonic() < deadline and vm.status is None, vm.describe()
        time.sleep(0.2)


def events(product, name):
    """Events of that name in the pool's log."""
    return [event for event in product.events() if event["event"] == name]


def test_oom_pauses_who_waits(product_anywhere):
    """The one that the OOM policy stops is as a rule one that waits for a frame just then. It is
    paused all the same, takes nothing of what others give up, and goes on when there is enough."""
    product = product_anywhere
    start_pool(product, "96M", "oom_delay_ms=2500")
    modest = follower(product, "modest", "72M,min=16M")
    modest.wait_for(r"^follower: (\d+) frames, 0 blocks", 60)
    wait_until(lambda: product.json("ps")[0]["frames"]["bound"] >= 24, 60, modest)
    greedy = follower(product, "greedy", "88M,min=16M", "--oom-score-adj 1000")
    greedy.wait_for(r"^follower: (\d+) frames, 0 blocks", 60)
    wait_until(lambda: events(product, "OOM_PAUSE"), 10, greedy)
    assert [event["data"]["name"] for event in events(product, "OOM_PAUSE")] == ["greedy"]
    wait_until(lambda: status(product, "greedy") == "paused", 3, greedy)
    assert status(product, "modest") == "running"
    assert not events(product, "OOM_RESUME")
    # Its wait is pressure while it lasts, and not only when it is over.
    waited = product.json("pressure")["some"]["total-us"]
    wait_until(lambda: product.json("pressure")["some"]["total-us"] > waited + 3000000, 30, greedy)
    assert status(product, "greedy") == "paused" and not events(product, "OOM_RESUME")

    modest.type("q")
    modest.wait_for(r"^PASS follower", 60)
    assert modest.wait_until_ended(60) == 0, modest.describe()
    wait_until(lambda: status(product, "greedy") == "running", 60, greedy)
    assert len(events(product, "OOM_RESUME")) == 1
    stalled = product.json("pressure")
    assert stalled["some"]["total-us"] >= stalled["full"]["total-us"], stalled
    greedy.type("q")
    greedy.wait_for(r"^PASS follower", 60)
    assert greedy.wait_until_ended(60) == 0, greedy.describe()
    product.check_conservation()
    product.ok("pool stop")


def test_oom_kills_by_choice(product_anywhere):
    """The same with oom_policy=kill: the one with the worst score ends, its frames are the other's, and the
    event says what decided."""
    product = product_anywhere
    start_pool(product, "96M", "oom_delay_ms=2500", "oom_policy=kill")
    modest = follower(product, "modest", "72M,min=16M")
    modest.wait_for(r"^follower: (\d+) frames, 0 blocks", 60)
    wait_until(lambda: product.json("ps")[0]["frames"]["bound"] >= 24, 60, modest)
    greedy = follower(product, "greedy", "88M,min=16M", "--oom-score-adj 1000")
    greedy.wait_for(r"^follower: (\d+) frames, 0 blocks", 60)
    assert greedy.wait_until_ended(60) == 128 + 9, greedy.describe()
    killed = [event["data"] for event in events(product, "OOM_KILL")]
    assert [data["name"] for data in killed] == ["greedy"]
    assert killed[0]["held"] > killed[0]["min"] == 8 and killed[0]["oom-score-adj"] == 1000, killed
    assert killed[0]["badness"] > 0 and killed[0]["free"] < 8, killed
    assert not events(product, "OOM_PAUSE")
    assert product.json("vmstat")["oom_kill"] == 1
    # Its frames are there for whoever is left.
    wait_until(lambda: product.check_conservation()["free"] >= 12, 60, modest)
    assert status(product, "modest") == "running"
    modest.type("q")
    modest.wait_for(r"^PASS follower", 60)
    assert modest.wait_until_ended(60) == 0, modest.describe()
    product.check_conservation()
    product.ok("pool stop")
