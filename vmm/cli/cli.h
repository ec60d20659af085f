/* SPDX-License-Identifier: MIT */
/*
 * The command line: a verb per file, each a const struct cli_verb, and what verbs share. The list
 * of verbs is in cli.c.
 */
#ifndef VMM_CLI_CLI_H
#define VMM_CLI_CLI_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "framevisor/error.h"
#include "framevisor/qmp_client.h"
#include "framevisor/size.h"
#include "vmm/cli/options.h"

#define CLI_OK           0
#define CLI_ERROR        1
#define CLI_OPERANDS_MAX 4

/* How long a process of ours may take to answer, in ms. */
#define CLI_ANSWER_TIMEOUT_MS 10000

struct cli_args {
	const char *operands[CLI_OPERANDS_MAX];
	unsigned int nr_operands;
};

struct cli_verb {
	const char *name;
	const char *operands; /* for help, "NAME SIZE"; [X] is optional; NULL: none */
	unsigned int min_operands, max_operands;
	const char *summary;  /* one line for the list of verbs */
	const char *details;  /* paragraphs, or NULL */
	const char *examples; /* lines, or NULL */
	const struct cli_option *options;
	size_t nr_options;
	/* Sets the defaults in the verb's option variables and returns their address. Called before
	 * parsing; NULL if there are no options. */
	void *(*defaults)(void);
	/* Does it. Returns the exit status, CLI_OK or CLI_ERROR for most. On CLI_ERROR with err set
	 * the message is printed by the caller. */
	int (*run)(const struct cli_args *args, struct error *err);
};

/* argv as main() got it. Returns the exit status. */
int cli_main(int argc, char **argv);

extern const struct cli_verb cli_balloon, cli_buddyinfo, cli_check, cli_console, cli_kill, cli_mem,
	cli_migrate, cli_pool, cli_ps, cli_run, cli_pressure, cli_pause, cli_resume, cli_set,
	cli_stop, cli_vmstat, cli_zoneinfo;

/* --- set.c --- */

/* The value of --oom-score-adj. */
int cli_parse_oom_score_adj(const char *text, int *adj, struct error *err);

/* --- output.c --- */

/* Prints JSON for people and programs alike and drops the reference. NULL: out of memory. Returns
 * the exit status. */
int cli_print_json(json_t *json, struct error *err);

/* A table: rows of cells, columns as wide as their widest cell; numbers right-aligned. */
#define CLI_COLUMNS_MAX 10
struct cli_table {
	unsigned int columns;
	const char *const *heads; /* a head that starts with '>' makes its column right-aligned */
	char **cells;
	size_t nr_cells, capacity;
};
/* Adds one cell, left to right, row by row; printf format. */
void cli_table_add(struct cli_table *table, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
void cli_table_print(struct cli_table *table); /* and frees the cells */

/* Members of a JSON object; 0, false or "" when absent or of another type. path is one name, or
 * two with a dot: "frames.bound". */
uint64_t cli_json_u64(const json_t *object, const char *path);
bool cli_json_bool(const json_t *object, const char *path);
const char *cli_json_string(const json_t *object, const char *path);

/* --- vm_client.c --- */

/* Connects to a running VM's QMP. Returns NULL with err set; a name that nobody has is told apart
 * from a VM that does not answer. */
struct qmp_client *cli_vm_connect(const char *name, int timeout_ms, struct error *err);
/* Connects to the pool owner's QMP. */
struct qmp_client *cli_pool_connect(struct error *err);

/* One question to a VM or to the pool owner. Returns a new reference or NULL with err set. */
json_t *cli_vm_query(const char *name, const char *command, int timeout_ms, struct error *err);
json_t *cli_pool_query(const char *command, struct error *err);
/* Asks the pool owner for a report and prints its text, or its JSON. Returns an exit status; err is
 * set unless it is CLI_OK. */
int cli_pool_report(const char *command, bool json, struct error *err);

#endif
