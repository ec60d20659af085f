#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""VMs of an unprivileged user under qemu:///session, first with a pool of the user's own, then with root's, which lends
what needs privilege. libvirt_life.py starts it, in a mount name space of its own:

    libvirt_session.py DIR GUEST     DIR can be looked into by everybody; GUEST is the freestanding guest "obey"

An exception says what is wrong."""
import grp
import json
import os
import signal
import subprocess
import sys

from libvirt_place import ROOT, WAIT, shell, wait_until

USER = 65534
RAM_FRAMES = 32

DOMAIN = """<domain type='kvm'><name>session</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='framevisor'>hvm</type><kernel>{dir}/bin/guest</kernel></os>
  <features><acpi/></features><cpu mode='host-passthrough'/>
  <devices><emulator>{dir}/bin/framevisor</emulator>
    <controller type='usb' model='none'/><controller type='pci' index='0' model='pci-root'/>
    <serial type='file'><source path='{dir}/serial'/><target port='0'/></serial>
    <memballoon model='virtio'/>
  </devices></domain>"""


def prepare(directory, guest):
    """A /run of our own, and a /dev/kvm that the user may open, whatever this machine's rules are."""
    shell("mount -t tmpfs -o mode=755 tmpfs /run")
    shell(f"install -d -m 700 -o {USER} -g kvm /run/user/{USER} {directory}/home")
    kvm = os.stat("/dev/kvm")
    if kvm.st_mode & 0o006 != 0o006 and (kvm.st_mode & 0o060 != 0o060 or kvm.st_gid != grp.getgrnam("kvm").gr_gid):
        shell("mknod /run/kvm c 10 232 && chgrp kvm /run/kvm && chmod 660 /run/kvm && mount --bind /run/kvm /dev/kvm")
    shell(f"install -d {directory}/bin && install -m 755 build/framevisor build/framevisord {directory}/bin/")
    shell(f"install -m 644 {guest} {directory}/bin/guest && chown {USER}:kvm {directory}")
    with open(f"{directory}/domain.xml", "w", encoding="ascii") as file:
        file.write(DOMAIN.format(dir=directory))


class Session:
    """The user, and what the user sees."""

    def __init__(self, directory):
        self.dir = directory

    def run(self, command, check=True):
        return shell(f"setpriv --reuid {USER} --regid kvm --clear-groups --no-new-privs env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin "
                     f"HOME={self.dir}/home XDG_RUNTIME_DIR=/run/user/{USER} {command}", check=check)

    def virsh(self, arguments, check=True):
        return self.run(f"virsh -c qemu:///session {arguments}", check)

    def framevisor(self, arguments):
        return json.loads(self.run(f"{self.dir}/bin/framevisor {arguments} --json").stdout)

    def said(self, words):
        try:
            with open(f"{self.dir}/serial", encoding="utf-8", errors="replace") as file:
                return words in file.read()
        except FileNotFoundError:
            return False

    def held(self):
        """Frames under the guest and kept for it."""
        frames = self.framevisor("mem session")["frames"]
        return frames["bound"] + frames["stock"]

    def life(self, on_demand):
        """Start, a smaller balloon, power button."""
        shell(f"rm -f {self.dir}/serial")
        self.virsh(f"create {self.dir}/domain.xml")
        wait_until(lambda: self.said("guest: up"), "the guest is up")
        assert "running" in self.virsh("domstate session").stdout
        assert (self.held() < RAM_FRAMES) == on_demand, f"{self.held()} of {RAM_FRAMES} frames, on demand: {on_demand}"
        self.virsh("setmem session 32M")
        wait_until(lambda: "actual 32768" in self.virsh("dommemstat session").stdout, "the balloon is there")
        wait_until(lambda: self.framevisor("mem session")["target"]["actual"] == 32 << 20, "framevisor says so, too")
        # Who cannot catch a touch cannot take a frame away: the guest might come back to it.
        if on_demand:
            wait_until(lambda: self.held() <= RAM_FRAMES // 2, lambda: f"half of the frames, not {self.held()}")
        assert on_demand or self.held() == RAM_FRAMES
        self.virsh("shutdown session")
        wait_until(lambda: "session" not in self.virsh("list --all").stdout, "the guest obeys its power button")


    def end(self):
        """The daemons that virsh has started."""
        for name in ("libvirtd", "virtlogd"):
            path = f"/run/user/{USER}/libvirt/{name}.pid"
            if os.path.exists(path):
                with open(path, encoding="ascii") as file:
                    os.kill(int(file.read()), signal.SIGTERM)


def main(arguments):
    directory, guest = arguments
    prepare(directory, guest)
    session = Session(directory)
    try:
        check(session)
    finally:
        session.end()


def check(session):
    # A pool of the user's own, which the first VM starts and the last one ends. It has no userfaultfd to give.
    session.life(on_demand=False)
    wait_until(lambda: not os.path.exists(f"/run/user/{USER}/framevisor/pool.sock"), "the pool ends with its last VM")

    # Root's pool: frames as they are touched.
    with subprocess.Popen([f"{ROOT}/build/framevisord", "--pool", "128M", "--group", "kvm"], stdout=subprocess.DEVNULL) as owner:
        wait_until(lambda: os.path.exists("/run/framevisor/pool.sock") and os.stat("/run/framevisor/pool.sock").st_mode & 0o060 == 0o060,
                   "root's pool is there")
        session.life(on_demand=True)
        assert not os.path.exists(f"/run/user/{USER}/framevisor/pool.sock"), "a pool of the user's own was started beside root's"
        pool = json.loads(shell("build/framevisor pool --json").stdout)
        assert pool["held"] == 0, pool
        owner.terminate()
        owner.wait(WAIT)


if __name__ == "__main__":
    main(sys.argv[1:])
