#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Runs inside the test host and does what testhost.py asks for over a virtio serial port.

Requests and replies are JSON objects, one per line. A request has "id" and "op":

  run        cmd, timeout, cwd, env, stdin -> rc, out, err, timed_out, seconds
  terminal   cmd, rows, cols: like run, on a pseudo terminal whose other end is the second port
  ping       nothing: the machine answers
  poweroff   ends this program; PID 1 then switches the machine off
"""
import errno
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import tempfile
import termios
import threading
import time

PORTS = "/sys/class/virtio-ports"
KVM_CREATE_VM, KVM_CREATE_VCPU, KVM_CREATE_IRQCHIP = 0xAE01, 0xAE41, 0xAE60


def open_port(name, seconds=30):
    """Opens the virtio serial port with that name; it appears while the machine boots."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for port in os.listdir(PORTS) if os.path.isdir(PORTS) else []:
            with open(f"{PORTS}/{port}/name", encoding="ascii") as file:
                if file.read().strip() == name:
                    return os.open(f"/dev/{port}", os.O_RDWR)
        time.sleep(0.05)
    raise SystemExit(f"agent: no virtio port {name}")


def hold_idle_vms():
    """The first and the last VM of a machine, and of its virtual CPUs those without an APIC and those with
    one that is off, switch static keys: they patch code that other CPUs execute. Multi-threaded
    emulation gets that wrong now and then; a CPU then meets a breakpoint that is there no more, and its
    kernel panics. Idle VMs of all these kinds keep the keys as they are. Returns what keeps them."""
    try:
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        with_apic, without = (fcntl.ioctl(kvm, KVM_CREATE_VM, 0) for _ in range(2))
        fcntl.ioctl(with_apic, KVM_CREATE_IRQCHIP, 0)
        return [kvm, with_apic, without, *(fcntl.ioctl(vm, KVM_CREATE_VCPU, 0) for vm in (with_apic, without))]
    except OSError as error:
        print(f"agent: no KVM: {error}", flush=True)
        return []


def start_other_cpus():
    """The machine boots with one CPU: so nobody executes the code that the kernel patches meanwhile."""
    for name in sorted(os.listdir("/sys/devices/system/cpu")):
        path = f"/sys/devices/system/cpu/{name}/online"
        if name[:3] == "cpu" and name[3:].isdigit() and os.path.exists(path):
            with open(path, "r+", encoding="ascii") as file:
                if file.read().strip() == "0":
                    file.write("1")


def keep_the_first_cpu_free():
    """Only the kernel's own threads run on the first CPU from now on. QEMU's cpu_clear_ignne() changes the first CPU's
    flags from the thread of any CPU that loads FPU state, and not atomically: if the first one enters or leaves a
    guest at that moment, it forgets that it is in the guest, or that it is not."""
    def put(name, text):
        with open(f"/sys/fs/cgroup/{name}", "w", encoding="ascii") as file:
            file.write(text)

    put("cgroup.subtree_control", "+cpuset")
    os.mkdir("/sys/fs/cgroup/first-cpu")
    put("first-cpu/cpuset.cpus", "0")
    put("first-cpu/cpuset.cpus.partition", "root")


def environment(request):
    return {**os.environ, **(request.get("env") or {})}


def wait_or_kill(process, timeout):
    """Waits for the process; after the timeout kills its process group. True if it timed out."""
    try:
        process.wait(timeout)
        return False
    except subprocess.TimeoutExpired:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        return True


def run(request):
    # Files, not pipes: a process that the command leaves in the background may keep them open.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as stdin:
        stdin.write((request.get("stdin") or "").encode())
        stdin.seek(0)
        start = time.monotonic()
        process = subprocess.Popen(request["cmd"], shell=True, executable="/bin/bash", start_new_session=True,
                                   cwd=request.get("cwd"), env=environment(request), stdin=stdin, stdout=out, stderr=err)
        timed_out = wait_or_kill(process, request.get("timeout"))
        seconds = time.monotonic() - start
        out.seek(0)
        err.seek(0)
        return {"rc": process.returncode, "timed_out": timed_out, "seconds": seconds,
                "out": out.read().decode(errors="replace"), "err": err.read().decode(errors="replace")}


def terminal(request, port):
    """Runs a command on a pseudo terminal and carries its bytes to and from the port."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", request.get("rows", 24), request.get("cols", 80), 0, 0))
    process = subprocess.Popen(request["cmd"], shell=True, executable="/bin/bash", cwd=request.get("cwd"),
                               env=environment(request), stdin=slave, stdout=slave, stderr=slave, close_fds=True,
                               preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)))
    os.close(slave)
    poll = select.poll()
    poll.register(master, select.POLLIN)
    poll.register(port, select.POLLIN)
    open_ends = True
    while open_ends:
        for end, events in poll.poll(200):
            try:
                data = os.read(end, 65536) if events & select.POLLIN else b""
            except OSError as error:
                if error.errno != errno.EIO:  # EIO: the last process closed the terminal
                    raise
                data = b""
            if data:
                os.write(port if end == master else master, data)
            elif end == master:
                open_ends = False
            else:
                time.sleep(0.05)  # nobody at the other end of the port yet
    os.close(master)
    return {"rc": process.wait()}


class Agent:
    def __init__(self):
        self.port = open_port("framevisor.agent")
        self.terminal_port = open_port("framevisor.terminal")
        self.lock = threading.Lock()

    def send(self, message):
        data = json.dumps(message).encode() + b"\n"
        with self.lock:
            while data:
                data = data[os.write(self.port, data):]

    def handle(self, request):
        try:
            if request["op"] == "run":
                reply = run(request)
            else:
                reply = terminal(request, self.terminal_port)
        except Exception as error:  # pylint: disable=broad-except # the caller wants to know any
            reply = {"error": f"{type(error).__name__}: {error}"}
        self.send({"id": request["id"], **reply})

    def serve(self):
        pending = b""
        while True:
            data = os.read(self.port, 65536)
            if not data:  # nobody at the other end
                time.sleep(0.05)
                continue
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                request = json.loads(line)
                if request["op"] == "poweroff":
                    return
                if request["op"] == "ping":
                    self.send({"id": request["id"]})
                    continue
                threading.Thread(target=self.handle, args=(request,), daemon=True).start()


def main():
    # A shell without job control starts its background jobs, this one too, with these ignored, and
    # so would everything be that is started here.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    idle_vms = hold_idle_vms()
    start_other_cpus()
    keep_the_first_cpu_free()
    agent = Agent()
    agent.send({"id": 0, "kvm": bool(idle_vms)})
    agent.serve()


main()
