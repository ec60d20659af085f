#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Builds an initramfs for one kernel of build/kernels/ (kernels.sh): static busybox with all its
# applets, modules in the order they load (/modules/NN-name.ko), and the files of a directory, or of
# several with colons between them.
#
#   initramfs.sh VERSION OUT DIRECTORY[:DIRECTORY...] MODULE...
#
# What the kernel has built in is left out. Uncompressed: a few MiB that nothing has to unpack while
# the machine boots. Nothing is done when OUT is newer than what it is made of.
#
set -eu

fail() {
	echo "initramfs.sh: $*" >&2
	exit 1
}

[ $# -ge 3 ] || fail "usage: initramfs.sh VERSION OUT DIRECTORY[:DIRECTORY...] MODULE..."
root=$(cd "$(dirname "$0")/../.." && pwd)
version=$1 out=$2 directories=$(echo "$3" | tr : ' ')
shift 3
kernel=$root/build/kernels/$version
busybox=/bin/busybox

[ -e "$kernel/release" ] || fail "kernel $version is not there; tests/host/kernels.sh $version fetches it"
[ -x "$busybox" ] || fail "$busybox is missing; tests/host/packages.sh installs it"
# shellcheck disable=SC2086 # the words of the list
[ -e "$out" ] && [ -z "$(find $directories "$0" "$kernel/release" "$busybox" -newer "$out")" ] && exit 0

release=$(cat "$kernel/release")
mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$work"' EXIT
tree=$work/tree
mkdir -p "$tree/bin" "$tree/dev" "$tree/proc" "$tree/sys" "$tree/tmp" "$tree/modules"

cp "$busybox" "$tree/bin/busybox"
for applet in $("$busybox" --list); do
	[ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
done
for directory in $directories; do
	cp -R "$directory/." "$tree/"
done

# modprobe says what to load, in order, as "insmod PATH" or "builtin NAME".
number=10
for module in "$@"; do
	/sbin/modprobe -d "$kernel" -S "$release" --show-depends "$module" >"$work/depends" 2>"$work/errors" ||
		fail "kernel $version has no module $module: $(cat "$work/errors")"
	while read -r action path _; do
		[ "$action" = insmod ] || continue
		name=$(basename "$path")
		[ -z "$(find "$tree/modules" -name "*-${name%%.ko*}.ko")" ] || continue
		case $name in
		*.ko) cp "$path" "$tree/modules/$number-$name" ;;
		*.ko.xz) xz -dc "$path" >"$tree/modules/$number-${name%.xz}" ;;
		*) fail "module $path is compressed in a way this script does not know" ;;
		esac
		number=$((number + 1))
	done <"$work/depends"
done

(cd "$tree" && find . -print0 | LC_ALL=C sort -z | cpio --quiet -0 -o -H newc -R 0:0) >"$work/initramfs"
mv "$work/initramfs" "$out"
