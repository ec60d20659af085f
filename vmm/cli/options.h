/* SPDX-License-Identifier: MIT */
/*
 * Command line options from tables: one table per verb says what is parsed, where it goes, and what
 * --help prints. "--name VALUE", "--name=VALUE" and "-x VALUE" are understood, operands may stand
 * between options, and "--" ends the options.
 */
#ifndef VMM_CLI_OPTIONS_H
#define VMM_CLI_OPTIONS_H

#include <stddef.h>
#include <stdint.h>

#include "framevisor/error.h"

enum cli_option_type {
	CLI_FLAG,    /* bool */
	CLI_STRING,  /* const char *, not copied */
	CLI_UINT,    /* uint64_t between min and max */
	CLI_SIZE,    /* uint64_t, bytes (size_parse) */
	CLI_STRINGS, /* struct cli_strings: may be given several times; not copied */
	CLI_CHOICE,  /* int: index of the word in argument, "a|b|c" */
};

#define CLI_STRINGS_MAX 64

struct cli_strings {
	unsigned int nr;
	const char *value[CLI_STRINGS_MAX];
};

struct cli_option {
	const char *name; /* without the dashes */
	char letter;      /* 0: none */
	enum cli_option_type type;
	const char *argument; /* what help calls the value; the words of a CLI_CHOICE */
	const char *help;     /* one sentence */
	size_t offset;        /* of the variable in the verb's struct */
	uint64_t min, max;    /* CLI_UINT */
};

struct cli_options {
	const struct cli_option *table;
	size_t nr;
	void *values;          /* what the offsets count from; holds the defaults on entry */
	const char **operands; /* room for max_operands */
	unsigned int max_operands;
	unsigned int nr_operands; /* filled in */
	int help;                 /* filled in: --help or -h was among them */
};

/* argv without the program and the verb. Returns 0 or -EINVAL with a message. */
int cli_options_parse(struct cli_options *options, int argc, char **argv, struct error *err);

/* The table as help text on stdout. */
void cli_options_print(const struct cli_option *table, size_t nr);

#endif
