# SPDX-License-Identifier: MIT
"""A pool of hugepages of 1 GiB, and a stock guest on one of them."""
import pytest

SYSFS = "/sys/kernel/mm/hugepages/hugepages-1048576kB"


def test_guest_on_a_gigantic_page(product):
    if not product.run(f"cat {SYSFS}/nr_hugepages").out.strip():
        pytest.skip("the kernel has no hugepages of 1 GiB")
    started = product.framevisor("pool start --hugepages=1G --size 1G")
    if started.rc and "too fragmented" in started.err:
        pytest.skip("no 1 GiB of memory in one piece is left in this host")
    assert started.rc == 0, started
    vm = product.linux("web", cpus=2, mem="1G", extra="--hugepages=1G")
    total, _, _ = vm.wait_until_up()
    assert total > 900 * 1024
    pool = product.check_conservation()
    assert pool["frame-size"] == 1 << 30 and pool["held"] == pool["total"] == 1, pool
    # One mapping of one page is behind all of it.
    smaps = product.run(f"grep -c 'KernelPageSize:  1048576 kB' /proc/{vm.pid}/smaps", check=True).out
    assert int(smaps) >= 1
    vm.verb("fill 160", timeout=120)
    vm.verb("verify", timeout=120)
    # The second does not fit, and a guest of 2 MiB frames gets none of these.
    for options, word in (("--mem 1G --hugepages=1G", "does not fit"), ("--mem 512M", "1 GiB"),
                          ("--mem 1536M --hugepages=1G", "multiple of 1 GiB")):
        result = product.framevisor(f"run --kernel build/guest-tests/touch.elf {options}", timeout=60)
        assert result.rc == 1 and len(result.err.strip().splitlines()) == 1 and word in result.err, result
    # What the balloon takes is less than a frame: nothing comes back, and the command says so.
    out = product.ok("balloon web 700M", timeout=120)
    assert "1 frame partly ballooned" in out, out
    vm.verb("verify", timeout=120)
    vm.type("poweroff")
    assert vm.wait_until_ended() == 0, vm.describe()
    assert product.check_conservation()["held"] == 0
    product.ok("pool stop")
    assert product.run(f"cat {SYSFS}/nr_hugepages", check=True).out.strip() == "0"
