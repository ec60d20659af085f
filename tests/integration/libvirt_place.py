# SPDX-License-Identifier: MIT
"""The place where libvirt_life.py's VMs live: domains, the console of a guest, a libvirtd and a pool owner of their
own, and what all checks ask."""
import json
import os
import re
import signal
import subprocess
import threading
import time
import xml.etree.ElementTree as ET

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
MIB = 1 << 20
FRAME = 2 * MIB
WAIT = int(os.environ.get("FRAMEVISOR_LIBVIRT_WAIT", "240"))  # for what a guest does; a slow machine may need much of it

CMDLINE = "console=ttyS0 quiet panic=-1 fv.test=lines"

ORDINARY = """<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>life</name>
  <maxMemory slots='3' unit='MiB'>{maximum}</maxMemory>
  <memory unit='MiB'>{boot}</memory>
  <memoryBacking><source type='memfd'/></memoryBacking>
  <vcpu>2</vcpu>
  <numatune><memory mode='strict' nodeset='{hosts}'/><memnode cellid='0' mode='strict' nodeset='{host0}'/>
    <memnode cellid='1' mode='preferred' nodeset='{host1}'/></numatune>
  <os><type arch='x86_64' machine='framevisor'>hvm</type>{kernel}
    <cmdline>{cmdline}</cmdline></os>
  <features><acpi/></features>
  <cpu mode='host-passthrough'><numa>
    <cell id='0' cpus='0' memory='{cell0}' unit='MiB'><distances><sibling id='1' value='33'/></distances></cell>
    <cell id='1' cpus='1' memory='{cell1}' unit='MiB'/></numa></cpu>
  <clock offset='utc'><timer name='rtc' tickpolicy='catchup'/><timer name='pit' tickpolicy='delay'/><timer name='hpet' present='no'/></clock>
  <pm><suspend-to-mem enabled='no'/><suspend-to-disk enabled='no'/></pm>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices><emulator>{dir}/bin/framevisor</emulator>
    <controller type='usb' model='none'/><controller type='pci' index='0' model='pci-root'/>
    <serial type='pty'><target port='0'/></serial>
    <memballoon model='virtio' autodeflate='on' freePageReporting='on'><stats period='2'/></memballoon>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memory model='virtio-mem'><target><size unit='MiB'>{boot}</size><node>1</node><block unit='MiB'>2</block>
      <requested unit='MiB'>{half}</requested></target></memory>
  </devices>{environment}</domain>"""

HUGE = """<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>huge</name><memory unit='MiB'>{huge}</memory><vcpu>1</vcpu>
  <memoryBacking><hugepages><page size='2' unit='MiB'/></hugepages></memoryBacking>
  <os><type arch='x86_64' machine='framevisor'>hvm</type>{kernel}
    <cmdline>{cmdline}</cmdline></os>
  <features><acpi/></features><cpu mode='host-passthrough'/>
  <devices><emulator>{dir}/bin/framevisor</emulator>
    <controller type='usb' model='none'/><controller type='pci' index='0' model='pci-root'/>
    <serial type='file'><source path='{dir}/huge.serial'/><target port='0'/></serial>
    <memballoon model='virtio'/>
  </devices>{environment}</domain>"""

MORE_MEMORY = """<memory model='virtio-mem'><target><size unit='MiB'>{half}</size><node>1</node><block unit='MiB'>2</block>
  <requested unit='MiB'>{attached}</requested></target></memory>"""

# For a run directory of our own: libvirt clears the environment.
ENVIRONMENT = "<qemu:commandline><qemu:env name='FRAMEVISOR_RUNDIR' value='{rundir}'/></qemu:commandline>"


def wait_until(condition, what, seconds=WAIT, pause=0.05):
    """Waits for a true value of condition() and returns it. A long pause is for a condition that starts programs, which
    take the CPU from the guest that is waited for."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not in {seconds} s: {what() if callable(what) else what}"
        time.sleep(pause)


def shell(command, check=True, timeout=WAIT):
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=timeout, check=False)
    assert not check or done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
    return done


NOTHING_YET = -2  # of virStream.recv() that does not wait


class Console:
    """The console of a domain as virsh console has it, and the guest behind it."""

    def __init__(self, connection, name, stock):
        self.text, self.position, self.stock = "", 0, stock
        self._connection = connection
        import libvirt  # pylint: disable=import-outside-toplevel
        # As virsh console has it. A recv() that waits misses, once in some thousand times, what the thread of the event
        # loop has received for it just before: the end of a line then stays in libvirt until something else arrives.
        self._stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        connection.lookupByName(name).openConsole(None, self._stream, 1)  # 1: VIR_DOMAIN_CONSOLE_FORCE
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        import libvirt  # pylint: disable=import-outside-toplevel
        try:
            while True:
                data = self._stream.recv(4096)
                if data == NOTHING_YET:
                    time.sleep(0.02)
                elif data:
                    self.text += data.decode(errors="replace").replace("\r", "")
                else:
                    return
        except libvirt.libvirtError:
            pass  # the domain has ended

    def wait_for(self, pattern):
        """Whole lines: of one that is still arriving the end is not known."""
        def found():
            text = self.text
            return re.compile(pattern, re.MULTILINE).search(text, self.position, text.rfind("\n") + 1)
        match = wait_until(found, lambda: f"'{pattern}' on the console, which says:\n{self.text[-2000:]}")
        self.position = match.end()
        return match

    def wait_until_up(self):
        self.wait_for("^guest: ready for verbs$" if self.stock else "^guest: up$")

    def _type(self, data):
        while data:
            sent = self._stream.send(data)
            if sent == NOTHING_YET:
                time.sleep(0.02)
            else:
                data = data[sent:]

    def verb(self, text):
        """A verb of the stock guest's."""
        self._type(text.encode() + b"\n")
        return self.wait_for(rf"^guest: {text.split()[0]} ok(.*)$")[1].strip()

    def ask(self):
        self._type(b"echo here\n" if self.stock else b"e")

    def wait_for_answer(self):
        self.wait_for("^guest: echo ok here$" if self.stock else "^guest: echo$")

    def echo(self):
        """The guest is there and answers."""
        self.ask()
        self.wait_for_answer()

    def order(self, word):
        """reboot or poweroff, from inside."""
        self._type(word.encode() + b"\n" if self.stock else {"reboot": b"r", "poweroff": b"o"}[word])


class Place:
    """libvirtd, pool owner and the domain "life"; what the checks share."""

    def __init__(self, directory, stock, files):
        self.dir, self.stock, self.files = directory, stock, files
        self.uri = f"qemu+unix:///system?socket={directory}/libvirt/libvirt-sock"
        self.events = []
        self.agreed = False  # about sizes, since the check began
        self.others = 0
        self.virt = self.connection = self.domain = self.console = None
        # In MiB. The freestanding guest drives only its first memory device.
        self.boot, self.attached = (256, 64) if stock else (64, 0)
        self.counted = 0  # by a stock guest with both memory devices: less than it has, the kernel takes its part
        self.half, self.quarter, self.huge = self.boot // 2, self.boot // 4, 1024 if stock else 128
        self.cell1 = 96 if stock else 16
        self.pause = 0.5 if stock else 0.05
        self.host0, self.host1 = (1, 0) if stock else (0, 0)  # so that nothing comes right by itself
        self.hosts = "0-1" if stock else "0"
        self.rundir = "/run/framevisor" if stock else f"{directory}/run"

    def set_up(self):
        """Copies for a user who may not look into the checkout, a pool that the user may use, a libvirtd."""
        shell(f"mkdir -p {self.dir}/bin && chmod 755 {self.dir} && install -m 755 build/framevisor build/framevisord {self.dir}/bin/")
        for name, path in zip(("kernel", "initrd"), self.files):
            shell(f"install -m 644 {path} {self.dir}/{name}")
        if self.stock:
            shell("chgrp kvm /dev/kvm && chmod 660 /dev/kvm")
        else:
            os.environ["FRAMEVISOR_RUNDIR"] = self.rundir
        pool = "--pool 1408M --hugepages=require --group kvm" if self.stock else "--pool 320M"
        shell(f"{self.dir}/bin/framevisord --daemonize {pool}")
        self.start_libvirtd()

    def kernel(self):
        return f"<kernel>{self.dir}/kernel</kernel>" + (f"<initrd>{self.dir}/initrd</initrd>" if self.stock else "")

    def xml(self, template):
        return template.format(
            dir=self.dir, boot=self.boot, cell0=self.boot - self.cell1, cell1=self.cell1,
            host0=self.host0, host1=self.host1, hosts=self.hosts,
            half=self.half, attached=self.attached, maximum=4 * self.boot, huge=self.huge,
            kernel=self.kernel(), cmdline=CMDLINE,
            environment="" if self.stock else ENVIRONMENT.format(rundir=self.rundir))

    def look_at(self, name="life"):
        self.console = Console(self.virt.open(self.uri), name, self.stock)

    def start_libvirtd(self):
        import libvirt  # pylint: disable=import-outside-toplevel
        shell(f"{ROOT}/tests/host/private_libvirt.sh {self.dir}/libvirt {'libvirt-qemu' if self.stock else 'root'}")
        if self.virt is None:
            self.virt = libvirt
            libvirt.registerErrorHandler(lambda _context, _error: None, None)
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=self._run_events, daemon=True).start()
        self.connect()

    def _run_events(self):
        while True:
            self.virt.virEventRunDefaultImpl()

    def connect(self):
        self.connection = self.virt.open(self.uri)
        virt = self.virt
        for number, callback in ((virt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_life), (virt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE, self._on_balloon),
                                 (virt.VIR_DOMAIN_EVENT_ID_REBOOT, self._on_reboot), (virt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, self._on_added),
                                 (virt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, self._on_removed),
                                 (virt.VIR_DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE, self._on_size)):
            self.connection.domainEventRegisterAny(None, number, callback, None)
        if self.domain is not None:
            self.domain = self.connection.lookupByName("life")

    def _on_life(self, _connection, domain, event, detail, _opaque):
        self.events.append((domain.name(), event, detail))

    def _on_balloon(self, _connection, domain, actual, _opaque):
        self.events.append((domain.name(), "balloon", actual))

    def _on_reboot(self, _connection, domain, _opaque):
        self.events.append((domain.name(), "reboot"))

    def _on_added(self, _connection, domain, device, _opaque):
        self.events.append((domain.name(), "added", device))

    def _on_removed(self, _connection, domain, device, _opaque):
        self.events.append((domain.name(), "removed", device))

    def _on_size(self, _connection, domain, device, size, _opaque):
        self.events.append((domain.name(), "size", device, size))

    def wait_for_event(self, *wanted):
        wait_until(lambda: wanted in [event[:len(wanted)] for event in self.events],
                   lambda: f"event {wanted} among {self.events}")

    def stop_daemon(self, name, number):
        path = f"{self.dir}/libvirt/{name}.pid"
        with open(path, encoding="ascii") as file:
            pid = int(file.read())

        def ended():
            try:
                with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                    return file.read().rpartition(")")[2].split()[0] == "Z"
            except (FileNotFoundError, ProcessLookupError):  # the latter when it ends between open and read
                return True
        os.kill(pid, number)
        wait_until(ended, f"{name} ends")
        if os.path.exists(path):
            os.unlink(path)

    def tear_down(self):
        """Also after a check that left no libvirtd."""
        for vm in self.framevisor("ps"):
            os.kill(vm["pid"], signal.SIGKILL)
        for name in ("libvirtd", "virtlogd"):
            if os.path.exists(f"{self.dir}/libvirt/{name}.pid"):
                self.stop_daemon(name, signal.SIGTERM)
        with open(f"{self.rundir}/pool.lock", encoding="ascii") as file:
            os.kill(int(file.read()), signal.SIGTERM)
        wait_until(lambda: not os.path.exists(f"{self.rundir}/pool.lock"), "the pool owner ends")

    def virsh(self, arguments, check=True):
        return shell(f"virsh -c '{self.uri}' {arguments}", check=check)

    def framevisor(self, arguments):
        return json.loads(shell(f"{self.dir}/bin/framevisor {arguments} --json").stdout)

    def state(self, name="life"):
        return tuple(self.connection.lookupByName(name).state())

    def wait_for_state(self, state, name="life"):
        wait_until(lambda: self.state(name)[0] == state, lambda: f"state {state}, it is {self.state(name)}")

    def plugged(self):
        """<current> of the memory devices, in MiB each."""
        return [int(current.text) // 1024 for current in ET.fromstring(self.domain.XMLDesc()).findall("devices/memory/target/current")]

    def agree(self, size_mib=None):
        """domstats, dommemstat, dominfo, framevisor mem and the pool say the same. Returns when all of them do, and
        it is size_mib where that is given."""
        def sizes():
            stats = self.connection.domainListGetStats([self.domain], self.virt.VIR_DOMAIN_STATS_BALLOON)[0][1]
            ours = self.framevisor(f"mem {self.domain.name()}")["target"]
            info = self.domain.info()
            pool = next(vm for vm in self.framevisor("pool")["vms"] if vm["name"] == self.domain.name())
            return ({"domstats": stats["balloon.current"] // 1024,
                     "dommemstat": self.domain.memoryStats()["actual"] // 1024 + sum(self.plugged()),  # the boot memory alone
                     "dominfo": info[2] // 1024, "framevisor": ours["actual"] // MIB,
                     "pool": pool["target"] * 2},  # what its policy goes by
                    {"domstats": stats["balloon.maximum"] // 1024, "dominfo": info[1] // 1024, "framevisor": ours["max"] // MIB})

        def all_agree():
            current, maximum = ({*said.values()} for said in sizes())
            return len(current) == len(maximum) == 1 and size_mib in (None, *current)
        wait_until(all_agree, lambda: f"all say the same{f', {size_mib} MiB' if size_mib else ''}: {sizes()}", pause=self.pause)
        self.balanced()
        self.agreed = True

    def as_before(self):
        """The VM runs and its guest answers, and both memory devices have what they had."""
        assert self.state()[0] == self.virt.VIR_DOMAIN_RUNNING, self.state()
        self.agree(self.boot + self.quarter + self.attached)
        assert self.plugged() == [self.quarter, self.attached], self.plugged()
        self.console.echo()
        if self.stock:
            self.guest_counts()

    def guest_total(self):
        """What a stock guest counts as its memory, in MiB."""
        return int(self.console.verb("mem").split()[1]) // 1024

    def guest_counts(self):
        """A stock guest counts what it did when the second memory device came, give or take what a boot takes for itself."""
        wait_until(lambda: abs(self.guest_total() - self.counted) <= 4, lambda: f"{self.counted} MiB, not {self.guest_total()}", pause=self.pause)

    def balanced(self):
        shell(f"{self.dir}/bin/framevisor pool check")

        def same():
            pool, vms = self.framevisor("pool"), self.framevisor("ps")
            frames = self.framevisor(f"mem {self.domain.name()}")["frames"]
            held = frames["bound"] + frames["stock"]
            shown = [vm["frames"]["bound"] + vm["frames"]["stock"] for vm in vms if vm["name"] == self.domain.name()]
            return pool["held"] == held and shown == [held], (pool, vms, frames)
        wait_until(lambda: same()[0], lambda: f"pool and VM count the same frames: {same()[1]}", pause=self.pause)

    def nothing_is_lost(self):
        """After every check that has not ended with it: whoever is asked about sizes gives the same answer."""
        if not self.agreed and self.connection is not None and self.connection.isAlive() and self.domain is not None and self.domain.isActive():
            self.agree()
