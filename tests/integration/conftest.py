# SPDX-License-Identifier: MIT
"""Fixtures: the places where tests run, the product in a run directory of its own, and results for
tests/run."""
import json
import os
import re
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "host"))

from product import Here, Product  # noqa: E402
from testhost import TestHost, TestHostError  # noqa: E402

RESULTS = os.environ.get("FRAMEVISOR_TEST_RESULTS")


def write_result(group, name, outcome, seconds=0.0, detail=""):
    """One line for tests/run, which shows it at once."""
    if RESULTS:
        with open(RESULTS, "a", encoding="utf-8") as file:
            json.dump({"group": group, "name": name, "outcome": outcome, "seconds": seconds, "detail": detail}, file)
            file.write("\n")


def pytest_collectreport(report):
    if report.failed:
        write_result("integration", f"{report.nodeid} cannot be loaded", "failed", 0.0, str(report.longrepr))


def pytest_runtest_logreport(report):
    """A test counts once: as its body, or as the fixture that failed or skipped it."""
    if report.when != "call" and report.outcome == "passed":
        return
    if report.when == "teardown" and report.outcome == "skipped":
        return
    group, _, name = report.nodeid.rpartition("tests/integration/")[2].partition("::")
    if report.when == "teardown":
        name += " (what it left behind)"
    detail = report.longreprtext
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        detail = report.longrepr[2].removeprefix("Skipped: ")
    write_result(group.removesuffix(".py"), name, report.outcome, report.duration, detail)


class Hosts:
    """The test host of this session; a new one when a test has brought it down."""

    def __init__(self):
        self.boots = 0
        self.host = None

    def get(self):
        if self.host is None or not self.host.alive():
            self.stop()
            try:
                self._boot()
            except TestHostError as error:
                # The emulated machine's own kernel has been seen to panic in its boot, once in
                # hundreds; a second failure is a fault to be seen.
                write_result("", f"the test host did not come up: {error}; once more", "note")
                self._boot()
            write_result("", f"test host up after {self.host.boot_seconds:.1f} s", "note")
        return self.host

    def _boot(self):
        self.boots += 1
        self.host = TestHost(log_name=f"testhost-{self.boots}").start()

    def stop(self):
        if self.host is not None:
            self.host.stop()
            self.host = None


@pytest.fixture(scope="session")
def hosts():
    manager = Hosts()
    yield manager
    manager.stop()


@pytest.fixture
def host(hosts):
    """The test host; a test that asks for it runs there."""
    return hosts.get()


def here_or_skip():
    """This machine, if it has a /dev/kvm that works at all."""
    here = Here()
    if not here.has_kvm:
        pytest.skip(here.why_not)
    return here


@pytest.fixture(params=["here", "testhost"])
def place(request):
    """Where the test runs: on this machine and in the test host."""
    return here_or_skip() if request.param == "here" else request.getfixturevalue("hosts").get()


def _product(request, place):
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", request.node.name).strip("-")
    return Product(place, name)


@pytest.fixture
def product(request, host):
    """The product in the test host."""
    instance = _product(request, host)
    yield instance
    instance.finish()


@pytest.fixture
def product_anywhere(request, place):
    """The product, on this machine and in the test host."""
    instance = _product(request, place)
    yield instance
    instance.finish()
