# SPDX-License-Identifier: MIT
"""Guests with a load that moves, in less memory than they may have: runs balance_figures.py in the
test host and makes a table of what it prints."""
import json

from testhost import TestHost

GUESTS, MAX_MIB = 4, 768
REPEAT = 8  # times that a guest does its work in its turn
SMALL_MIB, LARGE_MIB = 2048, 3072
TESTHOST_MIB = 6144  # the large pool, and the host's own programs
# The first two are compared, and run several times in turns: one run tells little on a machine that
# is not quiet. The others are beside them, once.
PLAN = [("framevisor", SMALL_MIB), ("framevisor", LARGE_MIB), ("elastic", SMALL_MIB), ("elastic", LARGE_MIB),
        ("fixed", SMALL_MIB), ("qemu", SMALL_MIB)]
NAMES = {
    ("framevisor", SMALL_MIB): "shared, 2 GiB",
    ("framevisor", LARGE_MIB): "shared, 3 GiB: enough for all",
    ("elastic", SMALL_MIB): "shared, 2 GiB, `--mem ...,elastic=on`",
    ("elastic", LARGE_MIB): "shared, 3 GiB, `--mem ...,elastic=on`",
    ("fixed", SMALL_MIB): "2 GiB, a fixed quarter each",
}


def measure_balance(turns):
    """What balance_figures.py prints: {(name, pool): [figures]}."""
    from product import kernel_versions, linux_files  # pylint: disable=import-outside-toplevel

    kernel = kernel_versions()[0]
    image, initrd = linux_files(kernel, ["loop", "ext4"])
    figures = {}
    with TestHost(memory_mib=TESTHOST_MIB, log_name="testhost-bench-balance") as host:
        print(f"bench: test host up after {host.boot_seconds:.1f} s", flush=True)
        for turn in range(turns):
            for name, pool in PLAN[:2] if turn else PLAN:
                # QEMU's hugepages are the host's; a pool brings its own.
                host.run(f"echo {pool // 2 if name == 'qemu' else 0} >/proc/sys/vm/nr_hugepages", check=True)
                result = host.run(f"/usr/bin/python3 tests/bench/balance_figures.py {name} --pool {pool} --guests {GUESTS} "
                                  f"--max {MAX_MIB} --repeat {REPEAT} --kernel {image} --initrd {initrd}", timeout=2400)
                if result.rc != 0 and (name, pool) == ("framevisor", LARGE_MIB):
                    raise SystemExit(f"bench: {result}")
                # The others may end without a result, and that is one, too.
                entry = json.loads(result.out) if result.rc == 0 else {"failed": result.err.strip().splitlines()[-1:] or [f"exit status {result.rc}"]}
                if result.rc != 0:
                    print(f"bench: {result}", flush=True)
                    host.run("for p in $(pgrep -x framevisor) $(pgrep -x framevisord); do kill $p; done; sleep 5")
                figures.setdefault((name, pool), []).append(entry)
                print(f"bench: balance {turn + 1}/{turns} {name} {pool}: {entry}", flush=True)
    return {"kernel": kernel, "figures": [{"name": name, "pool": pool, "runs": runs} for (name, pool), runs in figures.items()]}


def fastest_first(runs):
    """Those that finished."""
    return sorted((run for run in runs if "failed" not in run), key=lambda run: run["seconds"])


def middle(finished):
    """The run with the median time; of an even number, the faster one of the two in the middle."""
    return finished[(len(finished) - 1) // 2]


def spread(finished):
    return f"{finished[0]['seconds']:.0f} to {finished[-1]['seconds']:.0f}" if len(finished) > 1 else "one run"


def balance_tables(results):
    by_key = {(entry["name"], entry["pool"]): entry["runs"] for entry in results["figures"]}
    finished = {key: fastest_first(by_key[key]) for key in NAMES}
    enough = {name: middle(finished[name, LARGE_MIB])["seconds"] for name, _ in PLAN if finished.get((name, LARGE_MIB))}
    qemu = {"started": "none", "why-not": "", **by_key["qemu", SMALL_MIB][0]}
    lines = [
        f"{GUESTS} stock {results['kernel']} guests that may have {MAX_MIB} MiB each; one works at a time (a file of 320 MiB in its page cache, "
        f"320 MiB written and freed, the file again; all that {REPEAT} times), then the next, twice round; in the test host (an emulated machine: ratios mean something, "
        "seconds do not). Where there are several runs, the two pools took turns, and a row is the run with the median time (of an even number, the faster of the two in the middle). *To 3 GiB*: the same kind of guests in a pool of that size; where there is none, those without `elastic=on`. *Waited*: touches that found no frame in the VM's stock, and the longest; *stalled*: how long some guest waited; *reclaim*: from below low to above high; "
        "*left*: the least that a guest was left with by its target and its tax; its minimum is 128 MiB.", "",
        "| pool | time, s | all runs, s | to 3 GiB | turns, s | OOM pauses | left, MiB | waited, of all touches, longest in ms | stalled, s | reclaims, median and 99th percentile in ms |", "|---|---|---|---|---|---|---|---|---|---|"]
    for key, title in NAMES.items():
        if not finished[key]:
            lines.append(f"| {title} | did not finish: {by_key[key][0]['failed'][0]} | | | | | | | | |")
            continue
        run = middle(finished[key])
        stat, stalled = run["vmstat"], run["pressure"]["some"]["total-us"] / 1e6
        lines.append(f"| {title} | {run['seconds']:.0f} | {spread(finished[key])} | {run['seconds'] / enough.get(key[0], enough['framevisor']):.2f} | {min(run['turns']):.0f} to {max(run['turns']):.0f} | "
                     f"{stat['oom_pause']} | {run['least-mib']} | {stat['pgfault_waited']}, {stat['pgfault']}, {stat['pgfault_wait_max_us'] / 1000:.0f} | {stalled:.0f} | {stat['reclaim_episodes']}, "
                     f"{stat['reclaim_median_ms']}, {stat['reclaim_p99_ms']} |")
    return [*lines, "", f"Of {GUESTS} guests of QEMU with {MAX_MIB} MiB of the same {SMALL_MIB} MiB of hugepages {qemu['started']} start; the next one "
            f"says: `{qemu['why-not'].splitlines()[-1] if qemu['why-not'] else ''}`"]
