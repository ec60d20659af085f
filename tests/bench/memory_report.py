# SPDX-License-Identifier: MIT
"""Memory out of running guests and into them again, beside QEMU: runs memory_figures.py in the test
host and makes tables of what it prints."""
from figures import ask
from testhost import TestHost

MEM_MIB = 512
# Two guests of that size, and what virtio-mem adds.
HUGEPAGES = 768
NAMES = {
    "framevisor": "framevisor",
    "framevisor-ready": "framevisor, a pool of fixed size",
    "framevisor-silent": "framevisor, `--free-page-reporting=off`",
    "framevisor-elastic": "framevisor, `--mem 512M,boot=256M`",
    "qemu": "QEMU",
    "qemu-prealloc": "QEMU, `prealloc=on`",
    "qemu-reporting": "QEMU, `free-page-reporting=on`",
    "qemu-elastic": "QEMU, 256 MiB and virtio-mem",
}
OPERATIONS = {
    "balloon": {"inflate": "inflate", "deflate": "deflate", "deflate-touch": "deflate and touch"},
    "plug": {"plug": "virtio-mem plug", "unplug-untouched": "virtio-mem unplug, untouched", "unplug-touched": "virtio-mem unplug, touched"},
}
# What is measured of whom, with which kernels (None: the newest).
PLAN = [
    ("balloon", ("framevisor", "qemu", "framevisor-silent", "qemu-reporting"), False),
    ("plug", ("framevisor", "framevisor-ready", "framevisor-silent", "qemu", "qemu-prealloc"), False),
    ("fragmented", ("framevisor", "framevisor-elastic", "qemu-elastic"), True),
    ("fresh", ("framevisor", "qemu"), True),
]


def measure_memory(turns):
    """What memory_figures.py prints, over one boot of the test host: {what: {kernel: {name: [figures]}}}."""
    from product import kernel_versions, linux_files  # pylint: disable=import-outside-toplevel

    kernels = kernel_versions()
    files = {kernel: linux_files(kernel) for kernel in kernels}
    figures = {}
    with TestHost(log_name="testhost-bench-memory") as host:
        print(f"bench: test host up after {host.boot_seconds:.1f} s", flush=True)
        host.run(f"echo {HUGEPAGES} >/proc/sys/vm/nr_hugepages", check=True)
        qemu = host.run("qemu-system-x86_64 --version", check=True).out.split()[3]
        for turn in range(turns):
            for what, names, all_kernels in PLAN:
                for kernel in kernels if all_kernels else kernels[:1]:
                    for name in names:
                        entry = ask(host, f"memory_figures.py {what} {name} --mem {MEM_MIB} --kernel {files[kernel][0]} --initrd {files[kernel][1]}", 900)
                        figures.setdefault(what, {}).setdefault(kernel, {}).setdefault(name, []).append(entry)
                        print(f"bench: {what} {turn + 1}/{turns} {kernel} {name}: {entry}", flush=True)
    return {"qemu": qemu, "kernels": kernels, "figures": figures}


def best(entries, operation, key):
    """The run that was disturbed least: everything else on the machine only adds."""
    values = [entry[operation][key] if operation else entry[key] for entry in entries]
    return min(values)


def cost(entries, operation):
    """Clock time, CPU beside the guest's own, per frame in ms."""
    frames = entries[0]["frames"]
    return best(entries, operation, "ms") / frames, best(entries, operation, "cpu-ms") / frames


# What is wanted of framevisor's time and of its CPU time, as parts of QEMU's.
GOALS = (1.0, 0.5)


def beside(name, mine, theirs, goal):
    """The ratio, and whether it is what was wanted."""
    ratio = mine / theirs
    return f"{ratio:.2f}" + (" (missed)" if name.startswith("framevisor") and round(ratio, 2) > goal else "")


def cost_lines(figures):
    lines = [f"| per 2 MiB | who | time, ms | to QEMU (wanted: {GOALS[0]}) | host CPU, ms | to QEMU (wanted: {GOALS[1]}) |", "|---|---|---|---|---|---|"]
    for what, operations in OPERATIONS.items():
        kernel = next(iter(figures[what]))
        by_name = figures[what][kernel]
        for operation, title in operations.items():
            time, cpu = cost(by_name["qemu"], operation)
            for name in by_name:
                mine = cost(by_name[name], operation)
                lines.append(f"| {title} | {NAMES[name]} | {mine[0]:.2f} | {beside(name, mine[0], time, GOALS[0])} | {mine[1]:.2f} | "
                             f"{beside(name, mine[1], cpu, GOALS[1])} |")
    return lines


def share_lines(figures):
    lines = ["| guest | kernel | who | asked, MiB | came back, MiB | share | held before and after, MiB | time, s |",
             "|---|---|---|---|---|---|---|---|"]
    for what in ("fresh", "fragmented"):
        for kernel, by_name in figures[what].items():
            for name, entries in by_name.items():
                entry = sorted(entries, key=lambda entry: entry["given-mib"])[len(entries) // 2]
                given = min(entry["given-mib"], entry["asked-mib"])
                lines.append(f"| {what} | {kernel} | {NAMES[name]} | {entry['asked-mib']:.0f} | {entry['given-mib']:.0f} | "
                             f"{100 * given / entry['asked-mib']:.0f} % | {entry['held-before-mib']:.0f}, {entry['held-after-mib']:.0f} | "
                             f"{best(entries, None, 'ms') / 1000:.1f} |")
    return lines


def memory_tables(results):
    figures = results["figures"]
    return [
        f"Stock guests of {MEM_MIB} MiB and one CPU on hugepages, in the test host, beside QEMU {results['qemu']}: ratios mean something, "
        "milliseconds do not. *Host CPU*: of all threads of the VMM and of the pool owner, without what they spent in guest mode, until a "
        "second after the operation, so that zeroing in the background is in it. *Inflate*: half of the memory, of which the guest had "
        f"touched two thirds; *touch*: it writes two thirds again. Plug and unplug: {MEM_MIB} MiB. A plug includes that the "
        "memory is there: a pool without a size of its own grows for it, and the host's kernel zeroes what it gives; a pool of fixed size has "
        "it. QEMU's memory comes, or is missing, when the guest touches it, except with `prealloc=on`. Free page reporting is on with "
        "framevisor and off with QEMU where nothing else is said.", "",
        *cost_lines(figures), "",
        "Half of the memory asked back. *Came back*: complete frames in the balloon, and blocks unplugged, all of which are in the pool; of "
        "QEMU, the hugepages that its process no longer holds. *Fragmented*: 9000 files of 32 KiB in tmpfs, two of three deleted. framevisor's "
        "time there has the round in it in which the guest moves its memory together.", "",
        *share_lines(figures),
    ]
