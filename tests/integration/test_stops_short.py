# SPDX-License-Identifier: MIT
"""A guest that stops short of its target: its user is told how far it came and why, and the target is
reached later without being set again."""
import json
import time

from product import SLOW
from test_qmp import talk

MIB = 1 << 20


def target(product, name="web"):
    return product.json(f"mem {name}")["target"]


def wait_for_state(product, name, state, timeout=40):
    """Waits until the target of a VM is in this state. Returns it."""
    deadline = time.monotonic() + timeout * SLOW
    while True:
        now = target(product, name)
        if now["state"] == state:
            return now
        assert time.monotonic() < deadline, now
        time.sleep(0.3)


def stops_short(product, name, size, state, timeout=20):
    """balloon NAME SIZE, which must say that it is not there, and the target's state, at once or when a slow guest has
    come as far as it can. Returns the target and what is said of it."""
    result = product.framevisor(f"balloon {name} {size} --timeout {timeout} --json", timeout=timeout + 90)
    assert result.rc == 1 and "stopped at" in result.err, result
    assert "the target stays set" in result.err, result
    report = json.loads(result.out)
    assert report["actual"] > report["target"] and report["text"] in result.err, result
    if report["state"] != "moving":
        assert report["state"] == state, report
        return report, result.err
    report = wait_for_state(product, name, state)
    return report, report["text"]


def set_size(product, name, mib):
    talk(product, name, [{"execute": "qmp_capabilities"}, {"execute": "balloon", "arguments": {"value": mib * MIB}}])


def test_each_reason(product_anywhere):
    """One guest that plays them all. Each is told from the others, and with the last one gone the target is reached."""
    product = product_anywhere
    vm = product.start("web", "--cpus 1 --mem 128M,boot=64M --kernel build/guest-tests/stubborn.elf")

    def tell(letters):
        for letter in letters:
            vm.type(letter)
            vm.wait_for(rf"^stubborn: {letter}", 60)

    vm.wait_for(r"^stubborn: up", 60)
    wait_for_state(product, "web", "no-virtio-mem-driver")
    set_size(product, "web", 48)
    wait_for_state(product, "web", "no-balloon-driver")

    set_size(product, "web", 128)
    tell("m")
    wait_for_state(product, "web", "reached")
    report, said = stops_short(product, "web", "64M", "guest-unmovable")
    assert report["actual"] == 128 * MIB, report
    assert report["stuck"] == 64 * MIB and "cannot move" in said, (report, said)
    # It changes its mind: nobody sets the target again.
    tell("u")
    now = wait_for_state(product, "web", "reached")
    assert now["size"] == now["actual"] == 64 * MIB and now["stuck"] == 0, now

    tell("b")
    report, said = stops_short(product, "web", "48M", "guest-busy", 6)
    assert "busy" in said, (report, said)
    tell("o")
    assert "needs the rest" in wait_for_state(product, "web", "guest-needs-memory")["text"]
    tell("s")
    assert "does not respond" in wait_for_state(product, "web", "guest-silent")["text"]
    tell("w")
    wait_for_state(product, "web", "guest-needs-memory")
    tell("pg")
    assert wait_for_state(product, "web", "reached")["actual"] == 48 * MIB
    vm.type("q")
    vm.wait_for(r"^PASS stubborn", 60)
    assert vm.wait_until_ended() == 0, vm.describe()


def test_out_of_memory_in_the_guest(product):
    """A stock guest whose processes use what is asked for: it comes as far as it can, and further when one ends."""
    vm = product.linux("web")
    vm.wait_until_up()
    # A process that has read so much holds it while its input goes on.
    vm.verb("sh (head -c 200000000 /dev/zero; sleep 10000) | tail -c 200000000 >/dev/null & sleep 8")
    report, said = stops_short(product, "web", "128M", "guest-needs-memory")
    assert "needs the rest" in said, (report, said)
    assert 200 * MIB < report["actual"] < 480 * MIB, report
    assert vm.verb("echo alive", timeout=60) == "alive"
    vm.verb("sh killall sleep tail", timeout=60)
    deadline = time.monotonic() + 60 * SLOW
    while target(product)["actual"] > report["actual"] - 100 * MIB:
        assert time.monotonic() < deadline, target(product)
        time.sleep(0.5)


def test_unmovable(product):
    """A stock guest that has data of its kernel in hot-plug memory: it says so where nothing can stand in, and
    where the balloon does, what stays plugged is still told."""
    vm = product.linux("web", mem="512M,max=768M", append="fv.test=lines memhp_default_state=online_kernel")
    vm.wait_until_up()
    product.ok("balloon web 768M", timeout=90)
    # Inodes; new kernel memory comes from the zone that was plugged.
    vm.verb("sh mkdir /data/many && i=0 && while [ $i -lt 6000 ]; do : >/data/many/$i; i=$((i + 1)); done", timeout=120)
    vm.verb("sh rmmod virtio_balloon")
    report, said = stops_short(product, "web", "512M", "guest-unmovable", 30)
    assert "cannot move" in said, (report, said)
    assert 512 * MIB < report["actual"] < 768 * MIB and report["stuck"] == report["actual"] - 512 * MIB, report
    vm.verb("sh insmod /modules/*virtio_balloon.ko")
    now = wait_for_state(product, "web", "reached", 90)
    assert now["size"] == now["actual"] == 512 * MIB, now
    # A round of asking begins anew with each command: until it has been in vain, nothing is said to be stuck.
    deadline = time.monotonic() + 60 * SLOW
    while not target(product)["stuck"]:
        assert time.monotonic() < deadline, target(product)
        time.sleep(0.5)
    assert "cannot move what is in it" in product.ok("mem web")
    vm.verb("sh ls /data/many | wc -l", timeout=60)
