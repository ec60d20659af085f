/* SPDX-License-Identifier: MIT */
/* Sizes as people write them: "512M", "2G", "1.5G", "2048" (bytes need the suffix B or none with a
 * unit default). */
#ifndef FRAMEVISOR_SIZE_H
#define FRAMEVISOR_SIZE_H

#include <stddef.h>
#include <stdint.h>

#include "framevisor/error.h"

/*
 * Parses TEXT into bytes. Suffixes K, M, G, T (powers of 1024, either case, optionally followed by
 * "iB" or "B"), and B for bytes. A number without a suffix counts MiB, as "qemu -m" does.
 * A decimal fraction is allowed before a suffix ("1.5G"). Returns 0, or -EINVAL / -ERANGE with a
 * message that quotes the text. Negative numbers, empty text, trailing characters and overflow of
 * 64 bits are errors.
 */
int size_parse(const char *text, uint64_t *bytes, struct error *err);

/* Writes a size as people read it ("512 MiB", "1.5 GiB") into buf and returns buf. */
const char *size_format(uint64_t bytes, char *buf, size_t buflen);
#define SIZE_TEXT_MAX 32

#endif
