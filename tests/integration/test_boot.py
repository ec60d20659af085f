# SPDX-License-Identifier: MIT
"""Stock kernels from power on to power off."""
import pytest
from product import KERNELS_AND_CPUS, kernel_versions, linux_files

MIB_KB = 1024


@pytest.mark.parametrize(("kernel", "cpus"), KERNELS_AND_CPUS)
def test_boot_reboot_poweroff(product, kernel, cpus):
    """User space comes up with the CPUs and the memory asked for, again after a reboot, and poweroff
    ends the VM's process with status 0."""
    vm = product.linux("web", kernel, cpus)
    for boot in range(2):
        total_kb, seen_cpus, release = vm.wait_until_up()
        assert release.startswith(f"{kernel}."), release
        assert seen_cpus == cpus
        # The kernel keeps its image, its page descriptors and the first MiB out of MemTotal.
        assert 440 * MIB_KB < total_kb <= 512 * MIB_KB, total_kb
        product.check_conservation()
        if boot == 0:
            vm.type("reboot")
    assert vm.verb("echo still here") == "still here"
    vm.type("poweroff")
    assert vm.wait_until_ended() == 0, vm.describe()


def test_power_button(product):
    """framevisor stop presses the ACPI power button and waits for the guest to act on it."""
    vm = product.linux("web")
    vm.wait_until_up()
    product.ok("stop web")
    assert vm.wait_until_ended() == 0, vm.describe()
    vm.wait_for("guest: power button, powering off", 1)


def test_triple_fault_resets(product):
    """reboot=t makes the kernel reboot by triple fault; with --no-reboot that ends the VM."""
    vm = product.linux("web", append="reboot=t fv.test=lines", extra="--no-reboot")
    vm.wait_until_up()
    vm.type("reboot")
    assert vm.wait_until_ended() == 0, vm.describe()


def test_large_memory_beside_the_hole(product):
    """Memory beyond 3 GiB continues above 4 GiB; what the guest does not touch costs no frame, but it
    has to fit into the machine, so this is ordinary memory."""
    vm = product.linux("web", mem="3200M", extra="--hugepages=never")
    total_kb, _, _ = vm.wait_until_up()
    assert total_kb > 3000 * MIB_KB, total_kb
    vm.verb("fill 64")
    vm.verb("verify")
    vm.type("poweroff")
    assert vm.wait_until_ended() == 0, vm.describe()


def test_interactive_shell(product):
    """Without fv.test= the serial console has a shell that works and whose end powers off."""
    vm = product.linux("web", append="")
    vm.wait_for(r"^guest: up", 90)
    vm.wait_for(r"# ", 30, whole_lines=False)
    vm.type("echo $((6 * 7)) answers")
    vm.wait_for(r"^42 answers", 20)
    vm.type("exit")
    assert vm.wait_until_ended() == 0, vm.describe()


@pytest.mark.parametrize("redirection", ["<&-", "< <(sleep 1)"], ids=["closed", "pipe"])
def test_input_that_ends(product, redirection):
    """The VM runs on when its standard input is closed or ends."""
    image, initrd = linux_files(kernel_versions()[0])
    result = product.framevisor(f"run --name web --mem 256M --kernel {image} --initrd {initrd} "
                                f"--append 'console=ttyS0 quiet fv.test=echo:here,poweroff' {redirection}", timeout=90)
    assert result.rc == 0, result
    assert "guest: echo ok here" in result.out, result


def test_detached_console(product):
    """run --detach returns when the VM runs; its console is then reached by name, and its events are in its log."""
    image, initrd = linux_files(kernel_versions()[0])
    log = f"{product.directory}/web.log"
    product.ok(f"run --detach --name web --mem 256M --kernel {image} --initrd {initrd} --log {log} "
               "--append 'console=ttyS0 quiet fv.test=lines'", timeout=30)
    assert [vm["name"] for vm in product.json("ps")] == ["web"]
    shown = product.run("for i in $(seq 90); do sleep 1; echo echo hello console; done | timeout 60 "
                        "build/framevisor console web | grep -m 1 'guest: echo ok hello console'", timeout=90)
    assert "guest: echo ok hello console" in shown.out, shown
    product.ok("balloon web 200M", timeout=60)
    product.ok("stop web", timeout=60)
    assert product.json("ps") == []
    events = product.events(log)
    asked, ended = [event for event in events if event["event"] in ("POWERDOWN", "SHUTDOWN")]
    assert asked["event"] == "POWERDOWN" and ended["data"]["guest"] and ended["time"] >= asked["time"] > 1.7e9, events
    assert 200 << 20 <= min(event["data"]["actual"] for event in events if event["event"] == "BALLOON_CHANGE") < 256 << 20, events


@pytest.mark.parametrize(("signal", "status"), [("INT", 130), ("TERM", 0), ("HUP", 129)])
def test_signals_end_the_vm(product, signal, status):
    """Ctrl-C and its like end a VM in order: exit status, no files, no hugepages."""
    vm = product.linux("web", mem="128M")
    vm.wait_until_up()
    product.run(f"kill -{signal} {vm.pid}", check=True)
    assert vm.wait_until_ended() == status, vm.describe()
    product.assert_nothing_left()


def test_signal_during_the_start(product):
    """The same at any moment before the guest runs."""
    image, initrd = linux_files(kernel_versions()[0])
    for seconds in (0.05, 0.2, 0.5, 1, 2):
        product.run(f"set -m; build/framevisor run --name web --mem 512M --kernel {image} --initrd {initrd} </dev/null >/dev/null 2>&1 & "
                    f"sleep {seconds}; kill -INT $!; wait $!", timeout=30)
        product.assert_nothing_left()
