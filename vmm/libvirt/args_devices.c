/* SPDX-License-Identifier: MIT */
/* libvirt's -device, -chardev, -mon and -add-fd: see args.h. */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_balloon.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "framevisor/frame.h"
#include "vmm/libvirt/args_internal.h"
#include "vmm/libvirt/keyval.h"

/* What libvirt's drivers begin with, and what in the XML makes it ask for them. First match. */
static const struct {
	const char *prefix;
	const char *what;
	const char *todo;
} absent[] = {
	{ "virtio-blk", "disks", "remove <disk>; what the guest needs goes into its initrd" },
	{ "scsi-", "disks", "remove <disk>" },
	{ "ide-", "disks", "remove <disk>" },
	{ "virtio-scsi", "disks", "remove <controller type='scsi'>" },
	{ "vhost-user-blk", "disks", "remove <disk>" },
	{ "virtio-net", "network interfaces", "remove <interface>" },
	{ "e1000", "network interfaces", "remove <interface>" },
	{ "rtl8139", "network interfaces", "remove <interface>" },
	{ "virtio-rng", "random number devices of this kind", "use <rng model='virtio'>" },
	{ "virtio-serial", "virtio consoles and channels",
	  "remove <channel>, <console> with target type 'virtio' and <controller "
	  "type='virtio-serial'>; <serial type='pty'/> is there" },
	{ "virtserialport", "channels", "remove <channel>" },
	{ "virtconsole", "virtio consoles", "use <serial type='pty'/>" },
	{ "vhost-vsock", "vsock", "remove <vsock>" },
	{ "vhost-user-fs", "shared file systems", "remove <filesystem>" },
	{ "virtio-9p", "shared file systems", "remove <filesystem>" },
	{ "vfio-pci", "host devices", "remove <hostdev>" },
	{ "usb-", "USB", "use <controller type='usb' model='none'/> and no USB device" },
	{ "qemu-xhci", "USB", "use <controller type='usb' model='none'/>" },
	{ "nec-usb", "USB", "use <controller type='usb' model='none'/>" },
	{ "piix3-usb", "USB", "use <controller type='usb' model='none'/>" },
	{ "ich9-usb", "USB", "use <controller type='usb' model='none'/>" },
	{ "pci-bridge", "PCI bridges", "leave one <controller type='pci' model='pci-root'/>" },
	{ "pcie-", "PCI Express ports", "leave one <controller type='pci' model='pci-root'/>" },
	{ "virtio-gpu", "displays", "remove <video> and <graphics>" },
	{ "virtio-vga", "displays", "remove <video> and <graphics>" },
	{ "VGA", "displays", "remove <video> and <graphics>" },
	{ "qxl", "displays", "remove <video> and <graphics>" },
	{ "cirrus-vga", "displays", "remove <video> and <graphics>" },
	{ "bochs-display", "displays", "remove <video> and <graphics>" },
	{ "virtio-keyboard", "input devices", "remove <input>" },
	{ "virtio-mouse", "input devices", "remove <input>" },
	{ "virtio-tablet", "input devices", "remove <input>" },
	{ "pc-dimm", "DIMMs", "use <memory model='virtio-mem'>" },
	{ "nvdimm", "NVDIMMs", "use <memory model='virtio-mem'>" },
	{ "virtio-pmem", "persistent memory", "use <memory model='virtio-mem'>" },
	{ "i6300esb", "watchdogs", "remove <watchdog>" },
	{ "ib700", "watchdogs", "remove <watchdog>" },
	{ "pvpanic", "panic devices", "remove <panic>" },
	{ "tpm-", "TPMs", "remove <tpm>" },
	{ "virtio-iommu", "IOMMUs", "remove <iommu>" },
	{ "intel-iommu", "IOMMUs", "remove <iommu>" },
	{ "ich9-intel-hda", "sound", "remove <sound>" },
	{ "intel-hda", "sound", "remove <sound>" },
	{ "isa-parallel", "parallel ports", "remove <parallel>" },
};

int libvirt_refuse_device(const char *driver, const char *id, struct error *err)
{
	for (size_t i = 0; i < sizeof(absent) / sizeof(absent[0]); i++)
		if (strncmp(driver, absent[i].prefix, strlen(absent[i].prefix)) == 0)
			return error_set(err, ENOTSUP,
					 "device '%s' (%s): this machine has no %s; %s", id, driver,
					 absent[i].what, absent[i].todo);
	return error_set(err, ENOTSUP,
			 "device '%s': this machine has no '%s'; remove it from the domain's XML",
			 id, driver);
}

/* Where a PCI device sits is decided here; the address in the XML is libvirt's own book-keeping. */
static void drop_address(json_t *object)
{
	keyval_drop(object, "bus");
	keyval_drop(object, "addr");
}

static int device_serial(struct libvirt_request *request, json_t *object, struct error *err)
{
	uint64_t index = 0;
	int ret;

	ret = keyval_take_u64(object, "index", &index, "serial port", err);
	if (ret < 0)
		return ret;
	if (index != 0 || request->serial_present)
		return error_set(err, ENOTSUP,
				 "this machine has one serial port: leave one <serial> with "
				 "<target port='0'/>");
	request->serial_present = true;
	ret = keyval_take_string(object, "chardev", request->serial, sizeof(request->serial),
				 "serial port", err);
	return ret < 0 ? ret : 0;
}

static int device_balloon(struct libvirt_request *request, json_t *object, struct error *err)
{
	bool reporting = false, deflate = false;
	int ret;

	if (request->balloon)
		return error_set(err, ENOTSUP,
				 "this machine has one balloon: leave one "
				 "<memballoon>");
	request->balloon = true;
	ret = keyval_take_bool(object, "free-page-reporting", &reporting, "balloon", err);
	if (ret >= 0)
		ret = keyval_take_bool(object, "deflate-on-oom", &deflate, "balloon", err);
	if (ret < 0)
		return ret;
	/* As in QEMU, what the XML does not switch on is off. */
	if (!reporting)
		request->config.balloon_without |= UINT64_C(1) << VIRTIO_BALLOON_F_REPORTING;
	if (!deflate)
		request->config.balloon_without |= UINT64_C(1) << VIRTIO_BALLOON_F_DEFLATE_ON_OOM;
	drop_address(object);
	return 0;
}

int libvirt_parse_mem_device(json_t *object, struct libvirt_mem_device *device, struct error *err)
{
	const char *what = "virtio-mem";
	int ret = keyval_take_string(object, "memdev", device->backend, sizeof(device->backend),
				     what, err);

	if (ret == 0)
		ret = error_set(err, EINVAL, "virtio-mem: 'memdev' is missing");
	if (ret >= 0)
		ret = keyval_take_u64(object, "requested-size", &device->requested, what, err);
	if (ret >= 0)
		ret = keyval_take_u64(object, "block-size", &device->block_size, what, err);
	if (ret >= 0)
		ret = keyval_take_u64(object, "node", &device->node, what, err);
	if (ret < 0)
		return ret;
	if (device->block_size &&
	    (device->block_size < FRAME_SIZE || (device->block_size & (device->block_size - 1))))
		return error_set(err, EINVAL,
				 "virtio-mem: blocks of %llu KiB are not possible: a block is a "
				 "power of two and at least 2 MiB; use <block unit='MiB'>2</block>",
				 (unsigned long long)(device->block_size >> 10));
	drop_address(object);
	return keyval_nothing_left(object, what, err);
}

int libvirt_arg_entropy(struct libvirt_request *request, json_t *object, const char *type,
			struct error *err)
{
	char file[64] = "/dev/urandom";
	int ret;

	if (request->entropy[0])
		return error_set(err, ENOTSUP,
				 "this machine has one random number device: leave "
				 "one <rng>");
	ret = keyval_take_string(object, "id", request->entropy, sizeof(request->entropy), type,
				 err);
	if (ret >= 0)
		ret = keyval_take_string(object, "filename", file, sizeof(file), type, err);
	if (ret < 0)
		return ret;
	/* Both are the kernel's generator, which getrandom(2) reads. */
	if ((strcmp(type, "rng-random") != 0 && strcmp(type, "rng-builtin") != 0) ||
	    (strcmp(file, "/dev/urandom") != 0 && strcmp(file, "/dev/random") != 0))
		return error_set(err, ENOTSUP,
				 "%s of '%s': random numbers come from the host's kernel; use "
				 "<backend model='random'>/dev/urandom</backend> in <rng>",
				 type, file);
	return keyval_nothing_left(object, type, err);
}

static int device_rng(struct libvirt_request *request, json_t *object, struct error *err)
{
	int ret;

	if (request->config.rng)
		return error_set(err, ENOTSUP,
				 "this machine has one random number device: leave "
				 "one <rng>");
	if (json_object_get(object, "max-bytes") || json_object_get(object, "period"))
		return error_set(err, ENOTSUP,
				 "virtio-rng: there is no limit on random numbers, they cost "
				 "nothing; remove <rate> from <rng>");
	request->config.rng = true;
	ret = keyval_take_string(object, "rng", request->rng_source, sizeof(request->rng_source),
				 "virtio-rng", err);
	drop_address(object);
	return ret < 0 ? ret : 0;
}

static int device_mem(struct libvirt_request *request, json_t *object, struct error *err)
{
	struct libvirt_mem_device *device = &request->mem_devices[request->nr_mem];

	if (request->nr_mem == VM_MEM_DEVICES_MAX)
		return error_set(err, ENOTSUP, "at most %d memory devices", VM_MEM_DEVICES_MAX);
	memcpy(device->id, request->devices[request->nr_devices].id, sizeof(device->id));
	request->nr_mem++;
	return libvirt_parse_mem_device(object, device, err);
}

static const struct {
	const char *driver;
	int (*parse)(struct libvirt_request *request, json_t *object, struct error *err);
} present[] = {
	{ "isa-serial", device_serial },
	{ "virtio-balloon-pci", device_balloon },
	{ "virtio-mem-pci", device_mem },
	{ "virtio-rng-pci", device_rng },
};

static int add_device(struct libvirt_request *request, json_t *object, struct error *err)
{
	struct libvirt_device *device = &request->devices[request->nr_devices];
	int ret = keyval_take_string(object, "driver", device->driver, sizeof(device->driver),
				     "-device", err);

	if (ret == 0)
		return error_set(err, EINVAL, "-device: no driver is named");
	if (ret > 0)
		ret = keyval_take_string(object, "id", device->id, sizeof(device->id), "-device",
					 err);
	if (ret < 0)
		return ret;
	for (size_t i = 0; i < sizeof(present) / sizeof(present[0]); i++) {
		if (strcmp(device->driver, present[i].driver) != 0)
			continue;
		ret = present[i].parse(request, object, err);
		if (ret == 0)
			ret = keyval_nothing_left(object, device->driver, err);
		request->nr_devices++;
		return ret;
	}
	return libvirt_refuse_device(device->driver, device->id, err);
}

int libvirt_arg_device(struct libvirt_request *request, const char *value, struct error *err)
{
	json_t *object;
	int ret;

	if (request->nr_devices == LIBVIRT_DEVICES_MAX)
		return error_set(err, E2BIG, "more than %d devices", LIBVIRT_DEVICES_MAX);
	object = keyval_parse(value, "driver", err);
	if (!object)
		return -EINVAL;
	ret = add_device(request, object, err);
	json_decref(object);
	return ret;
}

/* ---- Character devices and passed files ---- */

static const struct {
	const char *name;
	enum libvirt_chardev_kind kind;
} chardev_kinds[] = {
	{ "null", LIBVIRT_CHARDEV_NULL },
	{ "pty", LIBVIRT_CHARDEV_PTY },
	{ "file", LIBVIRT_CHARDEV_FILE },
	{ "socket", LIBVIRT_CHARDEV_SOCKET },
};

static int take_kind(json_t *object, enum libvirt_chardev_kind *kind, struct error *err)
{
	char name[LIBVIRT_ID_MAX] = "";
	int ret = keyval_take_string(object, "backend", name, sizeof(name), "-chardev", err);

	if (ret < 0)
		return ret;
	for (size_t i = 0; i < sizeof(chardev_kinds) / sizeof(chardev_kinds[0]); i++) {
		if (strcmp(name, chardev_kinds[i].name) == 0) {
			*kind = chardev_kinds[i].kind;
			return 0;
		}
	}
	return error_set(err, ENOTSUP,
			 "character devices of type '%s' are not supported; use <serial "
			 "type='pty'/> or <serial type='file'>",
			 name);
}

/* An fd that libvirt left open for us. */
static int check_fd(uint64_t number, int *fd, struct error *err)
{
	if (number <= 2 || number > INT_MAX || fcntl((int)number, F_GETFD) < 0)
		return error_set(err, EBADF, "file descriptor %llu was not passed to this process",
				 (unsigned long long)number);
	*fd = (int)number;
	fcntl(*fd, F_SETFD, FD_CLOEXEC);
	return 0;
}

/* /dev/fdset/N is the file that -add-fd set=N brought. */
static int resolve_fdset(const struct libvirt_request *request, struct libvirt_chardev *chardev,
			 struct error *err)
{
	static const char prefix[] = "/dev/fdset/";
	uint64_t set;

	if (strncmp(chardev->path, prefix, sizeof(prefix) - 1) != 0)
		return 0;
	set = strtoull(chardev->path + sizeof(prefix) - 1, NULL, 10);
	for (unsigned int i = 0; i < request->nr_fdsets; i++) {
		if (request->fdsets[i].set == set) {
			chardev->fd = request->fdsets[i].fd;
			return 0;
		}
	}
	return error_set(err, EINVAL, "no file was passed for '%s'", chardev->path);
}

static int parse_chardev(const struct libvirt_request *request, json_t *object,
			 struct libvirt_chardev *chardev, struct error *err)
{
	bool server = false, wait = false;
	uint64_t fd = 0;
	int ret = take_kind(object, &chardev->kind, err);

	chardev->fd = -1;
	if (ret == 0)
		ret = keyval_take_string(object, "id", chardev->id, sizeof(chardev->id), "-chardev",
					 err);
	if (ret >= 0)
		ret = keyval_take_string(object, "path", chardev->path, sizeof(chardev->path),
					 "-chardev", err);
	if (ret >= 0)
		ret = keyval_take_bool(object, "append", &chardev->append, "-chardev", err);
	if (ret >= 0)
		ret = keyval_take_bool(object, "server", &server, "-chardev", err);
	if (ret >= 0)
		ret = keyval_take_bool(object, "wait", &wait, "-chardev", err);
	if (ret >= 0)
		ret = keyval_take_u64(object, "fd", &fd, "-chardev", err);
	if (ret > 0)
		ret = check_fd(fd, &chardev->fd, err);
	if (ret == 0)
		ret = keyval_nothing_left(object, "-chardev", err);
	if (ret == 0 && chardev->kind == LIBVIRT_CHARDEV_SOCKET && (!server || wait))
		ret = error_set(err, ENOTSUP,
				"a socket must be one that is listened on "
				"(server=on,wait=off)");
	return ret < 0 ? ret : resolve_fdset(request, chardev, err);
}

int libvirt_arg_chardev(struct libvirt_request *request, const char *value, struct error *err)
{
	json_t *object;
	int ret;

	if (request->nr_chardevs == LIBVIRT_CHARDEVS_MAX)
		return error_set(err, E2BIG, "more than %d character devices",
				 LIBVIRT_CHARDEVS_MAX);
	object = keyval_parse(value, "backend", err);
	if (!object)
		return -EINVAL;
	ret = parse_chardev(request, object, &request->chardevs[request->nr_chardevs], err);
	json_decref(object);
	if (ret == 0)
		request->nr_chardevs++;
	return ret;
}

const struct libvirt_chardev *libvirt_find_chardev(const struct libvirt_request *request,
						   const char *id)
{
	for (unsigned int i = 0; i < request->nr_chardevs; i++)
		if (strcmp(request->chardevs[i].id, id) == 0)
			return &request->chardevs[i];
	return NULL;
}

static int parse_mon(struct libvirt_request *request, json_t *object, struct error *err)
{
	char mode[16] = "", id[LIBVIRT_ID_MAX];
	int ret = keyval_take_string(object, "chardev", request->monitor, sizeof(request->monitor),
				     "-mon", err);

	if (ret >= 0)
		ret = keyval_take_string(object, "id", id, sizeof(id), "-mon", err);
	if (ret >= 0)
		ret = keyval_take_string(object, "mode", mode, sizeof(mode), "-mon", err);
	if (ret < 0)
		return ret;
	if (strcmp(mode, "control") != 0)
		return error_set(err, ENOTSUP, "-mon: only mode=control (QMP) is spoken");
	return keyval_nothing_left(object, "-mon", err);
}

int libvirt_arg_mon(struct libvirt_request *request, const char *value, struct error *err)
{
	json_t *object;
	int ret;

	if (request->monitor[0])
		return error_set(err, ENOTSUP, "-mon: one monitor is served");
	object = keyval_parse(value, "chardev", err);
	if (!object)
		return -EINVAL;
	ret = parse_mon(request, object, err);
	json_decref(object);
	return ret;
}

int libvirt_arg_add_fd(struct libvirt_request *request, const char *value, struct error *err)
{
	struct libvirt_fdset *fdset = &request->fdsets[request->nr_fdsets];
	uint64_t fd = 0;
	json_t *object;
	int ret;

	if (request->nr_fdsets == LIBVIRT_FDSETS_MAX)
		return error_set(err, E2BIG, "more than %d passed files", LIBVIRT_FDSETS_MAX);
	object = keyval_parse(value, NULL, err);
	if (!object)
		return -EINVAL;
	ret = keyval_take_u64(object, "set", &fdset->set, "-add-fd", err);
	if (ret > 0)
		ret = keyval_take_u64(object, "fd", &fd, "-add-fd", err);
	if (ret == 0)
		ret = error_set(err, EINVAL, "-add-fd: 'set' and 'fd' are needed");
	keyval_drop(object, "opaque");
	if (ret > 0)
		ret = keyval_nothing_left(object, "-add-fd", err);
	if (ret == 0)
		ret = check_fd(fd, &fdset->fd, err);
	json_decref(object);
	if (ret == 0)
		request->nr_fdsets++;
	return ret;
}
