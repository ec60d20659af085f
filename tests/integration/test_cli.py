# SPDX-License-Identifier: MIT
"""Verbs of the command line that the other tests do not use anyway."""
import json
import time

import pytest

VERBS = ["run", "ps", "balloon", "mem", "pause", "resume", "stop", "kill", "console", "pool", "buddyinfo", "zoneinfo", "check"]


def test_help(product):
    """Every verb is in the overview and explains itself."""
    overview = product.ok("--help")
    for verb in VERBS:
        assert f"\n  {verb} " in overview, verb
        assert product.ok(f"{verb} --help").startswith(f"usage: framevisor {verb}"), verb


@pytest.mark.parametrize("arguments", ["", "nonsense", "run --nonsense", "balloon", "ps extra operands here", "mem a b", "run --cpus"])
def test_wrong_usage(product_somewhere, arguments):
    """One line on stderr, exit status 1."""
    result = product_somewhere.framevisor(arguments)
    assert result.rc == 1, result
    assert result.out == "", result
    assert len(result.err.strip().splitlines()) == 1, result


def test_ps_and_mem(product):
    """ps and mem show a running VM, for people and as JSON."""
    assert product.json("ps") == []
    vm = product.linux("web", cpus=2, mem="256M")
    vm.wait_until_up()
    listed = product.json("ps")
    assert [entry["name"] for entry in listed] == ["web"]
    assert listed[0]["pid"] == vm.pid
    assert "web" in product.ok("ps") and "web" in product.ok("mem")
    memory = product.json("mem web")
    assert memory["memory"] == 256 << 20
    assert memory["frames"]["ram"] == 128
    assert 0 < memory["frames"]["bound"] <= 128
    product.ok("kill web")
    assert product.json("ps") == []


def test_check(product):
    """check says that the test host can run stock kernels, within a few seconds."""
    result = product.framevisor("check --json", timeout=20)
    assert result.rc == 0, result
    assert json.loads(result.out)
    assert product.ok("check").strip()


def test_pause_and_resume(product_anywhere):
    """A paused VM does nothing, whatever it is told, and what it was told is done when it goes on. Neither changes anything where it is so already."""
    product = product_anywhere
    product.ok("pool start --size 64M --max 64M --hugepages=never")
    vm = product.start("still", "--cpus 1 --mem 32M --kernel build/guest-tests/follower.elf")
    vm.wait_for(r"^follower: (\d+) frames, 0 blocks", 60)
    product.ok("resume still")
    assert product.json("ps")[0]["status"] == "running"
    for _ in range(2):
        product.ok("pause still")
        assert product.json("ps")[0]["status"] == "paused"
    vm.type("q")
    time.sleep(2)
    assert vm.status is None and "PASS follower" not in vm.describe()
    product.ok("resume still")
    vm.wait_for(r"^PASS follower", 60)
    assert vm.wait_until_ended(60) == 0, vm.describe()
    product.check_conservation()
    product.ok("pool stop")
