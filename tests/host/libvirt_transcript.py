#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What libvirt and an emulator said to each other, from a libvirtd log with the filters of docs/libvirt.md.

    libvirt_transcript.py LOG     prints a line of JSON for each message: {"monitor", "from", "message"}

Monitors are numbered in the order in which they appear: the capability probe comes first. What differs from run
to run (times, paths, process numbers) is left as it is."""
import json
import re
import sys

LINE = re.compile(r"QEMU_MONITOR_(SEND_MSG|RECV_REPLY|RECV_EVENT): mon=(\S+) (?:msg|reply|event)=(.*)$")
FROM = {"SEND_MSG": "libvirt", "RECV_REPLY": "emulator", "RECV_EVENT": "emulator"}


def transcript(lines):
    monitors = {}
    for line in lines:
        match = LINE.search(line)
        if not match:
            continue
        text = re.sub(r" fd=-?\d+$", "", match[3]).strip()
        # A reply may be long: libvirt's log then goes on in the next line, and so it is told as cut.
        try:
            message = json.loads(text)
        except ValueError:
            message = {"cut": text[:200]}
        yield {"monitor": monitors.setdefault(match[2], len(monitors)), "from": FROM[match[1]], "message": message}


def main(arguments):
    if len(arguments) != 1:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    with open(arguments[0], encoding="utf-8", errors="replace") as file:
        for entry in transcript(file):
            print(json.dumps(entry))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
