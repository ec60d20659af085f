# SPDX-License-Identifier: MIT
"""What the process of a VM may do, looked at from outside. What it tries from inside and fails with is in
tests/unit/test_sandbox.c."""
import re

from test_overcommit import follower


def test_vm_started_by_root(product):
    """A user of its own each, no capability in any thread, a filter, and an empty root directory."""
    users = []
    for vm in [follower(product, name, "64M") for name in ("one", "two")]:
        vm.wait_for(r"^follower: \d+ frames", 60)
        statuses = product.run(f"cat /proc/{vm.pid}/task/*/status", check=True).out
        threads = statuses.count("Name:\t")
        assert threads > 1
        for line in ("CapPrm:\t0+", "CapEff:\t0+", "NoNewPrivs:\t1", "Seccomp:\t2"):
            assert len(re.findall(f"^{line}$", statuses, re.MULTILINE)) == threads, (line, statuses)
        uids = set(re.findall(r"^Uid:\t(.*)$", statuses, re.MULTILINE))
        assert len(uids) == 1, uids
        users += [set(map(int, uid.split())) for uid in uids]
        assert product.run(f"ls -A /proc/{vm.pid}/root/", check=True).out == ""
        vm.type("q")
        assert vm.wait_until_ended() == 0, vm.describe()
    assert all(len(user) == 1 and min(user) >= 0x70000000 for user in users), users
    assert users[0] != users[1]
