/* SPDX-License-Identifier: MIT */
/*
 * A 16550A UART (National PC16550D). The transmitter is always empty: a byte goes to the output at
 * once. Line settings are kept and mean nothing.
 */
#include "framevisor/platform.h"

#include <errno.h>
#include <linux/serial_reg.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SERIAL_PORTS 8
#define SERIAL_FIFO  16

#define IER_MASK (UART_IER_RDI | UART_IER_THRI | UART_IER_RLSI | UART_IER_MSI)
#define MCR_MASK (UART_MCR_DTR | UART_MCR_RTS | UART_MCR_OUT1 | UART_MCR_OUT2 | UART_MCR_LOOP)
#define MSR_LINES                                                                       \
	(UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS) /* a terminal that is always there \
						      */

struct serial {
	struct device dev;
	struct bus_region region;
	unsigned int gsi;
	serial_output_fn output;
	serial_room_fn room;
	void *opaque;
	int room_fd; /* counts when the guest emptied a receiver that was full before */
	struct event_source *room_source;

	pthread_mutex_t lock; /* over everything below */
	uint8_t ier, lcr, mcr, scr, dll, dlm;
	uint8_t msr_delta; /* bits 0..3 of MSR, cleared by reading it */
	bool fifo;         /* FCR: FIFOs enabled */
	uint8_t trigger;   /* receive level that raises "data available" */
	bool thre_pending; /* THR became empty since IIR last said so */
	bool overrun;
	bool input_short; /* serial_input() could not take everything */
	bool level;       /* of the interrupt line */
	uint8_t rx[SERIAL_FIFO];
	unsigned int rx_head, rx_count;
};

static unsigned int rx_capacity(const struct serial *serial)
{
	return serial->fifo ? SERIAL_FIFO : 1;
}

/* The cause with the highest priority (PC16550D, table IV). */
static uint8_t interrupt_id(const struct serial *serial)
{
	if ((serial->ier & UART_IER_RLSI) && serial->overrun)
		return UART_IIR_RLSI;
	if ((serial->ier & UART_IER_RDI) && serial->rx_count) {
		if (!serial->fifo || serial->rx_count >= serial->trigger)
			return UART_IIR_RDI;
		/* Below the trigger level the chip waits four character times; a pause in a byte
		 * stream from a socket says nothing, so this one does not wait. */
		return UART_IIR_RX_TIMEOUT;
	}
	if ((serial->ier & UART_IER_THRI) && serial->thre_pending)
		return UART_IIR_THRI;
	if ((serial->ier & UART_IER_MSI) && serial->msr_delta)
		return UART_IIR_MSI;
	return UART_IIR_NO_INT;
}

static void update_irq(struct serial *serial)
{
	struct device_host *host = serial->dev.host;
	bool level = interrupt_id(serial) != UART_IIR_NO_INT;

	if (level == serial->level)
		return;
	serial->level = level;
	host->ops->irq_line(host->machine, serial->gsi, level);
}

static bool rx_push(struct serial *serial, uint8_t byte)
{
	if (serial->rx_count >= rx_capacity(serial))
		return false;
	serial->rx[(serial->rx_head + serial->rx_count) % SERIAL_FIFO] = byte;
	serial->rx_count++;
	return true;
}

/* After the guest took a byte out: when the receiver is empty, ask for what did not fit. Not for
 * each byte: the next fill then brings a FIFO at once. */
static void rx_made_room(struct serial *serial)
{
	uint64_t one = 1;

	if (!serial->input_short || serial->rx_count)
		return;
	serial->input_short = false;
	if (write(serial->room_fd, &one, sizeof(one)) < 0)
		return; /* EAGAIN: the loop will run the callback anyway */
}

static uint8_t rx_pop(struct serial *serial)
{
	uint8_t byte;

	if (!serial->rx_count)
		return 0;
	byte = serial->rx[serial->rx_head];
	serial->rx_head = (serial->rx_head + 1) % SERIAL_FIFO;
	serial->rx_count--;
	rx_made_room(serial);
	return byte;
}

static uint8_t read_iir(struct serial *serial)
{
	uint8_t id = interrupt_id(serial);

	if (id == UART_IIR_THRI)
		serial->thre_pending = false; /* reading it as the source acknowledges it */
	return id | (serial->fifo ? 0xc0 : 0);
}

static uint8_t read_lsr(struct serial *serial)
{
	uint8_t lsr = UART_LSR_THRE | UART_LSR_TEMT;

	if (serial->rx_count)
		lsr |= UART_LSR_DR;
	if (serial->overrun)
		lsr |= UART_LSR_OE;
	serial->overrun = false;
	return lsr;
}

static uint8_t modem_lines(uint8_t mcr)
{
	uint8_t lines = 0;

	if (!(mcr & UART_MCR_LOOP))
		return MSR_LINES;
	lines |= mcr & UART_MCR_RTS ? UART_MSR_CTS : 0;
	lines |= mcr & UART_MCR_DTR ? UART_MSR_DSR : 0;
	lines |= mcr & UART_MCR_OUT1 ? UART_MSR_RI : 0;
	lines |= mcr & UART_MCR_OUT2 ? UART_MSR_DCD : 0;
	return lines;
}

static uint8_t read_register(struct serial *serial, unsigned int reg)
{
	bool dlab = serial->lcr & UART_LCR_DLAB;
	uint8_t value = 0;

	switch (reg) {
	case UART_RX:
		value = dlab ? serial->dll : rx_pop(serial);
		break;
	case UART_IER:
		value = dlab ? serial->dlm : serial->ier;
		break;
	case UART_IIR:
		value = read_iir(serial);
		break;
	case UART_LCR:
		value = serial->lcr;
		break;
	case UART_MCR:
		value = serial->mcr;
		break;
	case UART_LSR:
		value = read_lsr(serial);
		break;
	case UART_MSR:
		value = modem_lines(serial->mcr) | serial->msr_delta;
		serial->msr_delta = 0;
		break;
	case UART_SCR:
		value = serial->scr;
		break;
	default:
		break;
	}
	update_irq(serial);
	return value;
}

/* Returns whether the byte leaves the machine. */
static bool write_thr(struct serial *serial, uint8_t byte)
{
	/* Transmitted at once, so THR is empty again: a new edge of THRE for each byte. */
	serial->thre_pending = true;
	if (!(serial->mcr & UART_MCR_LOOP))
		return true;
	if (!rx_push(serial, byte))
		serial->overrun = true;
	return false;
}

static void write_fcr(struct serial *serial, uint8_t value)
{
	static const uint8_t trigger[] = { 1, 4, 8, 14 };
	bool enable = value & UART_FCR_ENABLE_FIFO;

	/* Switching the FIFOs on or off clears them. */
	if (enable != serial->fifo || (enable && (value & UART_FCR_CLEAR_RCVR))) {
		serial->rx_count = 0;
		serial->rx_head = 0;
	}
	serial->fifo = enable;
	serial->trigger = enable ? trigger[value >> 6] : 1;
	rx_made_room(serial);
}

static void write_ier(struct serial *serial, uint8_t value)
{
	value &= IER_MASK;
	/* Enabling the interrupt while THR is empty raises it: drivers start sending that way. */
	if ((value & UART_IER_THRI) && !(serial->ier & UART_IER_THRI))
		serial->thre_pending = true;
	serial->ier = value;
}

static void write_mcr(struct serial *serial, uint8_t value)
{
	uint8_t before = modem_lines(serial->mcr);
	uint8_t changed;

	serial->mcr = value & MCR_MASK;
	changed = before ^ modem_lines(serial->mcr);
	/* Bits 0..3 say which of lines 4..7 changed; for RI only its end counts. */
	if (modem_lines(serial->mcr) & UART_MSR_RI)
		changed &= (uint8_t)~UART_MSR_RI;
	serial->msr_delta |= changed >> 4;
}

static bool write_register(struct serial *serial, unsigned int reg, uint8_t value)
{
	bool dlab = serial->lcr & UART_LCR_DLAB;
	bool send = false;

	switch (reg) {
	case UART_TX:
		if (dlab)
			serial->dll = value;
		else
			send = write_thr(serial, value);
		break;
	case UART_IER:
		if (dlab)
			serial->dlm = value;
		else
			write_ier(serial, value);
		break;
	case UART_FCR:
		write_fcr(serial, value);
		break;
	case UART_LCR:
		serial->lcr = value;
		break;
	case UART_MCR:
		write_mcr(serial, value);
		break;
	case UART_SCR:
		serial->scr = value;
		break;
	default: /* LSR and MSR: writing is for factory tests */
		break;
	}
	update_irq(serial);
	return send;
}

static uint64_t serial_read(void *opaque, uint64_t offset, unsigned int size)
{
	struct serial *serial = opaque;
	uint64_t value = 0;

	pthread_mutex_lock(&serial->lock);
	for (unsigned int i = 0; i < size; i++)
		value |= (uint64_t)read_register(serial, (unsigned int)offset + i) << (8 * i);
	pthread_mutex_unlock(&serial->lock);
	return value;
}

static void serial_write(void *opaque, uint64_t offset, uint64_t value, unsigned int size)
{
	struct serial *serial = opaque;

	for (unsigned int i = 0; i < size; i++) {
		uint8_t byte = (uint8_t)(value >> (8 * i));
		bool send;

		pthread_mutex_lock(&serial->lock);
		send = write_register(serial, (unsigned int)offset + i, byte);
		pthread_mutex_unlock(&serial->lock);
		if (send && serial->output)
			serial->output(serial->opaque, &byte, 1);
	}
}

static const struct bus_ops serial_bus_ops = { .read = serial_read, .write = serial_write };

size_t serial_input(struct serial *serial, const uint8_t *data, size_t len)
{
	size_t n = 0;

	pthread_mutex_lock(&serial->lock);
	/* In loopback the receiver is cut off from the line. */
	if (!(serial->mcr & UART_MCR_LOOP)) {
		while (n < len && rx_push(serial, data[n]))
			n++;
	}
	if (n < len)
		serial->input_short = true;
	update_irq(serial);
	pthread_mutex_unlock(&serial->lock);
	return n;
}

static void on_room(void *opaque, uint32_t events)
{
	struct serial *serial = opaque;
	uint64_t count;

	(void)events;
	if (read(serial->room_fd, &count, sizeof(count)) < 0)
		return;
	if (serial->room)
		serial->room(serial->opaque);
}

static void serial_reset(struct device *dev)
{
	struct serial *serial = (struct serial *)dev;

	pthread_mutex_lock(&serial->lock);
	serial->ier = 0;
	serial->lcr = 0;
	serial->mcr = 0;
	serial->scr = 0;
	serial->dll = 12; /* 9600 baud */
	serial->dlm = 0;
	serial->msr_delta = 0;
	serial->fifo = false;
	serial->trigger = 1;
	serial->thre_pending = false;
	serial->overrun = false;
	serial->rx_head = 0;
	serial->rx_count = 0;
	rx_made_room(serial);
	update_irq(serial);
	pthread_mutex_unlock(&serial->lock);
}

static void serial_destroy(struct device *dev)
{
	struct serial *serial = (struct serial *)dev;

	bus_remove(dev->host->pio, &serial->region);
	event_source_remove(serial->room_source);
	if (serial->room_fd >= 0)
		close(serial->room_fd);
	pthread_mutex_destroy(&serial->lock);
	free(serial);
}

static const struct device_ops serial_ops = { .reset = serial_reset, .destroy = serial_destroy };

struct serial *serial_create(struct device_host *host, uint16_t port, unsigned int gsi,
			     serial_output_fn output, serial_room_fn room, void *opaque)
{
	struct serial *serial = calloc(1, sizeof(*serial));
	int ret = -ENOMEM;

	if (!serial)
		return NULL;
	serial->dev =
		(struct device){ .name = "serial", .ops = &serial_ops, .host = host, .next = NULL };
	serial->region = (struct bus_region){ .base = port,
					      .size = SERIAL_PORTS,
					      .name = "serial",
					      .ops = &serial_bus_ops,
					      .opaque = serial };
	serial->gsi = gsi;
	serial->output = output;
	serial->room = room;
	serial->opaque = opaque;
	pthread_mutex_init(&serial->lock, NULL);
	serial->room_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (serial->room_fd < 0) {
		ret = -errno;
		goto fail;
	}
	serial->room_source = event_loop_add(host->loop, serial->room_fd, EPOLLIN, on_room, serial);
	if (!serial->room_source) {
		ret = -errno;
		goto fail;
	}
	serial_reset(&serial->dev);
	ret = bus_add(host->pio, &serial->region);
	if (!ret)
		return serial;
fail:
	serial_destroy(&serial->dev);
	errno = -ret;
	return NULL;
}

struct device *serial_device(struct serial *serial)
{
	return &serial->dev;
}
