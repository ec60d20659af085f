# SPDX-License-Identifier: MIT
"""The test host: a machine of its own, with two NUMA nodes and KVM, whose file system is this one's.

    with TestHost() as host:
        result = host.run("build/framevisor ps --json", timeout=30)

QEMU emulates it in software, so it needs no hardware virtualisation; libvirt starts it. Absolute
paths are the same inside and outside, and what was just built runs there at once. /run, /tmp and
/dev/shm inside are memory; everything else that is written there is written here.
"""
import dataclasses
import json
import os
import queue
import re
import select
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import termios
import threading
import time
import tty

import libvirt
from libvirt_daemons import LibvirtDaemons, LibvirtError

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
KERNELS = os.path.join(ROOT, "build/kernels")
LOGS = os.environ.get("FRAMEVISOR_TEST_LOGS") or os.path.join(ROOT, f"build/test-logs/run-{os.getpid()}")
PING_EVERY_S = 5
# A machine that has not answered for so long is wedged. One that is merely slow, with its CPUs
# busy on a busy machine, answers within seconds.
WEDGED_S = 120
# agent.py starts the other CPUs when all is set up. A fault ends the machine at once, a CPU that hangs
# after a minute. The rest saves time, and spares an emulated machine what it does badly: a time stamp
# counter checked against slow timers, and features of the nested KVM that no guest of ours needs.
CMDLINE = ("maxcpus=1 panic=-1 oops=panic rcupdate.rcu_cpu_stall_timeout=60 sysctl.kernel.panic_on_rcu_stall=1 nowatchdog mitigations=off "
           "nokaslr tsc=reliable no_timer_check random.trust_cpu=on rcupdate.rcu_expedited=1 "
           "kvm.halt_poll_ns=0 kvm.nx_huge_pages=off kvm_amd.nested=0 kvm_amd.vls=0 kvm_amd.vgif=0 kvm_amd.avic=0 "
           "hugepagesz=1G hugepages=0:1,1:1")
# For these: later, no 1 GiB may be left in one piece. They cost nothing until they are used.
GIGANTIC_MIB = 2048
VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/virtiofsd")


class TestHostError(Exception):
    """The test host cannot be started, or it died; the text says why."""

    __test__ = False  # not a test class


@dataclasses.dataclass
class Result:
    """What a command did. rc is negative for a signal, as in subprocess."""

    cmd: str
    rc: int
    out: str
    err: str
    timed_out: bool
    seconds: float

    def __str__(self):
        ending = "timed out" if self.timed_out else f"exit status {self.rc}"
        return f"$ {self.cmd}\n{self.out}{self.err}[{ending}, {self.seconds:.1f} s]"


def _kernel_version():
    """The kernel of the test host itself: FRAMEVISOR_TESTHOST_KERNEL, else the newest there is."""
    wanted = os.environ.get("FRAMEVISOR_TESTHOST_KERNEL")
    for version in [wanted] if wanted else ["6.12", "6.1"]:
        if os.path.exists(f"{KERNELS}/{version}/release"):
            return version
    raise TestHostError(f"no kernel for the test host in {KERNELS}; tests/host/kernels.sh fetches them")


class TestHost:  # pylint: disable=too-many-instance-attributes
    """One test host. start() or a with statement boots it, stop() or its end switches it off."""

    __test__ = False  # not a test class

    def __init__(self, memory_mib=5120, log_name="testhost"):
        self.memory_mib = memory_mib + GIGANTIC_MIB
        self.serial_log = os.path.join(LOGS, f"{log_name}-serial.log")
        self.boot_seconds = None
        self.has_kvm = False
        self._daemons = None
        self._directory = None
        self._domain = None
        self._agent = None
        self._lock = threading.Lock()
        self._waiting = {}
        self._next_id = 1
        self._dead = None
        self._stopping = threading.Event()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_exception):
        self.stop()

    # Starting and stopping.

    def start(self, timeout=300):
        """Boots the machine and waits until it takes commands."""
        begin = time.monotonic()
        if os.geteuid() != 0:
            raise TestHostError("the test host shares the root file system and needs root; use sudo")
        os.makedirs(LOGS, exist_ok=True)
        try:
            self._daemons = LibvirtDaemons().__enter__()
            # The channels' sockets; the name is short because socket addresses are.
            self._directory = tempfile.mkdtemp(prefix="fvhost-")
            # A transient domain that libvirt destroys when this process goes away.
            self._domain = self._daemons.connection.createXML(self._xml(), libvirt.VIR_DOMAIN_START_AUTODESTROY)
            self._connect(begin + timeout)
        except (libvirt.libvirtError, LibvirtError, OSError, TestHostError) as error:
            self.stop()
            raise TestHostError(f"the test host does not start: {error}") from error
        except BaseException:
            self.stop()
            raise
        self.boot_seconds = time.monotonic() - begin
        return self

    def stop(self):
        """Switches the machine off and ends the libvirt daemons that start() started."""
        self._stopping.set()
        if self._agent is not None and self._dead is None:
            try:
                self._send({"id": 0, "op": "poweroff"})
                self._wait_until_off(15)
            except OSError:
                pass
        if self._domain is not None:
            try:
                self._domain.destroy()
            except libvirt.libvirtError:
                pass  # off already
            self._domain = None
        if self._agent is not None:
            self._agent.shutdown(socket.SHUT_RDWR)
            self._agent.close()
            self._agent = None
        if self._daemons is not None:
            self._daemons.__exit__()
            self._daemons = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def alive(self):
        """Whether the machine runs and takes commands."""
        return self._agent is not None and self._dead is None

    def why_dead(self):
        """What is known of a machine that died; its last words."""
        return self._dead or ""

    def _xml(self):
        version = _kernel_version()
        virtiofsd = next((path for path in VIRTIOFSD if os.path.exists(path)), None)
        if virtiofsd is None:
            raise TestHostError("virtiofsd is missing; tests/host/packages.sh installs it")
        cmdline = (f"console=ttyS0 quiet rootfstype=virtiofs root=hostroot rw {CMDLINE} "
                   f"init={HERE}/init.sh testhost.kernel={version}")
        initrd = ""
        if version == "6.1":  # virtiofs is a module there
            path = os.path.join(ROOT, "build/testhost-initramfs.cpio")
            subprocess.run([f"{HERE}/initramfs.sh", version, path, f"{HERE}/early", "virtio_pci", "virtiofs"], check=True)
            initrd = f"<initrd>{path}</initrd>"
        # A confined QEMU could not read a checkout anywhere; only drivers that libvirt uses may be named.
        models = re.findall(r"<secmodel>\s*<model>(\w+)</model>", self._daemons.connection.getCapabilities())
        seclabel = "".join(f"<seclabel type='none' model='{model}'/>" for model in models if model in ("apparmor", "selinux"))
        with open(os.path.join(HERE, "testhost.xml"), encoding="utf-8") as file:
            return string.Template(file.read()).substitute(
                name=f"framevisor-testhost-{os.getpid()}", memory=self.memory_mib, node_memory=self.memory_mib // 2,
                kernel=f"{KERNELS}/{version}/vmlinuz", initrd=initrd, cmdline=cmdline, virtiofsd=virtiofsd,
                serial=self.serial_log, agent=self._socket("agent"), terminal=self._socket("terminal"), seclabel=seclabel)

    def _socket(self, name):
        return os.path.join(self._directory, f"{name}.sock")

    def _connect(self, deadline):
        self._dead = None
        self._agent = socket.socket(socket.AF_UNIX)
        self._agent.connect(self._socket("agent"))
        hello = self._expect(0)
        threading.Thread(target=self._read_replies, daemon=True).start()
        try:
            greeting = hello.get(timeout=max(deadline - time.monotonic(), 1))
        except queue.Empty:
            raise TestHostError(f"it does not boot in time; its serial log says:\n{self.serial_tail()}") from None
        if "died" in greeting:
            raise TestHostError(greeting["died"])
        self.has_kvm = greeting["kvm"]
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        """Gives the machine up when it no longer answers, so that nobody waits for it in vain."""
        while not self._stopping.wait(PING_EVERY_S):
            try:
                self._ask({"op": "ping"}, WEDGED_S)
            except (OSError, TestHostError):
                if not self._stopping.is_set():
                    self._give_up(f"the test host has not answered for {WEDGED_S} s")
                return

    def _give_up(self, reason):
        """From now on the machine counts as dead; whoever waits for an answer is told so."""
        with self._lock:
            if self._dead is None:
                self._dead = f"{reason}; its serial log says:\n{self.serial_tail()}"
            for waiting in self._waiting.values():
                waiting.put({"died": self._dead})
            self._waiting.clear()

    def _wait_until_off(self, seconds):
        deadline = time.monotonic() + seconds
        while self._dead is None and time.monotonic() < deadline:
            time.sleep(0.05)

    def serial_tail(self, lines=25):
        """The last lines that the machine wrote on its serial port."""
        try:
            with open(self.serial_log, encoding="utf-8", errors="replace") as file:
                return "\n".join(file.read().splitlines()[-lines:])
        except OSError as error:
            return f"(no serial log: {error})"

    # Talking to agent.py.

    def _expect(self, number):
        reply = queue.Queue(1)
        with self._lock:
            self._waiting[number] = reply
        return reply

    def _send(self, request):
        with self._lock:
            self._agent.sendall(json.dumps(request).encode() + b"\n")

    def _read_replies(self):
        agent, pending = self._agent, b""
        while True:
            try:
                data = agent.recv(65536)
            except OSError:
                data = b""
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                reply = json.loads(line)
                with self._lock:
                    waiting = self._waiting.pop(reply["id"], None)
                if waiting is not None:
                    waiting.put(reply)
        self._give_up("the test host died")

    def _ask(self, request, timeout):
        if not self.alive():
            raise TestHostError(self._dead or "the test host is not running")
        with self._lock:
            number, self._next_id = self._next_id, self._next_id + 1
        reply = self._expect(number)
        self._send({"id": number, **request})
        try:
            answer = reply.get(timeout=timeout)
        except queue.Empty:
            self._give_up(f"the test host has not answered for {timeout:.0f} s")
            raise TestHostError(self._dead) from None
        if "died" in answer:
            raise TestHostError(answer["died"])
        if "error" in answer:
            raise TestHostError(f"in the test host: {answer['error']}")
        return answer

    def run(self, cmd, timeout=60, check=False, **options):
        """Runs a shell command in the checkout and waits for it; after timeout seconds it and its
        process group are killed. options: env (dict), cwd, stdin (text). With check, an exit status
        other than 0 raises TestHostError."""
        options.setdefault("cwd", ROOT)
        answer = self._ask({"op": "run", "cmd": cmd, "timeout": timeout, **options}, timeout + 60)
        answer.pop("id")
        result = Result(cmd, **answer)
        if check and (result.rc != 0 or result.timed_out):
            raise TestHostError(f"in the test host:\n{result}")
        return result

    def terminal(self, cmd, **options):
        """Runs a command in the test host on this process's terminal. Returns its exit status."""
        options.setdefault("cwd", ROOT)
        size = shutil.get_terminal_size()
        with socket.socket(socket.AF_UNIX) as port:
            port.connect(self._socket("terminal"))
            answers = queue.Queue()

            def ask():
                try:
                    answers.put(self._ask({"op": "terminal", "cmd": cmd, "rows": size.lines, "cols": size.columns, **options}, None))
                except TestHostError as error:
                    answers.put({"failed": str(error)})

            threading.Thread(target=ask, daemon=True).start()
            _carry_terminal(port, answers)
            answer = answers.get()
            if "failed" in answer:
                raise TestHostError(answer["failed"])
            return answer["rc"]


def _carry_terminal(port, answers):
    """Bytes between this process's terminal (raw) and a socket, until there is an answer."""
    stdin, stdout = sys.stdin.fileno(), sys.stdout.fileno()
    saved = termios.tcgetattr(stdin) if os.isatty(stdin) else None
    if saved:
        tty.setraw(stdin, termios.TCSANOW)
    try:
        ends = [port, stdin]
        while True:
            ready = select.select(ends, [], [], 0.1)[0]
            for end in ready:
                data = port.recv(65536) if end is port else os.read(stdin, 65536)
                if not data:
                    ends.remove(end)
                elif end is port:
                    os.write(stdout, data)
                else:
                    port.sendall(data)
            if not ready and not answers.empty():
                return
    finally:
        if saved:
            termios.tcsetattr(stdin, termios.TCSADRAIN, saved)


def end_on_signals():
    """Makes SIGTERM and SIGHUP end this process the way Ctrl-C does, so that nothing is left behind."""

    def interrupt(_number, _frame):
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
