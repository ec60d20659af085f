# SPDX-License-Identifier: MIT
"""Frames of running VMs move together, for a free block of 1 GiB, and out of a zone that is to be empty. The guests
count in their memory all the time, a stock one among them, so that a lost write shows."""
from test_migrate import report, see_all_again
from test_numa import where
from test_pool_guests import end, follower

from product import kernel_versions

AT_NODE_1 = "--hugepages=require --numa node=0,host-node=1,policy=bind"


def free_blocks(product, node, order=9):
    """Free blocks of that order in the node, as buddyinfo has them."""
    lines = [line.split() for line in product.ok("buddyinfo").splitlines() if line.startswith(f"Node {node},")]
    return sum(int(words[4 + order]) for words in lines)


def scatter(product, kernel):
    """Guests that count, with others between them that leave again. Returns the stock one and the rest."""
    fillers, counting = [], []
    for i in range(4):
        counting.append(follower(product, f"count{i}", "48M", AT_NODE_1))
        fillers.append(follower(product, f"fill{i}", "288M", f"{AT_NODE_1} --prealloc"))
    for filler in fillers[:2]:
        end(filler)
    stock = product.linux("stock", kernel, mem="144M", extra=f"{AT_NODE_1} --free-page-reporting=off")
    stock.wait_until_up()
    stock.verb("start counters 48 1")
    for filler in fillers[2:]:
        end(filler)
    return stock, counting


def end_all(product, stock, counting):
    """Each has what it wrote, and the pool everything when they have gone."""
    see_all_again(stock)
    stock.verb("finish")
    stock.type("poweroff")
    assert stock.wait_until_ended() == 0, stock.describe()
    for vm in counting:
        end(vm)
    assert product.check_conservation()["held"] == 0
    product.ok("pool stop")


def test_order_9_of_frames_of_running_vms(product):
    """No block of 1 GiB is free, because running VMs hold frames all over it; after pool compact one is."""
    product.ok("pool start --hugepages=require --size 256M --max 2G", timeout=60)
    product.ok("pool grow 1536M --node 1", timeout=120)
    stock, counting = scatter(product, kernel_versions()[0])
    see_all_again(stock)
    before = product.check_conservation()
    assert free_blocks(product, 1) == 0, product.ok("buddyinfo")
    assert before["nodes"][1]["free"] > 512, before

    report(stock)
    told = product.json("pool compact --order 9", timeout=300)
    assert told["state"] == "concluded" and told["block-frames"] == 512, told
    assert (told["blocks-before"], told["blocks-after"]) == (0, 1), told
    assert told["moved"] > 0, told
    assert free_blocks(product, 1) == 1, product.ok("buddyinfo")
    _, writes, wrong = report(stock)
    assert writes > 0 and wrong == 0, (writes, wrong)

    end_all(product, stock, counting)


def test_movable_zone_of_a_node_becomes_empty(product):
    """pool offline-movable: VMs that are bound to a node move out of its ZONE_MOVABLE and stay in the node, and the
    host has the zone's hugepages."""
    product.ok("pool start --hugepages=require --size 1280M --movable 512M", timeout=60)
    counting = [follower(product, f"count{i}", "48M", AT_NODE_1) for i in range(2)]
    stock = product.linux("stock", kernel_versions()[0], mem="128M", extra=f"{AT_NODE_1} --free-page-reporting=off")
    stock.wait_until_up()
    stock.verb("start counters 32 1")
    see_all_again(stock)
    before = product.check_conservation()
    assert [node["movable"] for node in before["nodes"]] == [128, 128], before
    assert before["nodes"][1]["held"] >= 60, before
    reserved = product.hugepages()["HugePages_Total"]

    report(stock)
    told = product.json("pool offline-movable --node 1", timeout=300)
    assert told["state"] == "concluded" and told["done"] == told["hugepages"] == 128, told
    assert told["moved"] >= 60, told
    _, writes, wrong = report(stock)
    assert writes > 0 and wrong == 0, (writes, wrong)
    after = product.check_conservation()
    assert [node["movable"] for node in after["nodes"]] == [128, 0], after
    assert [node["total"] for node in after["nodes"]] == [320, 192], after
    assert after["nodes"][1]["held"] >= 60, after
    assert reserved - product.hugepages()["HugePages_Total"] == 128
    (found,) = where(product, stock)
    assert set(found) <= {"1", "absent"} and found["1"] >= 30, found

    end_all(product, stock, counting)
