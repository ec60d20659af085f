/* SPDX-License-Identifier: MIT */
/* Command line options from tables: see options.h. */
#include "vmm/cli/options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "framevisor/size.h"

static int set_uint(const struct cli_option *option, const char *text, uint64_t *value,
		    struct error *err)
{
	char *end = NULL;
	uint64_t number;

	errno = 0;
	number = strtoull(text, &end, 10);
	/* strtoull would take "-1" and " 1". */
	if (text[0] < '0' || text[0] > '9' || *end || errno || number < option->min ||
	    number > option->max)
		return error_set(err, EINVAL,
				 "--%s must be a number from %" PRIu64 " to %" PRIu64 ", not '%s'",
				 option->name, option->min, option->max, text);
	*value = number;
	return 0;
}

static int set_size(const struct cli_option *option, const char *text, uint64_t *value,
		    struct error *err)
{
	struct error cause = { 0 };
	int ret = size_parse(text, value, &cause);

	if (ret < 0)
		return error_set(err, -ret, "--%s: %s", option->name, cause.message);
	return 0;
}

static int set_choice(const struct cli_option *option, const char *text, int *value,
		      struct error *err)
{
	const char *word = option->argument;
	size_t len = strlen(text);

	for (int i = 0; word; i++) {
		const char *bar = strchr(word, '|');
		size_t word_len = bar ? (size_t)(bar - word) : strlen(word);

		if (word_len == len && strncmp(word, text, len) == 0) {
			*value = i;
			return 0;
		}
		word = bar ? bar + 1 : NULL;
	}
	return error_set(err, EINVAL, "--%s must be one of %s, not '%s'", option->name,
			 option->argument, text);
}

static int add_string(const struct cli_option *option, const char *text,
		      struct cli_strings *strings, struct error *err)
{
	if (strings->nr == CLI_STRINGS_MAX)
		return error_set(err, EINVAL, "--%s is given more than %d times", option->name,
				 CLI_STRINGS_MAX);
	strings->value[strings->nr++] = text;
	return 0;
}

static int set_value(const struct cli_options *options, const struct cli_option *option,
		     const char *text, struct error *err)
{
	void *value = (char *)options->values + option->offset;

	switch (option->type) {
	case CLI_FLAG:
		*(bool *)value = true;
		return 0;
	case CLI_STRING:
		*(const char **)value = text;
		return 0;
	case CLI_STRINGS:
		return add_string(option, text, value, err);
	case CLI_UINT:
		return set_uint(option, text, value, err);
	case CLI_SIZE:
		return set_size(option, text, value, err);
	case CLI_CHOICE:
		return set_choice(option, text, value, err);
	}
	return -EINVAL;
}

static const struct cli_option *find_long(const struct cli_options *options, const char *name,
					  size_t len)
{
	for (size_t i = 0; i < options->nr; i++)
		if (strlen(options->table[i].name) == len &&
		    strncmp(options->table[i].name, name, len) == 0)
			return &options->table[i];
	return NULL;
}

static const struct cli_option *find_letter(const struct cli_options *options, char letter)
{
	for (size_t i = 0; i < options->nr; i++)
		if (options->table[i].letter == letter)
			return &options->table[i];
	return NULL;
}

/* Takes the option at argv[0] and its value. Returns how many arguments it used. */
static int parse_option(struct cli_options *options, int argc, char **argv, struct error *err)
{
	const char *arg = argv[0], *text = NULL;
	const struct cli_option *option;
	int used = 1, ret;

	if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
		options->help = 1;
		return 1;
	}
	if (arg[1] == '-') {
		text = strchr(arg, '=');
		option = find_long(options, arg + 2,
				   text ? (size_t)(text - arg) - 2 : strlen(arg) - 2);
		text = text ? text + 1 : NULL;
	} else {
		option = arg[2] == '\0' ? find_letter(options, arg[1]) : NULL;
	}
	if (!option)
		return error_set(err, EINVAL, "unknown option '%s'; see --help", arg);
	if (option->type == CLI_FLAG && text)
		return error_set(err, EINVAL, "--%s takes no value", option->name);
	if (option->type != CLI_FLAG && !text) {
		if (argc < 2)
			return error_set(err, EINVAL, "--%s needs a value (%s)", option->name,
					 option->argument);
		text = argv[1];
		used = 2;
	}
	ret = set_value(options, option, text, err);
	return ret < 0 ? ret : used;
}

int cli_options_parse(struct cli_options *options, int argc, char **argv, struct error *err)
{
	bool only_operands = false;

	options->nr_operands = 0;
	options->help = 0;
	for (int i = 0; i < argc;) {
		int used = 1;

		if (!only_operands && strcmp(argv[i], "--") == 0) {
			only_operands = true;
		} else if (!only_operands && argv[i][0] == '-' && argv[i][1]) {
			used = parse_option(options, argc - i, argv + i, err);
			if (used < 0)
				return used;
		} else if (options->nr_operands < options->max_operands) {
			options->operands[options->nr_operands++] = argv[i];
		} else {
			return error_set(err, EINVAL, "unexpected argument '%s'; see --help",
					 argv[i]);
		}
		i += used;
	}
	return 0;
}

void cli_options_print(const struct cli_option *table, size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		const struct cli_option *option = &table[i];
		char left[64];
		int len = 0;

		if (option->letter)
			len = snprintf(left, sizeof(left), "-%c, ", option->letter);
		len += snprintf(left + len, sizeof(left) - (size_t)len, "--%s", option->name);
		if (option->type != CLI_FLAG)
			snprintf(left + len, sizeof(left) - (size_t)len, " %s", option->argument);
		printf("  %-32s %s\n", left, option->help);
	}
	printf("  %-32s %s\n", "-h, --help", "this text");
}
