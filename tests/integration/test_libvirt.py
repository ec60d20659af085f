# SPDX-License-Identifier: MIT
"""VMs under the stock qemu driver of libvirt. What is checked is in libvirt_life.py, which does all of it in
one go: on this machine's KVM with a freestanding guest, in the test host with a stock kernel and as libvirt's
own user. Each check is a test here."""
import json
import shlex

import pytest
from libvirt_life import OBEY, STOCK
from product import Here, kernel_versions, linux_files


def live(place, arguments):
    """Results by name of check, and all that was printed."""
    directory = place.run("mktemp -d /tmp/fvl-XXXX", check=True).out.strip()
    result = place.run(f"/usr/bin/python3 tests/integration/libvirt_life.py {directory} {arguments}", timeout=1800)  # with other test hosts beside it
    lines = [json.loads(line) for line in result.out.splitlines() if line.startswith("{")]
    logs = place.run(f"tail -n 15 {directory}/libvirt/log/qemu/*.log {directory}/libvirt/libvirtd.log").out
    place.run(f"rm -rf --one-file-system {shlex.quote(directory)}")
    return {line["check"]: line for line in lines}, f"{result}\n{logs}"


@pytest.fixture(scope="module", name="obey")
def _obey():
    here = Here()
    if not here.has_kvm:
        pytest.skip(here.why_not)
    if here.run("unshare --mount --propagation private mount -t hugetlbfs hugetlbfs /mnt").rc != 0:
        pytest.skip("this machine lets nobody mount: no libvirtd of our own")
    return live(here, "obey build/guest-tests/obey.elf")


@pytest.fixture(scope="module", name="stock")
def _stock(hosts):
    if not kernel_versions():
        pytest.skip("no stock kernel: the configured package archive does not offer one")
    return live(hosts.get(), f"stock {' '.join(linux_files(kernel_versions()[0]))}")


def judge(results, check):
    found, printed = results
    if check not in found and any(not result["ok"] for result in found.values()):
        pytest.skip("not reached: an earlier check failed")
    assert check in found, printed
    assert found[check]["ok"], f"{found[check]['detail']}\n{printed}"


@pytest.mark.parametrize("check", ["set_up", *OBEY, "tear_down"])
def test_obey(obey, check):
    judge(obey, check)


@pytest.mark.parametrize("check", ["set_up", *STOCK, "tear_down"])
def test_stock(stock, check):
    judge(stock, check)
