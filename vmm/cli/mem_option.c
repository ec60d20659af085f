/* SPDX-License-Identifier: MIT */
/* The value of run's --mem: see mem_option.h. */
#include "vmm/cli/mem_option.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "framevisor/frame.h"
#include "framevisor/size.h"

#define MEM_MIN (UINT64_C(4) << 20) /* boot structures and a tiny kernel */
/* A boot part of less leaves a stock kernel no room to describe and migrate the rest. */
#define ELASTIC_BOOT_MIN   (UINT64_C(256) << 20)
#define ELASTIC_BOOT_SHARE 4

/* As written; 0: not given. */
struct mem_words {
	uint64_t size, max, boot, min;
	bool elastic, elastic_given;
};

static int parse_part(const char *what, const char *text, uint64_t *value, struct error *err)
{
	struct error cause = { 0 };
	int ret;

	if (*value)
		return error_set(err, EINVAL, "--mem: %s is given twice", what);
	ret = size_parse(text, value, &cause);
	if (ret < 0)
		return error_set(err, -ret, "--mem: %s: %s", what, cause.message);
	if (*value < MEM_MIN)
		return error_set(err, EINVAL, "--mem %s is too small%s%s; a VM has at least 4M",
				 text, strcmp(what, "size") ? " for " : "",
				 strcmp(what, "size") ? what : "");
	if (!frame_aligned(*value))
		return error_set(err, EINVAL,
				 "--mem %s is not a multiple of %s, the size of a frame", text,
				 frame_size_name());
	return 0;
}

static int parse_elastic(const char *text, struct mem_words *words, struct error *err)
{
	if (words->elastic_given)
		return error_set(err, EINVAL, "--mem: elastic is given twice");
	words->elastic_given = true;
	words->elastic = strcmp(text, "on") == 0;
	if (!words->elastic && strcmp(text, "off") != 0)
		return error_set(err, EINVAL, "--mem: elastic is on or off, not '%s'", text);
	return 0;
}

static int parse_word(const char *word, struct mem_words *words, struct error *err)
{
	if (strncmp(word, "max=", 4) == 0)
		return parse_part("max", word + 4, &words->max, err);
	if (strncmp(word, "min=", 4) == 0)
		return parse_part("min", word + 4, &words->min, err);
	if (strncmp(word, "boot=", 5) == 0)
		return parse_part("boot", word + 5, &words->boot, err);
	if (strncmp(word, "elastic=", 8) == 0)
		return parse_elastic(word + 8, words, err);
	return error_set(err, EINVAL,
			 "--mem: '%s' is none of max=SIZE, min=SIZE, boot=SIZE, "
			 "elastic=on",
			 word);
}

static int parse_words(char *text, struct mem_words *words, struct error *err)
{
	char *rest = text;
	int ret = parse_part("size", strsep(&rest, ","), &words->size, err);

	while (ret == 0 && rest)
		ret = parse_word(strsep(&rest, ","), words, err);
	return ret;
}

/* The boot part is made of whole frames; what is beyond must be worth a device. */
static int split_elastic(const struct mem_words *words, uint64_t *boot, struct error *err)
{
	uint64_t share = frames_to_bytes((bytes_to_frames(words->size) + ELASTIC_BOOT_SHARE - 1) /
					 ELASTIC_BOOT_SHARE);
	char size[SIZE_TEXT_MAX];

	if (words->boot)
		return error_set(
			err, EINVAL,
			"--mem: boot= says what elastic=on would choose; give one of them");
	*boot = share < ELASTIC_BOOT_MIN ? ELASTIC_BOOT_MIN : share;
	*boot = frames_to_bytes(bytes_to_frames_up(*boot));
	if (*boot >= words->size)
		return error_set(err, EINVAL,
				 "--mem: %s is too little to be elastic: %s of it are needed "
				 "to boot",
				 size_format(words->size, size, sizeof(size)),
				 FRAME_SIZE > ELASTIC_BOOT_MIN ? frame_size_name() : "256 MiB");
	return 0;
}

static int combine(const struct mem_words *words, struct mem_option *mem, struct error *err)
{
	char size[SIZE_TEXT_MAX], other[SIZE_TEXT_MAX];

	mem->size = words->size;
	mem->max = words->max ? words->max : words->size;
	mem->boot = words->boot ? words->boot : words->size;
	mem->min = words->min;
	if (mem->min > mem->max)
		return error_set(err, EINVAL, "--mem: min=%s is more than the most it may have, %s",
				 size_format(mem->min, other, sizeof(other)),
				 size_format(mem->max, size, sizeof(size)));
	if (mem->max < mem->size)
		return error_set(err, EINVAL, "--mem: max=%s is less than the size, %s",
				 size_format(mem->max, other, sizeof(other)),
				 size_format(mem->size, size, sizeof(size)));
	if (mem->boot > mem->size)
		return error_set(err, EINVAL, "--mem: boot=%s is more than the size, %s",
				 size_format(mem->boot, other, sizeof(other)),
				 size_format(mem->size, size, sizeof(size)));
	return words->elastic ? split_elastic(words, &mem->boot, err) : 0;
}

int mem_option_parse(const char *text, struct mem_option *mem, struct error *err)
{
	struct mem_words words = { .size = 0 };
	char *copy = strdup(text);
	int ret;

	if (!copy)
		return error_set(err, ENOMEM, "out of memory");
	ret = parse_words(copy, &words, err);
	free(copy);
	return ret < 0 ? ret : combine(&words, mem, err);
}
