/* SPDX-License-Identifier: MIT */
/*
 * ACPI fixed hardware (ACPI 6.4, 4.8.3): PM1a event and control registers, the PM timer, the
 * fixed power button; a reset register; and of the i8042 keyboard controller the one command by
 * which PCs are reset.
 *
 *	pm_port + 0  PM1_STS  (16 bits, write 1 to clear)
 *	pm_port + 2  PM1_EN   (16 bits)
 *	pm_port + 4  PM1_CNT  (16 bits)
 *	pm_port + 8  PM_TMR   (32 bits)
 *
 * There is no SMI command port: the machine is always in ACPI mode, SCI_EN reads 1.
 */
#include "framevisor/platform.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "framevisor/clock.h"
#include "framevisor/log.h"

#define PM_PORTS 12
#define PM1_STS  0
#define PM1_EN   2
#define PM1_CNT  4
#define PM_TMR   8

#define PM1_GBL     0x0020
#define PM1_PWRBTN  0x0100
#define PM1_SLPBTN  0x0200
#define PM1_RTC     0x0400
#define PM1_WAK_STS 0x8000
#define PM1_EN_MASK (0x0001 | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC)

#define CNT_SCI_EN        0x0001
#define CNT_SLP_TYP_SHIFT 10
#define CNT_SLP_TYP       (7 << CNT_SLP_TYP_SHIFT)
#define CNT_SLP_EN        0x2000
#define CNT_MASK          (CNT_SCI_EN | 0x0002 | CNT_SLP_TYP) /* what is kept */

#define PM_TIMER_HZ 3579545

#define I8042_CMD_RESET 0xfe
/*
 * What port 0x64 reads: the value of an empty socket, but with "input buffer full" clear. A driver
 * that looks for a controller finds data that never ends and gives up at once; a kernel that
 * waits for room before it sends the reset command does not wait.
 */
#define I8042_STATUS 0xfd

struct power {
	struct device dev;
	struct bus_region pm_region, reset_region, i8042_region;
	unsigned int sci_gsi;
	pthread_mutex_t lock; /* over everything below */
	uint16_t sts, en, cnt;
	bool sci;
};

static void update_sci(struct power *power)
{
	struct device_host *host = power->dev.host;
	bool sci = (power->sts & power->en) != 0;

	if (sci == power->sci)
		return;
	power->sci = sci;
	host->ops->irq_line(host->machine, power->sci_gsi, sci);
}

/* All 32 bits count, so FADT may or may not say TMR_VAL_EXT. */
static uint32_t pm_timer(void)
{
	uint64_t now = now_ns();

	return (uint32_t)(now / NS_PER_SEC * PM_TIMER_HZ +
			  now % NS_PER_SEC * PM_TIMER_HZ / NS_PER_SEC);
}

static uint64_t pm_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct power *power = opaque;
	uint64_t low, high, mask = size < 8 ? (UINT64_C(1) << (8 * size)) - 1 : UINT64_MAX;

	pthread_mutex_lock(&power->lock);
	low = power->sts | (uint64_t)power->en << 16 |
	      (uint64_t)(power->cnt | CNT_SCI_EN) << (8 * PM1_CNT);
	pthread_mutex_unlock(&power->lock);
	high = pm_timer();
	if (offset >= PM_TMR)
		return (high >> (8 * (offset - PM_TMR))) & mask;
	low >>= 8 * offset;
	if (offset)
		low |= high << (8 * (PM_TMR - offset));
	return low & mask;
}

/* One byte; returns whether the guest started a sleep transition. */
static bool pm_write_byte(struct power *power, uint64_t offset, uint8_t value)
{
	unsigned int shift = 8 * (offset & 1);
	uint16_t keep = (uint16_t) ~(0xff << shift);
	uint16_t bits = (uint16_t)(value << shift);

	switch (offset & ~UINT64_C(1)) {
	case PM1_STS:
		power->sts &= (uint16_t)~bits;
		return false;
	case PM1_EN:
		power->en = ((power->en & keep) | bits) & PM1_EN_MASK;
		return false;
	case PM1_CNT:
		power->cnt = ((power->cnt & keep) | bits) & CNT_MASK;
		return bits & CNT_SLP_EN;
	default:
		return false;
	}
}

static void pm_write(void *opaque, uint64_t offset, uint64_t value, unsigned int size)
{
	struct power *power = opaque;
	struct device_host *host = power->dev.host;
	bool sleep = false, off;

	pthread_mutex_lock(&power->lock);
	for (unsigned int i = 0; i < size; i++)
		sleep |= pm_write_byte(power, offset + i, (uint8_t)(value >> (8 * i)));
	update_sci(power);
	off = sleep && power->cnt >> CNT_SLP_TYP_SHIFT == POWER_S5_SLP_TYP;
	/* No other sleep state is described; whoever asks for one wakes up again at once. */
	if (sleep && !off)
		power->sts |= PM1_WAK_STS;
	pthread_mutex_unlock(&power->lock);
	if (off)
		host->ops->power(host->machine, POWER_REQUEST_OFF);
}

static uint64_t reset_read(void *opaque, uint64_t offset, unsigned int size)
{
	(void)opaque;
	(void)offset;
	(void)size;
	return 0;
}

static void reset_write(void *opaque, uint64_t offset, uint64_t value, unsigned int size)
{
	struct power *power = opaque;
	struct device_host *host = power->dev.host;

	(void)offset;
	(void)size;
	if ((value & 0xff) != POWER_RESET_VALUE)
		return;
	log_info("the guest asks for a reset by the ACPI reset register");
	host->ops->power(host->machine, POWER_REQUEST_RESET);
}

static uint64_t i8042_read(void *opaque, uint64_t offset, unsigned int size)
{
	(void)opaque;
	(void)offset;
	(void)size;
	return I8042_STATUS;
}

static void i8042_write(void *opaque, uint64_t offset, uint64_t value, unsigned int size)
{
	struct power *power = opaque;
	struct device_host *host = power->dev.host;

	(void)offset;
	(void)size;
	if ((value & 0xff) != I8042_CMD_RESET)
		return;
	log_info("the guest asks for a reset by the keyboard controller");
	host->ops->power(host->machine, POWER_REQUEST_RESET);
}

static const struct bus_ops pm_bus_ops = { .read = pm_read, .write = pm_write };
static const struct bus_ops reset_bus_ops = { .read = reset_read, .write = reset_write };
static const struct bus_ops i8042_bus_ops = { .read = i8042_read, .write = i8042_write };

bool power_button(struct power *power)
{
	bool enabled;

	pthread_mutex_lock(&power->lock);
	/* A press that nobody listens to is not remembered: the guest would switch itself off when
	 * its driver starts, long after. */
	enabled = power->en & PM1_PWRBTN;
	if (enabled)
		power->sts |= PM1_PWRBTN;
	update_sci(power);
	pthread_mutex_unlock(&power->lock);
	return enabled;
}

static void power_reset(struct device *dev)
{
	struct power *power = (struct power *)dev;

	pthread_mutex_lock(&power->lock);
	power->sts = 0;
	power->en = 0;
	power->cnt = 0;
	update_sci(power);
	pthread_mutex_unlock(&power->lock);
}

static void power_destroy(struct device *dev)
{
	struct power *power = (struct power *)dev;

	bus_remove(dev->host->pio, &power->i8042_region);
	bus_remove(dev->host->pio, &power->reset_region);
	bus_remove(dev->host->pio, &power->pm_region);
	pthread_mutex_destroy(&power->lock);
	free(power);
}

static const struct device_ops power_ops = { .reset = power_reset, .destroy = power_destroy };

static int add_ports(struct power *power, struct bus_region *region, const char *name,
		     uint16_t base, uint16_t size, const struct bus_ops *ops)
{
	*region = (struct bus_region){
		.base = base, .size = size, .name = name, .ops = ops, .opaque = power
	};
	return bus_add(power->dev.host->pio, region);
}

struct power *power_create(struct device_host *host, uint16_t pm_port, unsigned int sci_gsi,
			   uint16_t reset_port, uint16_t i8042_port)
{
	struct power *power = calloc(1, sizeof(*power));
	int ret;

	if (!power)
		return NULL;
	power->dev =
		(struct device){ .name = "power", .ops = &power_ops, .host = host, .next = NULL };
	power->sci_gsi = sci_gsi;
	pthread_mutex_init(&power->lock, NULL);
	ret = add_ports(power, &power->pm_region, "acpi-pm", pm_port, PM_PORTS, &pm_bus_ops);
	if (!ret)
		ret = add_ports(power, &power->reset_region, "reset", reset_port, 1,
				&reset_bus_ops);
	if (!ret)
		ret = add_ports(power, &power->i8042_region, "i8042", i8042_port, 1,
				&i8042_bus_ops);
	if (!ret)
		return power;
	power_destroy(&power->dev); /* bus_remove() of what is not there does nothing */
	errno = -ret;
	return NULL;
}

struct device *power_device(struct power *power)
{
	return &power->dev;
}
