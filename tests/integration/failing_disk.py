# SPDX-License-Identifier: MIT
"""A disk that fails when it is told to: the kernel's device mapper over a file in memory, with ext4 on it."""
import os

# What becomes of reads and writes. With error_writes reads go on; the target "error" answers nothing.
TABLES = {
    "good": "0 {sectors} linear {loop} 0",
    "no writes": "0 {sectors} flakey {loop} 0 0 3600 1 error_writes",
    "gone": "0 {sectors} error",
}
SIZE_MIB = 256


class FailingDisk:
    """with FailingDisk(product) as disk: disk.directory is on it. It is good until become()."""

    def __init__(self, product):
        self.product = product
        self.directory = f"{product.directory}/disk"
        self.image = f"{product.directory}/disk.img"
        self.name = os.path.basename(product.directory)
        self.loop = ""

    def run(self, *commands):
        return self.product.run(" && ".join(commands), check=True).out.strip()

    def __enter__(self):
        self.run("modprobe -a -d build/kernels/$(sed -n 's/.*testhost.kernel=\\([^ ]*\\).*/\\1/p' /proc/cmdline) loop dm-mod dm-flakey ext4")
        self.loop = self.run(f"truncate -s {SIZE_MIB}M {self.image}", f"losetup --show -f {self.image}")
        # The file system's own blocks stay in the cache while the disk fails: the swap file is what fails.
        self.run("echo 0 >/proc/sys/vm/dirty_writeback_centisecs",
                 f"dmsetup create {self.name} --noudevrules --noudevsync --table '{self.table('good')}'")
        device = f"/dev/dm-{self.run(f'dmsetup info -c --noheadings -o minor {self.name}')}"
        self.run(f"mke2fs -q -t ext4 -O ^has_journal {device}", f"mkdir {self.directory}", f"mount -t ext4 {device} {self.directory}")
        return self

    def table(self, state):
        return TABLES[state].format(sectors=SIZE_MIB * 2048, loop=self.loop)

    def become(self, state):
        """One of TABLES from now on. Nothing is written first: a disk does not fail in good order."""
        self.run(f"dmsetup load {self.name} --table '{self.table(state)}'", f"dmsetup suspend --nolockfs {self.name}",
                 f"dmsetup resume --noudevsync {self.name}")

    def __exit__(self, *_exception):
        self.product.run(f"dmsetup load {self.name} --table '{self.table('good')}'; dmsetup suspend --nolockfs {self.name}; "
                         f"dmsetup resume --noudevsync {self.name}; umount -l {self.directory}; dmsetup remove --noudevsync {self.name}; "
                         f"losetup -d {self.loop}; rm -f {self.image}; echo 500 >/proc/sys/vm/dirty_writeback_centisecs")
