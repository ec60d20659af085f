/* SPDX-License-Identifier: MIT */
/* Sizes as people write them: see framevisor/size.h. */
#include "framevisor/size.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The shift of a unit's first letter, or -1. */
static int unit_shift(char c)
{
	switch (toupper((unsigned char)c)) {
	case 'K':
		return 10;
	case 'M':
		return 20;
	case 'G':
		return 30;
	case 'T':
		return 40;
	default:
		return -1;
	}
}

/* Parses the unit at p; returns its shift and requires the text to end behind it, or -1. */
static int parse_unit(const char *p)
{
	int shift;

	if (*p == '\0')
		return 20;
	if ((*p == 'B' || *p == 'b') && p[1] == '\0')
		return 0;
	shift = unit_shift(*p++);
	if (shift < 0)
		return -1;
	if (*p == 'i')
		p++;
	if (*p == 'B' || *p == 'b')
		p++;
	else if (p[-1] == 'i')
		return -1;
	return *p == '\0' ? shift : -1;
}

int size_parse(const char *text, uint64_t *bytes, struct error *err)
{
	uint64_t whole = 0, fraction = 0, scale = 1, part;
	const char *p = text;
	int shift;

	if (!isdigit((unsigned char)*p))
		goto invalid;
	for (; isdigit((unsigned char)*p); p++) {
		if (__builtin_mul_overflow(whole, 10, &whole) ||
		    __builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole))
			goto overflow;
	}
	if (*p == '.') {
		if (!isdigit((unsigned char)*++p))
			goto invalid;
		/* Six digits are more than any unit needs here; further ones are cut. */
		for (; isdigit((unsigned char)*p); p++) {
			if (scale < 1000000) {
				fraction = fraction * 10 + (uint64_t)(*p - '0');
				scale *= 10;
			}
		}
	}
	shift = parse_unit(p);
	if (shift < 0)
		goto invalid;
	if (shift && whole >> (64 - shift))
		goto overflow;
	part = (uint64_t)(((unsigned __int128)fraction << shift) / scale);
	if (__builtin_add_overflow(whole << shift, part, bytes))
		goto overflow;
	return 0;
invalid:
	return error_set(err, EINVAL, "'%s' is not a size; write for example 512M, 2G or 1.5G",
			 text);
overflow:
	return error_set(err, ERANGE, "size '%s' is too large", text);
}

const char *size_format(uint64_t bytes, char *buf, size_t buflen)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	unsigned int unit = 0;
	uint64_t scaled = bytes, rest = 0;

	while (scaled >= 1024 && unit < 4) {
		rest = scaled % 1024;
		scaled /= 1024;
		unit++;
	}
	if (rest)
		snprintf(buf, buflen, "%" PRIu64 ".%" PRIu64 " %s", scaled, rest * 10 / 1024,
			 units[unit]);
	else
		snprintf(buf, buflen, "%" PRIu64 " %s", scaled, units[unit]);
	return buf;
}
