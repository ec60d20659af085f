# SPDX-License-Identifier: MIT
"""Each VM's QMP socket, with a client that knows nothing of framevisor."""
import json


def talk(product, name, commands, events=0, timeout=30):
    """Sends commands to a VM's QMP socket, one after the other, and waits for that many events
    besides, or for one of each of these names. Returns greeting, replies and events."""
    script = (
        "import json, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.settimeout(80); s.connect(sys.argv[1])\n"
        "f = s.makefile('r', newline='\\n'); greeting = f.readline()\n"
        "commands, events, replies, seen = json.loads(sys.argv[2]), json.loads(sys.argv[3]), [], []\n"
        "for command in commands:\n"
        "    s.sendall(json.dumps(command).encode())\n"
        "    while True:\n"
        "        line = json.loads(f.readline())\n"
        "        (seen if 'event' in line else replies).append(line)\n"
        "        if 'event' not in line: break\n"
        "def enough():\n"
        "    if isinstance(events, int): return len(seen) >= events\n"
        "    return set(events) <= {event['event'] for event in seen}\n"
        "while not enough():\n"
        "    line = f.readline()\n"
        "    if not line: break\n"
        "    seen.append(json.loads(line))\n"
        "print(json.dumps([greeting, replies, seen]))\n")
    path = f"{product.rundir}/vm/{name}/qmp.sock"
    result = product.run(f"/usr/bin/python3 - {path} '{json.dumps(commands)}' '{json.dumps(events)}'", timeout=timeout, stdin=script)
    assert result.rc == 0, result
    return json.loads(result.out)


def test_qmp_life(product):
    """Greeting, negotiation, queries, stop and cont with their events, and quit."""
    vm = product.linux("web", mem="256M", extra="")
    vm.wait_until_up()
    greeting, replies, events = talk(product, "web", [
        {"execute": "query-status"}, {"execute": "qmp_capabilities"}, {"execute": "query-status", "id": 7},
        {"execute": "query-version"}, {"execute": "query-commands"}, {"execute": "no-such-thing"},
        {"execute": "stop"}, {"execute": "query-status"}, {"execute": "cont"}, {"execute": "query-status"},
        {"execute": "query-balloon"}], events=2)
    assert greeting.endswith("\r\n") and "QMP" in json.loads(greeting)
    assert replies[0]["error"]["class"] == "CommandNotFound", "before negotiation nothing else works"
    assert replies[1]["return"] == {}
    assert replies[2] == {"return": {"status": "running", "running": True, **{k: v for k, v in replies[2]["return"].items()
                                     if k not in ("status", "running")}}, "id": 7}
    assert "qemu" in replies[3]["return"]
    names = {command["name"] for command in replies[4]["return"]}
    assert {"qmp_capabilities", "query-status", "query-version", "query-commands", "balloon", "query-balloon", "stop", "cont",
            "system_powerdown", "quit"} <= names
    assert replies[5]["error"]["class"] == "CommandNotFound"
    assert replies[7]["return"]["status"] == "paused"
    assert replies[9]["return"]["status"] == "running"
    assert replies[10]["return"]["actual"] == 256 << 20
    assert [event["event"] for event in events] == ["STOP", "RESUME"]
    assert vm.verb("echo alive") == "alive"
    _, replies, events = talk(product, "web", [{"execute": "qmp_capabilities"}, {"execute": "quit"}], events=1)
    assert events and events[0]["event"] == "SHUTDOWN" and events[0]["data"]["guest"] is False, events
    assert vm.wait_until_ended() == 0, vm.describe()


def send_nonsense(product, vm):
    """Garbage, half messages and absurd nesting get errors, and the VM runs on."""
    path = f"{product.rundir}/vm/web/qmp.sock"
    script = (
        "import os, socket, sys\n"
        "for data in (b'\\x00\\xff garbage\\n', b'{' * 5000 + b'\\n', b'[1,2,3]\\n', b'{\"execute\": 5}\\n', b'{\"execute\":', os.urandom(70000),\n"
        "             b'{\"execute\":\"balloon\",\"arguments\":{\"value\":-1}}\\n'):\n"
        "    s = socket.socket(socket.AF_UNIX); s.settimeout(30); s.connect(sys.argv[1]); s.recv(4096)\n"
        "    s.sendall(b'{\"execute\":\"qmp_capabilities\"}\\n'); s.recv(4096)\n"
        "    try: s.sendall(data)\n"
        "    except (BrokenPipeError, ConnectionResetError): pass\n"
        "    s.close()\n")
    result = product.run(f"/usr/bin/python3 - {path}", stdin=script)
    assert result.rc == 0, result
    assert vm.verb("echo alive") == "alive"
    assert product.json("ps")[0]["name"] == "web"


def test_qmp_nonsense_balloon_and_powerdown(product):
    """What is no QMP, then balloon with its event, then system_powerdown with SHUTDOWN from the guest."""
    vm = product.linux("web", mem="256M", extra="")
    vm.wait_until_up()
    send_nonsense(product, vm)
    _, replies, events = talk(product, "web", [{"execute": "qmp_capabilities"},
                                               {"execute": "balloon", "arguments": {"value": 192 << 20}}], events=1)
    assert replies[1]["return"] == {}
    assert events[0]["event"] == "BALLOON_CHANGE" and events[0]["data"]["actual"] < 256 << 20
    _, replies, events = talk(product, "web", [{"execute": "qmp_capabilities"}, {"execute": "system_powerdown"}],
                              events=["SHUTDOWN"])
    shutdown = [event for event in events if event["event"] == "SHUTDOWN"]
    assert shutdown and shutdown[0]["data"]["guest"] is True, events
    assert vm.wait_until_ended() == 0, vm.describe()
