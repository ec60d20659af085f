/* SPDX-License-Identifier: MIT */
/* The UART as a driver sees it: registers, interrupts, FIFO, loopback. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/serial_reg.h>

#include "tests/unit/device_host.h"

#define PORT(reg) (LAYOUT_PORT_SERIAL + (reg))

static uint8_t in(struct test_host *th, unsigned int reg)
{
	return (uint8_t)host_in(th, PORT(reg), 1);
}

static void out(struct test_host *th, unsigned int reg, uint8_t value)
{
	host_out(th, PORT(reg), value, 1);
}

static bool line(struct test_host *th)
{
	return th->lines[LAYOUT_GSI_SERIAL];
}

/* The checks by which a stock 8250 driver decides that this is a 16550A. */
static void looks_like_16550a(void **state)
{
	struct test_host *th = host_create(false);

	(void)state;
	out(th, UART_SCR, 0x5a);
	assert_int_equal(in(th, UART_SCR), 0x5a);
	out(th, UART_IER, 0xff);
	assert_int_equal(in(th, UART_IER), 0x0f);
	out(th, UART_IER, 0);
	out(th, UART_MCR, UART_MCR_LOOP | UART_MCR_OUT2 | UART_MCR_RTS);
	assert_int_equal(in(th, UART_MSR) & 0xf0, UART_MSR_DCD | UART_MSR_CTS);
	out(th, UART_MCR, 0);
	assert_int_equal(in(th, UART_MSR) & 0xf0, UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS);
	assert_int_equal(in(th, UART_IIR), UART_IIR_NO_INT);
	out(th, UART_FCR, UART_FCR_ENABLE_FIFO);
	assert_int_equal(in(th, UART_IIR), 0xc0 | UART_IIR_NO_INT);
	out(th, UART_LCR, UART_LCR_DLAB);
	out(th, UART_DLL, 1);
	out(th, UART_DLM, 2);
	assert_int_equal(in(th, UART_DLL), 1);
	assert_int_equal(in(th, UART_DLM), 2);
	out(th, UART_LCR, UART_LCR_WLEN8);
	assert_int_equal(in(th, UART_IER), 0);
	assert_int_equal(in(th, UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
	host_destroy(th);
}

static void transmit_interrupt(void **state)
{
	struct test_host *th = host_create(false);

	(void)state;
	out(th, UART_IER, UART_IER_THRI);
	assert_true(line(th));
	assert_int_equal(in(th, UART_IIR), UART_IIR_THRI);
	assert_false(line(th)); /* reading IIR acknowledged it */
	assert_int_equal(in(th, UART_IIR), UART_IIR_NO_INT);
	out(th, UART_TX, 'h');
	assert_true(line(th)); /* armed again by the byte */
	assert_int_equal(in(th, UART_IIR), UART_IIR_THRI);
	out(th, UART_TX, 'i');
	assert_int_equal(th->rises[LAYOUT_GSI_SERIAL], 3);
	out(th, UART_IER, 0);
	assert_false(line(th));
	out(th, UART_IER, UART_IER_THRI);
	assert_true(line(th));
	assert_int_equal(th->output_len, 2);
	assert_memory_equal(th->output, "hi", 2);
	host_destroy(th);
}

static void receive_with_fifo(void **state)
{
	struct test_host *th = host_create(true);
	const uint8_t text[] = "0123456789abcdefXYZ";

	(void)state;
	out(th, UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_8);
	out(th, UART_IER, UART_IER_RDI);
	assert_int_equal(serial_input(th->set.serial, text, 3), 3);
	assert_true(line(th));
	assert_int_equal(in(th, UART_IIR), 0xc0 | UART_IIR_RX_TIMEOUT);
	assert_int_equal(serial_input(th->set.serial, text + 3, 16), 13);
	assert_int_equal(in(th, UART_IIR), 0xc0 | UART_IIR_RDI);
	for (unsigned int i = 0; i < 16; i++) {
		host_sync(th);
		assert_int_equal(th->rooms, 0);
		assert_true(in(th, UART_LSR) & UART_LSR_DR);
		assert_int_equal(in(th, UART_RX), text[i]);
	}
	assert_false(line(th));
	assert_false(in(th, UART_LSR) & UART_LSR_DR);
	host_sync(th);
	assert_int_equal(th->rooms, 1);
	host_destroy(th);
}

static void receive_without_fifo(void **state)
{
	struct test_host *th = host_create(true);

	(void)state;
	assert_int_equal(serial_input(th->set.serial, (const uint8_t *)"ab", 2), 1);
	out(th, UART_FCR, UART_FCR_ENABLE_FIFO); /* clears what was received */
	assert_false(in(th, UART_LSR) & UART_LSR_DR);
	host_sync(th);
	assert_int_equal(th->rooms, 1);
	assert_int_equal(in(th, UART_RX), 0);
	host_destroy(th);
}

static void loopback(void **state)
{
	struct test_host *th = host_create(false);

	(void)state;
	out(th, UART_MCR, UART_MCR_LOOP);
	out(th, UART_TX, 'x');
	assert_int_equal(th->output_len, 0);
	assert_int_equal(serial_input(th->set.serial, (const uint8_t *)"y", 1), 0);
	out(th, UART_TX, 'z'); /* no FIFO: overrun */
	assert_int_equal(in(th, UART_LSR) & (UART_LSR_DR | UART_LSR_OE), UART_LSR_DR | UART_LSR_OE);
	assert_int_equal(in(th, UART_LSR) & UART_LSR_OE, 0);
	assert_int_equal(in(th, UART_RX), 'x');
	in(th, UART_MSR);
	out(th, UART_IER, UART_IER_MSI);
	out(th, UART_MCR, UART_MCR_LOOP | UART_MCR_RTS);
	assert_true(line(th));
	assert_int_equal(in(th, UART_IIR), UART_IIR_MSI);
	assert_int_equal(in(th, UART_MSR), UART_MSR_CTS | UART_MSR_DCTS);
	assert_false(line(th));
	host_destroy(th);
}

static void reset_clears(void **state)
{
	struct test_host *th = host_create(false);
	struct device *dev = serial_device(th->set.serial);

	(void)state;
	out(th, UART_IER, UART_IER_THRI);
	out(th, UART_SCR, 1);
	assert_true(line(th));
	dev->ops->reset(dev);
	assert_false(line(th));
	assert_int_equal(in(th, UART_SCR), 0);
	assert_int_equal(in(th, UART_IER), 0);
	host_destroy(th);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(looks_like_16550a), cmocka_unit_test(transmit_interrupt),
		cmocka_unit_test(receive_with_fifo), cmocka_unit_test(receive_without_fifo),
		cmocka_unit_test(loopback),          cmocka_unit_test(reset_clears),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
