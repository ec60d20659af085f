#!/bin/sh
# SPDX-License-Identifier: MIT
# A libvirtd and a virtlogd of our own, in a mount name space of their own: nothing of the machine's
# libvirt is seen or changed. Clients use qemu+unix:///system?socket=DIR/libvirt-sock.
#
#   private_libvirt.sh DIR USER   starts libvirtd (and virtlogd, when it does not run) and waits until
#                                 it answers; PIDs are in DIR/libvirtd.pid and DIR/virtlogd.pid. VMs
#                                 run as USER: root, or libvirt-qemu.
set -eu
dir=$1
user=$2
group=kvm namespaces=
[ "$user" = root ] && group=root namespaces="namespaces = []"
mkdir -p "$dir/etc" "$dir/lib" "$dir/cache" "$dir/log" "$dir/run" "$dir/huge" /run/lock /run/libvirt
chmod 755 "$dir" "$dir"/*
cat >"$dir/libvirtd.conf" <<EOF
unix_sock_dir = "$dir"
unix_sock_rw_perms = "0700"
auth_unix_rw = "none"
auth_unix_ro = "none"
log_outputs = "${LIBVIRT_LOG:-2}:file:$dir/libvirtd.log"
log_filters = "${LIBVIRT_LOG_FILTERS:-}"
EOF
cat >"$dir/qemu.conf" <<EOF
user = "$user"
group = "$group"
security_driver = "none"
remember_owner = 0
hugetlbfs_mount = "$dir/huge"
$namespaces
EOF
cp "$dir/qemu.conf" "$dir/etc/qemu.conf"
# shellcheck disable=SC2016 # $1 is the inner shell's
exec unshare --mount --propagation private sh -eu -c '
	mount --bind "$1/etc" /etc/libvirt
	mount --bind "$1/run" /run/libvirt
	mount --bind "$1/lib" /var/lib/libvirt
	mount --bind "$1/cache" /var/cache/libvirt
	mount --bind "$1/log" /var/log/libvirt
	mount -t hugetlbfs hugetlbfs "$1/huge"
	if [ ! -e "$1/virtlogd.pid" ] || ! kill -0 "$(cat "$1/virtlogd.pid")" 2>/dev/null; then
		/usr/sbin/virtlogd -d -p "$1/virtlogd.pid"
	fi
	/usr/sbin/libvirtd -d -f "$1/libvirtd.conf" -p "$1/libvirtd.pid"
	n=0
	until virsh -c "qemu+unix:///system?socket=$1/libvirt-sock" uri >/dev/null 2>&1; do
		n=$((n + 1))
		[ $n -lt 300 ] || { cat "$1/libvirtd.log" >&2; exit 1; }
		sleep 0.1
	done
' sh "$dir"
