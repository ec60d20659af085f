/* SPDX-License-Identifier: MIT */
/* What verbs print: JSON and tables. See cli.h. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/cli/cli.h"

int cli_print_json(json_t *json, struct error *err)
{
	int ret = json ? json_dumpf(json, stdout, JSON_INDENT(2)) : -1;

	json_decref(json);
	if (ret < 0) {
		error_set(err, EIO, "cannot write the output");
		return CLI_ERROR;
	}
	putchar('\n');
	return CLI_OK;
}

void cli_table_add(struct cli_table *table, const char *fmt, ...)
{
	char *cell = NULL;
	va_list args;

	if (table->nr_cells == table->capacity) {
		size_t capacity = table->capacity ? 2 * table->capacity : 64;
		char **cells = realloc(table->cells, capacity * sizeof(*cells));

		if (!cells)
			return;
		table->cells = cells;
		table->capacity = capacity;
	}
	va_start(args, fmt);
	if (vasprintf(&cell, fmt, args) < 0)
		cell = NULL;
	va_end(args);
	table->cells[table->nr_cells++] = cell;
}

static const char *cell_text(const struct cli_table *table, size_t row, unsigned int column)
{
	const char *text;

	if (row == 0) {
		text = table->heads[column];
		return *text == '>' ? text + 1 : text;
	}
	text = table->cells[(row - 1) * table->columns + column];
	return text ? text : "";
}

void cli_table_print(struct cli_table *table)
{
	size_t rows = 1 + table->nr_cells / table->columns;
	int width[CLI_COLUMNS_MAX] = { 0 };

	for (size_t row = 0; row < rows; row++)
		for (unsigned int column = 0; column < table->columns; column++) {
			int len = (int)strlen(cell_text(table, row, column));

			if (len > width[column])
				width[column] = len;
		}
	for (size_t row = 0; row < rows; row++)
		for (unsigned int column = 0; column < table->columns; column++) {
			const char *text = cell_text(table, row, column);
			bool last = column == table->columns - 1;

			if (table->heads[column][0] == '>')
				printf("%*s%s", width[column], text, last ? "\n" : "  ");
			else
				printf("%-*s%s", last ? 0 : width[column], text,
				       last ? "\n" : "  ");
		}
	for (size_t i = 0; i < table->nr_cells; i++)
		free(table->cells[i]);
	free(table->cells);
	table->cells = NULL;
	table->nr_cells = 0;
	table->capacity = 0;
}

static const json_t *member(const json_t *object, const char *path)
{
	const char *dot = strchr(path, '.');
	char first[64];

	if (!dot)
		return json_object_get(object, path);
	if ((size_t)(dot - path) >= sizeof(first))
		return NULL;
	memcpy(first, path, (size_t)(dot - path));
	first[dot - path] = '\0';
	return json_object_get(json_object_get(object, first), dot + 1);
}

uint64_t cli_json_u64(const json_t *object, const char *path)
{
	json_int_t value = json_integer_value(member(object, path));

	return value > 0 ? (uint64_t)value : 0;
}

bool cli_json_bool(const json_t *object, const char *path)
{
	return json_is_true(member(object, path));
}

const char *cli_json_string(const json_t *object, const char *path)
{
	const char *text = json_string_value(member(object, path));

	return text ? text : "";
}
