# SPDX-License-Identifier: MIT
"""The pool under guests that live on: guest-tests/follower counts in all of its memory, so that a lost
write shows, and gives up and takes back what its host asks for."""


def follower(product, name, mem, extra=""):
    vm = product.start(name, f"--cpus 1 --mem {mem} --kernel build/guest-tests/follower.elf {extra}")
    vm.wait_for(r"^follower: (\d+) frames, 0 blocks", 60)
    return vm


def end(vm):
    """The guest has counted all the time, and nothing was lost."""
    vm.type("q")
    vm.wait_for(r"^PASS follower", 60)
    assert vm.wait_until_ended(60) == 0, vm.describe()


def test_ordinary_memory(product_somewhere):
    """Without hugepages everything works at 2 MiB: balloon, virtio-mem, compaction, a frame out of use,
    and the host has the memory again that the pool gives up."""
    product = product_somewhere
    product.ok("pool start --size 384M --max 384M --hugepages=never")
    vm = follower(product, "web", "160M,boot=64M,max=192M", "--append plug=1")
    other = follower(product, "other", "64M")
    vm.wait_for(r"^follower: \d+ frames, 48 blocks", 60)
    down = product.json("balloon web 48M", 120)
    assert down["frames-back"] == 56, down
    pool = product.check_conservation()
    held = {entry["name"]: entry["held"] for entry in pool["vms"]}
    assert held["web"] <= 24 + 16, (held, down)  # what it has left, and a stock
    up = product.json("balloon web 128M", 120)
    assert up["frames-back"] == -40 and up["actual"] == 128 << 20, up

    compacted = product.json("pool compact --order 5", 120)
    assert compacted["blocks-after"] >= compacted["blocks-before"], compacted
    product.check_conservation()
    frames = range(40, 60, 4)
    for index in frames:
        product.ok(f"pool offline-frame 0:{index}", 60)
    assert product.framevisor("pool check").rc == 0
    assert product.pool()["quarantined"] == len(frames)
    for index in frames:
        product.ok(f"pool online-frame 0:{index}")
    # pool check compares with what the host holds for the pool's file.
    before = product.check_conservation()["total"]
    assert product.json("pool shrink 64M")["done"] == 32
    assert product.check_conservation()["total"] == before - 32
    end(other)
    end(vm)
    product.check_conservation()
    product.ok("pool stop")


def test_shrink_moves_to_other_nodes(product):
    """pool shrink --node when VMs hold what is to go: they move to the other node while they run."""
    product.ok("pool start --size 256M --max 256M --movable 50% --hugepages=require")
    vm = follower(product, "web", "128M", "--hugepages=require")
    held = [node["held"] for node in product.check_conservation()["nodes"]]
    node = held.index(max(held))
    told = product.json(f"pool shrink 100M --node {node}", 120)
    assert told["done"] == 50 and told["nodes"][node]["frames"] == 50 and told["hugepages"] == 50, told
    assert told.get("moved", 0) > 0 or max(held) <= 14, (told, held)
    pool = product.check_conservation()
    assert pool["nodes"][node]["total"] == 14, pool["nodes"]
    end(vm)
    product.check_conservation()
    product.ok("pool stop")
