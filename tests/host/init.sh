#!/bin/sh
# SPDX-License-Identifier: MIT
#
# PID 1 of the test host. Its root is the root of the machine it runs on, shared by virtiofs and
# writable, so everything that programs write while they run goes to memory: /run, /tmp, /dev/shm.
# Then it loads KVM and hands over to agent.py, which runs what the tests ask for.
#
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
export PATH HOME LANG PYTHONDONTWRITEBYTECODE

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /dev/checkout
mount -t devpts -o ptmxmode=666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup

# A checkout below /tmp or /run must not vanish under the tmpfs there.
mount --bind "$root" /dev/checkout
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
chmod 1777 /tmp /dev/shm
if [ ! -e "$root/Makefile" ]; then
	mkdir -p "$root"
	mount --bind /dev/checkout "$root"
fi

ln -s /proc/self/fd /dev/fd
ip link set lo up
hostname testhost

# The kernel's modules are not installed, they are where kernels.sh put them.
kernel=$root/build/kernels/$(sed -n 's/.*testhost.kernel=\([^ ]*\).*/\1/p' /proc/cmdline)
modprobe -a -d "$kernel" virtio_console kvm-amd || echo "testhost: not all modules could be loaded"

cd "$root" || exit
exec 3</dev/console
/usr/bin/python3 "$here/agent.py" &
wait $!
sync
echo o >/proc/sysrq-trigger
# No file can be read any more, no program started: wait in this shell.
read -r _ <&3
