# SPDX-License-Identifier: MIT
"""A connection to libvirt, on machines where its daemons run and on machines where none does."""
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import tempfile
import time

import libvirt

URI = "qemu:///system"
VIRTLOGD_SOCKET = "/run/libvirt/virtlogd-sock"
IDLE_SECONDS = "300"  # a daemon of ours that outlives us ends by itself
LOCK = "/run/lock/framevisor-libvirt"

OWN_MOUNTS = "unshare --mount --propagation slave"

# Configuration of a libvirtd of ours. With the default user, libvirt probes QEMU as one user and
# checks the result as another: where /dev/kvm is open to root alone, no result is ever kept and
# starting a domain takes minutes.
QEMU_CONF = """user = "root"
group = "root"
security_driver = "none"
remember_owner = 0
namespaces = []
"""


class LibvirtError(Exception):
    """libvirt cannot be reached or started; the text says why."""


def _connect():
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # errors arrive as exceptions
    return libvirt.open(URI)


def _answers(path):
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


@contextlib.contextmanager
def _one_at_a_time():
    """Two libvirtd that start at once, or one that ends while another starts, take each other's socket."""
    os.makedirs(os.path.dirname(LOCK), exist_ok=True)
    with open(LOCK, "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class LibvirtDaemons:
    """Context manager: gives a libvirt connection; starts virtlogd and libvirtd if none answers, and
    ends those that it started."""

    def __init__(self):
        self.connection = None
        self._directory = None
        self._pids = []

    def __enter__(self):
        try:
            with _one_at_a_time():
                self._connect_or_start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception):
        with _one_at_a_time():
            self._disconnect()

    def _connect_or_start(self):
        try:
            self.connection = _connect()
        except libvirt.libvirtError:
            pass
        # A libvirtd that another one of us left behind may have outlived its virtlogd.
        logs = _answers(VIRTLOGD_SOCKET)
        if self.connection is not None and logs:
            return
        self._directory = tempfile.TemporaryDirectory(prefix="framevisor-libvirt-")
        if not logs:
            self._start("virtlogd")
        if self.connection is None:
            self._start("libvirtd")
            self._wait_for_libvirtd()

    def _disconnect(self):
        others = False
        if self.connection is not None:
            try:
                others = bool(self.connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE))
                self.connection.close()
            except libvirt.libvirtError:
                pass  # somebody else ended libvirtd
            self.connection = None
        if others:
            self._pids = []  # somebody else uses them by now; they end when they are idle
        for pid in reversed(self._pids):
            self._end(pid)
        self._pids = []
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    def _start(self, name):
        pidfile = os.path.join(self._directory.name, f"{name}.pid")
        log = os.path.join(self._directory.name, f"{name}.log")
        conf = os.path.join(self._directory.name, "qemu.conf")
        with open(conf, "w", encoding="ascii") as file:
            file.write(QEMU_CONF)
        # Only the daemon sees this configuration: it is mounted over the machine's, in a name space of
        # its own. Where that is not allowed (some containers), the daemon runs with what there is.
        command = f"exec /usr/sbin/{name} -d -t {IDLE_SECONDS} -p {pidfile}"
        script = (f"if {OWN_MOUNTS} true; then {OWN_MOUNTS} sh -c 'mount --bind {conf} /etc/libvirt/qemu.conf; {command}'; "
                  f"else {command}; fi")
        with open(log, "wb") as output:
            done = subprocess.run(["sh", "-c", script], stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
        if done.returncode == 0:
            with open(pidfile, encoding="ascii") as file:
                self._pids.append(int(file.read()))
        elif name == "libvirtd":
            # virtlogd alone may well be running already.
            with open(log, encoding="utf-8", errors="replace") as file:
                raise LibvirtError(f"{name} does not start: {file.read().strip()[-500:]}")

    def _wait_for_libvirtd(self):
        deadline = time.monotonic() + 30
        while True:
            try:
                self.connection = _connect()
                return
            except libvirt.libvirtError as error:
                if time.monotonic() > deadline:
                    raise LibvirtError(f"libvirtd does not answer: {error}") from error
                time.sleep(0.1)

    @staticmethod
    def _end(pid):
        for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if not os.path.exists(f"/proc/{pid}/stat") or not _alive(pid):
                    return
                time.sleep(0.05)
