# SPDX-License-Identifier: MIT
"""What a guest's own work loses while its memory changes, beside QEMU, and while its memory moves: runs
impact_figures.py in the test host and makes tables of what it prints."""
import statistics

from figures import ask
from memory_report import NAMES
from testhost import TestHost

MEM_MIB = 512
MOVED_MIB = 1024
# Frames for a guest of the larger size that moves: two of it, on either node. The nodes share alike.
HUGEPAGES = 1280
PLAN = [
    ("move", ("framevisor",)),
    ("balloon", ("framevisor", "qemu", "framevisor-silent")),
    ("elastic", ("framevisor", "qemu")),
]
TITLES = {"balloon": "balloon", "elastic": "virtio-mem"}


def measure_impact(turns):
    """What impact_figures.py prints, over one boot of the test host: {what: {name: [figures]}}."""
    from product import kernel_versions, linux_files  # pylint: disable=import-outside-toplevel

    kernel = kernel_versions()[0]
    image, initrd = linux_files(kernel)
    figures = {}
    with TestHost(log_name="testhost-bench-impact") as host:
        print(f"bench: test host up after {host.boot_seconds:.1f} s", flush=True)
        host.run(f"echo {HUGEPAGES} >/proc/sys/vm/nr_hugepages", check=True)
        qemu = host.run("qemu-system-x86_64 --version", check=True).out.split()[3]
        for turn in range(turns):
            for what, names in PLAN:
                size, rounds = (MOVED_MIB, 2) if what == "move" else (MEM_MIB, 8)
                for name in names:
                    entry = ask(host, f"impact_figures.py {what} {name} --mem {size} --rounds {rounds} --kernel {image} --initrd {initrd}", 900)
                    figures.setdefault(what, {}).setdefault(name, []).append(entry)
                    print(f"bench: impact {what} {turn + 1}/{turns} {name}: {summary(what, entry)}", flush=True)
    return {"kernel": kernel, "qemu": qemu, "figures": figures}


def percentile(values, part):
    """The value below which that part of them lies."""
    return sorted(values)[int(part * len(values))]


def relative(entries, loop, phase):
    """Rates of all runs' slices, each as a part of its own run's undisturbed median."""
    return [value / statistics.median(entry["undisturbed"][loop]) for entry in entries for value in entry[phase][loop]]


def cells(entries, loop):
    """Median, 1st percentile, the worst slice; the 1st percentile of the undisturbed ones."""
    disturbed, calm = relative(entries, loop, "disturbed"), relative(entries, loop, "undisturbed")
    return [statistics.median(disturbed), percentile(disturbed, 0.01), min(disturbed), percentile(calm, 0.01)], len(disturbed)


def summary(what, entry):
    if what == "move":
        return entry
    return {loop: [round(value, 3) for value in cells([entry], loop)[0]] for loop in ("copy", "work")} | {"missed": entry["missed"]}


def rate_lines(figures):
    lines = ["| half of the memory by | who | loop | median | 1st percentile | slowest slice | 1st percentile, undisturbed | slices | change, ms |",
             "|---|---|---|---|---|---|---|---|---|"]
    for what, title in TITLES.items():
        for name, entries in figures[what].items():
            change = statistics.median(ms for entry in entries for ms in entry["change-ms"])
            for loop in ("copy", "work"):
                values, slices = cells(entries, loop)
                lines.append(f"| {title} | {NAMES[name]} | {loop} | {' | '.join(f'{value:.3f}' for value in values)} | {slices} | {change:.0f} |")
    missed = sum(entry["missed"] for what in TITLES for entries in figures[what].values() for entry in entries)
    return [*lines, *(["", f"Targets that were not reached: {missed}."] if missed else [])]


def move_lines(entries):
    moves = [move for entry in entries for move in entry["moves"]]
    counted = [part for entry in entries for part in [entry["undisturbed"], entry["after"], *entry["moves"]]]
    lines = ["| | time, s | frames | elsewhere afterwards | writes | wrong | longest access, ms | accesses above 1 ms |", "|---|---|---|---|---|---|---|---|"]
    for entry in entries:
        calm = entry["undisturbed"]
        lines.append(f"| undisturbed | | | | {calm['writes']} | {calm['wrong']} | {calm['longest-us'] / 1000:.1f} | {calm['slow']} |")
        for move in entry["moves"]:
            lines.append(f"| moved | {move['ms'] / 1000:.1f} | {move['frames']} | {move['elsewhere']} | {move['writes']} | {move['wrong']} | "
                         f"{move['longest-us'] / 1000:.1f} | {move['slow']} |")
    return [*lines, "", f"Lost writes: {max(part['wrong'] for part in counted)} of {sum(part['writes'] for part in counted)}. The longest access of all moves: "
            f"{max(move['longest-us'] for move in moves) / 1000:.1f} ms."]


def impact_tables(results):
    figures = results["figures"]
    return [
        f"A stock {results['kernel']} guest with one CPU on hugepages, in the test host, beside QEMU {results['qemu']}. A program in it copies an array "
        "(64 MiB with its copy) and computes, in turns of 30 ms. In turns it is left alone for 6 s, and its target goes to the half of "
        f"{MEM_MIB} MiB and back again; each stays for 3 s, or until it is reached. Eight times, or as often as 150 s allow. Rates of the slices as a part of the median of the undisturbed ones of the same "
        "guest. What the guest's kernel does to give memory up runs on the same CPU, so what it takes is in it. *Change*: the median time until a "
        "target is reached, beside the load. An undisturbed 1st percentile far below 1 is the machine's own doing, busy with other things: then the "
        "medians say more.", "",
        *rate_lines(figures), "",
        f"`framevisor migrate --guest-node 0 --host-node N`: all memory of a guest of {MOVED_MIB} MiB to the host's other node and back, while a program in it "
        "writes a counter in every page of three quarters of its memory, over and over, and looks first whether it is the one it wrote the time before. *Elsewhere*: frames "
        "on another node when the command is over.", "",
        *move_lines(figures["move"]["framevisor"]),
    ]
