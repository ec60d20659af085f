# SPDX-License-Identifier: MIT
"""Fixtures: the places where tests run, the product in a run directory of its own, and results for
tests/run."""
import os
import re
import sys

import pytest
from _pytest.runner import runtestprotocol

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "host"))

from hosts import HOSTS, LANE, claimed, write_result  # noqa: E402
from product import Here, Product  # noqa: E402

DEATHS = 3  # of the test host in one test: then the test is at fault
EFLAGS_RESERVED = 0xffc08028  # 0 in every processor; set, it is the emulation that broke the guest


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


def pytest_collection_modifyitems(items):
    """The second lane goes through the files from the other end."""
    if LANE == "2":
        files = {}
        for item in items:
            files.setdefault(item.path, []).append(item)
        items[:] = [item for path in reversed(files) for item in files[path]]


def why_again(reports):
    """What the test host did to a test that failed, as lines; none: nothing, the failure is the test's."""
    failed = [report.longreprtext for report in reports if report.failed]
    if failed and HOSTS.died():
        return HOSTS.host.why_dead().splitlines() or ["the test host died"]
    for flags in re.findall(r"EFLAGS: ([0-9a-f]{8})", "\n".join(failed)):
        if int(flags, 16) & EFLAGS_RESERVED:
            return [f"a guest's kernel oopsed with flags that no processor has ({flags})"]
    # RIP is behind the breakpoint that was executed, and the code there is what it was patched to before.
    for before in re.findall(r"Oops: int3.*?Code: ([0-9a-f ]+) <", "\n".join(failed), re.DOTALL):
        if before.split()[-1] != "cc":
            return ["a guest's kernel executed a breakpoint that its code does not have any more"]
    return []


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    """Runs a test; again, on a new test host, when the old one died meanwhile or broke the guest."""
    if not claimed(item):
        return True
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for deaths_left in range(DEATHS - 1, -1, -1):
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        again = why_again(reports)
        if not again or not deaths_left:
            break
        reason, *last_words = again
        remark = f"{item.name}: {reason.partition(';')[0]}; the test runs again on a new one"
        write_result("", "\n     | ".join([remark, *last_words[-40:]]), "note")
        try:
            # What other tests share lived on that machine too.
            item.session._setupstate.teardown_exact(None)  # pylint: disable=protected-access
        except Exception as error:  # pylint: disable=broad-except # nothing there can still be saved
            write_result("", f"{item.name}: {type(error).__name__} while clearing up", "note")
        HOSTS.stop()
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_unconfigure():
    HOSTS.stop()


@pytest.fixture(scope="session")
def hosts():
    return HOSTS


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
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{request.node.path.stem}-{request.node.name}").strip("-")
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


@pytest.fixture
def product_somewhere(request, hosts):
    """The product where that is cheapest, for what needs no guest that runs: on this machine, or in the
    test host when this one has no KVM."""
    here = Here()
    instance = _product(request, here if here.has_kvm else hosts.get())
    yield instance
    instance.finish()
