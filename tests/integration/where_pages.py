# SPDX-License-Identifier: MIT
"""Says in which NUMA nodes a process's memory is: where_pages.py PID ADDRESS SIZE... Asks the kernel
(move_pages without a move) for one page in each 2 MiB, and prints a JSON object per range: how many are
in each node, and how many are not there ("absent")."""
import ctypes
import json
import os
import sys

FRAME = 2 << 20
MOVE_PAGES = 279  # x86-64


def where(pid, address, size):
    """Number of frames by node."""
    count = size // FRAME
    pages = (ctypes.c_void_p * count)(*range(address, address + count * FRAME, FRAME))
    status = (ctypes.c_int * count)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(MOVE_PAGES, pid, ctypes.c_ulong(count), pages, None, status, 0) < 0:
        sys.exit(f"move_pages: {os.strerror(ctypes.get_errno())}")
    counts = {}
    for node in status:
        key = str(node) if node >= 0 else "absent"
        counts[key] = counts.get(key, 0) + 1
    return counts


numbers = [int(word) for word in sys.argv[1:]]
for start, length in zip(numbers[1::2], numbers[2::2]):
    print(json.dumps(where(numbers[0], start, length)))
