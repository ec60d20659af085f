/* SPDX-License-Identifier: MIT */
/* Any access to any port or MMIO address of the devices: configuration space, BARs, MSI-X tables,
 * serial port, clock, power. */
#include "framevisor/pci.h"
#include "tests/fuzz/device_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void access_port(struct fuzz *fuzz, bool is_write)
{
	static const uint16_t ports[] = { LAYOUT_PORT_SERIAL,   LAYOUT_PORT_RTC,
					  LAYOUT_PORT_PM,       LAYOUT_PORT_RESET,
					  LAYOUT_PORT_I8042,    LAYOUT_PORT_PCI_ADDR,
					  LAYOUT_PORT_PCI_DATA, 0x80 };
	uint8_t where = (uint8_t)fuzz_take(fuzz, 1);
	uint64_t port = ports[where & 7] + (where >> 4);
	unsigned int size = fuzz_size(fuzz) & 7 ?: 4;

	if (is_write)
		host_out(fuzz->drv.th, port, fuzz_take(fuzz, size), size);
	else
		host_in(fuzz->drv.th, port, size);
}

static void access_mmio(struct fuzz *fuzz, uint64_t addr, bool is_write)
{
	unsigned int size = fuzz_size(fuzz);

	if (is_write)
		host_write(fuzz->drv.th, addr, fuzz_take(fuzz, size), size);
	else
		host_read(fuzz->drv.th, addr, size);
}

static void step(struct fuzz *fuzz)
{
	uint8_t op = (uint8_t)fuzz_take(fuzz, 1);
	bool is_write = op & 0x80;
	uint8_t text[20] = "0123456789abcdefghij";

	switch (op & 7) {
	case 0:
		access_port(fuzz, is_write);
		break;
	case 1: /* the two functions there are */
		access_mmio(fuzz, LAYOUT_ECAM + (op & 0x40 ? 0x8000 : 0) + fuzz_take(fuzz, 1),
			    is_write);
		break;
	case 2:
		access_mmio(fuzz, LAYOUT_ECAM + fuzz_take(fuzz, 3), is_write);
		break;
	case 3: /* where BARs are placed */
		access_mmio(fuzz, LAYOUT_PCI_MMIO + fuzz_take(fuzz, 2), is_write);
		break;
	case 4: /* where the guest put the first BAR */
		access_mmio(fuzz, driver_bar(&fuzz->drv, 0) + (fuzz_take(fuzz, 2) & 0x3fff),
			    is_write);
		break;
	case 5:
		access_mmio(fuzz, driver_bar(&fuzz->drv, 2) + (fuzz_take(fuzz, 2) & 0xfff),
			    is_write);
		break;
	case 6:
		serial_input(fuzz->drv.th->set.serial, text, fuzz_take(fuzz, 1) % sizeof(text));
		power_button(fuzz->drv.th->set.power);
		break;
	default:
		driver_enable_memory(&fuzz->drv);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_run(data, size, 1, NULL, step);
	return 0;
}
