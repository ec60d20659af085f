# SPDX-License-Identifier: MIT
"""The test host of this pytest process, the results that tests/run shows, and what makes a run survive
the emulated machine: a test during which the test host dies runs again on a new one. That two
pytest processes share the test files between them (lanes) is here as well."""
import json
import os

from testhost import TestHost, TestHostError

RESULTS = os.environ.get("FRAMEVISOR_TEST_RESULTS")
LANE = os.environ.get("FRAMEVISOR_TEST_LANE", "1")
CLAIMS = os.environ.get("FRAMEVISOR_TEST_CLAIMS")
BOOTS_TRIED = 3


def write_result(group, name, outcome, seconds=0.0, detail=""):
    """One line for tests/run, which shows it at once. The outcome "note" is a remark."""
    if RESULTS:
        line = json.dumps({"group": group, "name": name, "outcome": outcome, "seconds": seconds, "detail": detail})
        with open(RESULTS, "a", encoding="utf-8") as file:
            file.write(line + "\n")


class Hosts:
    """The test host that runs; a new one when there is none or it has died."""

    def __init__(self):
        self.boots = 0
        self.host = None

    def get(self):
        if self.host is None or not self.host.alive():
            self.stop()
            # The emulated machine's own kernel has been seen to panic in its boot.
            for tries_left in range(BOOTS_TRIED - 1, -1, -1):
                try:
                    self._boot()
                    break
                except TestHostError as error:
                    if not tries_left:
                        raise
                    write_result("", f"the test host did not come up: {error}; once more", "note")
            write_result("", f"test host {LANE} up after {self.host.boot_seconds:.1f} s", "note")
        return self.host

    def _boot(self):
        self.boots += 1
        self.host = TestHost(log_name=f"testhost-{LANE}-{self.boots}").start()

    def died(self):
        """Whether the machine that was started last died or stopped answering."""
        return self.host is not None and not self.host.alive()

    def stop(self):
        if self.host is not None:
            host, self.host = self.host, None
            host.stop()


HOSTS = Hosts()


def claimed(item, claims={}):  # pylint: disable=dangerous-default-value # remembers
    """Whether this process runs the tests of the item's file: it is who came first."""
    if not CLAIMS:
        return True
    name = os.path.basename(str(item.path))
    if name not in claims:
        try:
            os.close(os.open(os.path.join(CLAIMS, name), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            claims[name] = True
        except FileExistsError:
            claims[name] = False
    return claims[name]
