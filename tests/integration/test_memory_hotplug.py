# SPDX-License-Identifier: MIT
"""Memory beyond what a guest boots with: plugged while it runs, used, taken back to the last frame, and
one target over virtio-mem and balloon."""
import json
import re
import time

import pytest
from product import FRAME_MIB, SLOW, Vm, kernel_versions
from test_qmp import talk

MIB = 1 << 20


def memory(product, name="web"):
    return product.json(f"mem {name}")


def wait_for_size(product, size_mib, timeout=60):
    """Waits until the guest has as much as it was promised at its start."""
    deadline = time.monotonic() + timeout * SLOW
    while True:
        state = memory(product)
        if state["target"]["actual"] == size_mib * MIB:
            return state
        assert time.monotonic() < deadline, state
        time.sleep(0.5)


def wait_for_stand_in(product, most, inflated_mib=0):
    """Waits until the balloon holds exactly what is still plugged, at most so many frames, beside what it
    is to hold anyway: a slow guest takes minutes to move what is in its last blocks. Returns the state
    and how many frames that is."""
    deadline = time.monotonic() + 80 * SLOW
    while True:
        state = memory(product)
        plugged = state["frames"]["plugged"]
        if plugged <= most and state["balloon"]["inflated"] == (plugged * FRAME_MIB + inflated_mib) * MIB:
            return state, plugged
        assert time.monotonic() < deadline, state
        time.sleep(0.5)


def total_mib(vm):
    """MemTotal, which leaves out the kernel's image and its page descriptors."""
    return int(vm.verb("mem").split()[1]) // 1024


def room(vm, mib):
    """The guest's place for test data was sized by what it had at boot."""
    vm.verb(f"sh mount -o remount,size={mib}m /data")


def all_frames_accounted(product):
    """The books balance, and what the VM holds is not more than it has. Returns the pool."""
    pool = product.check_conservation()
    state = memory(product)
    frames = state["frames"]
    assert frames["bound"] + frames["stock"] <= frames["ram"] + frames["plugged"], state
    return pool


@pytest.mark.parametrize("kernel", kernel_versions())
def test_grow_use_shrink(product, kernel):
    """512M to 1G and back, with a reboot (and on the newest kernel once more): the guest sees the memory, keeps data in it,
    and afterwards its frames are in the pool: the balloon stands in for blocks that it does not unplug."""
    vm = product.linux("web", kernel, cpus=2, mem="512M,max=1G")
    small, _, _ = vm.wait_until_up()
    small //= 1024
    assert small <= 512
    for boot in range(2 if kernel == kernel_versions()[0] else 1):
        product.ok("balloon web 1G", timeout=90)
        state = memory(product)
        assert state["frames"]["plugged"] == 512 // FRAME_MIB, state
        assert state["virtio-mem"]["plugged"] == 512 * MIB, state
        assert total_mib(vm) > small + 480
        room(vm, 800)
        vm.verb("fill 160", timeout=120)
        vm.hold(480, timeout=120)
        vm.verb("verify", timeout=120)
        full = all_frames_accounted(product)
        assert full["held"] >= 640 // FRAME_MIB, full
        vm.verb("drop")

        vm.verb("fill 64", timeout=60)
        product.ok("balloon web 512M", timeout=120)
        state, left = wait_for_stand_in(product, 8)
        assert state["frames"]["bound"] <= 512 // FRAME_MIB + state["balloon"]["frames-partial"], state
        empty = all_frames_accounted(product)
        assert empty["held"] < full["held"], (full, empty)
        assert small - 1 <= total_mib(vm) <= small + left * FRAME_MIB + 1
        vm.verb("verify", timeout=60)
        vm.verb("drop")

        if boot == 0:
            product.ok("balloon web 1G", timeout=90)
            vm.type("reboot")
            again, _, _ = vm.wait_until_up()
            all_frames_accounted(product)
            # The target is the host's: the memory comes back to the guest that was started anew.
            wait_for_size(product, 1024)
            assert total_mib(vm) > small + 480, again
            product.ok("balloon web 512M", timeout=90)
            all_frames_accounted(product)
    vm.type("poweroff")
    assert vm.wait_until_ended() == 0, vm.describe()


@pytest.mark.parametrize("kernel", kernel_versions())
def test_elastic(product, kernel):
    """Most of the memory behind virtio-mem from the start: all of it arrives without being asked for,
    and what is taken comes back completely although the guest's memory is fragmented."""
    vm = product.linux("web", kernel, mem="1G,elastic=on")
    vm.wait_until_up()
    state = wait_for_size(product, 1024)
    assert state["frames"]["ram"] == 256 // FRAME_MIB, state
    assert state["frames"]["plugged"] == 768 // FRAME_MIB, state
    room(vm, 900)
    vm.verb("fill 480", timeout=180)
    # Two of three files go: what stays is everywhere.
    vm.verb("sh cd /data && for f in [0-9]*; do [ $((f % 3)) = 0 ] || rm $f; done; "
            "for f in [0-9]*; do md5sum /data/$f; done >sums", timeout=120)
    before = all_frames_accounted(product)
    product.ok("balloon web 512M", timeout=180)
    state, _ = wait_for_stand_in(product, 256 // FRAME_MIB, -256)
    after = all_frames_accounted(product)
    assert state["frames"]["plugged"] == 256 // FRAME_MIB, state
    assert state["frames"]["bound"] <= 512 // FRAME_MIB, state
    assert after["held"] < before["held"], (before, after)
    vm.verb("verify", timeout=120)
    product.ok("balloon web 1G", timeout=90)
    vm.verb("verify", timeout=120)
    vm.verb("touch 300", timeout=60)
    all_frames_accounted(product)


def test_target_over_both(product):
    """From above the boot memory to below it and back in one go each: blocks, and the balloon for the rest."""
    vm = product.linux("web", cpus=2, mem="512M,max=1G")
    vm.wait_until_up()
    product.ok("balloon web 1G", timeout=90)
    vm.verb("fill 64")
    report = product.json("balloon web 300M", timeout=120)
    assert report["actual"] == 300 * MIB, report
    assert report["frames-back"] == 256 - report["frames-plugged"] + report["frames-ballooned"], report
    state, left = wait_for_stand_in(product, (700 - 512) // FRAME_MIB, 512 - 300)
    released = state["balloon"]["frames-released"]
    assert released >= 95 * (512 - 300) // FRAME_MIB // 100, state
    pool = all_frames_accounted(product)
    assert pool["held"] <= 512 // FRAME_MIB + left - released, (pool, state)
    vm.verb("verify")
    report = product.json("balloon web 700M", timeout=120)
    assert report["actual"] == 700 * MIB, report
    assert report["frames-ballooned"] == 0, report
    assert report["frames-plugged"] == (700 - 512) // FRAME_MIB, report
    all_frames_accounted(product)
    vm.verb("verify")


def test_guest_is_not_starved(product):
    """More is asked of the guest than it can spare: it stays alive with what it needs, its user is told
    how far it came and why."""
    vm = product.linux("web")
    vm.wait_until_up()
    vm.verb("fill 48")
    vm.hold(152)
    result = product.framevisor("balloon web 64M --timeout 5", timeout=90)
    assert result.rc == 1, result
    assert "needs the rest" in result.err, result
    assert "back in the pool" in result.out, result
    vm.verb("verify", timeout=90)
    guest = memory(product)["guest"]
    assert guest["stats"].get("stat-oom-kills", 0) == 0, guest
    all_frames_accounted(product)
    # Less need, more comes back, without being asked again.
    before = memory(product)["target"]["actual"]
    vm.verb("drop")
    deadline = time.monotonic() + 30 * SLOW
    while memory(product)["target"]["actual"] > before - 100 * MIB:
        assert time.monotonic() < deadline, memory(product)
        time.sleep(0.5)
    product.ok("balloon web 512M", timeout=90)
    vm.verb("fill 160", timeout=60)


def test_what_a_guest_frees_comes_back(product):
    """Free page reporting, on unless it is switched off."""
    vm = product.linux("web")
    vm.wait_until_up()
    vm.verb("touch 300")
    deadline = time.monotonic() + 30 * SLOW
    now = memory(product)
    while now["frames"]["bound"] > 120 or now["balloon"]["frames-reported"] < 100:
        assert time.monotonic() < deadline, now
        time.sleep(1)
        now = memory(product)
    vm.verb("fill 120", timeout=60)
    vm.verb("verify", timeout=60)
    all_frames_accounted(product)
    silent = product.linux("silent", extra="--hugepages=require --free-page-reporting=off")
    silent.wait_until_up()
    assert memory(product, "silent")["balloon"]["frames-reported"] == 0


def test_limits_of_a_running_vm(product):
    """set --min and --max hold for a VM that runs: what is beyond them is refused, with how much it is too much, and
    changes nothing."""
    def refused(command, *words):
        result = product.framevisor(command, timeout=60)
        assert result.rc == 1 and len(result.err.strip().splitlines()) == 1, result
        assert all(word in result.err for word in words), result

    vm = product.linux("web", mem="512M,max=1G")
    vm.wait_until_up()
    product.ok("set web --min 100M --max 600M --shares 2000")
    refused("balloon web 1G", "600 MiB")
    assert memory(product)["target"]["size"] == 512 * MIB
    product.ok("balloon web 600M", timeout=90)
    refused("set web --max 512M", "600 MiB", "88 MiB more")
    refused("set web --min 700M", "700 MiB", "100 MiB less")
    refused("set web --max 2G", "2 GiB", "1 GiB less")
    vm_of_pool = product.pool()["vms"][0]
    assert (vm_of_pool["min"], vm_of_pool["max"], vm_of_pool["shares"]) == (50, 300, 2000), vm_of_pool
    product.ok("set web --max 1G")
    product.ok("balloon web 1G", timeout=120)
    assert memory(product)["target"]["actual"] == 1024 * MIB
    product.ok("balloon web 512M", timeout=120)


def test_no_driver_and_too_much(product):
    """One clear line and status 1 each; the guest is as it was."""
    vm = product.linux("web", mem="512M,max=1G")
    vm.wait_until_up()
    vm.verb("sh rmmod virtio_mem")
    for size, word in (("2G", "1 GiB"), ("1G", "virtio_mem")):
        result = product.framevisor(f"balloon web {size}")
        assert result.rc == 1, result
        assert len(result.err.strip().splitlines()) == 1 and word in result.err, result
    # The balloon still works.
    product.ok("balloon web 400M", timeout=60)
    product.ok("balloon web 512M", timeout=60)


def ask_while_it_grows(product, value, last):
    """Sets a size over QMP, then asks for the target until it is there, or is in the state last. Returns (s that
    setting took, the longest that a question took, and all together; the states that were seen)."""
    script = (
        "import json, socket, sys, time\n"
        "def call(command, **arguments):\n"
        "    start = time.monotonic()\n"
        "    s.sendall(json.dumps({'execute': command, 'arguments': arguments}).encode())\n"
        "    while 'event' in (reply := json.loads(f.readline())): pass\n"
        "    assert 'return' in reply, reply\n"
        "    return reply['return'], time.monotonic() - start\n"
        "s = socket.socket(socket.AF_UNIX); s.settimeout(80); s.connect(sys.argv[1])\n"
        "f = s.makefile('r', newline='\\n'); f.readline(); call('qmp_capabilities')\n"
        "begin = time.monotonic()\n"
        "_, took = call('balloon', value=int(sys.argv[2]))\n"
        "longest, states, deadline = 0, [], time.monotonic() + 60\n"
        "while not states or states[-1] not in ('reached', sys.argv[3]):\n"
        "    assert time.monotonic() < deadline, states\n"
        "    reply, waited = call('query-framevisor-memory')\n"
        "    longest, state = max(longest, waited), reply['target']['state']\n"
        "    if state not in states[-1:]: states.append(state)\n"
        "    time.sleep(0.01)\n"
        "print(json.dumps([took, longest, time.monotonic() - begin, states]))\n")
    path = f"{product.rundir}/vm/web/qmp.sock"
    result = product.run(f"/usr/bin/python3 - {path} {value} {last}", timeout=90, stdin=script)
    assert result.rc == 0, result
    return json.loads(result.out)


def test_nobody_waits_while_the_pool_grows(product):
    """A pool of ordinary memory takes long to grow: the command is answered at once, so are others meanwhile, the guest
    plugs what there is by then, and a VM that is asked to quit does so."""
    vm = product.linux("web", mem="512M,max=3G", extra="--hugepages=never")
    vm.wait_until_up()
    took, longest, whole, states = ask_while_it_grows(product, 2048 * MIB, "none")
    assert states[-1] == "reached" and len(states) > 1, states
    assert memory(product)["frames"]["plugged"] == 1536 // FRAME_MIB
    # Two emulated CPUs zero, serve the guest and answer; what blocked took as long as the whole.
    assert took < whole / 4 and longest < whole / 2, (took, longest, whole, states)
    all_frames_accounted(product)

    *_, states = ask_while_it_grows(product, 3072 * MIB, "pool-grows")
    assert states[-1] == "pool-grows", states
    start = time.monotonic()
    talk(product, "web", [{"execute": "qmp_capabilities"}, {"execute": "quit"}], events=1)
    assert vm.wait_until_ended() == 0, vm.describe()
    assert time.monotonic() - start < whole / 2, (time.monotonic() - start, whole)


def test_memory_devices_for_tools(product):
    """What QEMU's tools ask about memory devices."""
    vm = product.linux("web", mem="512M,max=1G")
    vm.wait_until_up()
    _, replies, events = talk(product, "web", [
        {"execute": "qmp_capabilities"}, {"execute": "balloon", "arguments": {"value": 768 * MIB}}],
        events=["BALLOON_CHANGE", "MEMORY_DEVICE_SIZE_CHANGE"])
    assert replies[1] == {"return": {}}, replies
    assert len(events) >= 2, events
    wait_for_size(product, 768)
    _, replies, _ = talk(product, "web", [
        {"execute": "qmp_capabilities"}, {"execute": "query-memory-devices"}, {"execute": "query-memory-size-summary"},
        {"execute": "query-balloon"}, {"execute": "balloon", "arguments": {"value": 99 << 30}}])
    (device,) = replies[1]["return"]
    assert device["type"] == "virtio-mem", device
    assert {"id": "mem0", "memaddr": 1 << 30, "requested-size": 256 * MIB, "size": 256 * MIB, "max-size": 512 * MIB,
            "block-size": 2 * MIB, "node": 0}.items() <= device["data"].items(), device
    assert replies[2]["return"] == {"base-memory": 512 * MIB, "plugged-memory": 256 * MIB}
    assert replies[3]["return"] == {"actual": 768 * MIB}
    # More than there can be means all there can be, as in QEMU.
    assert replies[4] == {"return": {}}, replies
    wait_for_size(product, 1024)


def test_preallocated(product):
    """--prealloc: every frame of the boot memory is there before the guest runs."""
    vm = product.linux("web", mem="256M,max=512M",
                       extra="--hugepages=require --prealloc --free-page-reporting=off")
    vm.wait_until_up()
    assert memory(product)["frames"]["bound"] == 128
    all_frames_accounted(product)


@pytest.fixture
def slow_group(product):
    """A control group whose processes get as much of a CPU as is said: what a fast machine does in a moment takes seconds."""
    group = "/sys/fs/cgroup/slow"
    product.run(f"echo +cpu >/sys/fs/cgroup/cgroup.subtree_control && mkdir {group}", check=True)
    yield group
    product.run(f"while read pid; do echo $pid >/sys/fs/cgroup/cgroup.procs; done <{group}/cgroup.procs; rmdir {group}; "
                "echo -cpu >/sys/fs/cgroup/cgroup.subtree_control", check=True)


def wait_for_percents(vm, what, count, timeout=40):
    """Waits until the VM's process has said so many times how far the pool is. Returns what it said."""
    deadline = time.monotonic() + timeout * SLOW
    while True:
        percents = [int(percent) for percent in re.findall(rf"^framevisor: {what} the pool: (\d+) %$", vm.messages(), re.MULTILINE)]
        if len(percents) >= count:
            return percents
        assert vm.status is None and time.monotonic() < deadline, vm.describe()
        time.sleep(0.2)


def test_preallocation_shows_progress(product, slow_group):
    """A start that takes longer than a moment says each second how far it is: of a pool that is filled for it, and of one
    that runs and grows for it."""
    for name, what in (("first", "filling"), ("second", "growing")):
        product.run(f"echo 10000 100000 >{slow_group}/cpu.max", check=True)
        vm = Vm(product, name, f"echo $BASHPID >{slow_group}/cgroup.procs; exec build/framevisor run --name {name} --cpus 1 "
                               "--mem 1400M --kernel build/guest-tests/obey.elf --hugepages=require --prealloc")
        product.vms.append(vm.launch())
        wait_for_percents(vm, what, 3)
        product.run(f"echo max >{slow_group}/cpu.max", check=True)
        vm.wait_for(r"^guest: up", 60)
        percents = wait_for_percents(vm, what, 3)
        assert percents == sorted(percents), vm.messages()
        assert percents[0] < percents[-1] <= 100, vm.messages()
        assert re.search(r"^framevisor: preparing memory: \d+ of 1400 MiB$", vm.messages(), re.MULTILINE), vm.messages()
        assert memory(product, name)["frames"]["bound"] == 700
    product.check_conservation()


def test_host_without_memory(product):
    """The pool has to grow for a target and the machine has nothing left: the user is told, the machine is not asked
    without a pause, and the target is reached when there is memory again. 1000M is no multiple of a memory slot."""
    vm = product.start("web", "--cpus 1 --mem 64M,max=2G --kernel build/guest-tests/obey.elf")
    vm.wait_for(r"^guest: up", 60)
    hog = f"{product.directory}/hog"
    product.run(f"mkdir {hog} && mount -t tmpfs -o size=100% tmpfs {hog} && "
                f"head -c $(( ($(sed -n 's/MemAvailable: *//p' /proc/meminfo | cut -d ' ' -f 1) - 500000) * 1024 )) /dev/zero >{hog}/held",
                timeout=120, check=True)
    try:
        talk(product, "web", [{"execute": "qmp_capabilities"}, {"execute": "balloon", "arguments": {"value": 1000 * MIB}}])
        deadline = time.monotonic() + 40 * SLOW
        while memory(product)["target"]["state"] != "pool-full":
            assert time.monotonic() < deadline, memory(product)["target"]
            time.sleep(0.3)
        result = product.framevisor("balloon web 1000M --timeout 5 --json")
        assert result.rc == 1 and "stopped at" in result.err and json.loads(result.out)["state"] in ("pool-full", "pool-grows"), result
        lines = len(product.run(f"cat {product.rundir}/pool.log", check=True).out.splitlines())
        time.sleep(10)
        more = product.run(f"tail -n +{lines + 1} {product.rundir}/pool.log", check=True).out.splitlines()
        assert len(more) < 12, more  # two or three attempts
    finally:
        product.run(f"umount {hog}", check=True)
    wait_for_size(product, 1000, timeout=70)
    all_frames_accounted(product)
