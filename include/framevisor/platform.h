/* SPDX-License-Identifier: MIT */
/* The devices every machine has: serial port, clock, power management, PCI bus. (devices/) */
#ifndef FRAMEVISOR_PLATFORM_H
#define FRAMEVISOR_PLATFORM_H

#include <stddef.h>
#include <stdint.h>

#include "framevisor/device.h"

/*
 * A 16550A UART. output is called in the vCPU thread that wrote THR and must not block.
 * serial_input() puts bytes into the receive FIFO and returns how many fitted; room() is called in
 * the loop's thread when the guest made room again after a short count. Both may be NULL.
 */
struct serial;
typedef void (*serial_output_fn)(void *opaque, const uint8_t *data, size_t len);
typedef void (*serial_room_fn)(void *opaque);
struct serial *serial_create(struct device_host *host, uint16_t port, unsigned int gsi,
			     serial_output_fn output, serial_room_fn room, void *opaque);
struct device *serial_device(struct serial *serial);
size_t serial_input(struct serial *serial, const uint8_t *data, size_t len); /* loop's thread */

/* MC146818 clock with 128 bytes of CMOS; UTC of the host; no periodic interrupts. */
struct device *rtc_create(struct device_host *host, uint16_t port);

/*
 * ACPI fixed hardware (PM1 event and control blocks, PM timer), the reset register at port 0xcf9
 * and the i8042's reset command. S5 and resets go to host->ops->power().
 */
struct power;
struct power *power_create(struct device_host *host, uint16_t pm_port, unsigned int sci_gsi,
			   uint16_t reset_port, uint16_t i8042_port);
struct device *power_device(struct power *power);
/* Presses and releases the power button: PWRBTN_STS, SCI if enabled. Returns false when the guest
 * has not enabled the button (no ACPI driver will notice). Any thread. */
bool power_button(struct power *power);

/* Values that FADT and DSDT describe: SLP_TYPa of S5, reset value. */
#define POWER_S5_SLP_TYP  5
#define POWER_RESET_VALUE 0x06

/*
 * PCI bus 0 with a host bridge at 00:00.0; configuration space through ports 0xCF8/0xCFC and ECAM.
 * BARs are placed from mmio_base on when functions are added; the guest may move them.
 */
struct pci_bus;
struct pci_bus *pci_bus_create(struct device_host *host, uint16_t addr_port, uint16_t data_port,
			       uint64_t ecam, uint64_t ecam_size, uint64_t mmio_base,
			       uint64_t mmio_size);
struct device *pci_bus_device(struct pci_bus *bus);

#endif
