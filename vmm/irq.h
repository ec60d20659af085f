/* SPDX-License-Identifier: MIT */
/*
 * Interrupts and doorbells of one VM over KVM: the GSI routing table, MSI vectors (eventfd, irqfd,
 * route), interrupt lines, ioeventfds. These are the KVM halves of struct device_host_ops.
 *
 * All calls may be made from any thread, except create and destroy.
 */
#ifndef VMM_IRQ_H
#define VMM_IRQ_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/device.h"
#include "framevisor/error.h"

struct irq_router;

/*
 * Installs the default routes: pins 0..23 of the IOAPIC, the two PICs for 0..15, and GSI 0 (the
 * PIT) on IOAPIC pin 2, as the MADT's override says. max_routes is KVM_CAP_IRQ_ROUTING.
 */
struct irq_router *irq_router_create(int vm_fd, unsigned int max_routes, struct error *err);
/* All MSI vectors have been destroyed before. NULL is ignored. */
void irq_router_destroy(struct irq_router *router);

/* See struct device_host_ops for the contract of these. */
void irq_line(struct irq_router *router, unsigned int gsi, bool level);
struct msi_vector *irq_msi_create(struct irq_router *router);
int irq_msi_set(struct irq_router *router, struct msi_vector *vector, uint64_t addr, uint32_t data);
void irq_msi_raise(struct msi_vector *vector);
void irq_msi_destroy(struct irq_router *router, struct msi_vector *vector);
int irq_doorbell(struct irq_router *router, const struct doorbell *bell, bool assign);

#endif
