#!/bin/bash
# SPDX-License-Identifier: MIT
#
# What `make run` does once everything is built: boots a stock Linux guest on frames of the pool.
# On a terminal it gives the guest's shell. Without one it plays a tour: boot, the pool, a balloon
# down and up, stop. Where this machine's KVM cannot run a stock kernel, the same happens inside the
# test host (tests/host/testhost).
#
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
framevisor=build/framevisor
name=tour-$$
log=

say() {
	printf '\n# %s\n' "$*"
}

show() { # framevisor ARGUMENTS, as a person would type them
	printf '$ framevisor %s\n' "$*"
	"$framevisor" "$@"
}

# Boots the guest and the tour in the test host, when KVM here is missing or not good enough.
# Whatever else check finds fault with would be no better there: it is for the user to see.
choose_machine() {
	local checks fault
	[ -n "${FRAMEVISOR_IN_TESTHOST:-}" ] && return
	checks=$("$framevisor" check --json) && return
	fault=$(/usr/bin/python3 -c '
import json, sys
for line in json.load(sys.stdin)["checks"]:
    if line["status"] == "FAIL" and line["check"] in ("kvm", "stock kernel"):
        print(line["detail"].split(";")[0])
        break
' <<<"$checks")
	if [ -z "$fault" ]; then
		"$framevisor" check
		exit 1
	fi
	echo "make run: no stock kernel runs on this machine's KVM ($fault): going on in the test host, an emulated machine"
	exec tests/host/testhost tour
}

wait_for_guest() { # PATTERN SECONDS
	local deadline=$((SECONDS + $2))
	until grep -q "$1" "$log"; do
		if [ $SECONDS -ge $deadline ]; then
			echo "tour.sh: the guest did not get as far as '$1' in $2 s; its console:" >&2
			tail -n 20 "$log" >&2
			exit 1
		fi
		sleep 0.2
	done
	grep "$1" "$log" | tail -n 1 | tr -d '\r'
}

type_line() { # LINE: types it on the guest's console
	echo "$1" | timeout 5 "$framevisor" console "$name" >/dev/null 2>&1 || true
}

clean_up() {
	"$framevisor" kill "$name" >/dev/null 2>&1 || true
	[ -z "$log" ] || rm -f "$log"
}

tests/host/kernels.sh --any
for version in 6.12 6.1; do
	[ ! -e "build/kernels/$version/release" ] || break
done
kernel=build/kernels/$version/vmlinuz
initrd=$(guest-tests/linux/build "$version")
initrd=${initrd#"$PWD"/}
choose_machine

if [ -t 0 ] && [ -t 1 ]; then
	say "A stock Debian kernel $version with 512 MiB of the pool; \"exit\" powers it off, Ctrl-] q ends the VM at once."
	printf '$ framevisor run --name %s --cpus 2 --mem 512M --kernel %s --initrd %s\n' "$name" "$kernel" "$initrd"
	exec "$framevisor" run --name "$name" --cpus 2 --mem 512M --kernel "$kernel" --initrd "$initrd" --append "console=ttyS0 quiet"
fi

trap clean_up EXIT
log=$(mktemp)
say "Boot a stock Debian kernel $version with 512 MiB of the pool"
show run --detach --name "$name" --cpus 2 --mem 512M --kernel "$kernel" --initrd "$initrd" \
	--console "$log" --append "console=ttyS0 quiet fv.test=fill:64,touch:320"
wait_for_guest "^guest: up" 90
wait_for_guest "^guest: touch ok" 60

say "The guest has used most of its memory: see who holds the pool's frames"
show ps
show pool

say "Take half of the memory back"
show balloon "$name" 256M

say "The frames are in the pool again"
show pool
show pool check

say "Give the memory back to the guest; the 64 MiB that it wrote before are intact"
show balloon "$name" 512M
type_line verify
wait_for_guest "^guest: verify" 60

say "Stop the guest by its power button"
show stop "$name"
wait_for_guest "^guest: power button" 5
say "The tour ends here. On a terminal, make run gives the guest's shell instead."
