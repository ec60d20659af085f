# SPDX-License-Identifier: MIT
"""How the reports get their figures: a program of this folder runs in the test host and prints JSON."""
import json


def ask(host, command, timeout=240):
    """What the program prints. Without it there is nothing to report."""
    result = host.run(f"/usr/bin/python3 tests/bench/{command}", timeout=timeout)
    if result.rc != 0:
        raise SystemExit(f"bench: {result}")
    return json.loads(result.out)
