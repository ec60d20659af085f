/* SPDX-License-Identifier: MIT */
/* Output on COM1, polled. */
#include <stdarg.h>

#include "guest.h"

#define UART_LSR      5
#define UART_LSR_DR   0x01
#define UART_LSR_THRE 0x20

void serial_putc(char c)
{
	while (!(inb(LAYOUT_PORT_SERIAL + UART_LSR) & UART_LSR_THRE))
		cpu_relax();
	outb(LAYOUT_PORT_SERIAL, (uint8_t)c);
}

bool serial_typed(void)
{
	if (!(inb(LAYOUT_PORT_SERIAL + UART_LSR) & UART_LSR_DR))
		return false;
	inb(LAYOUT_PORT_SERIAL);
	return true;
}

static void print_number(uint64_t value, unsigned int base)
{
	char digits[20];
	unsigned int n = 0;

	do {
		digits[n++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	while (n > 0)
		serial_putc(digits[--n]);
}

void vprint(const char *fmt, va_list args)
{
	for (; *fmt; fmt++) {
		bool wide;

		if (*fmt != '%') {
			serial_putc(*fmt);
			continue;
		}
		fmt++;
		wide = *fmt == 'l';
		if (wide)
			fmt++;
		if (*fmt == 's')
			for (const char *s = va_arg(args, const char *); *s; s++)
				serial_putc(*s);
		else
			print_number(wide ? va_arg(args, uint64_t) : va_arg(args, unsigned int),
				     *fmt == 'x' ? 16 : 10);
	}
}

void print(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vprint(fmt, args);
	va_end(args);
}
