#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Installs the Debian packages that building, running and testing framevisor need, and does nothing
# when they are all there.
#
#   packages.sh          what `make`, `make run` and `make test` use
#   packages.sh --bench  that and the peers that `make bench` measures beside framevisor
#   packages.sh --lint   that and what `make check` and `make fuzzers` use (clang, linters)
#
set -eu

build="gcc libc6-dev make acpica-tools libjansson-dev libnuma-dev libseccomp-dev libzstd-dev liburing-dev libcmocka-dev"
run="kmod xz-utils cpio busybox-static"
host="qemu-system-x86 libvirt-daemon-system libvirt-clients python3-libvirt python3-pytest iproute2 dmsetup e2fsprogs"
lint="shellcheck clang libclang-rt-dev clang-format clang-tidy cppcheck"
bench="pkg-config libdpdk-dev libmimalloc-dev"

packages="$build $run $host"
case ${1:-} in
--lint) packages="$packages $lint" ;;
--bench) packages="$packages $bench" ;;
esac

if ! command -v dpkg-query >/dev/null; then
	echo "packages.sh: this is not a Debian system; install these yourself: $packages" >&2
	exit 1
fi

# From Debian 13 on virtiofsd is a package of its own; before, it comes with QEMU.
if [ ! -e /usr/lib/qemu/virtiofsd ] && apt-cache show virtiofsd >/dev/null 2>&1; then
	packages="$packages virtiofsd"
fi

missing=
for package in $packages; do
	# shellcheck disable=SC2016 # ${...} is dpkg-query's, not the shell's
	state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$state" = installed ] || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

if [ "$(id -u)" != 0 ]; then
	echo "packages.sh: these packages are missing and only root can install them:$missing" >&2
	echo "packages.sh: run again with sudo, or: sudo apt-get install$missing" >&2
	exit 1
fi

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Nothing of the installation may wait for an answer or start half-configured services on a machine
# without an init system; what apt says is shown only when it fails.
apt() {
	apt-get -q -y -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "$@" >"$log" 2>&1 </dev/null
}

# shellcheck disable=SC2086 # lists of words
install_missing() {
	apt install --no-install-recommends $missing
}

echo "packages: installing$missing"
# The lists may be absent (a fresh image) or name versions that are gone: then fetch them and retry.
if ! install_missing; then
	echo "packages: fetching the package lists"
	if ! apt update; then
		echo "packages: warning: some lists could not be fetched" >&2
		grep '^[EW]:' "$log" | head -n 3 >&2 || true
	fi
	if ! install_missing; then
		tail -n 20 "$log" >&2
		echo "packages.sh: apt-get could not install:$missing" >&2
		exit 1
	fi
fi
echo "packages: done"
