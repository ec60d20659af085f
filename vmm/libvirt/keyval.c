/* SPDX-License-Identifier: MIT */
/* Values of libvirt's options: see keyval.h. */
#include "vmm/libvirt/keyval.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER_DIGITS_MAX 20

static json_t *parse_json(const char *text, struct error *err)
{
	json_error_t why;
	json_t *object = json_loads(text, JSON_REJECT_DUPLICATES, &why);

	if (json_is_object(object))
		return object;
	json_decref(object);
	error_set(err, EINVAL, "'%.200s' is not a JSON object%s%s", text, object ? "" : ": ",
		  object ? "" : why.text);
	return NULL;
}

/* The next word up to a single ",", with doubled ones made single. Returns what follows, or NULL.
 */
static const char *next_word(const char *text, char *word)
{
	for (; *text; text++) {
		if (*text == ',' && text[1] != ',')
			break;
		if (*text == ',')
			text++;
		*word++ = *text;
	}
	*word = '\0';
	return *text ? text + 1 : NULL;
}

static int add_word(json_t *object, char *word, const char *first, struct error *err)
{
	char *value = strchr(word, '=');
	const char *key = word;

	if (value) {
		*value++ = '\0';
	} else if (first) {
		value = word;
		key = first;
	} else {
		return error_set(err, EINVAL, "'%.200s' is not KEY=VALUE", word);
	}
	if (json_object_get(object, key))
		return error_set(err, EINVAL, "'%.200s' is given twice", key);
	/* Fails when it is not UTF-8. */
	if (json_object_set_new(object, key, json_string(value)) < 0)
		return error_set(err, EINVAL, "'%.200s' has a value that is not UTF-8", key);
	return 0;
}

json_t *keyval_parse(const char *text, const char *first, struct error *err)
{
	json_t *object;
	char *word;
	int ret = 0;

	if (text[0] == '{')
		return parse_json(text, err);
	word = malloc(strlen(text) + 1);
	if (!word) {
		error_set(err, ENOMEM, "out of memory");
		return NULL;
	}
	object = json_object();
	while (ret == 0 && text) {
		text = next_word(text, word);
		ret = add_word(object, word, first, err);
		first = NULL;
	}
	free(word);
	if (ret < 0) {
		json_decref(object);
		return NULL;
	}
	return object;
}

int keyval_take_string(json_t *object, const char *key, char *buf, size_t size, const char *what,
		       struct error *err)
{
	const json_t *value = json_object_get(object, key);

	if (!value)
		return 0;
	if (!json_is_string(value))
		return error_set(err, EINVAL, "%s: '%s' is not a string", what, key);
	if (json_string_length(value) >= size)
		return error_set(err, EINVAL, "%s: '%s' is longer than %zu bytes", what, key,
				 size - 1);
	memcpy(buf, json_string_value(value), json_string_length(value) + 1);
	json_object_del(object, key);
	return 1;
}

/* Digits only: strtoull() would take a sign, too. */
static int parse_number(const char *text, uint64_t *value)
{
	size_t len = strlen(text);

	if (len == 0 || len > NUMBER_DIGITS_MAX || strspn(text, "0123456789") != len)
		return -EINVAL;
	errno = 0;
	*value = strtoull(text, NULL, 10);
	return errno ? -EINVAL : 0;
}

int keyval_take_u64(json_t *object, const char *key, uint64_t *value, const char *what,
		    struct error *err)
{
	const json_t *member = json_object_get(object, key);
	int ret = -EINVAL;

	if (!member)
		return 0;
	if (json_is_integer(member) && json_integer_value(member) >= 0) {
		*value = (uint64_t)json_integer_value(member);
		ret = 0;
	} else if (json_is_string(member)) {
		ret = parse_number(json_string_value(member), value);
	}
	if (ret < 0)
		return error_set(err, EINVAL, "%s: '%s' is not a number, 0 or greater", what, key);
	json_object_del(object, key);
	return 1;
}

static int parse_bool(const char *text, bool *value)
{
	static const char *const words[2][3] = { { "off", "no", "false" },
						 { "on", "yes", "true" } };

	for (unsigned int i = 0; i < 6; i++) {
		if (strcmp(text, words[i / 3][i % 3]) == 0) {
			*value = i / 3;
			return 0;
		}
	}
	return -EINVAL;
}

int keyval_take_bool(json_t *object, const char *key, bool *value, const char *what,
		     struct error *err)
{
	const json_t *member = json_object_get(object, key);
	int ret = -EINVAL;

	if (!member)
		return 0;
	if (json_is_boolean(member)) {
		*value = json_is_true(member);
		ret = 0;
	} else if (json_is_string(member)) {
		ret = parse_bool(json_string_value(member), value);
	}
	if (ret < 0)
		return error_set(err, EINVAL, "%s: '%s' is neither on nor off", what, key);
	json_object_del(object, key);
	return 1;
}

void keyval_drop(json_t *object, const char *key)
{
	json_object_del(object, key);
}

int keyval_nothing_left(json_t *object, const char *what, struct error *err)
{
	void *member = json_object_iter(object);

	if (!member)
		return 0;
	return error_set(err, ENOTSUP, "%s: '%.100s' is not supported", what,
			 json_object_iter_key(member));
}
