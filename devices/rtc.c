/* SPDX-License-Identifier: MIT */
/*
 * MC146818 real time clock with 128 bytes of CMOS. The time is the host's UTC plus what the guest
 * made of it by setting the clock. No interrupts: alarm registers are plain memory.
 */
#include "framevisor/platform.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RTC_PORTS 2
#define RTC_CMOS  128

/* Registers and bits: MC146818A data sheet; the century byte is where FADT says it is. */
enum {
	RTC_SECONDS = 0x00,
	RTC_MINUTES = 0x02,
	RTC_HOURS = 0x04,
	RTC_DAY_OF_WEEK = 0x06,
	RTC_DAY = 0x07,
	RTC_MONTH = 0x08,
	RTC_YEAR = 0x09,
	RTC_REG_A = 0x0a,
	RTC_REG_B = 0x0b,
	RTC_REG_C = 0x0c,
	RTC_REG_D = 0x0d,
	RTC_CENTURY = 0x32,
};

#define REG_A_UIP     0x80
#define REG_A_DEFAULT 0x26 /* 32 kHz time base, 1024 Hz */
#define REG_B_SET     0x80
#define REG_B_BINARY  0x04
#define REG_B_24H     0x02
#define REG_D_VALID   0x80
#define HOURS_PM      0x80

/* UIP rises this long before the registers change (data sheet: 244 us). */
#define UIP_NS (244 * 1000)

struct rtc {
	struct device dev;
	struct bus_region region;
	pthread_mutex_t lock; /* over everything below */
	uint8_t index;
	uint8_t cmos[RTC_CMOS];
	int64_t offset;   /* guest's seconds minus the host's */
	struct tm frozen; /* the time while REG_B_SET stops the clock */
};

static bool is_time_register(uint8_t reg)
{
	switch (reg) {
	case RTC_SECONDS:
	case RTC_MINUTES:
	case RTC_HOURS:
	case RTC_DAY_OF_WEEK:
	case RTC_DAY:
	case RTC_MONTH:
	case RTC_YEAR:
	case RTC_CENTURY:
		return true;
	default:
		return false;
	}
}

static void current_time(const struct rtc *rtc, struct tm *tm)
{
	time_t now;

	if (rtc->cmos[RTC_REG_B] & REG_B_SET) {
		*tm = rtc->frozen;
		return;
	}
	now = time(NULL) + rtc->offset;
	if (!gmtime_r(&now, tm))
		memset(tm, 0, sizeof(*tm));
}

/* Starts the clock from tm; fields out of range carry over into the next one. */
static void set_time(struct rtc *rtc, const struct tm *tm)
{
	struct tm copy = *tm;

	rtc->offset = timegm(&copy) - time(NULL);
}

static uint8_t encode(const struct rtc *rtc, int value)
{
	if (value < 0) /* a guest set the clock to before year 0 */
		value = 0;
	if (rtc->cmos[RTC_REG_B] & REG_B_BINARY)
		return (uint8_t)value;
	return (uint8_t)((value / 10) << 4 | value % 10);
}

static int decode(const struct rtc *rtc, uint8_t value)
{
	if (rtc->cmos[RTC_REG_B] & REG_B_BINARY)
		return value;
	return (value >> 4) * 10 + (value & 0xf);
}

static uint8_t encode_hours(const struct rtc *rtc, int hour)
{
	int twelve = hour % 12 ? hour % 12 : 12;

	if (rtc->cmos[RTC_REG_B] & REG_B_24H)
		return encode(rtc, hour);
	return encode(rtc, twelve) | (hour >= 12 ? HOURS_PM : 0);
}

static int decode_hours(const struct rtc *rtc, uint8_t value)
{
	if (rtc->cmos[RTC_REG_B] & REG_B_24H)
		return decode(rtc, value);
	return decode(rtc, value & (uint8_t)~HOURS_PM) % 12 + (value & HOURS_PM ? 12 : 0);
}

static uint8_t read_time(const struct rtc *rtc, uint8_t reg)
{
	struct tm tm;

	current_time(rtc, &tm);
	switch (reg) {
	case RTC_SECONDS:
		return encode(rtc, tm.tm_sec);
	case RTC_MINUTES:
		return encode(rtc, tm.tm_min);
	case RTC_HOURS:
		return encode_hours(rtc, tm.tm_hour);
	case RTC_DAY_OF_WEEK:
		return encode(rtc, tm.tm_wday + 1);
	case RTC_DAY:
		return encode(rtc, tm.tm_mday);
	case RTC_MONTH:
		return encode(rtc, tm.tm_mon + 1);
	case RTC_YEAR:
		return encode(rtc, (tm.tm_year + 1900) % 100);
	default: /* RTC_CENTURY */
		return encode(rtc, (tm.tm_year + 1900) / 100 % 100);
	}
}

static void write_time(struct rtc *rtc, uint8_t reg, uint8_t value)
{
	int year;
	struct tm tm;

	current_time(rtc, &tm);
	year = tm.tm_year + 1900;
	switch (reg) {
	case RTC_SECONDS:
		tm.tm_sec = decode(rtc, value);
		break;
	case RTC_MINUTES:
		tm.tm_min = decode(rtc, value);
		break;
	case RTC_HOURS:
		tm.tm_hour = decode_hours(rtc, value);
		break;
	case RTC_DAY:
		tm.tm_mday = decode(rtc, value);
		break;
	case RTC_MONTH:
		tm.tm_mon = decode(rtc, value) - 1;
		break;
	case RTC_YEAR:
		tm.tm_year = year / 100 * 100 + decode(rtc, value) % 100 - 1900;
		break;
	case RTC_CENTURY:
		tm.tm_year = decode(rtc, value) % 100 * 100 + year % 100 - 1900;
		break;
	default: /* the day of the week follows from the date */
		return;
	}
	if (rtc->cmos[RTC_REG_B] & REG_B_SET)
		rtc->frozen = tm;
	else
		set_time(rtc, &tm);
}

static void write_reg_b(struct rtc *rtc, uint8_t value)
{
	uint8_t changed = value ^ rtc->cmos[RTC_REG_B];

	if (changed & value & REG_B_SET)
		current_time(rtc, &rtc->frozen);
	else if (changed & REG_B_SET)
		set_time(rtc, &rtc->frozen);
	rtc->cmos[RTC_REG_B] = value;
}

static uint8_t read_reg_a(const struct rtc *rtc)
{
	uint8_t value = rtc->cmos[RTC_REG_A];
	struct timespec now;

	if (rtc->cmos[RTC_REG_B] & REG_B_SET)
		return value;
	clock_gettime(CLOCK_REALTIME, &now);
	if (now.tv_nsec >= 1000000000 - UIP_NS)
		value |= REG_A_UIP;
	return value;
}

static uint8_t read_data(const struct rtc *rtc)
{
	if (is_time_register(rtc->index))
		return read_time(rtc, rtc->index);
	switch (rtc->index) {
	case RTC_REG_A:
		return read_reg_a(rtc);
	case RTC_REG_C: /* no interrupt ever was the cause */
		return 0;
	case RTC_REG_D:
		return REG_D_VALID;
	default:
		return rtc->cmos[rtc->index];
	}
}

static void write_data(struct rtc *rtc, uint8_t value)
{
	if (is_time_register(rtc->index))
		write_time(rtc, rtc->index, value);
	else if (rtc->index == RTC_REG_A)
		rtc->cmos[RTC_REG_A] = value & (uint8_t)~REG_A_UIP;
	else if (rtc->index == RTC_REG_B)
		write_reg_b(rtc, value);
	else if (rtc->index != RTC_REG_C && rtc->index != RTC_REG_D)
		rtc->cmos[rtc->index] = value;
}

static uint64_t rtc_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct rtc *rtc = opaque;
	uint64_t value = 0;

	pthread_mutex_lock(&rtc->lock);
	for (unsigned int i = 0; i < size; i++) {
		uint8_t byte = offset + i == 0 ? rtc->index : read_data(rtc);

		value |= (uint64_t)byte << (8 * i);
	}
	pthread_mutex_unlock(&rtc->lock);
	return value;
}

static void rtc_write(void *opaque, uint64_t offset, uint64_t value, unsigned int size)
{
	struct rtc *rtc = opaque;

	pthread_mutex_lock(&rtc->lock);
	for (unsigned int i = 0; i < size; i++) {
		uint8_t byte = (uint8_t)(value >> (8 * i));

		if (offset + i == 0)
			rtc->index = byte % RTC_CMOS; /* bit 7 masks NMI on a PC */
		else
			write_data(rtc, byte);
	}
	pthread_mutex_unlock(&rtc->lock);
}

static const struct bus_ops rtc_bus_ops = { .read = rtc_read, .write = rtc_write };

/* The battery keeps time and CMOS over a reset; only the interface starts anew. */
static void rtc_reset(struct device *dev)
{
	struct rtc *rtc = (struct rtc *)dev;

	pthread_mutex_lock(&rtc->lock);
	rtc->index = 0;
	rtc->cmos[RTC_REG_A] = REG_A_DEFAULT;
	write_reg_b(rtc, REG_B_24H);
	pthread_mutex_unlock(&rtc->lock);
}

static void rtc_destroy(struct device *dev)
{
	struct rtc *rtc = (struct rtc *)dev;

	bus_remove(dev->host->pio, &rtc->region);
	pthread_mutex_destroy(&rtc->lock);
	free(rtc);
}

static const struct device_ops rtc_ops = { .reset = rtc_reset, .destroy = rtc_destroy };

struct device *rtc_create(struct device_host *host, uint16_t port)
{
	struct rtc *rtc = calloc(1, sizeof(*rtc));
	int ret;

	if (!rtc)
		return NULL;
	rtc->dev = (struct device){ .name = "rtc", .ops = &rtc_ops, .host = host, .next = NULL };
	rtc->region = (struct bus_region){
		.base = port, .size = RTC_PORTS, .name = "rtc", .ops = &rtc_bus_ops, .opaque = rtc
	};
	pthread_mutex_init(&rtc->lock, NULL);
	rtc_reset(&rtc->dev);
	ret = bus_add(host->pio, &rtc->region);
	if (ret) {
		rtc_destroy(&rtc->dev);
		errno = -ret;
		return NULL;
	}
	return &rtc->dev;
}
