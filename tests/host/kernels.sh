#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Obtains stock Debian cloud kernels for guests and for the test host: downloads the packages and
# unpacks them below build/kernels/, without installing them.
#
#   kernels.sh            6.12 and 6.1, as far as the configured archive offers them
#   kernels.sh VERSION... only these
#   kernels.sh --any      6.12, else 6.1 (what `make run` needs)
#
# build/kernels/VERSION/ then holds
#   vmlinuz               the bzImage
#   release               the kernel's own name for itself, as in /lib/modules/RELEASE
#   lib/modules/RELEASE/  its modules with modules.dep; the ones in $modules uncompressed
#
# What is there already is not fetched again.
#
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
store=$root/build/kernels

# What guests and the test host load. busybox and the kernel's init_module want them uncompressed.
modules="virtio virtio_ring virtio_pci virtio_pci_modern_dev virtio_pci_legacy_dev virtio_mmio
	virtio_balloon virtio_mem virtio_blk virtio_net virtio-rng virtio_console net_failover failover
	button evdev fuse virtiofs irqbypass ccp kvm kvm-amd kvm-intel userfaultfd"

say() {
	echo "kernels: $*"
}

# The package that carries the kernel, behind the meta package $1.
real_package() {
	apt-cache depends --important "$1" 2>/dev/null |
		sed -n 's/^ *Depends: \(linux-image-[0-9].*-cloud-amd64\)$/\1/p' | head -n 1
}

meta_package() {
	case $1 in
	6.1) echo linux-image-cloud-amd64 ;;
	*) echo "linux-image-$1-cloud-amd64" ;;
	esac
}

unpack() { # DIRECTORY DEB
	dpkg -x "$2" "$1/package"
	mv "$1"/package/boot/vmlinuz-* "$1/vmlinuz"
	mkdir -p "$1/lib"
	# With a merged /usr, newer packages carry usr/lib/modules.
	for modules_dir in "$1/package/lib/modules" "$1/package/usr/lib/modules"; do
		[ -d "$modules_dir" ] && mv "$modules_dir" "$1/lib/modules"
	done
	rm -rf "$1/package" "$2"
	release=$(basename "$1"/lib/modules/*)
	for module in $modules; do
		find "$1/lib/modules" -name "$module.ko.xz" -exec xz -d {} +
	done
	depmod -b "$1" "$release"
	echo "$release" >"$1/release"
}

# Fetches the package lists, once.
update_lists() {
	[ -z "${updated:-}" ] && [ "$(id -u)" = 0 ] || return 1
	updated=1
	say "fetching the package lists"
	apt-get -q update >/dev/null 2>&1 || say "warning: some lists could not be fetched"
}

download() { # DIRECTORY PACKAGE
	# _apt, the user apt downloads as, may not be able to write here.
	(cd "$1" && apt-get -q download -o APT::Sandbox::User=root "$2" >apt.log 2>&1)
}

fetch() { # VERSION: returns 1 when the archive does not offer it
	[ -e "$store/$1/release" ] && return 0
	meta=$(meta_package "$1")
	package=$(real_package "$meta")
	if [ -z "$package" ] && update_lists; then
		package=$(real_package "$meta")
	fi
	case $package in
	linux-image-"$1".*) ;;
	*) return 1 ;; # none, or linux-image-cloud-amd64 of another Debian release
	esac
	mkdir -p "$store"
	work=$(mktemp -d "$store/.fetch-XXXXXX")
	# shellcheck disable=SC2064 # the directory of this call
	trap "rm -rf '$work'" EXIT
	say "$1: downloading $package"
	# Old lists name packages that the archive no longer has.
	if ! download "$work" "$package" && update_lists; then
		package=$(real_package "$meta")
		download "$work" "$package" || true
	fi
	if ! ls "$work"/*.deb >/dev/null 2>&1; then
		tail -n 3 "$work/apt.log" >&2
		echo "kernels.sh: $package cannot be downloaded" >&2
		exit 1
	fi
	say "$1: unpacking"
	unpack "$work" "$work"/*.deb
	rm -f "$work/apt.log"
	chmod 755 "$work"
	rm -rf "${store:?}/$1"
	mv "$work" "$store/$1"
	trap - EXIT
	say "$1: $(cat "$store/$1/release") ready"
}

any=
[ "${1:-}" = --any ] && any=1 && shift
[ $# -gt 0 ] || set -- 6.12 6.1

got=0
for version in "$@"; do
	if fetch "$version"; then
		got=$((got + 1))
		[ -n "$any" ] && break
	else
		say "$version: $(meta_package "$version") is not offered by this machine's package archive, going on without"
	fi
done
if [ "$got" = 0 ]; then
	echo "kernels.sh: no stock kernel is to be had: none of: $*" >&2
	exit 1
fi
