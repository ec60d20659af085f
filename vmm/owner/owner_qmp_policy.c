/* SPDX-License-Identifier: MIT */
/* Settings and limits by QMP: see owner_qmp_policy.h. */
#include "vmm/owner/owner_qmp_policy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "framevisor/log.h"
#include "vmm/owner/owner_qmp.h"

static json_t *setting_value(struct pool *pool, const char *name, unsigned int nr)
{
	json_t *list = json_array();
	uint64_t value = 0;

	for (unsigned int i = 0; i < nr; i++) {
		pool_setting_get(pool, name, i, &value);
		if (nr == 1) {
			json_decref(list);
			return json_integer((json_int_t)value);
		}
		json_array_append_new(list, json_integer((json_int_t)value));
	}
	return list;
}

int owner_qmp_query_settings(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct owner_qmp *owner = opaque;
	unsigned int nr;
	const char *name;

	(void)args;
	(void)err;
	*reply = json_object();
	for (unsigned int n = 0; (name = pool_setting_name(n, &nr)); n++)
		json_object_set_new(*reply, name, setting_value(owner->pool, name, nr));
	balance_settings(owner->balance, *reply);
	return 0;
}

int owner_qmp_query_vmstat(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct owner_qmp *owner = opaque;

	(void)args;
	(void)err;
	*reply = balance_vmstat(owner->balance);
	return 0;
}

int owner_qmp_query_pressure(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct owner_qmp *owner = opaque;

	(void)args;
	(void)err;
	*reply = balance_pressure(owner->balance);
	return 0;
}

#define NUMBERS_MAX 16

/* "N" or "N,N,...": as many values as it has at most. */
static int set_numbers(struct pool *pool, const char *name, const char *text, struct error *err)
{
	uint64_t values[NUMBERS_MAX];
	const char *at = text;
	unsigned int nr = 0;
	int ret = 0;

	/* Nothing is set before all of it can be read. */
	do {
		char *end = NULL;

		errno = 0;
		if (nr == NUMBERS_MAX)
			return error_set(err, EINVAL, "%s: too many values", name);
		values[nr++] = strtoull(at, &end, 10);
		if (at[0] < '0' || at[0] > '9' || errno || (*end != '\0' && *end != ','))
			return error_set(err, EINVAL, "%s: '%s' is not a number", name, text);
		at = *end ? end + 1 : NULL;
	} while (at);
	for (unsigned int i = 0; ret == 0 && i < nr; i++)
		ret = pool_setting_set(pool, name, i, values[i], err);
	return ret;
}

/* What the setting is now, as set() takes it: of a list all values, not only those just said. */
static void setting_text(struct pool *pool, const char *name, const char *said, char *text,
			 size_t size)
{
	const char *known;
	unsigned int nr = 0;
	size_t len = 0;

	snprintf(text, size, "%s", said);
	for (unsigned int n = 0; (known = pool_setting_name(n, &nr)); n++)
		if (strcmp(known, name) == 0)
			break;
	for (unsigned int i = 0; known && nr > 1 && i < nr && len < size; i++) {
		uint64_t value = 0;

		pool_setting_get(pool, name, i, &value);
		len += (size_t)snprintf(text + len, size - len, "%s%" PRIu64, i ? "," : "", value);
	}
}

static int set(void *opaque, const char *name, const char *value, struct error *err)
{
	struct owner_qmp *owner = opaque;
	int ret = balance_setting_set(owner->balance, name, value, err);

	return ret == -ENOENT ? set_numbers(owner->pool, name, value, err) : ret;
}

void owner_qmp_restore_settings(struct owner_qmp *owner)
{
	struct error err = { 0 };

	if (kept_settings_restore(owner->kept, set, owner, &err) < 0)
		log_warn("%s", err.message);
}

int owner_qmp_pool_set(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct owner_qmp *owner = opaque;
	const char *name, *value;
	struct error why = { 0 };
	char text[256];

	(void)reply;
	if (qmp_arg_string(args, "name", &name, err) < 0 ||
	    qmp_arg_string(args, "value", &value, err) < 0)
		return -EINVAL;
	if (set(owner, name, value, &why) < 0)
		return qmp_error_from(err, &why);
	setting_text(owner->pool, name, value, text, sizeof(text));
	if (kept_settings_note(owner->kept, name, text, &why) < 0)
		log_warn("%s", why.message);
	return 0;
}

/* Absent: as it is. */
static int optional_integer(json_t *args, const char *name, int64_t *value, struct qmp_error *err)
{
	json_t *given = json_object_get(args, name);

	if (!given)
		return 0;
	if (!json_is_integer(given))
		return qmp_error_set(err, QMP_GENERIC_ERROR, "parameter '%s' must be an integer",
				     name);
	*value = json_integer_value(given);
	return 0;
}

int owner_qmp_vm_set(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct owner_qmp *owner = opaque;
	int64_t min = 0, max = 0, shares, adj;
	struct session_limits limits;
	struct error why = { 0 };
	const char *name;

	(void)reply;
	if (qmp_arg_string(args, "name", &name, err) < 0)
		return -EINVAL;
	if (server_get_limits(owner->server, name, &limits, &why) < 0)
		return qmp_error_from(err, &why);
	min = (int64_t)limits.min_frames;
	max = (int64_t)limits.max_frames;
	shares = limits.shares;
	adj = limits.oom_score_adj;
	if (optional_integer(args, "min", &min, err) < 0 ||
	    optional_integer(args, "max", &max, err) < 0 ||
	    optional_integer(args, "shares", &shares, err) < 0 ||
	    optional_integer(args, "oom-score-adj", &adj, err) < 0)
		return -EINVAL;
	if (min < 0 || max < 0 || shares < 0 || shares > UINT32_MAX || adj < INT32_MIN ||
	    adj > INT32_MAX)
		return qmp_error_set(err, QMP_GENERIC_ERROR, "a parameter is out of range");
	limits = (struct session_limits){ .min_frames = (uint64_t)min,
					  .max_frames = (uint64_t)max,
					  .shares = (uint32_t)shares,
					  .oom_score_adj = (int32_t)adj };
	if (server_set_limits(owner->server, name, &limits, &why) < 0)
		return qmp_error_from(err, &why);
	return 0;
}
