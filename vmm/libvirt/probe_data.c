/* SPDX-License-Identifier: MIT */
/* What the capability probe is answered: see probe.h. */
#include "vmm/libvirt/probe.h"

/*
 * libvirt looks for two things: that device_add takes JSON as the command line does
 * ("json-cli-hotplug"), and that the properties of object-add are flat ("qom-type" is an enum).
 * With both it writes -device and -object as JSON. set-action is not there: reboots are then left
 * to -no-reboot and to events.
 */
const char libvirt_schema_json[] =
	"[{\"name\":\"object-add\",\"meta-type\":\"command\",\"arg-type\":\"1\",\"ret-type\":\"0\"}"
	","
	"{\"name\":\"device_add\",\"meta-type\":\"command\",\"arg-type\":\"0\",\"ret-type\":\"0\","
	"\"features\":[\"json-cli-hotplug\"]},"
	"{\"name\":\"0\",\"meta-type\":\"object\",\"members\":[]},"
	"{\"name\":\"1\",\"meta-type\":\"object\",\"members\":[{\"name\":\"qom-type\",\"type\":"
	"\"2\"}"
	"]},"
	"{\"name\":\"2\",\"meta-type\":\"enum\",\"values\":[\"secret\",\"memory-backend-file\","
	"\"memory-backend-memfd\",\"memory-backend-ram\",\"rng-builtin\",\"rng-random\"]}]";

static const char *const balloon[] = { "free-page-reporting", "deflate-on-oom", NULL };
static const char *const memory_file[] = { "size",       "share",   "prealloc", "policy",
					   "host-nodes", "reserve", NULL };
static const char *const memory_fd[] = { "size",        "share",      "prealloc",
					 "policy",      "host-nodes", "hugetlb",
					 "hugetlbsize", "reserve",    NULL };
static const char *const virtio_mem[] = { "block-size", "memdev", "node", "requested-size", NULL };
/* That the machine does not sleep, which virt-install asks for, can be said of it. */
static const char *const power[] = { "disable_s3", "disable_s4", NULL };
static const char *const rng[] = { "rng", NULL };
static const char *const rng_random[] = { "filename", NULL };
static const char *const serial[] = { "chardev", "index", NULL };

const struct libvirt_type libvirt_types[] = {
	{ "isa-serial", true, serial },
	{ "PIIX4_PM", false, power },
	{ "virtio-balloon-pci", true, balloon },
	{ "virtio-mem-pci", true, virtio_mem },
	{ "virtio-rng-pci", true, rng },
	{ "rng-random", true, rng_random },
	{ "rng-builtin", true, NULL },
	{ "memory-backend-ram", true, memory_file },
	{ "memory-backend-file", true, memory_file },
	{ "memory-backend-memfd", true, memory_fd },
};
const size_t libvirt_nr_types = sizeof(libvirt_types) / sizeof(libvirt_types[0]);
