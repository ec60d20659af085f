# SPDX-License-Identifier: MIT
"""What cannot work ends with one clear line and exit status 1, and leaves nothing behind: no process,
no socket, no directory entry, no hugepage. None of this needs a guest that runs, so it is
tried on this machine, where that has KVM."""
import re

import pytest
from product import kernel_versions, linux_files
from testhost import ROOT

KERNEL = f"build/kernels/{(kernel_versions() or ['none'])[0]}/vmlinuz"

# Arguments of framevisor run, and what the message must name. {dir} is a fresh directory with the
# files that prepare() makes.
RUN_CASES = {
    "missing kernel": ("--kernel {dir}/absent", r"{dir}/absent.*(No such file|not exist)"),
    "no kernel given": ("", r"--kernel"),
    "kernel is a directory": ("--kernel {dir}", r"{dir}"),
    "kernel is empty": ("--kernel {dir}/empty", r"{dir}/empty"),
    "kernel is text": ("--kernel {dir}/text", r"{dir}/text.*(bzImage|kernel)"),
    "kernel is random": ("--kernel {dir}/random", r"{dir}/random.*(bzImage|kernel)"),
    "kernel cut in the setup header": ("--kernel {dir}/cut-600", r"{dir}/cut-600"),
    "kernel cut in the setup code": ("--kernel {dir}/cut-9000", r"{dir}/cut-9000.*(truncated|short|ends|cut)"),
    "kernel cut in the payload": ("--kernel {dir}/cut-1000000", r"{dir}/cut-1000000.*(truncated|short|ends|cut)"),
    "kernel cut at its end": ("--kernel {dir}/cut-end", r"{dir}/cut-end.*(truncated|short|ends|cut)"),
    "kernel larger than memory": (f"--kernel {KERNEL} --mem 16M", r"(memory|--mem)"),
    "missing initrd": (f"--kernel {KERNEL} --initrd {{dir}}/absent", r"{dir}/absent.*(No such file|not exist)"),
    "initrd larger than memory": (f"--kernel {KERNEL} --initrd {{dir}}/600M --mem 512M", r"{dir}/600M.*(memory|fit)"),
    "initrd larger than what is left": (f"--kernel {KERNEL} --initrd {{dir}}/600M --mem 640M", r"{dir}/600M.*(memory|fit)"),
    "command line too long": (f"--kernel {KERNEL} --append $(head -c 70000 /dev/zero | tr '\\0' x)", r"command line|--append"),
    "no memory": (f"--kernel {KERNEL} --mem 0", r"--mem"),
    "memory of 3 MiB": (f"--kernel {KERNEL} --mem 3", r"--mem 3"),
    "memory not in frames": (f"--kernel {KERNEL} --mem 513M", r"--mem 513.*2 MiB"),
    "memory of nonsense": (f"--kernel {KERNEL} --mem lots", r"lots"),
    "negative memory": (f"--kernel {KERNEL} --mem -512M", r"-512M"),
    "memory that overflows": (f"--kernel {KERNEL} --mem 99999999999999999999G", r"99999999999999999999G"),
    "more memory than the machine": (f"--kernel {KERNEL} --mem 99999G", r"(99999|97.*T|memory|fit)"),
    "the same on ordinary memory": (f"--kernel {KERNEL} --mem 99999G --hugepages=never", r"(99999|97.*T|memory|fit)"),
    "no CPUs": (f"--kernel {KERNEL} --cpus 0", r"--cpus"),
    "too many CPUs": (f"--kernel {KERNEL} --cpus 1000000", r"--cpus"),
    "CPUs of nonsense": (f"--kernel {KERNEL} --cpus two", r"--cpus"),
    "bad name": (f"--kernel {KERNEL} --name ../escape", r"\.\./escape"),
    "empty name": (f"--kernel {KERNEL} --name ''", r"name"),
    "name too long": (f"--kernel {KERNEL} --name {'x' * 64}", r"name"),
    "bad choice": (f"--kernel {KERNEL} --hugepages=maybe", r"(maybe|--hugepages)"),
    "pool larger than the machine": (f"--kernel {KERNEL} --pool 99999G", r"(pool|99999|97.*T)"),
    "pool larger than the machine, hugepages demanded": (f"--kernel {KERNEL} --pool 99999G --hugepages=require", r"(pool|99999|97.*T)"),
    "pool smaller than the VM": (f"--kernel {KERNEL} --pool 64M --mem 512M", r"(fit|pool)"),
    "swap file of nonsense": (f"--kernel {KERNEL} --swap /tmp,size=much", r"--swap: size"),
    "swap file that holds no frame": (f"--kernel {KERNEL} --swap /tmp,victims=random,size=1M", r"--swap: a size of less than 2M"),
    "unknown victims": (f"--kernel {KERNEL} --swap /tmp,victims=none", r"--swap: victims: .*'none'"),
    "unwritable console": (f"--kernel {KERNEL} --console /proc/nowhere/console", r"/proc/nowhere/console"),
}


def prepare(product):
    """Files that are no good, in a directory of the place."""
    directory = f"{product.directory}/input"
    product.run(f"mkdir {directory} && cd {directory} && : >empty && echo 'no kernel, just text' >text && "
                "head -c 300000 /dev/urandom >random && truncate -s 600M 600M", check=True)
    product.run(f"for n in 600 9000 1000000; do head -c $n {KERNEL} >{directory}/cut-$n; done; "
                f"head -c $(($(stat -L -c %s {KERNEL}) - 4096)) {KERNEL} >{directory}/cut-end", check=True)
    return directory


def assert_refused(product, result, pattern):
    """One clear line that names what is wrong, exit status 1, and nothing left."""
    assert not result.timed_out, result
    assert result.rc == 1, result
    lines = result.err.strip().splitlines()
    assert len(lines) == 1, f"not one line\n{result}"
    assert lines[0].startswith("framevisor: "), result
    assert re.search(pattern, lines[0]), f"the message does not say {pattern}\n{result}"
    assert result.out == "", result
    product.assert_nothing_left()


@pytest.mark.parametrize("case", RUN_CASES)
def test_run_refuses(product_somewhere, case):
    product = product_somewhere
    arguments, pattern = RUN_CASES[case]
    directory = prepare(product) if "{dir}" in arguments else ""
    result = product.framevisor(f"run {arguments.format(dir=directory)} </dev/null", timeout=60)
    assert_refused(product, result, pattern.format(dir=re.escape(directory)))


@pytest.mark.parametrize("verb", ["balloon nobody 256M", "mem nobody", "pause nobody", "resume nobody", "stop nobody", "kill nobody", "console nobody"])
def test_unknown_vm(product_somewhere, verb):
    assert_refused(product_somewhere, product_somewhere.framevisor(f"{verb} </dev/null"), "nobody")


@pytest.mark.parametrize("verb", ["pool", "pool check", "buddyinfo", "zoneinfo"])
def test_no_pool_owner(product_somewhere, verb):
    assert_refused(product_somewhere, product_somewhere.framevisor(verb), r"pool")


def test_duplicate_name(product):
    """The second VM of a name is refused; the first does not notice."""
    vm = product.linux("web", mem="256M")
    vm.wait_until_up()
    image, initrd = linux_files(kernel_versions()[0])
    result = product.framevisor(f"run --name web --mem 256M --kernel {image} --initrd {initrd} </dev/null")
    assert result.rc == 1, result
    assert len(result.err.strip().splitlines()) == 1 and "web" in result.err, result
    assert vm.verb("echo alive") == "alive"
    assert len(product.json("ps")) == 1


# Surroundings. A mount name space of its own lets a command see a machine that lacks something.


def without(mounts, command):
    """The command, in a mount name space where mounts (shell) were done first."""
    return f"unshare --mount --propagation private bash -c '{mounts}; exec {command}'"


RUN = f"build/framevisor run --kernel {KERNEL} --mem 256M"
NO_HUGEPAGES = ("mount -t tmpfs tmpfs /sys/kernel/mm/hugepages; "
                "for n in /sys/devices/system/node/node*/hugepages; do mount -t tmpfs tmpfs $n; done")
BARE_DEV = ("mount -t tmpfs tmpfs /mnt && mknod -m 666 /mnt/null c 1 3 && mknod -m 666 /mnt/zero c 1 5 && "
            "mknod -m 666 /mnt/urandom c 1 9 && mount --move /mnt /dev")


def test_no_kvm(product_somewhere):
    result = product_somewhere.run(without(BARE_DEV, RUN) + " </dev/null")
    assert_refused(product_somewhere, result, r"/dev/kvm")


def test_kvm_is_something_else(product_somewhere):
    result = product_somewhere.run(without("mount --bind /dev/zero /dev/kvm", RUN) + " </dev/null")
    assert_refused(product_somewhere, result, r"(?i)kvm")


def test_hugepages_demanded_but_not_to_be_had(product_somewhere):
    """A machine whose kernel has no 2 MiB hugepages to give, because the files to ask with are not
    there."""
    result = product_somewhere.run(without(NO_HUGEPAGES, f"{RUN} --hugepages=require") + " </dev/null")
    assert_refused(product_somewhere, result, r"(?i)hugepage")


def test_no_hugepages_and_none_demanded(product_somewhere):
    """The same machine with --hugepages=auto: one warning, and the guest runs on ordinary memory."""
    image = f"{ROOT}/build/guest-tests/touch.elf"
    result = product_somewhere.run(without(NO_HUGEPAGES, f"build/framevisor run --kernel {image} --mem 64M") + " </dev/null")
    assert result.rc == 0, result
    assert "PASS touch" in result.out, result
    assert len(result.err.strip().splitlines()) == 1 and "hugepages" in result.err, result
    product_somewhere.assert_nothing_left()


def as_nobody(product):
    """A copy of the programs and a run directory that an unprivileged user can use. Returns the
    command's beginning."""
    product.run(f"chmod 755 {product.directory}; mkdir {product.directory}/bin; cp build/framevisor build/framevisord "
                f"{KERNEL} {product.directory}/bin/; chmod -R a+rX {product.directory}/bin; mkdir {product.rundir}; "
                f"chown 65534:65534 {product.rundir}", check=True)
    return f"setpriv --reuid 65534 --regid 65534 --clear-groups {product.directory}/bin/framevisor"


def test_no_permission_for_kvm(product_somewhere):
    command = as_nobody(product_somewhere)
    mode = product_somewhere.run("stat -c %a /dev/kvm", check=True).out.strip()
    if mode.endswith("6"):
        pytest.skip("everybody may use this machine's /dev/kvm")
    result = product_somewhere.run(f"{command} run --kernel {product_somewhere.directory}/bin/vmlinuz --mem 256M </dev/null")
    assert_refused(product_somewhere, result, r"/dev/kvm.*([Pp]ermission|group)")


def test_no_permission_for_hugepages(product):
    """With KVM open to everybody, an unprivileged user may still not reserve hugepages."""
    command = as_nobody(product)
    product.run("chmod 666 /dev/kvm", check=True)
    try:
        result = product.run(f"{command} run --kernel {product.directory}/bin/vmlinuz --mem 256M --hugepages=require </dev/null")
    finally:
        product.run("chmod 600 /dev/kvm", check=True)
    assert_refused(product, result, r"(?i)hugepage")


def test_socket_path_too_long(product_somewhere):
    path = f"{product_somewhere.directory}/{'long/' * 20}run"
    result = product_somewhere.run(f"{RUN} </dev/null", env={"FRAMEVISOR_RUNDIR": path})
    assert_refused(product_somewhere, result, r"long/.*(long|short)")
    assert product_somewhere.run(f"test -e {product_somewhere.directory}/long").rc == 1, "the directory was made all the same"


@pytest.mark.parametrize("path", ["/proc/framevisor", "/dev/null/framevisor", "{dir}/file"])
def test_unwritable_run_directory(product_somewhere, path):
    product_somewhere.run(f": >{product_somewhere.directory}/file", check=True)
    path = path.format(dir=product_somewhere.directory)
    result = product_somewhere.run(f"{RUN} </dev/null", env={"FRAMEVISOR_RUNDIR": path})
    assert_refused(product_somewhere, result, re.escape(path))


def test_run_directory_of_another_user(product_somewhere):
    command = as_nobody(product_somewhere)
    product_somewhere.run(f"chown 0:0 {product_somewhere.rundir}; chmod 755 {product_somewhere.rundir}; chmod 666 /dev/null", check=True)
    result = product_somewhere.run(f"{command} run --kernel {product_somewhere.directory}/bin/vmlinuz --mem 256M </dev/null")
    assert_refused(product_somewhere, result, rf"({re.escape(product_somewhere.rundir)}|/dev/kvm)")
