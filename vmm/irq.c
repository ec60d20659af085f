/* SPDX-License-Identifier: MIT */
/* Interrupts and doorbells over KVM: see irq.h. */
#include "vmm/irq.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "framevisor/layout.h"

#define NR_PIC_PINS    16
#define NR_IOAPIC_PINS 24
/* KVM_MAX_IRQ_ROUTES is 4096; a machine of 32 functions with 32 vectors each needs 1024. */
#define NR_MSI_MAX    1024
#define NR_ROUTES_MAX (NR_PIC_PINS + NR_IOAPIC_PINS + NR_MSI_MAX)

struct msi_vector {
	unsigned int gsi;
	int fd;         /* eventfd, bound to gsi by KVM_IRQFD */
	bool has_route; /* the guest has written a message */
	uint64_t addr;
	uint32_t data;
};

struct irq_router {
	int vm_fd;
	unsigned int nr_msi_max;
	pthread_mutex_t lock; /* over the vectors and the table in the kernel */
	struct msi_vector *msi[NR_MSI_MAX];
	/* Scratch of install_routes(), too large for a stack. */
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entries[NR_ROUTES_MAX];
	} table;
};

static void add_pin(struct irq_router *router, unsigned int gsi, unsigned int chip,
		    unsigned int pin)
{
	router->table.entries[router->table.head.nr++] = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { .irqchip = chip, .pin = pin },
	};
}

static void add_default_routes(struct irq_router *router)
{
	unsigned int gsi;

	for (gsi = 0; gsi < NR_PIC_PINS; gsi++) {
		/* IRQ 2 of the master is the cascade of the slave: no device may sit there. */
		if (gsi == 2)
			continue;
		add_pin(router, gsi, gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
			gsi & 7);
	}
	for (gsi = 0; gsi < NR_IOAPIC_PINS; gsi++) {
		if (gsi == 2)
			continue;
		add_pin(router, gsi, KVM_IRQCHIP_IOAPIC, gsi == 0 ? 2 : gsi);
	}
}

/* Gives KVM the whole table; it has no call for a single route. Lock held. */
static int install_routes(struct irq_router *router)
{
	unsigned int i;

	router->table.head = (struct kvm_irq_routing){ .nr = 0 };
	add_default_routes(router);
	for (i = 0; i < router->nr_msi_max; i++) {
		const struct msi_vector *vector = router->msi[i];

		if (!vector || !vector->has_route)
			continue;
		router->table.entries[router->table.head.nr++] = (struct kvm_irq_routing_entry){
			.gsi = vector->gsi,
			.type = KVM_IRQ_ROUTING_MSI,
			.u.msi =
				{
					.address_lo = (uint32_t)vector->addr,
					.address_hi = (uint32_t)(vector->addr >> 32),
					.data = vector->data,
				},
		};
	}
	if (ioctl(router->vm_fd, KVM_SET_GSI_ROUTING, &router->table.head) < 0)
		return -errno;
	return 0;
}

struct irq_router *irq_router_create(int vm_fd, unsigned int max_routes, struct error *err)
{
	struct irq_router *router = calloc(1, sizeof(*router));
	unsigned int room;
	int ret;

	if (!router) {
		error_set(err, ENOMEM, "out of memory for the interrupt routes");
		return NULL;
	}
	room = max_routes > NR_PIC_PINS + NR_IOAPIC_PINS ? max_routes - NR_PIC_PINS - NR_IOAPIC_PINS
							 : 0;
	router->nr_msi_max = room < NR_MSI_MAX ? room : NR_MSI_MAX;
	router->vm_fd = vm_fd;
	pthread_mutex_init(&router->lock, NULL);
	ret = install_routes(router);
	if (ret < 0) {
		error_set_errno(err, -ret, "KVM_SET_GSI_ROUTING failed");
		irq_router_destroy(router);
		return NULL;
	}
	return router;
}

void irq_router_destroy(struct irq_router *router)
{
	if (!router)
		return;
	pthread_mutex_destroy(&router->lock);
	free(router);
}

void irq_line(struct irq_router *router, unsigned int gsi, bool level)
{
	struct kvm_irq_level line = { .irq = gsi, .level = level };

	/* Fails only for a chip that does not exist, which irq_router_create() has excluded. */
	(void)ioctl(router->vm_fd, KVM_IRQ_LINE, &line);
}

static int set_irqfd(struct irq_router *router, const struct msi_vector *vector, bool assign)
{
	struct kvm_irqfd irqfd = {
		.fd = (uint32_t)vector->fd,
		.gsi = vector->gsi,
		.flags = assign ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
	};

	return ioctl(router->vm_fd, KVM_IRQFD, &irqfd) < 0 ? -errno : 0;
}

struct msi_vector *irq_msi_create(struct irq_router *router)
{
	struct msi_vector *vector = calloc(1, sizeof(*vector));
	unsigned int i;
	int ret;

	if (!vector)
		return NULL;
	vector->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vector->fd < 0) {
		ret = -errno;
		goto free_vector;
	}
	pthread_mutex_lock(&router->lock);
	for (i = 0; i < router->nr_msi_max && router->msi[i]; i++)
		;
	ret = -ENOSPC;
	if (i == router->nr_msi_max)
		goto unlock;
	vector->gsi = LAYOUT_GSI_MSI_BASE + i;
	/* An irqfd on a GSI without a route delivers nothing: that is a vector without a message.
	 */
	ret = set_irqfd(router, vector, true);
	if (ret < 0)
		goto unlock;
	router->msi[i] = vector;
	pthread_mutex_unlock(&router->lock);
	return vector;

unlock:
	pthread_mutex_unlock(&router->lock);
	close(vector->fd);
free_vector:
	free(vector);
	errno = -ret;
	return NULL;
}

int irq_msi_set(struct irq_router *router, struct msi_vector *vector, uint64_t addr, uint32_t data)
{
	int ret = 0;

	pthread_mutex_lock(&router->lock);
	/* Guests write the same message again and again; installing routes is not cheap (the
	 * kernel waits for readers of the old table). */
	if (!vector->has_route || vector->addr != addr || vector->data != data) {
		struct msi_vector old = *vector;

		vector->has_route = true;
		vector->addr = addr;
		vector->data = data;
		ret = install_routes(router);
		if (ret < 0)
			*vector = old;
	}
	pthread_mutex_unlock(&router->lock);
	return ret;
}

void irq_msi_raise(struct msi_vector *vector)
{
	uint64_t one = 1;

	/* EAGAIN (the counter is full) means that deliveries are pending anyway. */
	if (write(vector->fd, &one, sizeof(one)) < 0)
		return;
}

void irq_msi_destroy(struct irq_router *router, struct msi_vector *vector)
{
	if (!vector)
		return;
	pthread_mutex_lock(&router->lock);
	(void)set_irqfd(router, vector, false);
	router->msi[vector->gsi - LAYOUT_GSI_MSI_BASE] = NULL;
	/* A smaller table than the one installed before cannot be refused but for memory; then the
	 * old route stays, and nothing raises it any more. */
	if (vector->has_route)
		(void)install_routes(router);
	pthread_mutex_unlock(&router->lock);
	close(vector->fd);
	free(vector);
}

int irq_doorbell(struct irq_router *router, const struct doorbell *bell, bool assign)
{
	struct kvm_ioeventfd ioeventfd = {
		.addr = bell->addr,
		.len = bell->len,
		.fd = bell->fd,
		.datamatch = bell->match ? bell->datamatch : 0,
	};

	if (bell->match)
		ioeventfd.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
	if (!assign)
		ioeventfd.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	return ioctl(router->vm_fd, KVM_IOEVENTFD, &ioeventfd) < 0 ? -errno : 0;
}
