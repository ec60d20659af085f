/* SPDX-License-Identifier: MIT */
/* The table of libvirt's options: see args.h. */
#include "vmm/libvirt/args.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/libvirt/args_internal.h"
#include "vmm/libvirt/keyval.h"

/* ---- Values with a meaning of their own ---- */

static int arg_name(struct libvirt_request *request, const char *value, struct error *err)
{
	json_t *object = keyval_parse(value, "guest", err);
	char name[256] = "";
	int ret;

	if (!object)
		return -EINVAL;
	ret = keyval_take_string(object, "guest", name, sizeof(name), "-name", err);
	keyval_drop(object, "debug-threads");
	keyval_drop(object, "process");
	if (ret > 0)
		ret = rundir_check_name(name, err);
	if (ret == 0)
		ret = keyval_nothing_left(object, "-name", err);
	json_decref(object);
	if (ret == 0)
		snprintf(request->config.name, sizeof(request->config.name), "%.*s", VM_NAME_MAX,
			 name);
	return ret;
}

static int check_switch(json_t *object, const char *key, bool wanted, const char *todo,
			struct error *err)
{
	bool value = wanted;
	int ret = keyval_take_bool(object, key, &value, "-machine", err);

	if (ret < 0)
		return ret;
	if (value != wanted)
		return error_set(err, ENOTSUP, "-machine %s=%s is not supported; %s", key,
				 value ? "on" : "off", todo);
	return 0;
}

static int parse_machine(struct libvirt_request *request, json_t *object, struct error *err)
{
	static const struct {
		const char *key;
		bool value;
		const char *todo;
	} switches[] = {
		{ "usb", false, "use <controller type='usb' model='none'/>" },
		{ "dump-guest-core", false, "remove dumpCore='on' from <memory>" },
		{ "hpet", false, "use <timer name='hpet' present='no'/>" },
		{ "smm", false, "remove <smm> from <features>" },
		{ "vmport", false, "use <vmport state='off'/>" },
		{ "nvdimm", false, "remove NVDIMMs" },
		{ "graphics", false, "remove <graphics>" },
		{ "acpi", true, "add <acpi/> to <features>" },
	};
	char type[64] = "";
	int ret = keyval_take_string(object, "type", type, sizeof(type), "-machine", err);

	if (ret >= 0)
		ret = keyval_take_string(object, "memory-backend", request->ram_backend,
					 sizeof(request->ram_backend), "-machine", err);
	for (size_t i = 0; ret >= 0 && i < sizeof(switches) / sizeof(switches[0]); i++)
		ret = check_switch(object, switches[i].key, switches[i].value, switches[i].todo,
				   err);
	if (ret < 0)
		return ret;
	/* Frames are never merged; interrupts are KVM's. */
	keyval_drop(object, "mem-merge");
	keyval_drop(object, "kernel_irqchip");
	request->machine_given = true;
	if (strcmp(type, "none") == 0) {
		const char *accel = json_string_value(json_object_get(object, "accel"));

		request->action = LIBVIRT_PROBE;
		request->kvm = accel && strncmp(accel, "kvm", 3) == 0;
		return 0;
	}
	if (strcmp(type, LIBVIRT_MACHINE) != 0)
		return error_set(err, ENOTSUP,
				 "there is no machine type '%s'; use <type arch='x86_64' "
				 "machine='" LIBVIRT_MACHINE "'>hvm</type>",
				 type);
	return keyval_nothing_left(object, "-machine", err);
}

static int arg_machine(struct libvirt_request *request, const char *value, struct error *err)
{
	json_t *object = keyval_parse(value, "type", err);
	int ret;

	if (!object)
		return -EINVAL;
	ret = parse_machine(request, object, err);
	json_decref(object);
	return ret;
}

static int arg_accel(struct libvirt_request *request, const char *value, struct error *err)
{
	if (strcmp(value, "kvm") != 0)
		return error_set(err, ENOTSUP,
				 "acceleration '%.32s' is not there; use <domain type='kvm'>",
				 value);
	request->kvm = true;
	return 0;
}

static int arg_cpu(struct libvirt_request *request, const char *value, struct error *err)
{
	(void)request;
	if (strcmp(value, "host") == 0 || strcmp(value, "host,migratable=on") == 0 ||
	    strcmp(value, "host,migratable=off") == 0)
		return 0;
	return error_set(err, ENOTSUP,
			 "CPU '%.100s' is not supported: a guest sees the host's; use <cpu "
			 "mode='host-passthrough'/> without features",
			 value);
}

static int arg_smp(struct libvirt_request *request, const char *value, struct error *err)
{
	uint64_t cpus = 0, maxcpus = 0, sockets = 0, dies = 0, cores = 0, threads = 1;
	json_t *object = keyval_parse(value, "cpus", err);
	const struct {
		const char *key;
		uint64_t *value;
	} keys[] = { { "cpus", &cpus }, { "maxcpus", &maxcpus }, { "sockets", &sockets },
		     { "dies", &dies }, { "cores", &cores },     { "threads", &threads } };
	int ret = 0;

	if (!object)
		return -EINVAL;
	for (size_t i = 0; ret >= 0 && i < sizeof(keys) / sizeof(keys[0]); i++)
		ret = keyval_take_u64(object, keys[i].key, keys[i].value, "-smp", err);
	if (ret >= 0)
		ret = keyval_nothing_left(object, "-smp", err);
	json_decref(object);
	if (ret < 0)
		return ret;
	if (maxcpus > cpus)
		return error_set(err, ENOTSUP,
				 "CPUs cannot be added later; make <vcpu> without current='...'");
	if (cpus > VM_CPUS_MAX)
		return error_set(err, EINVAL, "%llu CPUs are too many: the limit is %d",
				 (unsigned long long)cpus, VM_CPUS_MAX);
	if (threads > 1 || dies > 1 || (sockets > 1 && sockets != cpus))
		return error_set(err, ENOTSUP,
				 "CPUs are cores of one socket; remove <topology> from <cpu>");
	request->config.cpus = (unsigned int)cpus;
	return 0;
}

static int arg_overcommit(struct libvirt_request *request, const char *value, struct error *err)
{
	json_t *object = keyval_parse(value, NULL, err);
	int ret;

	if (!object)
		return -EINVAL;
	ret = keyval_take_bool(object, "mem-lock", &request->mem_lock, "-overcommit", err);
	if (ret >= 0)
		ret = keyval_nothing_left(object, "-overcommit", err);
	json_decref(object);
	return ret;
}

static int arg_rtc(struct libvirt_request *request, const char *value, struct error *err)
{
	(void)request;
	/* driftfix: how a clock driven by interrupts catches up; this one has none. */
	if (strcmp(value, "base=utc") == 0 || strcmp(value, "base=utc,driftfix=slew") == 0)
		return 0;
	return error_set(err, ENOTSUP, "-rtc %.64s: the clock is UTC; use <clock offset='utc'/>",
			 value);
}

static int arg_display(struct libvirt_request *request, const char *value, struct error *err)
{
	(void)request;
	return strcmp(value, "none") == 0
		       ? 0
		       : error_set(err, ENOTSUP, "there is no display; remove <graphics>");
}

static int arg_audiodev(struct libvirt_request *request, const char *value, struct error *err)
{
	json_t *object = keyval_parse(value, "driver", err);
	const char *driver = json_string_value(json_object_get(object, "driver"));
	bool none = driver && strcmp(driver, "none") == 0;

	(void)request;
	if (!object)
		return -EINVAL;
	json_decref(object);
	return none ? 0 : error_set(err, ENOTSUP, "there is no sound; remove <audio>");
}

static int arg_boot(struct libvirt_request *request, const char *value, struct error *err)
{
	(void)request;
	if (strcmp(value, "strict=on") == 0 || strcmp(value, "menu=off,strict=on") == 0)
		return 0;
	return error_set(err, ENOTSUP,
			 "-boot %.64s: there is no firmware, a kernel is booted; remove <boot> and "
			 "<bootmenu> from <os>",
			 value);
}

static int arg_global(struct libvirt_request *request, const char *value, struct error *err)
{
	(void)request;
	if (strcmp(value, "PIIX4_PM.disable_s3=1") == 0 ||
	    strcmp(value, "PIIX4_PM.disable_s4=1") == 0)
		return 0;
	if (strncmp(value, "PIIX4_PM.disable_s", 18) == 0)
		return error_set(
			err, ENOTSUP,
			"the machine does not sleep: use <suspend-to-mem enabled='no'/> and "
			"<suspend-to-disk enabled='no'/>, or no <pm>");
	return error_set(err, ENOTSUP,
			 "-global %.100s: no device has such a property; remove what sets it",
			 value);
}

static int arg_kernel(struct libvirt_request *request, const char *value, struct error *err)
{
	(void)err;
	request->config.kernel = value;
	return 0;
}

static int arg_initrd(struct libvirt_request *request, const char *value, struct error *err)
{
	(void)err;
	request->config.initrd = value;
	return 0;
}

static int arg_append(struct libvirt_request *request, const char *value, struct error *err)
{
	(void)err;
	request->config.append = value;
	return 0;
}

static int arg_uuid(struct libvirt_request *request, const char *value, struct error *err)
{
	(void)err;
	request->uuid = value;
	return 0;
}

static int arg_qmp(struct libvirt_request *request, const char *value, struct error *err)
{
	size_t len = strcspn(value, ",");

	if (strncmp(value, "unix:", 5) != 0 || strcmp(value + len, ",server=on,wait=off") != 0)
		return error_set(err, ENOTSUP, "-qmp %.100s: use unix:PATH,server=on,wait=off",
				 value);
	if (len - 5 >= sizeof(request->monitor_path) || len == 5)
		return error_set(err, ENAMETOOLONG, "-qmp: the path is too long for a socket");
	memcpy(request->monitor_path, value + 5, len - 5);
	return 0;
}

static int arg_pidfile(struct libvirt_request *request, const char *value, struct error *err)
{
	(void)err;
	request->pidfile = value;
	return 0;
}

/* ---- Flags ---- */

static int flag_daemonize(struct libvirt_request *request, const char *value, struct error *err)
{
	(void)value;
	(void)err;
	request->daemonize = true;
	return 0;
}

static int flag_paused(struct libvirt_request *request, const char *value, struct error *err)
{
	(void)value;
	(void)err;
	request->config.start_paused = true;
	return 0;
}

static int flag_no_shutdown(struct libvirt_request *request, const char *value, struct error *err)
{
	(void)value;
	(void)err;
	request->config.no_shutdown = true;
	return 0;
}

static int flag_no_reboot(struct libvirt_request *request, const char *value, struct error *err)
{
	(void)value;
	(void)err;
	request->config.no_reboot = true;
	return 0;
}

static int flag_version(struct libvirt_request *request, const char *value, struct error *err)
{
	(void)value;
	(void)err;
	request->action = LIBVIRT_VERSION;
	return 0;
}

/* ---- The table ---- */

struct option {
	const char *name;
	bool has_value;
	/* NULL: it has no effect on the guest, or todo says why it cannot be. */
	int (*take)(struct libvirt_request *request, const char *value, struct error *err);
	const char *todo;
};

static const struct option options[] = {
	{ "accel", true, arg_accel, NULL },
	{ "add-fd", true, libvirt_arg_add_fd, NULL },
	{ "append", true, arg_append, NULL },
	{ "audiodev", true, arg_audiodev, NULL },
	{ "boot", true, arg_boot, NULL },
	{ "chardev", true, libvirt_arg_chardev, NULL },
	{ "cpu", true, arg_cpu, NULL },
	{ "daemonize", false, flag_daemonize, NULL },
	{ "device", true, libvirt_arg_device, NULL },
	{ "display", true, arg_display, NULL },
	{ "global", true, arg_global, NULL },
	{ "initrd", true, arg_initrd, NULL },
	{ "kernel", true, arg_kernel, NULL },
	{ "m", true, libvirt_arg_m, NULL },
	{ "machine", true, arg_machine, NULL },
	{ "mon", true, libvirt_arg_mon, NULL },
	{ "msg", true, NULL, NULL },
	{ "name", true, arg_name, NULL },
	{ "no-hpet", false, NULL, NULL },
	{ "no-reboot", false, flag_no_reboot, NULL },
	{ "no-shutdown", false, flag_no_shutdown, NULL },
	{ "no-user-config", false, NULL, NULL },
	{ "nodefaults", false, NULL, NULL },
	{ "nographic", false, NULL, NULL },
	{ "numa", true, libvirt_arg_numa, NULL },
	{ "object", true, libvirt_arg_object, NULL },
	{ "overcommit", true, arg_overcommit, NULL },
	{ "pidfile", true, arg_pidfile, NULL },
	{ "qmp", true, arg_qmp, NULL },
	{ "rtc", true, arg_rtc, NULL },
	{ "S", false, flag_paused, NULL },
	{ "smp", true, arg_smp, NULL },
	{ "uuid", true, arg_uuid, NULL },
	{ "version", false, flag_version, NULL },

	{ "bios", true, NULL, "there is no firmware: remove <loader> from <os>, boot a <kernel>" },
	{ "blockdev", true, NULL, "there are no disks: remove <disk>" },
	{ "drive", true, NULL, "there are no disks and no firmware: remove <disk> and <loader>" },
	{ "dtb", true, NULL, "there is no device tree: remove <dtb> from <os>" },
	{ "fsdev", true, NULL, "there are no shared file systems: remove <filesystem>" },
	{ "fw_cfg", true, NULL, "there is no firmware: remove <sysinfo>" },
	{ "incoming", true, NULL, "migration and restoring are not supported" },
	{ "netdev", true, NULL, "there are no network interfaces: remove <interface>" },
	{ "no-acpi", false, NULL, "the machine has ACPI: add <acpi/> to <features>" },
	{ "sandbox", true, NULL, "the sandbox is not chosen from outside" },
	{ "smbios", true, NULL, "there is no SMBIOS: remove <smbios> and <sysinfo>" },
	{ "spice", true, NULL, "there is no display: remove <graphics>" },
	{ "tpmdev", true, NULL, "there is no TPM: remove <tpm>" },
	{ "usb", false, NULL, "there is no USB: use <controller type='usb' model='none'/>" },
	{ "vga", true, NULL, "there is no display: remove <video>" },
	{ "vnc", true, NULL, "there is no display: remove <graphics>" },
};

static const struct option *find_option(const char *name)
{
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		if (strcmp(options[i].name, name) == 0)
			return &options[i];
	return NULL;
}

bool libvirt_args_are_ours(int argc, char **argv)
{
	return argc > 1 && argv[1][0] == '-' && argv[1][1] != '-' && find_option(argv[1] + 1);
}

static int take_option(struct libvirt_request *request, const struct option *option,
		       const char *value, struct error *err)
{
	if (option->todo)
		return error_set(err, ENOTSUP, "-%s is not supported: %s", option->name,
				 option->todo);
	return option->take ? option->take(request, value, err) : 0;
}

static int check_complete(struct libvirt_request *request, struct error *err)
{
	if (request->action == LIBVIRT_VERSION)
		return 0;
	if (!request->machine_given)
		return error_set(err, EINVAL, "-machine is missing");
	if (request->action == LIBVIRT_PROBE)
		return request->monitor_path[0] ? 0 : error_set(err, EINVAL, "-qmp is missing");
	if (request->daemonize)
		return error_set(err, ENOTSUP, "-daemonize is for the capability probe only");
	if (!request->config.name[0])
		return error_set(err, EINVAL, "-name is missing");
	if (!request->kvm)
		return error_set(err, EINVAL, "-accel kvm is missing; use <domain type='kvm'>");
	if (!request->config.kernel)
		return error_set(err, EINVAL,
				 "there is no firmware: a kernel is needed, add <kernel> to <os>");
	if (request->serial[0] && !libvirt_find_chardev(request, request->serial))
		return error_set(err, EINVAL, "there is no character device '%s'", request->serial);
	if (request->config.rng &&
	    (!request->entropy[0] || strcmp(request->rng_source, request->entropy) != 0))
		return error_set(err, EINVAL, "there is no source of random numbers '%s'",
				 request->rng_source);
	if (request->monitor[0] && !libvirt_find_chardev(request, request->monitor))
		return error_set(err, EINVAL, "there is no character device '%s'",
				 request->monitor);
	return libvirt_memory_complete(request, err);
}

int libvirt_args_parse(int argc, char **argv, struct libvirt_request *request, struct error *err)
{
	request->action = LIBVIRT_VM;
	request->config.cpus = 1;
	for (int i = 1; i < argc; i++) {
		const struct option *option = argv[i][0] == '-' ? find_option(argv[i] + 1) : NULL;
		const char *value = NULL;
		int ret;

		if (!option)
			return error_set(err, ENOTSUP, "argument '%.200s' is not supported",
					 argv[i]);
		if (option->has_value && i + 1 == argc)
			return error_set(err, EINVAL, "%s needs a value", argv[i]);
		if (option->has_value)
			value = argv[++i];
		ret = take_option(request, option, value, err);
		if (ret < 0)
			return ret;
	}
	return check_complete(request, err);
}
