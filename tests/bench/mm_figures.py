# SPDX-License-Identifier: MIT
"""The benchmarks in C: runs them, and makes the tables and the plot of docs/performance.md of their lines.

Each program prints one "name value unit" line per figure. Medians of several runs count, because the
machine may be shared; what does not depend on time is run once.
"""
import math
import os
import statistics
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PLOT = "docs/mm-scale.svg"
# Programs that are run once: their own medians are over many rounds, or time is not what they count.
ONCE = {"bench_cold", "bench_fault", "bench_mm_frag"}


def run_program(program):
    """Builds and runs one program. Returns (lines, whether it worked)."""
    built = subprocess.run(["make", "--no-print-directory", "-s", program], cwd=ROOT, stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, check=False)
    if built.returncode != 0:
        return ["cannot be built here"], False
    try:
        done = subprocess.run([os.path.join(ROOT, program)], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=900, check=False)
    except subprocess.TimeoutExpired:
        return ["still running after 900 s"], False
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0:
        return [*lines, f"failed with exit status {done.returncode}: {done.stderr.strip()[-400:]}"], False
    return lines, True


def add_lines(figures, lines):
    """Sorts a program's lines into {name: {"unit": ..., "values": [...]}}; what is no figure is a note."""
    for line in lines:
        words = line.split()
        try:
            value = float(words[1])
        except (IndexError, ValueError):
            figures.setdefault(line, {"unit": None, "values": []})
            continue
        figures.setdefault(words[0], {"unit": " ".join(words[2:]), "values": []})["values"].append(value)


def bench_programs(runs):
    """Runs each program. Returns ({program: {figure: {"unit", "values"}}}, names of those that failed)."""
    results, failed = {}, []
    names = sorted(os.path.splitext(entry)[0] for entry in os.listdir(os.path.join(ROOT, "tests/bench")) if entry.endswith(".c"))
    # Turn and turn about: what changes over time meets all alike.
    for turn in range(runs):
        for name in names:
            if turn > 0 and (name in ONCE or name in failed):
                continue
            print(f"bench: {name} {turn + 1}/{1 if name in ONCE else runs}", flush=True)
            lines, worked = run_program(f"build/tests/bench/{name}")
            if not worked:
                failed.append(name)
            add_lines(results.setdefault(name, {}), lines)
            for line in lines:
                print(f"  {line}", flush=True)
    return results, failed


def number(value):
    """A figure with as many digits as it deserves."""
    if value == 0 or value >= 1000:
        return f"{value:.0f}"
    return f"{value:.{max(0, 2 - int(math.floor(math.log10(abs(value)))))}f}"


class Figures:
    """Medians by name, over all programs."""

    def __init__(self, results):
        self.by_name = {}
        for figures in results.values():
            self.by_name.update({name: figure for name, figure in figures.items() if figure["values"]})

    def get(self, name):
        """The median, or None."""
        figure = self.by_name.get(name)
        return statistics.median(figure["values"]) if figure else None

    def cell(self, name, unit=""):
        """The median for a table, with the smallest and the largest when there are several."""
        figure = self.by_name.get(name)
        if not figure:
            return "not measured"
        values = figure["values"]
        text = number(statistics.median(values)) + (f" {unit}" if unit else "")
        return text if len(values) == 1 else f"{text} ({number(min(values))} to {number(max(values))})"


# What is to be shown: (what, figure, largest allowed, unit, the peer's figure).
GOALS = [
    ("a frame on the CPU's stack, pair", "beside_rte_order0_pair", 5, "ns", "rte_mempool_pair"),
    ("the same beside `rte_mempool`", "ratio_order0_pair_to_rte_mempool", 1, "x", None),
    ("two threads beside one", "ratio_order0_pair_2threads", 1.1, "x", None),
    ("512 frames one by one, then all back, per pair", "beside_rte_bulk512_singles_pair", 20, "ns", "rte_mempool_bulk512_singles_pair"),
    ("512 frames in one call, back in one, per pair", "beside_rte_bulk512_calls_pair", 20, "ns", "rte_mempool_bulk512_calls_pair"),
    ("order 9 (1 GiB), pair", "framevisor_order9_pair", 50, "ns", None),
    ("order 9 in a pool of 4 GiB", "scale_4GiB_order9_pair", 50, "ns", None),
    ("64-byte object, pair", "kmem_cache_64_pair", None, "ns", "mimalloc_64_pair"),
    ("64-byte object beside mimalloc", "ratio_kmem_cache_64_to_mimalloc", 1, "x", None),
    ("`kmalloc(64)`, 512 and back, per pair", "kmalloc_64_batch512", None, "ns", "mimalloc_64_batch512"),
    ("64 nodes, 16 TiB: set-up", "scale_16TiB_setup", 1000, "ms", None),
    ("first touch of as much memory, which is the floor", "scale_16TiB_first_touch", None, "ms", None),
    ("64 nodes, 16 TiB: metadata", "scale_16TiB_metadata", 64.64, "B/frame", None),
    ("a frame at 16 TiB beside 16 GiB", "ratio_scale_order0_pair_16TiB_to_16GiB", 1.5, "x", None),
    ("order 9 at 16 TiB beside 16 GiB", "ratio_scale_order9_pair_16TiB_to_16GiB", 1.5, "x", None),
]


def goal_table(figures):
    lines = ["| | measured | at most | peer |", "|---|---|---|---|"]
    for what, name, limit, unit, peer in GOALS:
        # Figures that two programs print under one name are the same thing.
        wanted = "" if limit is None else f"{limit} {unit}" + (" (missed)" if (figures.get(name) or 0) > limit else "")
        beside = f"{figures.cell(peer, unit)}, `{peer}`" if peer else ""
        lines.append(f"| {what} | {figures.cell(name, unit)} | {wanted} | {beside} |")
    return lines


FRAGMENTATION = [
    ("after the load", "frag_framevisor_unusable_order9", "frag_plain_buddy_unusable_order9"),
    ("after one `mm_compact_node()`", "frag_framevisor_unusable_order9_compacted", None),
    ("when repeated until nothing moves", "frag_framevisor_unusable_order9_compacted_fully", None),
    ("best possible with these unmovable frames", "frag_framevisor_unusable_order9_at_best", "frag_plain_buddy_unusable_order9_at_best"),
]


def fragmentation_table(figures):
    lines = ["Fragmentation: 256 GiB, 90 % full at random, then half of the blocks freed at random. Share of the free memory that "
             "cannot be had as order 9, beside a plain buddy system without migrate types (which has no compaction):", "",
             "| | here | plain buddy |", "|---|---|---|"]
    for what, ours, plain in FRAGMENTATION:
        lines.append(f"| {what} | {figures.cell(ours, '%')} | {figures.cell(plain, '%') if plain else ''} |")
    return lines


SIZES = ["1GiB", "4GiB", "16GiB", "64GiB", "256GiB", "1TiB", "4TiB", "16TiB"]
SERIES = [
    ("order0_pair", "order 0, on the CPU's stack", "#0072b2"),
    ("order9_pair", "order 9, on the free lists", "#d55e00"),
    ("spread4096_pair", "4096 frames, back at random", "#009e73"),
    ("far_order9_pair", "order 9 on the farthest node", "#cc79a7"),
]


def scale_table(figures):
    head = " | ".join(title for _, title, _ in SERIES)
    lines = ["Metadata-only pools; 1 TiB has 4 nodes, 16 TiB 64. Nanoseconds per pair of allocation and free.", "",
             f"![Cost of an allocation against the size of the pool]({os.path.basename(PLOT)})", "",
             f"| pool | set-up, ms | metadata, B/frame | {head} |", "|---|---|---|" + "---|" * len(SERIES)]
    for size in SIZES:
        cells = [number(value) if (value := figures.get(f"scale_{size}_{name}")) else "" for name, _, _ in SERIES]
        lines.append(f"| {size} | {number(figures.get(f'scale_{size}_setup') or 0)} | "
                     f"{figures.get(f'scale_{size}_metadata') or 0:.2f} | " + " | ".join(cells) + " |")
    return lines


def plot(figures):
    """Cost against size, both logarithmic, as an SVG of its own."""
    left, top, width, height = 60, 36, 560, 300
    low, high = 1.0, 1000.0

    def x_of(index):
        return left + width * index / (len(SIZES) - 1)

    def y_of(value):
        return top + height * (1 - math.log10(min(max(value, low), high) / low) / math.log10(high / low))

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 40} {top + height + 110}" '
             'font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="#ffffff"/>',
             f'<text x="{left}" y="20" font-size="14">ns per allocation and free, by size of the pool</text>']
    for tick in (1, 10, 100, 1000):
        y = y_of(tick)
        parts += [f'<line x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}" stroke="#dddddd"/>',
                  f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>']
    for index, size in enumerate(SIZES):
        parts.append(f'<text x="{x_of(index):.1f}" y="{top + height + 18}" text-anchor="middle">{size[:-3]} {size[-3:]}</text>')
    for row, (name, title, colour) in enumerate(SERIES):
        points = [(x_of(index), y_of(value)) for index, size in enumerate(SIZES)
                  if (value := figures.get(f"scale_{size}_{name}"))]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        x, y = left + 280 * (row % 2), top + height + 50 + 22 * (row // 2)
        parts += [f'<line x1="{x}" y1="{y - 4}" x2="{x + 24}" y2="{y - 4}" stroke="{colour}" stroke-width="2"/>',
                  f'<text x="{x + 30}" y="{y}">{title}</text>']
    return "\n".join([*parts, "</svg>", ""])


def raw_tables(results):
    lines = []
    for program, figures in results.items():
        lines += [f"`{program}`:", "", "```"]
        for name, figure in figures.items():
            values = figure["values"]
            if not values:
                lines.append(name)
                continue
            spread = f" ({number(min(values))} to {number(max(values))})" if len(values) > 1 else ""
            lines.append(f"{name} {number(statistics.median(values))}{spread} {figure['unit']}")
        lines += ["```", ""]
    return lines[:-1]


def mm_tables(results, write):
    """The lines of the section; with write the plot is written too."""
    figures = Figures(results)
    if write and figures.get("scale_16TiB_order0_pair"):
        with open(os.path.join(ROOT, PLOT), "w", encoding="utf-8") as file:
            file.write(plot(figures))
    return ["Medians of the runs, in brackets the smallest and the largest. A pair is an allocation and its free.", "",
            *goal_table(figures), "", *fragmentation_table(figures), "", *scale_table(figures), "", "All figures:", "",
            *raw_tables(results)]
