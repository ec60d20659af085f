/* SPDX-License-Identifier: MIT */
/* /dev/kvm and one VM of it: see kvm.h. */
#include "vmm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "framevisor/layout.h"

#define KVM_DEVICE "/dev/kvm"

/* What the machine cannot be without. The names are those of the KVM API documentation. */
static const struct {
	int cap;
	const char *name;
} required_caps[] = {
	{ KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP" },
	{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
	{ KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR" },
	{ KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR" },
	{ KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID" },
	{ KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE" },
	{ KVM_CAP_PIT2, "KVM_CAP_PIT2" },
	{ KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING" },
	{ KVM_CAP_IRQFD, "KVM_CAP_IRQFD" },
	{ KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD" },
	{ KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI" },
	{ KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS" },
	{ KVM_CAP_XSAVE, "KVM_CAP_XSAVE" },
	{ KVM_CAP_XCRS, "KVM_CAP_XCRS" },
	{ KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS" },
	{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
};

static int check_extension(int fd, int cap)
{
	int value = ioctl(fd, KVM_CHECK_EXTENSION, cap);

	return value < 0 ? 0 : value;
}

static int open_device(struct error *err)
{
	int fd = open(KVM_DEVICE, O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	switch (errno) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		return error_set(err, errno,
				 "%s is missing: load the module kvm_intel or kvm_amd, and enable "
				 "virtualization in the firmware (or nested virtualization in the "
				 "hypervisor above)",
				 KVM_DEVICE);
	case EACCES:
	case EPERM:
		return error_set(err, errno,
				 "no permission to open %s: run as root or join the group kvm",
				 KVM_DEVICE);
	default:
		return error_set_errno(err, errno, "cannot open %s", KVM_DEVICE);
	}
}

static int check_capabilities(struct kvm *kvm, struct error *err)
{
	int version = ioctl(kvm->fd, KVM_GET_API_VERSION, 0);
	int run_size;
	unsigned int i;

	if (version < 0)
		return error_set_errno(err, errno, "%s does not answer as KVM", KVM_DEVICE);
	if (version != KVM_API_VERSION)
		return error_set(err, ENOTSUP, "%s has API version %d, needed is %d", KVM_DEVICE,
				 version, KVM_API_VERSION);
	for (i = 0; i < sizeof(required_caps) / sizeof(required_caps[0]); i++) {
		if (check_extension(kvm->fd, required_caps[i].cap) == 0)
			return error_set(err, ENOTSUP, "this host's KVM has no %s",
					 required_caps[i].name);
	}
	run_size = ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (run_size < (int)sizeof(struct kvm_run))
		return error_set(err, ENOTSUP, "KVM's vCPU mapping has a size of %d bytes",
				 run_size);
	kvm->run_size = (size_t)run_size;
	kvm->max_vcpus = (unsigned int)check_extension(kvm->fd, KVM_CAP_MAX_VCPUS);
	if (kvm->max_vcpus == 0) /* before that capability: 4.81 of the API document */
		kvm->max_vcpus = (unsigned int)check_extension(kvm->fd, KVM_CAP_NR_VCPUS);
	kvm->max_gsi_routes = (unsigned int)check_extension(kvm->fd, KVM_CAP_IRQ_ROUTING);
	kvm->has_tsc_deadline = check_extension(kvm->fd, KVM_CAP_TSC_DEADLINE_TIMER) != 0;
	kvm->has_kvmclock_ctrl = check_extension(kvm->fd, KVM_CAP_KVMCLOCK_CTRL) != 0;
	return 0;
}

int kvm_open(struct kvm *kvm, struct error *err)
{
	int ret;

	*kvm = (struct kvm){ .fd = -1, .vm_fd = -1 };
	ret = open_device(err);
	if (ret < 0)
		return ret;
	kvm->fd = ret;
	ret = check_capabilities(kvm, err);
	if (ret < 0)
		kvm_close(kvm);
	return ret;
}

int kvm_create_vm(struct kvm *kvm, struct error *err)
{
	int fd;

	do {
		fd = ioctl(kvm->fd, KVM_CREATE_VM, 0);
	} while (fd < 0 && errno == EINTR);
	if (fd < 0)
		return error_set_errno(err, errno, "KVM refuses to create a VM");
	kvm->vm_fd = fd;
	return 0;
}

int kvm_create_platform(struct kvm *kvm, struct error *err)
{
	/* The dummy speaker answers port 0x61, which Linux uses to calibrate against the PIT. */
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	uint64_t identity_map = LAYOUT_IDENTITY_MAP;

	if (ioctl(kvm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0)
		return error_set_errno(err, errno, "KVM_SET_IDENTITY_MAP_ADDR failed");
	if (ioctl(kvm->vm_fd, KVM_SET_TSS_ADDR, (unsigned long)LAYOUT_TSS) < 0)
		return error_set_errno(err, errno, "KVM_SET_TSS_ADDR failed");
	if (ioctl(kvm->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return error_set_errno(err, errno, "KVM_CREATE_IRQCHIP failed");
	if (ioctl(kvm->vm_fd, KVM_CREATE_PIT2, &pit) < 0)
		return error_set_errno(err, errno, "KVM_CREATE_PIT2 failed");
	return 0;
}

void kvm_close(struct kvm *kvm)
{
	if (kvm->vm_fd >= 0)
		close(kvm->vm_fd);
	if (kvm->fd >= 0)
		close(kvm->fd);
	kvm->vm_fd = -1;
	kvm->fd = -1;
}

#define NR_CHIPS 3 /* KVM_IRQCHIP_PIC_MASTER, _PIC_SLAVE, _IOAPIC */

struct kvm_chips {
	struct kvm_irqchip irqchip[NR_CHIPS];
	struct kvm_pit_state2 pit;
};

struct kvm_chips *kvm_chips_save(const struct kvm *kvm, struct error *err)
{
	struct kvm_chips *chips = calloc(1, sizeof(*chips));
	unsigned int i;

	if (!chips) {
		error_set(err, ENOMEM, "out of memory for the state of the interrupt chips");
		return NULL;
	}
	for (i = 0; i < NR_CHIPS; i++) {
		chips->irqchip[i].chip_id = i;
		if (ioctl(kvm->vm_fd, KVM_GET_IRQCHIP, &chips->irqchip[i]) < 0) {
			error_set_errno(err, errno, "KVM_GET_IRQCHIP failed for chip %u", i);
			goto fail;
		}
	}
	if (ioctl(kvm->vm_fd, KVM_GET_PIT2, &chips->pit) < 0) {
		error_set_errno(err, errno, "KVM_GET_PIT2 failed");
		goto fail;
	}
	return chips;
fail:
	free(chips);
	return NULL;
}

int kvm_chips_restore(const struct kvm *kvm, const struct kvm_chips *chips, struct error *err)
{
	unsigned int i;

	for (i = 0; i < NR_CHIPS; i++) {
		if (ioctl(kvm->vm_fd, KVM_SET_IRQCHIP, &chips->irqchip[i]) < 0)
			return error_set_errno(err, errno, "KVM_SET_IRQCHIP failed for chip %u", i);
	}
	if (ioctl(kvm->vm_fd, KVM_SET_PIT2, &chips->pit) < 0)
		return error_set_errno(err, errno, "KVM_SET_PIT2 failed");
	return 0;
}

void kvm_chips_free(struct kvm_chips *chips)
{
	free(chips);
}
