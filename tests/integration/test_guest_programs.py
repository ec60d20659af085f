# SPDX-License-Identifier: MIT
"""The freestanding guests of guest-tests/: each prints PASS name or FAIL name reason on its serial
port and powers off. They run on this machine's KVM, where it has one, and in the test host."""
import os
import re

import pytest
from testhost import ROOT

# obey, follower and stubborn run until they are told to end, over-limit needs a hand: test_over_limit.py
NOT_PROGRAMS = ("lib", "linux", "obey", "follower", "over-limit", "stubborn")
# Where 64 MiB at boot are not what a guest is about; who plugs memory is asked to by what is beyond boot=.
MEM = {"virtio-mem": "320M,boot=64M", "hostile-mem": "256M,boot=64M,max=512M"}
# And where two CPUs, or hugepages if they are to be had, are not. Much to plug lies above 4 GiB.
MORE = [("touch", 1, "256M", "--hugepages=never"), ("smp", 4, "64M", ""), ("virtio-mem", 1, "320M,boot=64M,max=8G", ""),
        ("hostile-mem", 1, "256M,boot=64M,max=8G", "--hugepages=never")]


def programs():
    directory = os.path.join(ROOT, "guest-tests")
    return sorted(name for name in os.listdir(directory) if name not in NOT_PROGRAMS and os.path.isdir(f"{directory}/{name}"))


def cases():
    return [(name, 2, MEM.get(name, "64M"), "") for name in programs()] + [case for case in MORE if case[0] in programs()]


@pytest.mark.parametrize("case", cases(), ids=lambda case: "-".join(str(part).removeprefix("--") for part in case if part))
def test_guest_program(product_anywhere, case):
    product = product_anywhere
    name, cpus, mem, extra = case
    image = f"build/guest-tests/{name}.elf"
    assert os.path.exists(os.path.join(ROOT, image)), f"{image} was not built; run make guests"
    vm = product.start(f"guest-{name}", f"--cpus {cpus} --mem {mem} --kernel {image} --append cpus={cpus} {extra}")
    status = vm.wait_until_ended(90)
    with open(vm.log, encoding="utf-8", errors="replace") as file:
        verdicts = re.findall(r"^(PASS|FAIL) (.*?)\r?$", file.read(), re.MULTILINE)
    assert verdicts, f"no verdict\n{vm.describe()}"
    assert all(verdict == "PASS" for verdict, _ in verdicts), vm.describe()
    assert status == 0, vm.describe()
