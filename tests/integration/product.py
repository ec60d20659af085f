# SPDX-License-Identifier: MIT
"""The product as a test uses it: commands in a place (this machine or the test host), a run directory
of its own, VMs with their consoles, and what must be true when a test is over."""
import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import time

import pytest
from testhost import LOGS, ROOT, Result, TestHostError

FRAME_MIB = 2
SLOW = 3  # limits are written for a quiet machine; every one is waited for that many times as long
STOCK_KERNELS = ("6.12", "6.1")  # what tests/host/kernels.sh looks for
# Each kernel, and guests with one and with more CPUs, without every pair of them.
KERNELS_AND_CPUS = [(STOCK_KERNELS[0], 2), (STOCK_KERNELS[1], 1)]
KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01


class Here:
    """This machine, with the same interface as the test host."""

    def __init__(self):
        self.why_not = ""
        try:
            kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
            try:
                os.close(fcntl.ioctl(kvm, KVM_CREATE_VM, 0))
            finally:
                os.close(kvm)
        except OSError as error:
            self.why_not = f"this machine has no usable /dev/kvm: {error.strerror}"
        self.has_kvm = not self.why_not

    @staticmethod
    def alive():
        return True

    @staticmethod
    def run(cmd, timeout=60, check=False, env=None, cwd=ROOT, stdin=""):
        """As TestHost.run()."""
        start = time.monotonic()
        out_path = os.path.join(LOGS, f"here-{os.getpid()}.out")
        os.makedirs(LOGS, exist_ok=True)
        with open(out_path, "w+b") as out, open(f"{out_path}.err", "w+b") as err:
            process = subprocess.Popen(cmd, shell=True, executable="/bin/bash", start_new_session=True, cwd=cwd,
                                       env={**os.environ, **(env or {})}, stdin=subprocess.PIPE, stdout=out, stderr=err)
            try:
                process.communicate(stdin.encode(), timeout)
                timed_out = False
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
                timed_out = True
            out.seek(0)
            err.seek(0)
            result = Result(cmd, process.returncode, out.read().decode(errors="replace"), err.read().decode(errors="replace"),
                            timed_out, time.monotonic() - start)
        if check and (result.rc != 0 or timed_out):
            raise TestHostError(f"failed:\n{result}")
        return result


class Vm:
    """A VM that runs in the foreground of a shell in the place, its console in a file that is
    readable from here at once, its keyboard a FIFO in the place."""

    def __init__(self, product, name, command):
        self.product = product
        self.name = name
        self.command = command
        # New names for each VM: the test host remembers what it has seen of files that change outside.
        stem = f"{name}-{len(product.vms) + 1}"
        self.log = os.path.join(product.logs, f"{stem}.log")
        self.errors = os.path.join(product.logs, f"{stem}.err")
        self._status = os.path.join(product.logs, f"{stem}.status")
        self._pid = os.path.join(product.logs, f"{stem}.pid")
        self.fifo = f"{product.directory}/{stem}.in"
        self.position = 0

    def launch(self):
        # set -m: otherwise jobs in the background have SIGINT ignored.
        script = (f"set -m; {self.command} <>{self.fifo} >{self.log} 2>{self.errors} & echo $! >{self._pid}; "
                  f"wait $!; echo $? >{self._status}")
        self.product.run(f"mkfifo {self.fifo}; set -m; setsid bash -c {shlex.quote(script)} >/dev/null 2>&1 </dev/null &",
                         check=True)
        return self

    @staticmethod
    def _read(path):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    @property
    def pid(self):
        return int(self._read(self._pid))

    @property
    def status(self):
        """Exit status of the VM's process, None while it runs."""
        text = self._read(self._status).strip()
        return int(text) if text else None

    def _console(self):
        return self._read(self.log).replace("\r", "")

    def messages(self):
        """What its process has said on stderr."""
        return self._read(self.errors)

    def describe(self):
        """Console and messages, for a failed assertion."""
        return (f"VM {self.name}: exit status {self.status}\n--- console\n{self._read(self.log)[-3000:]}\n"
                f"--- messages\n{self._read(self.errors)[-3000:]}")

    def wait_for(self, pattern, timeout, whole_lines=True):
        """Waits until the console shows a line that matches, after what was waited for before.
        Returns the match. A prompt is not a whole line."""
        timeout *= SLOW
        deadline = time.monotonic() + timeout
        while True:
            ended = self.status is not None
            text = self._console()
            if whole_lines:
                text = text[:text.rfind("\n") + 1]
            match = re.compile(pattern, re.MULTILINE).search(text, self.position)
            if match:
                self.position = match.end()
                return match
            assert not ended, f"the VM ended before '{pattern}' appeared\n{self.describe()}"
            assert time.monotonic() < deadline, f"'{pattern}' did not appear in {timeout} s\n{self.describe()}"
            assert self.product.place.alive(), self.product.place.serial_tail()
            time.sleep(0.05)

    def wait_until_up(self, timeout=90):
        """Waits for user space. Returns (MemTotal in kB, CPUs, kernel release)."""
        match = self.wait_for(r"^guest: up, MemTotal (\d+) kB, (\d+) cpus, kernel (\S+)$", timeout)
        self.wait_for(r"^guest: ready for verbs$", 30)
        return int(match[1]), int(match[2]), match[3]

    def type(self, text):
        """Types a line at the VM's console."""
        self.product.run(f"echo {shlex.quote(text)} >{self.fifo}", check=True)

    def verb(self, text, timeout=60):
        """Has the guest do something and waits until it did. Returns what follows 'ok'."""
        self.position = len(self._console())  # what it said before is no answer
        self.type(text)
        match = self.wait_for(rf"^guest: {text.split()[0]} (ok|failed)(.*)$", timeout)
        assert match[1] == "ok", f"in the guest: {match[0]}\n{self.describe()}"
        return match[2].strip()

    def hold(self, mib, timeout=60):
        """Has the guest keep so much more memory, until drop. Random data to verify takes five times as long."""
        self.verb(f"sh dd if=/dev/zero of=/data/held bs=1M count={mib} 2>/dev/null", timeout)

    def wait_until_ended(self, timeout=30):
        """Waits for the end of the VM's process. Returns its exit status."""
        timeout *= SLOW
        deadline = time.monotonic() + timeout
        while self.status is None:
            assert time.monotonic() < deadline, f"the VM did not end in {timeout} s\n{self.describe()}"
            assert self.product.place.alive(), self.product.place.serial_tail()
            time.sleep(0.05)
        return self.status


class Product:
    """framevisor in a run directory of its own."""

    def __init__(self, place, name):
        self.place = place
        self.logs = os.path.join(LOGS, "integration", name)
        shutil.rmtree(self.logs, ignore_errors=True)
        os.makedirs(self.logs)
        self.directory = place.run("mktemp -d /tmp/fv-XXXXXX", check=True).out.strip()
        self.rundir = f"{self.directory}/run"
        self.env = {"FRAMEVISOR_RUNDIR": self.rundir}
        self.vms = []
        self.hugepages_before = self.hugepages()["HugePages_Total"]

    # Commands.

    def run(self, cmd, timeout=60, **options):
        """A shell command with the product's run directory in its environment."""
        options["env"] = {**self.env, **options.get("env", {})}
        return self.place.run(cmd, timeout=timeout * SLOW, **options)

    def framevisor(self, arguments, timeout=60, **options):
        """build/framevisor ARGUMENTS, whatever comes of it."""
        return self.run(f"build/framevisor {arguments}", timeout=timeout, **options)

    def ok(self, arguments, timeout=60):
        """The same when it has to work. Returns what it prints."""
        result = self.framevisor(arguments, timeout)
        assert result.rc == 0 and not result.timed_out, f"\n{result}"
        return result.out

    def json(self, arguments, timeout=60):
        return json.loads(self.ok(f"{arguments} --json", timeout))

    def pool(self):
        return self.json("pool")

    def events(self, log=None):
        """The events in a log: the pool owner's, or another's."""
        lines = self.run(f"cat {log or self.rundir + '/pool.log'}", check=True).out.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def hugepages(self):
        """The HugePages lines of /proc/meminfo in the place."""
        text = self.place.run("cat /proc/meminfo", check=True).out
        return {name: int(value) for name, value in re.findall(r"^(HugePages_\w+):\s+(\d+)", text, re.MULTILINE)}

    # VMs.

    def start(self, name, options):
        """framevisor run --name NAME OPTIONS, as a Vm."""
        vm = Vm(self, name, f"exec build/framevisor run --name {name} {options}")
        self.vms.append(vm)
        return vm.launch()

    def linux(self, name, kernel=None, cpus=1, mem="512M", append="fv.test=lines", extra="--hugepages=require", modules=()):
        """A stock kernel with the initramfs of guest-tests/linux, and with more modules."""
        image, initrd = linux_files(kernel or kernel_versions()[0], modules)
        return self.start(name, f"--cpus {cpus} --mem {mem} --kernel {image} --initrd {initrd} "
                                f"--append {shlex.quote('console=ttyS0 quiet ' + append)} {extra}")

    # What has to be true.

    def check_conservation(self):
        """free + cached + held + quarantined = total, as the pool owner and as we count."""
        result = self.framevisor("pool check")
        assert result.rc == 0, f"the pool's books do not balance:\n{result}"
        pool = self.pool()
        for part in [pool, *pool["nodes"]]:
            assert part["free"] + part["cached"] + part["held"] + part["quarantined"] == part["total"], part
        assert pool["quarantined"] == 0, pool
        return pool

    # Our programs that use this run directory: PID and command line.
    _PROCESSES = ("for p in $(grep -lsz '^FRAMEVISOR_RUNDIR={rundir}$' /proc/[0-9]*/environ); do d=${{p%/environ}}; "
                  "case $(readlink $d/exe) in */framevisor|*/framevisord) echo ${{d#/proc/}} $(tr '\\0' ' ' <$d/cmdline);; esac; done")

    def processes(self):
        """PIDs and command lines of our programs that use this run directory."""
        return self.place.run(self._PROCESSES.format(rundir=self.rundir)).out.splitlines()

    def leftovers(self):
        """What is still there of VMs and pool owner: processes, files, hugepages. A pool's log that says
        something is to stay."""
        script = (self._PROCESSES.format(rundir=self.rundir) + f" | sed 's/^/process /'; find {self.rundir} -mindepth 1 ! -name vm "
                  "! -name pool.lock ! -name pool.log 2>/dev/null | sed 's/^/file /'; grep HugePages_Total /proc/meminfo")
        *found, total = self.place.run(script).out.splitlines()
        # On this machine others may be using hugepages at the same time.
        if not isinstance(self.place, Here) and int(total.split()[1]) != self.hugepages_before:
            found.append(f"hugepages: {total}, before the test {self.hugepages_before}")
        return found

    def assert_nothing_left(self, timeout=10):
        """Waits for VMs and pool owner to be gone without a trace."""
        deadline = time.monotonic() + timeout * SLOW
        while True:
            found = self.leftovers()
            if not found:
                return
            assert time.monotonic() < deadline, "left behind:\n" + "\n".join(found)
            time.sleep(0.2)

    def finish(self):
        """The end of every test: the books balance, the VMs end, nothing is left."""
        if not self.place.alive():
            raise AssertionError(f"the test host died during the test:\n{self.place.serial_tail()}")
        try:
            if any(vm.status is None for vm in self.vms):
                self.check_conservation()
            for vm in self.vms:
                if vm.status is None:
                    self.framevisor(f"kill {vm.name}")
                    vm.wait_until_ended(15)
            self.assert_nothing_left()
        finally:
            self._clear_up()

    def _clear_up(self):
        """After a test that failed: what it left would make the next one fail, too."""
        processes = self._PROCESSES.format(rundir=self.rundir)
        self.place.run(f"for i in 1 2 3 4 5 6 7 8 9 10; do left=$({processes}); [ -n \"$left\" ] || break; "
                       "echo \"$left\" | while read pid _; do kill -9 $pid; done; sleep 0.5; done; "
                       f"rm -rf {self.directory}")
        if not isinstance(self.place, Here) and self.hugepages()["HugePages_Total"] != self.hugepages_before:
            self.place.run(f"echo {self.hugepages_before} >/proc/sys/vm/nr_hugepages")


def linux_files(version, modules=()):
    """Kernel and initramfs, with more modules; the latter made when it is missing. Without the kernel the test is skipped."""
    if not os.path.exists(f"{ROOT}/build/kernels/{version}/release"):
        pytest.skip(f"no stock kernel {version}: the configured package archive does not offer it")
    done = subprocess.run([f"{ROOT}/guest-tests/linux/build", version, *modules], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    return f"build/kernels/{version}/vmlinuz", done.stdout.strip()


def kernel_versions():
    """The stock kernels that tests/host/kernels.sh obtained."""
    return [version for version in STOCK_KERNELS if os.path.exists(f"{ROOT}/build/kernels/{version}/release")]
