#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Kills a VMM with SIGKILL and measures how long the pool owner takes to have its frames back.

  kill_and_watch.py PID POOL-QMP-SOCKET NAME

Runs beside the processes, on one open connection, because starting a program to ask takes longer
than the answer. Prints JSON: seconds, free-before, free-after.
"""
import json
import os
import signal
import socket
import sys
import time


class Qmp:
    """Just enough of a QMP client: one command at a time, events skipped."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(path)
        self.file = self.socket.makefile("r", encoding="utf-8")
        self.file.readline()
        self.command("qmp_capabilities")

    def command(self, name):
        self.socket.sendall(json.dumps({"execute": name}).encode())
        while True:
            reply = json.loads(self.file.readline())
            if "error" in reply:
                sys.exit(f"{name}: {reply['error']['desc']}")
            if "return" in reply:
                return reply["return"]


def main():
    pid, path, name = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    qmp = Qmp(path)
    before = qmp.command("query-pool")
    start = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    while True:
        pool = qmp.command("query-pool")
        seconds = time.monotonic() - start
        if name not in [vm["name"] for vm in pool["vms"]]:
            break
        if seconds > 15:
            sys.exit(f"after {seconds:.1f} s the pool owner still lists the VM: {pool['vms']}")
        time.sleep(0.01)
    json.dump({"seconds": seconds, "free-before": before["free"], "free-after": pool["free"]}, sys.stdout)


main()
