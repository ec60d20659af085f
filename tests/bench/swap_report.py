# SPDX-License-Identifier: MIT
"""Guests twice as large as their frames whose memory is used by Zipf's law: the coldest frames swapped
out beside any. Runs bench_cold here and swap_figures.py in the test host, and makes tables."""
import itertools
import random
import statistics

from figures import ask
from mm_figures import add_lines, run_program
from testhost import TestHost

MEM_MIB, USE_MIB, EXPONENT = 512, 384, 0.99
WARM_S, MEASURE_S = 30, 45
PROGRAM, PROGRAM_FRAMES, PROGRAM_EXPONENT = "bench_cold", 256, 1.0
VICTIMS = {"coldest": "the coldest", "random": "any"}
CONTENTS = {"zero": "zero", "text": "English words", "random": "random"}
MIXED = "two pages of words, one random, one zero, in turns"


def measure_swap(runs):
    """What both print: {"program": {name: {"values"}}, "guest": {victims: [figures]}, "contents": {content: figures}}."""
    from product import kernel_versions, linux_files  # pylint: disable=import-outside-toplevel

    results = {"program": {}, "guest": {}, "contents": {}}
    for turn in range(runs):
        lines, worked = run_program(f"build/tests/bench/{PROGRAM}")
        print(f"bench: {PROGRAM} {turn + 1}/{runs}: {lines}", flush=True)
        if not worked:
            raise SystemExit(f"bench: {lines[-1]}")
        add_lines(results["program"], lines)
    results["kernel"] = kernel_versions()[0]
    image, initrd = linux_files(results["kernel"])
    common = f"--mem {MEM_MIB} --use {USE_MIB} --exponent {EXPONENT} --kernel {image} --initrd {initrd}"
    with TestHost(log_name="testhost-bench-swap") as host:
        print(f"bench: test host up after {host.boot_seconds:.1f} s", flush=True)
        turns = (runs + 1) // 2
        for turn in range(turns):
            for victims in VICTIMS:
                entry = ask(host, f"swap_figures.py {victims} --warm {WARM_S} --seconds {MEASURE_S} {common}", 1200)
                results["guest"].setdefault(victims, []).append(entry)
                print(f"bench: swap {turn + 1}/{turns} {victims}: {entry}", flush=True)
        for content in CONTENTS:
            results["contents"][content] = ask(host, f"swap_figures.py coldest --content {content} --warm 0 --seconds 5 {common}", 1200)
            print(f"bench: swap {content}: {results['contents'][content]}", flush=True)
    return results


def misses(nr, room, exponent, choose, accesses=40000):
    """Part of the accesses that miss, of nr frames of which there is room for some, when choose() says who goes."""
    generator = random.Random(1)
    weights = list(itertools.accumulate((rank + 1) ** -exponent for rank in range(nr)))
    last, missed = {}, 0
    for now in range(2 * accesses):
        frame = generator.choices(range(nr), cum_weights=weights)[0]
        if frame not in last:
            missed += now >= accesses
            if len(last) == room:
                del last[choose(last, generator)]
        last[frame] = now
    return missed / accesses


def bounds(nr, exponent):
    """What is to be had with room for half: any frame goes, the least recently used, the least used by law."""
    weights = [(rank + 1) ** -exponent for rank in range(nr)]
    return (misses(nr, nr // 2, exponent, lambda last, generator: generator.choice(list(last))),
            misses(nr, nr // 2, exponent, lambda last, _: min(last, key=last.get)),
            sum(weights[nr // 2:]) / sum(weights))


def spread(values, digits):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def guest_row(title, entries):
    rates = [1000 * entry["accesses"] / entry["ms"] for entry in entries]
    ins, outs = ([1000 * entry[key] / entry["accesses"] for entry in entries] for key in ("in", "out"))
    return f"| {title} | {spread(rates, 1)} | {spread(ins, 0)} | {spread(outs, 0)} | {sum(entry['wrong'] for entry in entries)} of {sum(entry['accesses'] for entry in entries)} |"


def program_row(program, victims):
    rates, ins, wrong = (program[f"zipf_{victims}_{what}"]["values"] for what in ("accesses", "swap_ins", "wrong"))
    return f"| {VICTIMS[victims]} | {spread(rates, 0)} | {spread(ins, 0)} | {sum(wrong):.0f} |"


def content_row(title, entry):
    out, size = entry["all"]["out"], entry["all"]["bytes"]
    return f"| {title} | {out} | {size / out / 1024:.1f} | {out * 2048 * 1024 / size if size else float('inf'):.1f} | {entry['wrong']} of {entry['accesses']} |"


def swap_tables(results):
    program, guest = results["program"], results["guest"]
    any_goes, recent, law = bounds(PROGRAM_FRAMES, PROGRAM_EXPONENT)
    ratios = [a["accesses"] / a["ms"] / (b["accesses"] / b["ms"]) for a, b in zip(guest["coldest"], guest["random"])]
    bound = statistics.median(entry["bound"] for entries in guest.values() for entry in entries)
    huge = min(entry["huge-mib"] for entries in guest.values() for entry in entries)
    return [
        "Accesses by Zipf's law to memory that there are half as many frames for; which frames are hot is shuffled. Each access compares a page with "
        "what must be in it and writes to it. *Any*: `--swap DIR,victims=random`, the same code without the choice, and without sampling but for what the pool owner asks of a VM. Medians, in brackets the smallest and the largest.", "",
        f"A program on this machine with a pool owner of its own (`{PROGRAM}`, {PROGRAM_FRAMES} frames, exponent {PROGRAM_EXPONENT}), "
        f"{len(program['zipf_coldest_accesses']['values'])} runs:", "",
        "| who goes | accesses per second | swapped in per 1000 accesses | wrong |", "|---|---|---|---|",
        *(program_row(program, victims) for victims in VICTIMS), "",
        f"Throughput, coldest to any: {spread(program['zipf_coldest_to_random']['values'], 2)}. What there is to be had, in misses per 1000 accesses of the same law (computed, not "
        f"measured): {1000 * any_goes:.0f} when any frame goes, {1000 * recent:.0f} when exactly the least recently used goes, {1000 * law:.0f} for who knows the law.", "",
        f"A stock {results['kernel']} guest of {MEM_MIB} MiB in a pool of {MEM_MIB // 2} MiB, in the test host (an emulated machine that is short of CPU: ratios mean something, seconds do not): a program in it "
        f"uses {USE_MIB} MiB in pieces of 2 MiB, exponent {EXPONENT} (`guest-tests/linux/zipf.c`; at least {huge} MiB of it in huge pages, so that a piece is a frame), {bound:.0f} frames of {guest['coldest'][0]['ram']} bound, "
        f"{len(guest['coldest'])} runs of {MEASURE_S} s taken in turns. The swap file is in the host's memory; a slower device makes the choice count for more.", "",
        "| who goes | accesses per second | swapped in per 1000 accesses | swapped out per 1000 | wrong |", "|---|---|---|---|---|",
        *(guest_row(title, guest[victims]) for victims, title in VICTIMS.items()), "",
        f"Throughput, coldest to any: {spread(ratios, 2)}.", "",
        "The same guest by what it has in memory; everything that was swapped out from the first page on, the kernel's memory too. All-zero frames are not written.", "",
        "| content | frames swapped out | KiB written for each | compression | wrong |", "|---|---|---|---|---|",
        *(content_row(CONTENTS[content], entry) for content, entry in results["contents"].items()), content_row(MIXED, guest["coldest"][0])]
