/* SPDX-License-Identifier: MIT */
/* Command line options from a table: every form that is understood, every mistake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "vmm/cli/options.h"

struct values {
	bool flag;
	const char *text;
	uint64_t number;
	uint64_t size;
	int choice;
};

static const struct cli_option table[] = {
	{ "flag", 'f', CLI_FLAG, NULL, "a flag", offsetof(struct values, flag), 0, 0 },
	{ "text", 't', CLI_STRING, "TEXT", "a text", offsetof(struct values, text), 0, 0 },
	{ "number", 'n', CLI_UINT, "N", "a number", offsetof(struct values, number), 1, 64 },
	{ "any", 0, CLI_UINT, "N", "any number", offsetof(struct values, number), 0, UINT64_MAX },
	{ "size", 0, CLI_SIZE, "SIZE", "a size", offsetof(struct values, size), 0, 0 },
	{ "choice", 0, CLI_CHOICE, "auto|require|never", "a choice",
	  offsetof(struct values, choice), 0, 0 },
};

#define ARGS_MAX 8

struct parsed {
	struct values values;
	struct cli_options options;
	const char *operands[2];
	struct error err;
	int ret;
};

/* args: words separated by spaces; "''" is an empty one. */
static void parse(struct parsed *parsed, const char *args)
{
	static char text[256];
	char *argv[ARGS_MAX];
	int argc = 0;

	*parsed = (struct parsed){ .values = { .number = 7, .text = "default" } };
	parsed->options = (struct cli_options){ .table = table,
						.nr = sizeof(table) / sizeof(table[0]),
						.values = &parsed->values,
						.operands = parsed->operands,
						.max_operands = 2 };
	strcpy(text, args);
	for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) {
		assert_true(argc < ARGS_MAX);
		if (strcmp(word, "''") == 0)
			*word = '\0';
		argv[argc++] = word;
	}
	parsed->ret = cli_options_parse(&parsed->options, argc, argv, &parsed->err);
}

static void nothing_leaves_the_defaults(void **state)
{
	struct parsed p;

	(void)state;
	parse(&p, "");
	assert_int_equal(p.ret, 0);
	assert_false(p.values.flag);
	assert_string_equal(p.values.text, "default");
	assert_int_equal(p.values.number, 7);
	assert_int_equal(p.options.nr_operands, 0);
	assert_int_equal(p.options.help, 0);
}

static void every_form_is_understood(void **state)
{
	struct parsed p;

	(void)state;
	parse(&p, "--flag --text hello --number=64 --size 1.5G");
	assert_int_equal(p.ret, 0);
	assert_true(p.values.flag);
	assert_string_equal(p.values.text, "hello");
	assert_int_equal(p.values.number, 64);
	assert_int_equal(p.values.size, UINT64_C(3) << 29);
	parse(&p, "-f -t a=b -n 1 --choice never --size=0");
	assert_int_equal(p.ret, 0);
	assert_string_equal(p.values.text, "a=b");
	assert_int_equal(p.values.number, 1);
	assert_int_equal(p.values.choice, 2);
	parse(&p, "--text= --choice=auto --any 18446744073709551615");
	assert_int_equal(p.ret, 0);
	assert_string_equal(p.values.text, "");
	assert_int_equal(p.values.choice, 0);
	assert_true(p.values.number == UINT64_MAX);
	/* The last of two wins; a value may look like an option. */
	parse(&p, "--text one --text --flag");
	assert_int_equal(p.ret, 0);
	assert_string_equal(p.values.text, "--flag");
	assert_false(p.values.flag);
}

static void operands_stand_anywhere(void **state)
{
	struct parsed p;

	(void)state;
	parse(&p, "web --flag 256M");
	assert_int_equal(p.ret, 0);
	assert_int_equal(p.options.nr_operands, 2);
	assert_string_equal(p.operands[0], "web");
	assert_string_equal(p.operands[1], "256M");
	assert_true(p.values.flag);
	parse(&p, "--flag -- --flag -");
	assert_int_equal(p.ret, 0);
	assert_int_equal(p.options.nr_operands, 2);
	assert_string_equal(p.operands[0], "--flag");
	assert_string_equal(p.operands[1], "-");
	parse(&p, "'' -");
	assert_int_equal(p.options.nr_operands, 2);
	assert_string_equal(p.operands[0], "");
}

static void help_is_noticed(void **state)
{
	struct parsed p;

	(void)state;
	parse(&p, "--help");
	assert_int_equal(p.options.help, 1);
	parse(&p, "web -h");
	assert_int_equal(p.options.help, 1);
	parse(&p, "-- --help");
	assert_int_equal(p.options.help, 0);
}

static void mistakes_are_named(void **state)
{
	static const struct {
		const char *args, *word;
	} mistakes[] = {
		{ "--nonsense", "--nonsense" },
		{ "--fla", "--fla" },
		{ "--flags", "--flags" },
		{ "-x", "-x" },
		{ "-ff", "-ff" },
		{ "--=x", "--=x" },
		{ "--flag=1", "--flag" },
		{ "--text", "--text" },
		{ "-n", "number" },
		{ "--number 0", "1 to 64" },
		{ "--number 65", "65" },
		{ "--number -1", "-1" },
		{ "--number ''", "--number" },
		{ "--number +5", "+5" },
		{ "--number 5x", "5x" },
		{ "--number 0x5", "0x5" },
		{ "--any 18446744073709551616", "18446744073709551616" },
		{ "--size nonsense", "nonsense" },
		{ "--size=-5M", "-5M" },
		{ "--size ''", "--size" },
		{ "--choice maybe", "auto|require|never" },
		{ "--choice aut", "aut" },
		{ "--choice autos", "autos" },
		{ "--choice ''", "--choice" },
		{ "--choice auto|require", "--choice" },
		{ "one two three", "three" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(mistakes) / sizeof(mistakes[0]); i++) {
		struct parsed p;

		parse(&p, mistakes[i].args);
		if (p.ret >= 0)
			fail_msg("'%s' was accepted", mistakes[i].args);
		assert_true(p.err.code > 0);
		if (!strstr(p.err.message, mistakes[i].word))
			fail_msg("'%s' does not name '%s'", p.err.message, mistakes[i].word);
		assert_null(strchr(p.err.message, '\n'));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_leaves_the_defaults),
		cmocka_unit_test(every_form_is_understood),
		cmocka_unit_test(operands_stand_anywhere),
		cmocka_unit_test(help_is_noticed),
		cmocka_unit_test(mistakes_are_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
