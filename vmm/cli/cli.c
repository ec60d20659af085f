/* SPDX-License-Identifier: MIT */
/* The list of verbs, help, and the way from main() to a verb. See cli.h. */
#include "vmm/cli/cli.h"

#include <errno.h>
#include <string.h>

#include "framevisor/log.h"

static int run_help(const struct cli_args *args, struct error *err);
static int run_version(const struct cli_args *args, struct error *err);

static const struct cli_verb cli_help = {
	.name = "help",
	.operands = "[VERB]",
	.max_operands = 1,
	.summary = "this text, or that of one verb",
	.run = run_help,
};

static const struct cli_verb cli_version = {
	.name = "version",
	.summary = "print the version",
	.run = run_version,
};

/* In the order in which help shows them. */
static const struct cli_verb *const verbs[] = {
	&cli_run,     &cli_ps,       &cli_mem,       &cli_balloon,  &cli_set,
	&cli_migrate, &cli_console,  &cli_pause,     &cli_resume,   &cli_stop,
	&cli_kill,    &cli_pool,     &cli_buddyinfo, &cli_zoneinfo, &cli_check,
	&cli_vmstat,  &cli_pressure, &cli_help,      &cli_version,
};
static const size_t nr_verbs = sizeof(verbs) / sizeof(verbs[0]);

static const struct cli_verb *find_verb(const char *name)
{
	for (size_t i = 0; i < nr_verbs; i++)
		if (strcmp(verbs[i]->name, name) == 0)
			return verbs[i];
	return NULL;
}

static void print_overview(void)
{
	puts("usage: framevisor VERB [OPTIONS]\n\n"
	     "Runs KVM virtual machines on a pool of hugepages and takes their memory back.\n\n"
	     "Verbs:");
	for (size_t i = 0; i < nr_verbs; i++)
		printf("  %-10s %s\n", verbs[i]->name, verbs[i]->summary);
	puts("\n'framevisor VERB --help' tells more about one of them. Sizes are written 512M, 2G "
	     "or "
	     "1.5G;\na number alone counts MiB. Exit status: 0 if it worked, 1 if not.\n"
	     "FRAMEVISOR_RUNDIR: where VMs and pool keep their sockets (default /run/framevisor "
	     "for "
	     "root,\n$XDG_RUNTIME_DIR/framevisor for others).");
}

static void print_verb_help(const struct cli_verb *verb)
{
	printf("usage: framevisor %s%s%s%s\n\n%s.\n", verb->name, verb->operands ? " " : "",
	       verb->operands ? verb->operands : "", verb->nr_options ? " [OPTIONS]" : "",
	       verb->summary);
	if (verb->details)
		printf("\n%s\n", verb->details);
	puts("\nOptions:");
	cli_options_print(verb->options, verb->nr_options);
	if (verb->examples)
		printf("\nExamples:\n%s\n", verb->examples);
}

static int run_help(const struct cli_args *args, struct error *err)
{
	const struct cli_verb *verb;

	if (!args->nr_operands) {
		print_overview();
		return CLI_OK;
	}
	verb = find_verb(args->operands[0]);
	if (!verb) {
		error_set(err, EINVAL, "unknown verb '%s'; 'framevisor help' lists them",
			  args->operands[0]);
		return CLI_ERROR;
	}
	print_verb_help(verb);
	return CLI_OK;
}

static int run_version(const struct cli_args *args, struct error *err)
{
	(void)args;
	(void)err;
	puts("framevisor " FRAMEVISOR_VERSION);
	return CLI_OK;
}

static int run_verb(const struct cli_verb *verb, int argc, char **argv, struct error *err)
{
	struct cli_args args = { .nr_operands = 0 };
	struct cli_options options = {
		.table = verb->options,
		.nr = verb->nr_options,
		.values = verb->defaults ? verb->defaults() : NULL,
		.operands = args.operands,
		.max_operands = verb->max_operands,
	};

	if (cli_options_parse(&options, argc, argv, err) < 0)
		return CLI_ERROR;
	if (options.help) {
		print_verb_help(verb);
		return CLI_OK;
	}
	if (options.nr_operands < verb->min_operands) {
		error_set(err, EINVAL, "usage: framevisor %s %s; see --help", verb->name,
			  verb->operands);
		return CLI_ERROR;
	}
	args.nr_operands = options.nr_operands;
	return verb->run(&args, err);
}

static const struct cli_verb *choose_verb(int argc, char **argv, struct error *err)
{
	const char *name = argc > 1 ? argv[1] : NULL;
	const struct cli_verb *verb;

	if (!name) {
		error_set(err, EINVAL, "no verb given; 'framevisor help' lists them");
		return NULL;
	}
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
		return &cli_help;
	if (strcmp(name, "--version") == 0)
		return &cli_version;
	verb = find_verb(name);
	if (!verb)
		error_set(err, EINVAL, "unknown verb '%s'; 'framevisor help' lists them", name);
	return verb;
}

int cli_main(int argc, char **argv)
{
	struct error err = { 0 };
	const struct cli_verb *verb = choose_verb(argc, argv, &err);
	int status = CLI_ERROR;

	if (verb)
		status = run_verb(verb, argc - 2, argv + 2, &err);
	if (err.code && status != CLI_OK)
		log_error("%s", err.message);
	/* A full disk is an error like any other; a reader that left (head, less) is none. */
	if (fflush(stdout) != 0 && errno != EPIPE && status == CLI_OK) {
		log_error("cannot write to standard output: %s", strerror(errno));
		status = CLI_ERROR;
	}
	return status;
}
