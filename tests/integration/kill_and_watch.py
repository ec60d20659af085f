#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Kills a VMM with SIGKILL and measures how long the pool owner takes to have its frames back.

  kill_and_watch.py PID POOL-QMP-SOCKET NAME

Runs beside the processes, on one open connection, because starting a program to ask takes longer
than the answer. Prints JSON: how many frames the VM held, how many of the pool were free before and
after, and the seconds until the VM was gone from the pool's list and all its frames were free.
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

    def command(self, name, **arguments):
        self.socket.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
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
    held = next(vm["held"] for vm in before["vms"] if vm["name"] == name)
    start = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    while True:
        pool = qmp.command("query-pool")
        seconds = time.monotonic() - start
        gone = name not in [vm["name"] for vm in pool["vms"]]
        if gone and pool["held"] <= before["held"] - held and pool["free"] >= before["free"] + held:
            break
        if seconds > 10:
            break
        time.sleep(0.01)
    json.dump({"held": held, "free-before": before["free"], "free-after": pool["free"], "gone": gone, "seconds": seconds}, sys.stdout)



if __name__ == "__main__":
    main()
