/* SPDX-License-Identifier: MIT */
/* libvirt's command line: what it becomes, and what is refused with the words that help. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_balloon.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/libvirt/args.h"
#include "vmm/libvirt/keyval.h"

#define MIB  (UINT64_C(1) << 20)
#define ARGS 128

/* What libvirt 9.0 writes for a domain with one NUMA cell and a virtio-mem device; what stands
 * after the first NULL can be replaced by a test. */
static const char *const plain[] = {
	"framevisor",
	"-name",
	"guest=z6,debug-threads=on",
	"-S",
	"-object",
	"{\"qom-type\":\"secret\",\"id\":\"masterKey0\",\"format\":\"raw\",\"file\":\"/x/key\"}",
	"-machine",
	"framevisor,usb=off,dump-guest-core=off,memory-backend=framevisor.ram",
	"-accel",
	"kvm",
	"-cpu",
	"host",
	"-m",
	"256",
	"-object",
	"{\"qom-type\":\"memory-backend-ram\",\"id\":\"framevisor.ram\",\"size\":268435456}",
	"-overcommit",
	"mem-lock=off",
	"-smp",
	"2,sockets=2,cores=1,threads=1",
	"-uuid",
	"b4217177-a52e-44d0-98c2-4ed11689fcbb",
	"-display",
	"none",
	"-no-user-config",
	"-nodefaults",
	"-chardev",
	"socket,id=charmonitor,path=/x/mon,server=on,wait=off",
	"-mon",
	"chardev=charmonitor,id=monitor,mode=control",
	"-rtc",
	"base=utc",
	"-no-shutdown",
	"-boot",
	"strict=on",
	"-kernel",
	"/x/vmlinuz",
	"-initrd",
	"/x/initrd",
	"-append",
	"console=ttyS0,,a panic=-1",
	"-chardev",
	"pty,id=charserial0",
	"-device",
	"{\"driver\":\"isa-serial\",\"chardev\":\"charserial0\",\"id\":\"serial0\",\"index\":0}",
	"-audiodev",
	"{\"id\":\"audio1\",\"driver\":\"none\"}",
	"-device",
	"{\"driver\":\"virtio-balloon-pci\",\"id\":\"balloon0\",\"free-page-reporting\":true,"
	"\"bus\":\"pci.0\",\"addr\":\"0x1\"}",
	"-msg",
	"timestamp=on",
	NULL
};

struct fixture {
	char *argv[ARGS];
	int argc;
	struct libvirt_request *request;
	struct error err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->request = calloc(1, sizeof(*f->request));
	for (; plain[f->argc]; f->argc++)
		f->argv[f->argc] = (char *)plain[f->argc];
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	free(f->request);
	free(f);
	return 0;
}

static void append(struct fixture *f, const char *a, const char *b)
{
	f->argv[f->argc++] = (char *)a;
	if (b)
		f->argv[f->argc++] = (char *)b;
}

/* Replaces the value of an option, found by the option and how its value begins. */
static void replace(struct fixture *f, const char *option, const char *begins, const char *value)
{
	for (int i = 0; i + 1 < f->argc; i++) {
		if (strcmp(f->argv[i], option) == 0 &&
		    strncmp(f->argv[i + 1], begins, strlen(begins)) == 0) {
			f->argv[i + 1] = (char *)value;
			return;
		}
	}
	fail_msg("%s %s is not there", option, begins);
}

static int parse(struct fixture *f)
{
	return libvirt_args_parse(f->argc, f->argv, f->request, &f->err);
}

static void expect_refused(struct fixture *f, const char *words)
{
	assert_true(parse(f) < 0);
	if (!strstr(f->err.message, words))
		fail_msg("'%s' does not say '%s'", f->err.message, words);
}

static void test_plain_domain(void **state)
{
	struct fixture *f = *state;
	const struct vm_config *config = &f->request->config;

	if (parse(f) < 0)
		fail_msg("%s", f->err.message);
	assert_int_equal(f->request->action, LIBVIRT_VM);
	assert_string_equal(config->name, "z6");
	assert_int_equal(config->mem_bytes, 256 * MIB);
	assert_int_equal(config->cpus, 2);
	assert_string_equal(config->kernel, "/x/vmlinuz");
	assert_string_equal(config->append, "console=ttyS0,,a panic=-1"); /* not a list */
	assert_true(config->start_paused);
	assert_true(config->no_shutdown);
	assert_false(config->prealloc);
	assert_int_equal(config->hugepages, HUGEPAGES_AUTO);
	/* What the XML does not switch on is off, as in QEMU. */
	assert_int_equal(config->balloon_without, 1u << VIRTIO_BALLOON_F_DEFLATE_ON_OOM);
	assert_string_equal(f->request->serial, "charserial0");
	assert_int_equal(libvirt_find_chardev(f->request, "charserial0")->kind,
			 LIBVIRT_CHARDEV_PTY);
	assert_int_equal(f->request->nr_devices, 2);
	assert_string_equal(f->request->devices[1].id, "balloon0");
}

static void test_hugepages(void **state)
{
	struct fixture *f = *state;

	replace(f, "-object", "{\"qom-type\":\"memory-backend-ram\"",
		"{\"qom-type\":\"memory-backend-file\",\"id\":\"framevisor.ram\",\"mem-path\":"
		"\"/dev/hugepages/libvirt/qemu/3-z\",\"prealloc\":true,\"size\":268435456}");
	if (parse(f) < 0)
		fail_msg("%s", f->err.message);
	assert_int_equal(f->request->config.hugepages, HUGEPAGES_REQUIRE);
	assert_true(f->request->config.prealloc);
}

static void test_memfd_and_lock(void **state)
{
	struct fixture *f = *state;

	replace(f, "-object", "{\"qom-type\":\"memory-backend-ram\"",
		"{\"qom-type\":\"memory-backend-memfd\",\"id\":\"framevisor.ram\",\"share\":true,"
		"\"size\":268435456}");
	replace(f, "-overcommit", "", "mem-lock=on");
	if (parse(f) < 0)
		fail_msg("%s", f->err.message);
	assert_int_equal(f->request->config.hugepages, HUGEPAGES_AUTO);
	assert_true(f->request->config.prealloc);
}

static void add_mem_device(struct fixture *f, const char *device)
{
	replace(f, "-m", "256", "size=262144k,slots=4,maxmem=2097152k");
	append(f, "-object",
	       "{\"qom-type\":\"memory-backend-ram\",\"id\":\"memvirtiomem0\",\"reserve\":false,"
	       "\"size\":536870912}");
	append(f, "-device", device);
}

static void test_memory_device(void **state)
{
	struct fixture *f = *state;

	add_mem_device(f, "{\"driver\":\"virtio-mem-pci\",\"node\":0,\"block-size\":2097152,"
			  "\"requested-size\":134217728,\"memdev\":\"memvirtiomem0\",\"id\":"
			  "\"virtiomem0\",\"bus\":\"pci.0\",\"addr\":\"0x2\"}");
	if (parse(f) < 0)
		fail_msg("%s", f->err.message);
	assert_true(f->request->config.nr_mem_devices >= 1);
	assert_string_equal(f->request->mem[0].id, "virtiomem0");
	assert_int_equal(f->request->mem[0].size, 512 * MIB);
	assert_int_equal(f->request->mem[0].requested, 128 * MIB);
}

/* Slots without a device, and address space without one, are what can be attached later. */
static void test_spare_memory_devices(void **state)
{
	struct fixture *f = *state;
	unsigned int spare = 0;

	add_mem_device(f,
		       "{\"driver\":\"virtio-mem-pci\",\"memdev\":\"memvirtiomem0\",\"id\":\"v\"}");
	if (parse(f) < 0)
		fail_msg("%s", f->err.message);
	assert_int_equal(f->request->config.nr_mem_devices, 4);
	for (unsigned int i = 0; i < f->request->config.nr_mem_devices; i++) {
		if (f->request->mem[i].id[0])
			continue;
		spare++;
		assert_int_equal(f->request->mem[i].size, (2048 - 256 - 512) * MIB);
		assert_int_equal(f->request->mem[i].requested, 0);
	}
	assert_int_equal(spare, 3);
}

/* What libvirt writes for two cells with <distances> and <numatune>, and a memory device of the
 * second one. */
static void add_cells(struct fixture *f)
{
	replace(f, "-machine", "framevisor,", "framevisor,usb=off,dump-guest-core=off");
	append(f, "-object",
	       "{\"qom-type\":\"memory-backend-ram\",\"id\":\"ram-node0\",\"size\":201326592,"
	       "\"host-nodes\":[1],\"policy\":\"bind\"}");
	append(f, "-numa", "node,nodeid=0,cpus=0,memdev=ram-node0");
	append(f, "-object",
	       "{\"qom-type\":\"memory-backend-ram\",\"id\":\"ram-node1\",\"size\":67108864,"
	       "\"host-nodes\":[0,2],\"policy\":\"interleave\"}");
	append(f, "-numa", "node,nodeid=1,cpus=1,memdev=ram-node1");
}

static void test_cells(void **state)
{
	struct fixture *f = *state;
	const struct vm_numa *numa = &f->request->config.numa;

	add_cells(f);
	append(f, "-numa", "dist,src=0,dst=0,val=10");
	append(f, "-numa", "dist,src=0,dst=1,val=33");
	replace(f, "-m", "256", "size=262144k,slots=3,maxmem=2097152k");
	append(f, "-object",
	       "{\"qom-type\":\"memory-backend-ram\",\"id\":\"memv\",\"reserve\":false,"
	       "\"size\":536870912,\"host-nodes\":[0],\"policy\":\"preferred\"}");
	append(f, "-device",
	       "{\"driver\":\"virtio-mem-pci\",\"node\":1,\"memdev\":\"memv\",\"id\":\"v\"}");
	if (parse(f) < 0)
		fail_msg("%s", f->err.message);
	assert_int_equal(f->request->config.mem_bytes, 256 * MIB);
	assert_int_equal(numa->nr, 2);
	assert_int_equal(numa->node[0].mem, 192 * MIB);
	assert_int_equal(numa->node[0].max, 192 * MIB);
	assert_int_equal(numa->node[0].cpus, 1);
	assert_int_equal(numa->node[0].policy, VM_MEMORY_BIND);
	assert_int_equal(numa->node[0].host_nodes, 2);
	assert_int_equal(numa->node[1].mem, 64 * MIB);
	assert_int_equal(numa->node[1].cpus, 2);
	assert_int_equal(numa->node[1].policy, VM_MEMORY_INTERLEAVE);
	assert_int_equal(numa->node[1].host_nodes, 5);
	assert_int_equal(numa->distance[0][0], 10);
	assert_int_equal(numa->distance[0][1], 33);
	assert_int_equal(numa->distance[1][0], 33); /* the other direction was not given */
	assert_int_equal(numa->distance[1][1], 10);
	/* The device, then spare ones for each of the nodes, from where that node's memory is. */
	assert_int_equal(f->request->mem[0].node, 1);
	assert_int_equal(f->request->mem[0].policy, VM_MEMORY_PREFERRED);
	assert_int_equal(f->request->mem[0].host_nodes, 1);
	assert_int_equal(f->request->config.nr_mem_devices, 5);
	for (unsigned int i = 1; i < 5; i++) {
		const struct vm_mem_device *spare = &f->request->mem[i];

		assert_int_equal(spare->policy, numa->node[spare->node].policy);
		assert_int_equal(spare->host_nodes, numa->node[spare->node].host_nodes);
	}
}

/* <numatune> without cells: one node, so that its memory can be of certain nodes. */
static void test_numatune_without_cells(void **state)
{
	struct fixture *f = *state;

	replace(f, "-object", "{\"qom-type\":\"memory-backend-ram\"",
		"{\"qom-type\":\"memory-backend-ram\",\"id\":\"framevisor.ram\",\"size\":268435456,"
		"\"host-nodes\":[1],\"policy\":\"preferred\"}");
	if (parse(f) < 0)
		fail_msg("%s", f->err.message);
	assert_int_equal(f->request->config.numa.nr, 1);
	assert_int_equal(f->request->config.numa.node[0].cpus, 3);
	assert_int_equal(f->request->config.numa.node[0].policy, VM_MEMORY_PREFERRED);
	assert_int_equal(f->request->config.numa.node[0].host_nodes, 2);
	assert_int_equal(f->request->config.numa.distance[0][0], 10);
}

static void again(struct fixture *f)
{
	memset(f->request, 0, sizeof(*f->request));
	error_clear(&f->err);
}

static void test_cells_refused(void **state)
{
	struct fixture *f = *state;
	int argc;

	add_cells(f);
	argc = f->argc;
	append(f, "-numa", "node,nodeid=1,memdev=ram-node1");
	expect_refused(f, "node 1 is given twice");
	again(f);
	f->argc = argc;
	append(f, "-numa", "node,memdev=ram-node1");
	expect_refused(f, "used twice");
	again(f);
	f->argc = argc;
	append(f, "-object",
	       "{\"qom-type\":\"memory-backend-ram\",\"id\":\"memv\",\"size\":2097152}");
	append(f, "-device",
	       "{\"driver\":\"virtio-mem-pci\",\"node\":2,\"memdev\":\"memv\",\"id\":\"v\"}");
	expect_refused(f, "of node 2, the guest has 2");
	again(f);
	f->argc = argc;
	replace(f, "-object", "{\"qom-type\":\"memory-backend-ram\",\"id\":\"ram-node1\"",
		"{\"qom-type\":\"memory-backend-ram\",\"id\":\"ram-node1\",\"size\":67108864,"
		"\"host-nodes\":[0],\"policy\":\"strange\"}");
	expect_refused(f, "no policy 'strange'");
}

static void test_random_numbers(void **state)
{
	struct fixture *f = *state;
	int argc = f->argc;

	append(f, "-object",
	       "{\"qom-type\":\"rng-random\",\"id\":\"objrng0\",\"filename\":\"/dev/urandom\"}");
	append(f, "-device",
	       "{\"driver\":\"virtio-rng-pci\",\"rng\":\"objrng0\",\"id\":\"rng0\",\"bus\":"
	       "\"pci.0\",\"addr\":\"0x3\"}");
	if (parse(f) < 0)
		fail_msg("%s", f->err.message);
	assert_true(f->request->config.rng);
	append(f, "-object", "rng-builtin,id=another");
	again(f);
	expect_refused(f, "one <rng>");
	f->argc = argc;
	again(f);
	append(f, "-object", "rng-builtin,id=a");
	append(f, "-device", "virtio-rng-pci,rng=a,id=rng0");
	append(f, "-device", "virtio-rng-pci,rng=a,id=rng1");
	expect_refused(f, "one <rng>");
}

static void test_probe(void **state)
{
	struct fixture *f = *state;

	f->argc = 1;
	append(f, "-S", "-no-user-config");
	append(f, "-nodefaults", "-nographic");
	append(f, "-machine", "none,accel=kvm:tcg");
	append(f, "-qmp", "unix:/var/lib/libvirt/qemu/qmp-ABCDEF/qmp.monitor,server=on,wait=off");
	append(f, "-pidfile", "/x/qmp.pid");
	append(f, "-daemonize", NULL);
	if (parse(f) < 0)
		fail_msg("%s", f->err.message);
	assert_int_equal(f->request->action, LIBVIRT_PROBE);
	assert_true(f->request->daemonize);
	assert_true(f->request->kvm);
	assert_string_equal(f->request->monitor_path,
			    "/var/lib/libvirt/qemu/qmp-ABCDEF/qmp.monitor");
}

static void test_who_is_asked(void **state)
{
	static const struct {
		const char *first;
		bool ours;
	} cases[] = { { "-S", true },         { "-name", true }, { "-version", true },
		      { "--version", false }, { "-h", false },   { "run", false },
		      { "--help", false },    { "-x", false },   { "", false } };

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *argv[] = { (char *)"framevisor", (char *)cases[i].first, NULL };

		assert_int_equal(libvirt_args_are_ours(2, argv), cases[i].ours);
	}
}

/* Appended to a domain that works, each of these stops it, with words that help. */
static const struct {
	const char *option, *value, *words;
} refused[] = {
	{ "-device", "{\"driver\":\"virtio-net-pci\",\"id\":\"net0\"}", "remove <interface>" },
	{ "-device", "virtio-rng-pci,id=rng0", "no source of random numbers ''" },
	{ "-device", "virtio-rng-pci,id=rng0,rng=o", "no source of random numbers 'o'" },
	{ "-device", "virtio-rng-pci,rng=o,max-bytes=64,period=100", "<rate>" },
	{ "-device", "virtio-rng-ccw,rng=o", "model='virtio'" },
	{ "-device", "{\"driver\":\"vhost-vsock-pci\",\"id\":\"v\"}", "remove <vsock>" },
	{ "-device", "{\"driver\":\"strange\",\"id\":\"s0\"}", "no 'strange'" },
	{ "-device", "{\"driver\":\"isa-serial\",\"id\":\"serial1\",\"index\":1}", "one serial" },
	{ "-device", "{\"driver\":\"virtio-balloon-pci\",\"id\":\"b1\"}", "one balloon" },
	{ "-device", "{\"id\":\"x\"}", "no driver" },
	{ "-device", "{\"driver\":", "JSON" },
	{ "-device", "{\"driver\":7}", "not a string" },
	{ "-netdev", "user,id=x", "remove <interface>" },
	{ "-blockdev", "{}", "remove <disk>" },
	{ "-vnc", ":0", "<graphics>" },
	{ "-smbios", "type=1", "<smbios>" },
	{ "-incoming", "defer", "migration" },
	{ "-no-acpi", NULL, "add <acpi/>" },
	{ "-bios", "/x", "<loader>" },
	{ "-strange", NULL, "'-strange' is not supported" },
	{ "stray", NULL, "'stray' is not supported" },
	{ "-machine", "pc-q35-7.2", "machine='framevisor'" },
	{ "-machine", "framevisor,hpet=on", "hpet" },
	{ "-machine", "framevisor,new=1", "'new' is not supported" },
	{ "-accel", "tcg", "<domain type='kvm'>" },
	{ "-cpu", "EPYC", "host-passthrough" },
	{ "-cpu", "host,-svm", "without features" },
	{ "-smp", "2,maxcpus=4", "<vcpu>" },
	{ "-smp", "4,sockets=1,cores=2,threads=2", "<topology>" },
	{ "-smp", "65", "too many" },
	{ "-smp", "x", "not a number" },
	{ "-rtc", "base=localtime", "offset='utc'" },
	{ "-boot", "menu=on", "<bootmenu>" },
	{ "-display", "gtk", "<graphics>" },
	{ "-audiodev", "{\"driver\":\"pa\",\"id\":\"a\"}", "<audio>" },
	{ "-chardev", "socket,id=s,path=/x", "listened on" },
	{ "-chardev", "tty,id=s", "'tty' are not supported" },
	{ "-chardev", "file,id=s,path=/dev/fdset/7", "no file was passed" },
	{ "-chardev", "file,id=s,path=/x,logfile=/y", "'logfile' is not supported" },
	{ "-chardev", "socket,id=s,fd=999,server=on,wait=off", "999 was not passed" },
	{ "-add-fd", "set=0,fd=1", "1 was not passed" },
	{ "-add-fd", "set=0", "needed" },
	{ "-object", "rng-random,id=o,filename=/dev/hwrng", "/dev/urandom</backend>" },
	{ "-object", "rng-egd,id=o,chardev=c", "/dev/urandom</backend>" },
	{ "-object", "rng-builtin,id=o,strange=1", "'strange' is not supported" },
	{ "-object", "{\"qom-type\":\"throttle-group\",\"id\":\"o\"}", "'throttle-group'" },
	{ "-object",
	  "{\"qom-type\":\"memory-backend-file\",\"id\":\"o\",\"size\":2097152,"
	  "\"mem-path\":\"/var/lib/libvirt/qemu/ram/1-a/pc.ram\"}",
	  "<source type='memfd'/>" },
	{ "-object",
	  "{\"qom-type\":\"memory-backend-memfd\",\"id\":\"o\",\"hugetlb\":true,"
	  "\"hugetlbsize\":1073741824,\"size\":1073741824}",
	  "<page size='2'" },
	{ "-object", "{\"qom-type\":\"memory-backend-ram\",\"id\":\"o\",\"host-nodes\":[64]}",
	  "'host-nodes'" },
	{ "-numa", "dist,src=0,dst=1,val=21", "from node 0 to node 1, of 0" },
	{ "-numa", "dist,src=0,dst=8,val=21", "<distances>" },
	{ "-numa", "dist,src=0,dst=1,val=255", "<distances>" },
	{ "-numa", "dist,src=0,val=11", "<distances>" },
	{ "-numa", "dist,src=0,dst=1,val=11,x=1", "'x' is not supported" },
	{ "-numa", "hmat-lb,initiator=0", "<interconnects>" },
	{ "-numa", "node,nodeid=99", "no node" },
	{ "-numa", "node,nodeid=8", "at most 8" },
	{ "-numa", "node,nodeid=0,mem=256", "'mem=256' is not supported" },
	{ "-numa", "node,nodeid=0,memdev=nothing", "no memory 'nothing'" },
	{ "-numa", "node,nodeid=1,memdev=framevisor.ram", "node 0 is missing" },
	{ "-numa", "node,nodeid=0,cpus=70", "no range of CPUs" },
	{ "-m", "0", "-m is missing" },
	{ "-m", "17k", "multiple of 2 MiB" },
	{ "-m", "99999999999999999999", "not a size" },
	{ "-m", "-5", "not a size" },
	{ "-m", "256,foo=1", "'foo' is not supported" },
	{ "-m", "512", "the memory objects" },
	{ "-name", "guest=a b", "is not a name" },
	{ "-name", "guest=", "is not a name" },
	{ "-name", "x,guest=y", "given twice" },
	{ "-daemonize", NULL, "probe only" },
	{ "-mon", "chardev=c,mode=control", "one monitor" },
	{ "-qmp", "tcp:localhost:1", "unix:PATH" },
	{ "-global", "PIIX4_PM.disable_s3=0", "suspend-to-mem" },
	{ "-global", "kvm-pit.lost_tick_policy=delay", "no device" },
	{ "-kernel", NULL, "needs a value" },
};

static void test_refusals(void **state)
{
	struct fixture *f = *state;
	int argc = f->argc;

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		memset(f->request, 0, sizeof(*f->request));
		error_clear(&f->err);
		f->argc = argc;
		append(f, refused[i].option, refused[i].value);
		expect_refused(f, refused[i].words);
	}
}

static void test_missing_parts(void **state)
{
	struct fixture *f = *state;

	replace(f, "-kernel", "/x/vmlinuz", "/x/vmlinuz");
	for (int i = 0; i < f->argc; i++)
		if (strcmp(f->argv[i], "-kernel") == 0)
			f->argv[i] = (char *)"-uuid";
	expect_refused(f, "add <kernel>");
}

/* A file that was passed is used by its set's number. */
static void test_passed_file(void **state)
{
	struct fixture *f = *state;
	char add[64];
	int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	snprintf(add, sizeof(add), "set=3,fd=%d,opaque=serial0-source", fd);
	append(f, "-add-fd", add);
	append(f, "-chardev", "file,id=log,path=/dev/fdset/3,append=on");
	if (parse(f) < 0)
		fail_msg("%s", f->err.message);
	assert_int_equal(libvirt_find_chardev(f->request, "log")->fd, fd);
	close(fd);
}

static void test_words(void **state)
{
	struct error err = { 0 };
	json_t *object = keyval_parse("pty,id=a,,b,path=x", "backend", &err);
	char text[16];

	(void)state;
	assert_non_null(object);
	assert_int_equal(keyval_take_string(object, "id", text, sizeof(text), "t", &err), 1);
	assert_string_equal(text, "a,b");
	assert_int_equal(keyval_take_string(object, "id", text, sizeof(text), "t", &err), 0);
	assert_int_equal(keyval_take_string(object, "backend", text, 4, "t", &err), 1);
	assert_int_equal(keyval_take_string(object, "path", text, 1, "t", &err), -EINVAL);
	assert_int_equal(keyval_nothing_left(object, "t", &err), -ENOTSUP);
	json_decref(object);
	assert_null(keyval_parse("a=1,a=2", NULL, &err));
	assert_null(keyval_parse("a=\xff", NULL, &err));
	assert_null(keyval_parse("a", NULL, &err));
	assert_null(keyval_parse("[]", NULL, &err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_plain_domain, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hugepages, setup, teardown),
		cmocka_unit_test_setup_teardown(test_memfd_and_lock, setup, teardown),
		cmocka_unit_test_setup_teardown(test_memory_device, setup, teardown),
		cmocka_unit_test_setup_teardown(test_spare_memory_devices, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cells, setup, teardown),
		cmocka_unit_test_setup_teardown(test_numatune_without_cells, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cells_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_random_numbers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_probe, setup, teardown),
		cmocka_unit_test(test_who_is_asked),
		cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
		cmocka_unit_test_setup_teardown(test_missing_parts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_passed_file, setup, teardown),
		cmocka_unit_test(test_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
