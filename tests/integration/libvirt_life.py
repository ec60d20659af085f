#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The life of VMs under the stock qemu driver, in the place where it runs: a libvirtd of its own, one pool
owner for all, and as few guest boots as will do. test_libvirt.py starts it.

    libvirt_life.py DIR stock KERNEL INITRD [CHECK...]   with a stock kernel, as root of a machine of its own
    libvirt_life.py DIR obey GUEST [CHECK...]            with the freestanding guest "obey"

prints a line of JSON for each check. Checks are methods of Life; later ones build on what earlier ones left."""
import concurrent.futures
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
import xml.etree.ElementTree as ET

from libvirt_place import CMDLINE, ENVIRONMENT, FRAME, HERE, HUGE, MIB, MORE_MEMORY, ORDINARY, ROOT, WAIT, Place, shell, wait_until


class Life(Place):  # pylint: disable=too-many-public-methods
    """The checks."""

    def capabilities(self):
        """What can be asked for is told; what is not there is not offered."""
        root = ET.fromstring(self.connection.getDomainCapabilities(f"{self.dir}/bin/framevisor", "x86_64", "framevisor", "kvm"))
        assert root.find("domain").text == "kvm" and root.find("machine").text == "framevisor"
        cpus = int(root.find("vcpu").get("max"))
        assert 1 <= cpus <= 64, cpus
        assert root.find("cpu/mode[@name='host-passthrough']").get("supported") == "yes"
        for mode in ("host-model", "custom"):
            assert root.find(f"cpu/mode[@name='{mode}']").get("supported") == "no", mode
        sources = {value.text for value in root.findall("memoryBacking/enum[@name='sourceType']/value")}
        assert "memfd" in sources, sources
        assert [value.text for value in root.findall("devices/rng/enum[@name='backendModel']/value")] == ["random", "builtin"]
        for absent in ("tpm", "filesystem"):
            element = root.find(f"devices/{absent}")
            assert element is None or element.get("supported") == "no" or not element.findall("enum/value[.='virtio']"), absent

    def start(self):
        self.connection.defineXML(self.xml(ORDINARY))
        self.domain = self.connection.lookupByName("life")
        self.domain.create()
        assert self.state() == (self.virt.VIR_DOMAIN_RUNNING, self.virt.VIR_DOMAIN_RUNNING_BOOTED), self.state()
        self.wait_for_event("life", self.virt.VIR_DOMAIN_EVENT_STARTED)
        self.look_at()
        self.console.wait_until_up()

    def unprivileged(self):
        """It runs as libvirt's user, without capabilities, and with frames on demand all the same."""
        vm = [vm for vm in self.framevisor("ps") if vm["name"] == "life"][0]
        with open(f"/proc/{vm['pid']}/status", encoding="ascii") as file:
            status = file.read()
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE), status
        assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE), status
        assert not re.search(r"^Uid:\s+0\s", status, re.MULTILINE), status
        frames = self.framevisor("mem life")["frames"]
        assert frames["bound"] < frames["ram"] + frames["plugged"], "it has taken all of its memory at the start"

    def sizes(self):
        self.agree(self.boot + self.half)
        assert self.plugged() == [self.half]

    def nodes(self):
        """The guest has the nodes of the XML, and their frames are in the nodes of the host that <numatune> names: as
        framevisor says, and as the kernel does."""
        self.console.verb("sh echo nodes: $(cat /sys/devices/system/node/online /sys/devices/system/node/node*/distance "
                          "/sys/devices/system/node/node1/cpulist)")
        assert "nodes: 0-1 10 33 33 10 1\n" in self.console.text, self.console.text[-500:]
        told = {node["node"]: {host["node"] for host in node["host"]} for node in self.framevisor("mem life")["nodes"]}
        assert told == {0: {self.host0}, 1: {self.host1}}, told
        assert f"in host node {self.host0}" in shell(f"{self.dir}/bin/framevisor mem life").stdout
        # Boot memory of both, and what the memory device of node 1 has plugged.
        ranges = self.framevisor("mem life")["ranges"]
        words = " ".join(f"{where['address']} {where['size']}" for where in ranges)
        pid = self.framevisor("ps")[0]["pid"]
        found = [json.loads(line) for line in shell(f"/usr/bin/python3 {HERE}/where_pages.py {pid} {words}").stdout.splitlines()]
        for counts, host in zip(found, (self.host0, self.host1, self.host1)):
            assert set(counts) <= {str(host), "absent"} and counts.get(str(host)), found
        return f"{found}"

    def virsh_console(self):
        """As somebody has it who types: ^] leaves it."""
        master, slave = pty.openpty()
        command = ["virsh", "-c", self.uri, "console", "life", "--force"]
        text = b""
        with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as process:
            def says(words, typed=None):
                nonlocal text
                if select.select([master], [], [], 0.2)[0]:
                    text += os.read(master, 4096)
                elif typed:
                    os.write(master, typed)
                return words in text
            wait_until(lambda: says(b"Escape character is ^]"), lambda: f"virsh console says {text}")
            if self.stock:
                wait_until(lambda: says(b"guest: echo ok typed", b"echo typed\n"), lambda: f"an answer: {text}")
            else:
                wait_until(lambda: says(b"guest: echo", b"e"), lambda: f"an answer: {text}")
            os.write(master, b"\x1d")
            wait_until(lambda: says(b"") and process.poll() is not None, "virsh ends")
            assert process.returncode == 0, text
        os.close(slave)
        os.close(master)
        self.look_at()

    def random_numbers(self):
        """<rng>: the guest's kernel uses the device."""
        assert self.console.verb("sh grep . /sys/class/misc/hw_random/rng_current") is not None
        assert "virtio_rng" in self.console.text
        self.console.verb("sh echo random: $(dd if=/dev/hwrng bs=64 count=1 2>/dev/null | md5sum) $(dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c)")
        sums = re.search(r"^random: ([0-9a-f]{32})\s+- 64$", self.console.text, re.MULTILINE)
        assert sums and sums[1] != "3b5d3c7d207e37dceeedd301e35e2e58", self.console.text[-300:]  # of 64 zeros

    def statistics(self):
        self.domain.setMemoryStatsPeriod(1)
        first = wait_until(lambda: self.domain.memoryStats().get("last_update"), "statistics of the guest")
        wait_until(lambda: self.domain.memoryStats()["last_update"] > first, "new statistics with the period")
        stats = self.domain.memoryStats()
        assert 0 < stats["unused"] <= stats["available"] <= (self.boot + self.half) * 1024, stats
        assert "period='1'" in self.domain.XMLDesc()

    def setmem(self):
        """Only the boot memory is the balloon's, as with QEMU; libvirt adds what is plugged."""
        for mib in (self.boot - self.quarter, self.boot):
            self.events.clear()
            self.domain.setMemoryFlags(mib * 1024, self.virt.VIR_DOMAIN_AFFECT_LIVE)
            self.wait_for_event("life", "balloon", mib * 1024)
            self.agree(mib + self.half)
        refused = self.virsh(f"setmem life {self.boot + self.quarter}M --live", check=False)
        assert refused.returncode != 0 and "cannot set memory higher than max memory" in refused.stderr, refused
        refused = self.virsh("setmaxmem life 512M --live", check=False)
        assert refused.returncode != 0 and "cannot resize the maximum memory on an active domain" in refused.stderr, refused

    def memory_device(self):
        for mib in (self.boot, self.quarter) if self.stock else (self.boot, 0, self.quarter):
            self.events.clear()
            self.virsh(f"update-memory-device life --requested-size {mib}M")
            wait_until(lambda size=mib: self.plugged() == [size], lambda size=mib: f"current {size} MiB, not {self.plugged()}")
            self.wait_for_event("life", "size", "virtiomem0", mib * 1024)
            self.agree(self.boot + mib)
        # Whoever does not go by way of libvirt says what the guest has in all.
        for mib in (self.half, self.quarter):
            self.framevisor(f"balloon life {self.boot + mib}M")
            wait_until(lambda size=mib: self.plugged() == [size], lambda size=mib: f"current {size} MiB, not {self.plugged()}")
            self.agree(self.boot + mib)
        refused = self.virsh(f"update-memory-device life --requested-size {2 * self.boot}M", check=False)
        assert refused.returncode != 0, "more than its size was accepted"

    def asked_while_it_moves(self):
        """Whoever asks the VM how much is plugged takes nothing from the events by which libvirt knows."""
        def asked():
            reply = json.loads(self.virsh("qemu-monitor-command life '{\"execute\":\"query-memory-devices\"}'").stdout)
            return reply["return"][0]["data"]["size"] // MIB
        for mib in (self.half, self.quarter):
            self.virsh(f"update-memory-device life --requested-size {mib}M")
            wait_until(lambda size=mib: asked() == size, "the guest follows")
            self.agree(self.boot + mib)

    def attach(self):
        """A second memory device, which stays until detach: it is there after all that happens in between."""
        self.events.clear()
        self.counted = self.guest_total() + self.attached if self.stock else 0
        self.domain.attachDeviceFlags(self.xml(MORE_MEMORY), self.virt.VIR_DOMAIN_AFFECT_LIVE)
        self.wait_for_event("life", "added")  # libvirt 9.0 names the memory, not the device
        self.as_before()

    def detach(self):
        xml = [ET.tostring(memory).decode() for memory in ET.fromstring(self.domain.XMLDesc()).findall("devices/memory")]
        assert len(xml) == 2, xml
        self.domain.detachDeviceFlags(xml[1], self.virt.VIR_DOMAIN_AFFECT_LIVE)
        self.wait_for_event("life", "removed", "virtiomem1")
        assert len(self.plugged()) == 1, self.plugged()
        self.agree(self.boot + self.quarter)

    def allowed(self):
        """Where the threads of the vCPUs may run."""
        cpus = json.loads(self.virsh("qemu-monitor-command life '{\"execute\":\"query-cpus-fast\"}'").stdout)["return"]
        masks = []
        for cpu in cpus:
            with open(f"/proc/{cpu['thread-id']}/status", encoding="ascii") as file:
                masks.append(re.search(r"Cpus_allowed_list:\s+(\S+)", file.read())[1])
        return masks

    def processors(self):
        cpus, maps = self.domain.vcpus()
        assert len(cpus) == 2 and all(cpu[1] == self.virt.VIR_VCPU_RUNNING for cpu in cpus), cpus
        # Not every CPU of the test host is for programs (agent.py there).
        usable = sorted(os.sched_getaffinity(0))
        first, last = (tuple(number == cpu for number in range(os.cpu_count())) for cpu in (usable[0], usable[-1]))
        self.domain.pinVcpu(1, first)
        assert self.domain.vcpus()[1][1][:len(first)] == first, self.domain.vcpus()
        assert self.allowed() == [f"{usable[0]}-{usable[-1]}", str(usable[0])], self.allowed()
        self.domain.pinEmulator(last, self.virt.VIR_DOMAIN_AFFECT_LIVE)
        assert self.domain.emulatorPinInfo()[:len(last)] == last
        assert maps
        memory = self.domain.numaParameters()
        assert memory == {"numa_mode": self.virt.VIR_DOMAIN_NUMATUNE_MEM_STRICT, "numa_nodeset": self.hosts}, memory

    def suspend_and_resume(self):
        """Who is suspended does not answer; who is resumed has heard what was said meanwhile."""
        self.events.clear()
        self.domain.suspend()
        assert self.state()[0] == self.virt.VIR_DOMAIN_PAUSED
        self.wait_for_event("life", self.virt.VIR_DOMAIN_EVENT_SUSPENDED)
        before = self.console.text
        self.console.ask()
        assert "paused" in self.virsh("domstate life").stdout
        assert self.console.text == before, self.console.text[len(before):]
        self.domain.resume()
        assert self.state()[0] == self.virt.VIR_DOMAIN_RUNNING
        self.wait_for_event("life", self.virt.VIR_DOMAIN_EVENT_RESUMED)
        self.console.wait_for_answer()

    def monitor_command(self):
        reply = json.loads(self.virsh("qemu-monitor-command life '{\"execute\":\"query-framevisor-memory\"}'").stdout)
        assert reply["return"]["frame-size"] == FRAME, reply
        reply = json.loads(self.virsh("qemu-monitor-command life '{\"execute\":\"device_del\",\"arguments\":{\"id\":\"serial0\"}}'").stdout)
        assert reply["error"]["class"] == "GenericError", reply

    def other_clients(self):
        """One that never reads, one that says nonsense, one that says half of something: libvirt's goes on."""
        path = f"{self.dir}/libvirt/lib/qemu/domain-{self.domain.ID()}-life/monitor.sock"
        clients = []
        for words in (b'{"execute":"qmp_capabilities"}' + b'{"execute":"query-commands"}' * 4000, b"\xff\xfe\x00{[\n" * 1000,
                      b'{"execute":"balloon","argum', b'{"execute":"qom-get","arguments":' + b"[" * 500000):
            client = socket.socket(socket.AF_UNIX)
            client.connect(path)
            client.setblocking(False)
            try:
                client.send(words)
            except BlockingIOError:
                pass
            clients.append(client)
        # What libvirt learns by asking moves its sum only with the next event of the balloon (vmm/libvirt/monitor.c).
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.settimeout(WAIT)
            client.send(b'{"execute":"qmp_capabilities"}{"execute":"query-memory-devices"}')
            text = b""
            while b"BALLOON_CHANGE" not in text or b'"virtio-mem"' not in text:
                text += client.recv(4096)
            assert text.index(b"BALLOON_CHANGE") > text.index(b'"virtio-mem"'), text
        self.agree()
        self.domain.suspend()
        self.domain.resume()
        self.console.echo()
        for client in clients:
            client.close()

    def not_there(self):
        """What there is not fails with an error, and the VM goes on."""
        for command in (f"save life {self.dir}/saved", "managedsave life", f"dump life {self.dir}/core --memory-only",
                        "snapshot-create-as life one", "inject-nmi life", "screenshot life", "setvcpus life 1 --live"):
            refused = self.virsh(command, check=False)
            assert refused.returncode != 0 and "error:" in refused.stderr, refused
            wait_until(lambda: self.state()[0] == self.virt.VIR_DOMAIN_RUNNING, lambda name=command: f"running after {name}")
        self.console.echo()

    def libvirtd_restarts(self):
        """Ended in order and killed: the VM goes on, and what is asked afterwards works."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            self.stop_daemon("libvirtd", number)
            assert [vm["status"] for vm in self.framevisor("ps")] == ["running"]
            self.start_libvirtd()
            assert self.state()[0] == self.virt.VIR_DOMAIN_RUNNING, self.state()
            self.agree(self.boot + self.quarter + self.attached)
        self.domain.suspend()
        self.domain.resume()
        self.look_at()
        self.as_before()

    def reset(self):
        self.domain.reset()
        self.console.wait_until_up()
        self.as_before()

    def reboot(self):
        """The power button, which a stock guest obeys, and a new start of the same VM."""
        pid = self.framevisor("ps")[0]["pid"]
        self.events.clear()
        self.domain.reboot(self.virt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN)
        self.console.wait_until_up()
        assert self.framevisor("ps")[0]["pid"] == pid
        self.wait_for_event("life", "reboot")
        self.wait_for_state(self.virt.VIR_DOMAIN_RUNNING)
        self.as_before()

    def guest_reboots(self):
        pid = self.framevisor("ps")[0]["pid"]
        self.events.clear()
        self.console.order("reboot")
        self.wait_for_event("life", "reboot")
        self.console.wait_until_up()
        assert self.framevisor("ps")[0]["pid"] == pid
        self.as_before()

    def has_shut_down(self, name="life"):
        """It switched itself off, was not stopped, and libvirt says so; its frames are the pool's again."""
        virt = self.virt
        self.wait_for_event(name, virt.VIR_DOMAIN_EVENT_STOPPED, virt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN)
        self.wait_for_event(name, virt.VIR_DOMAIN_EVENT_SHUTDOWN, virt.VIR_DOMAIN_EVENT_SHUTDOWN_GUEST)
        wait_until(lambda: self.framevisor("pool")["held"] == 0, "all frames are back")

    def shutdown(self):
        """The power button, which the guest obeys."""
        self.events.clear()
        self.domain.shutdown()
        self.wait_for_state(self.virt.VIR_DOMAIN_SHUTOFF)
        assert self.state() == (self.virt.VIR_DOMAIN_SHUTOFF, self.virt.VIR_DOMAIN_SHUTOFF_SHUTDOWN), self.state()
        self.has_shut_down()

    def setmaxmem(self):
        """For the next start, as with QEMU."""
        self.virsh(f"setmem life {self.boot}M --config")
        assert self.domain.info()[2] == self.boot * 1024
        domain = self.connection.defineXML(self.xml(HUGE))
        self.virsh(f"setmaxmem huge {2 * self.huge}M --config")
        assert domain.info()[1] == 2 * self.huge * 1024, domain.info()
        domain.undefine()

    def autostart(self):
        self.domain.setAutostart(1)
        self.stop_daemon("libvirtd", signal.SIGTERM)
        shell(f"rm -f {self.dir}/libvirt/run/qemu/autostarted")
        self.start_libvirtd()
        self.wait_for_state(self.virt.VIR_DOMAIN_RUNNING)
        self.domain.setAutostart(0)
        self.look_at()
        self.console.wait_until_up()

    def crash(self):
        """The VM's process is killed in each phase: while the guest gives memory up, while it starts, while it is
        suspended, and while there is no libvirtd."""
        def gives_memory_up():
            self.domain.setMemoryFlags(self.half * 1024, self.virt.VIR_DOMAIN_AFFECT_LIVE)

        def nobody_watches():
            self.stop_daemon("libvirtd", signal.SIGKILL)

        for phase in (gives_memory_up, lambda: None, self.domain.suspend, nobody_watches):
            if not self.domain.isActive():
                self.domain.create()
            phase()
            self.events.clear()
            os.kill(self.framevisor("ps")[0]["pid"], signal.SIGKILL)
            if phase == nobody_watches:
                self.start_libvirtd()
            else:
                self.wait_for_event("life", self.virt.VIR_DOMAIN_EVENT_STOPPED, self.virt.VIR_DOMAIN_EVENT_STOPPED_FAILED)
            self.wait_for_state(self.virt.VIR_DOMAIN_SHUTOFF)
            assert self.state()[1] == self.virt.VIR_DOMAIN_SHUTOFF_CRASHED, self.state()
            wait_until(lambda: self.framevisor("pool")["held"] == 0, "all frames are back")

    def destroy(self):
        self.domain.create()
        self.events.clear()
        self.domain.destroy()
        self.wait_for_event("life", self.virt.VIR_DOMAIN_EVENT_STOPPED, self.virt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED)
        assert self.state() == (self.virt.VIR_DOMAIN_SHUTOFF, self.virt.VIR_DOMAIN_SHUTOFF_DESTROYED), self.state()
        wait_until(lambda: self.framevisor("pool")["held"] == 0, "all frames are back")

    def without_balloon(self):
        """<memballoon model='none'/>: nothing of libvirt's moves it, framevisor does."""
        domain = self.connection.createXML(self.other(
            ("<memballoon model='virtio' autodeflate='on' freePageReporting='on'><stats period='2'/></memballoon>", "<memballoon model='none'/>")))
        try:
            domain.setMemory(self.half * 1024)
        except self.virt.libvirtError as error:
            assert "without the balloon device" in str(error), error
        else:
            raise AssertionError("setmem without a balloon was accepted")
        assert self.framevisor(f"mem {domain.name()}")["target"]["actual"] >= self.boot * MIB
        domain.destroy()
        wait_until(lambda: self.framevisor("pool")["held"] == 0, "all frames are back")

    def attach_at_once(self):
        """A device that the guest fills at once, perhaps while libvirt still attaches it. The only one, because it is the
        first that this guest uses."""
        life, xml = self.domain, self.other()
        self.domain = self.connection.createXML(re.sub(r"<memory model='virtio-mem'>.*?</memory>", "", xml, flags=re.DOTALL))
        self.look_at(self.domain.name())
        self.console.wait_until_up()
        more = self.xml(MORE_MEMORY).replace(f"'MiB'>{self.attached}</requested>", f"'MiB'>{self.quarter}</requested>").replace("<node>1", "<node>0")
        self.domain.attachDeviceFlags(more, self.virt.VIR_DOMAIN_AFFECT_LIVE)
        self.agree(self.boot + self.quarter)
        device = ET.tostring(ET.fromstring(self.domain.XMLDesc()).find("devices/memory")).decode()
        self.domain.detachDeviceFlags(device, self.virt.VIR_DOMAIN_AFFECT_LIVE)
        wait_until(lambda: not self.plugged(), "the device is gone")
        self.agree(self.boot)
        self.domain.destroy()
        self.domain = life
        wait_until(lambda: self.framevisor("pool")["held"] == 0, "all frames are back")

    def refused(self, *domains):
        """Each of the domains (XML, words) is refused with these words. All at once: libvirt takes its time with a process
        that has ended."""
        def refused_one(xml, words):
            try:
                self.connection.createXML(xml)
            except self.virt.libvirtError as error:
                assert words in str(error), f"'{error}' does not say '{words}'"
            else:
                raise AssertionError(f"was started, but should be refused: {words}")
        with concurrent.futures.ThreadPoolExecutor(len(domains)) as pool:
            for result in [pool.submit(refused_one, *domain) for domain in domains]:
                result.result()
        assert self.framevisor("pool")["held"] == 0

    def other(self, *changes):
        """Another domain of the same kind, with parts of its XML replaced."""
        self.others += 1
        xml = self.xml(ORDINARY).replace("<name>life<", f"<name>other-{self.others}<")
        for old, new in changes:
            assert old in xml, (old, xml)
            xml = xml.replace(old, new)
        return xml

    def refusals(self):
        domains = [(self.other(("/kernel<", "/nothing<")), "nothing"), (self.other(("/kernel<", "/libvirt/qemu.conf<")), "qemu.conf")]
        for device, words in (("<interface type='user'><model type='virtio'/></interface>", "remove <interface>"),
                              ("<rng model='virtio'><backend model='random'>/dev/hwrng</backend></rng>", "one <rng>"),
                              ("<vsock model='virtio'><cid auto='yes'/></vsock>", "vsock"),
                              ("<serial type='pty'><target port='1'/></serial>", "one serial port")):
            domains.append((self.other(("</devices>", f"{device}</devices>")), words))
        much = 64 * 1024
        domains.append((self.other((f"memory='{self.cell1}'", f"memory='{much - self.boot + self.cell1}'"),
                                   (f"<memory unit='MiB'>{self.boot}<", f"<memory unit='MiB'>{much}<"),
                                   (f"'MiB'>{4 * self.boot}</maxMemory>", f"'MiB'>{2 * much}</maxMemory>")), "pool"))
        domains.append((self.other(("<features><acpi/></features>", "")), "add <acpi/>"))
        domains.append((self.other(("<cpu mode='host-passthrough'>", "<cpu mode='host-model'>")), "'host-model'"))
        self.refused(*domains)

    def virt_install(self):
        """What virt-install writes for a kernel that is booted directly, recorded with --print-xml: without displays and
        with, with a Linux system, and told what is not there (docs/libvirt.md)."""
        def written(name):
            with open(f"{ROOT}/tests/data/libvirt/virt-install-4.1.0-{name}.xml", encoding="ascii") as file:
                xml = file.read()
            # Smaller, and with the files and the run directory of this place.
            for old, new in (("<kernel>/var/lib/libvirt/images/vmlinuz</kernel>", self.kernel()), ("console=ttyS0", CMDLINE),
                             ("/usr/bin/framevisor", f"{self.dir}/bin/framevisor"), ("1048576", str(self.boot * 1024)),
                             ("</domain>", f"{ENVIRONMENT.format(rundir=self.rundir)}</domain>"),
                             ('type="kvm"', "type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'")):
                assert old in xml, (name, old)
                xml = xml.replace(old, new)
            return xml
        # libvirt's own words: it gives addresses on a PCI bus before the emulator is asked.
        for name, words in (("text", "No PCI buses available"), ("graphical", "No PCI buses available"), ("linux", "remove <channel>")):
            self.refused((written(name), words))
        domain = self.connection.createXML(written("told"))
        self.look_at("web")
        self.console.wait_until_up()
        self.events.clear()
        domain.shutdown()
        self.has_shut_down("web")

    def emulator(self, name, script):
        """Another domain, with an emulator that is a script."""
        path = f"{self.dir}/bin/{name}"
        with open(path, "w", encoding="ascii") as file:
            file.write(f"#!/bin/sh\n{script}\n")
        os.chmod(path, 0o755)
        return self.other(("bin/framevisor<", f"bin/{name}<"))

    def emulator_crashes(self):
        """In the probe, and in the start: an error, and libvirt goes on."""
        real = f"{self.dir}/bin/framevisor"
        in_start = f'case "$*" in *-daemonize*) exec {real} "$@";; esac; echo crashing >&2; kill -SEGV $$'
        # What it said, libvirt shows only where it sees at once that the process is gone.
        self.refused((self.emulator("crash-probe", "kill -SEGV $$"), ""), (self.emulator("crash-start", in_start), ""))
        assert self.connection.isAlive() and self.connection.getVersion()

    def session(self):
        """qemu:///session of a user without privilege. It is the user's libvirtd, so nothing here has to do with it."""
        shell(f"install -d -m 755 {self.dir}/session")
        shell(f"env -u FRAMEVISOR_RUNDIR unshare --mount --propagation private "
              f"/usr/bin/python3 {HERE}/libvirt_session.py {self.dir}/session {ROOT}/{self.files[0]}")

    def guest_switches_off(self):
        if not self.domain.isActive():
            self.domain.create()
            self.look_at()
            self.console.wait_until_up()
        self.events.clear()
        self.console.order("poweroff")
        self.wait_for_state(self.virt.VIR_DOMAIN_SHUTOFF)
        assert self.state()[1] == self.virt.VIR_DOMAIN_SHUTOFF_SHUTDOWN, self.state()
        self.has_shut_down()

    def hugepages_come_back(self):
        """setmem to the half, on hugepages: at least 95 % of the frames are the pool's again."""
        if self.domain is not None and self.domain.isActive():
            self.domain.destroy()
            wait_until(lambda: self.framevisor("pool")["held"] == 0, "all frames are back")
        domain = self.connection.createXML(self.xml(HUGE))
        before = self.framevisor("pool")["held"]
        assert before >= self.huge // 2, "hugepages are preallocated"
        serial = f"{self.dir}/huge.serial"

        def up():
            with open(serial, encoding="utf-8", errors="replace") as file:
                return ("ready for verbs" if self.stock else "guest: up") in file.read()
        wait_until(up, "the guest is up")
        domain.setMemory(self.huge * 1024 // 2)
        wait_until(lambda: domain.info()[2] == self.huge * 1024 // 2, lambda: f"the half, not {domain.info()[2] // 1024} MiB")
        half = self.huge // 4
        wait_until(lambda: before - self.framevisor("pool")["held"] >= half * 95 / 100,
                   lambda: f"{half} frames come back, not {before - self.framevisor('pool')['held']}")
        back = before - self.framevisor("pool")["held"]
        self.events.clear()
        domain.shutdown()
        self.has_shut_down("huge")
        return f"{back} of {half} frames came back"


OBEY = ["capabilities", "start", "virsh_console", "unprivileged", "sizes", "setmem", "memory_device", "asked_while_it_moves", "attach", "processors",
        "suspend_and_resume", "monitor_command", "other_clients", "not_there", "libvirtd_restarts", "reset", "reboot", "guest_reboots", "detach", "shutdown",
        "setmaxmem", "autostart", "crash", "guest_switches_off", "destroy", "without_balloon", "attach_at_once", "refusals", "virt_install",
        "emulator_crashes", "session", "hugepages_come_back"]
# With a stock kernel all but the session, whose guests are too small for one.
STOCK = ["capabilities", "start", "virsh_console", "unprivileged", "nodes", "random_numbers", "sizes", "statistics", "setmem", "memory_device",
         "asked_while_it_moves", "attach", "processors", "suspend_and_resume", "monitor_command", "other_clients", "not_there", "libvirtd_restarts",
         "reset", "reboot", "guest_reboots", "detach", "shutdown", "setmaxmem", "autostart", "crash", "guest_switches_off", "destroy",
         "without_balloon", "attach_at_once", "refusals", "virt_install", "emulator_crashes", "hugepages_come_back"]


def attempt(life, name):
    begin = time.monotonic()
    result = {"check": name, "ok": True}
    life.agreed = False
    try:
        result["detail"] = getattr(life, name)() or ""
        life.nothing_is_lost()
    except Exception:  # pylint: disable=broad-except
        result.update(ok=False, detail=traceback.format_exc())
    result["seconds"] = round(time.monotonic() - begin, 2)
    print(json.dumps(result), flush=True)
    return result["ok"]


def main(arguments):
    stock = arguments[1] == "stock"
    files = 2 if stock else 1
    life = Life(arguments[0], stock, arguments[2:2 + files])
    only = arguments[2 + files:] or (STOCK if stock else OBEY)
    # What comes after a check that failed builds on it, and would wait for what cannot come.
    good = attempt(life, "set_up")
    for name in only:
        good = good and attempt(life, name)
    attempt(life, "tear_down")
    sys.stdout.flush()
    os._exit(0)  # the event thread never ends


if __name__ == "__main__":
    main(sys.argv[1:])
