/* SPDX-License-Identifier: MIT */
/* From the text of one QMP message to the reply to it: see qmp_dispatch.h. */
#include "vmm/control/qmp_dispatch.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "framevisor/frame.h"

/*
 * The version of QEMU whose QMP is spoken here. libvirt refuses anything below 4.2.0 and chooses
 * its commands by it; the program's own version is the "package".
 */
#define QMP_COMPAT_MAJOR 7
#define QMP_COMPAT_MINOR 2
#define QMP_COMPAT_MICRO 0

static const char *const class_names[] = {
	[QMP_GENERIC_ERROR] = "GenericError",
	[QMP_COMMAND_NOT_FOUND] = "CommandNotFound",
	[QMP_DEVICE_NOT_FOUND] = "DeviceNotFound",
	[QMP_DEVICE_NOT_ACTIVE] = "DeviceNotActive",
};

int qmp_error_set(struct qmp_error *err, enum qmp_error_class class, const char *fmt, ...)
{
	va_list args;

	err->class = class;
	va_start(args, fmt);
	vsnprintf(err->desc, sizeof(err->desc), fmt, args);
	va_end(args);
	return -EINVAL;
}

int qmp_error_from(struct qmp_error *err, const struct error *from)
{
	return qmp_error_set(err, QMP_GENERIC_ERROR, "%s", from->message);
}

static json_t *version(void)
{
	return json_pack("{s:{s:i,s:i,s:i},s:s}", "qemu", "micro", QMP_COMPAT_MICRO, "minor",
			 QMP_COMPAT_MINOR, "major", QMP_COMPAT_MAJOR, "package",
			 "framevisor " FRAMEVISOR_VERSION);
}

json_t *qmp_greeting(void)
{
	return json_pack("{s:{s:o,s:[],s:I}}", "QMP", "version", version(), "capabilities",
			 "frame-size", (json_int_t)FRAME_SIZE);
}

static json_t *with_id(json_t *reply, json_t *id)
{
	if (reply && id && json_object_set(reply, "id", id) < 0) {
		json_decref(reply);
		return NULL;
	}
	return reply;
}

json_t *qmp_error_reply(const struct qmp_error *err, json_t *id)
{
	/* The text may quote what the client sent, cut in the middle of a character. */
	json_t *desc = json_string(err->desc);

	if (!desc)
		desc = json_string("the command failed; its message is not UTF-8");
	return with_id(
		json_pack("{s:{s:s,s:o}}", "error", "class", class_names[err->class], "desc", desc),
		id);
}

static int list_builtin_commands(json_t *list);

static int list_commands(json_t *list, const struct qmp_command *commands, size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		if (commands[i].flags & QMP_COMMAND_UNLISTED)
			continue;
		if (json_array_append_new(list, json_pack("{s:s}", "name", commands[i].name)) < 0)
			return -ENOMEM;
	}
	return 0;
}

static const struct qmp_command *find(const struct qmp_command *commands, size_t nr,
				      const char *name)
{
	for (size_t i = 0; i < nr; i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

/* Without those that the first table has, too. */
static int list_base_commands(json_t *list, const struct qmp_server_config *config)
{
	for (size_t i = 0; i < config->nr_base; i++) {
		if (find(config->commands, config->nr_commands, config->base[i].name))
			continue;
		if (list_commands(list, &config->base[i], 1) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int cmd_query_commands(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	const struct qmp_server_config *config = opaque;

	(void)args;
	*reply = json_array();
	if (!*reply || list_builtin_commands(*reply) < 0 ||
	    list_commands(*reply, config->commands, config->nr_commands) < 0 ||
	    list_base_commands(*reply, config) < 0)
		return qmp_error_set(err, QMP_GENERIC_ERROR, "out of memory");
	return 0;
}

static int cmd_query_version(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	(void)opaque;
	(void)args;
	(void)err;
	*reply = version();
	return 0;
}

/* Reached only when the connection has negotiated already: the first one is not dispatched here. */
static int cmd_qmp_capabilities(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	(void)opaque;
	(void)args;
	(void)reply;
	return qmp_error_set(err, QMP_COMMAND_NOT_FOUND,
			     "qmp_capabilities was sent before; the connection is ready");
}

static const struct qmp_command builtin_commands[] = {
	{ .name = "qmp_capabilities", .handler = cmd_qmp_capabilities },
	{ .name = "query-commands", .handler = cmd_query_commands },
	{ .name = "query-version", .handler = cmd_query_version },
};
static const size_t nr_builtin_commands = sizeof(builtin_commands) / sizeof(builtin_commands[0]);

static int list_builtin_commands(json_t *list)
{
	return list_commands(list, builtin_commands, nr_builtin_commands);
}

/* Asks for a capability that is not offered: none is, so any name is wrong. */
static int negotiate(json_t *args, bool *negotiated, struct qmp_error *err)
{
	json_t *enable = json_object_get(args, "enable");

	if (enable && !json_is_array(enable))
		return qmp_error_set(err, QMP_GENERIC_ERROR, "parameter 'enable' must be a list");
	if (json_array_size(enable) > 0)
		return qmp_error_set(err, QMP_GENERIC_ERROR,
				     "this server offers no capabilities to enable");
	*negotiated = true;
	return 0;
}

static int run_command(const struct qmp_server_config *config, bool *negotiated, const char *name,
		       json_t *args, json_t **reply, struct qmp_error *err)
{
	const struct qmp_command *command;
	void *opaque = config->opaque;

	if (!*negotiated) {
		if (strcmp(name, "qmp_capabilities") == 0)
			return negotiate(args, negotiated, err);
		return qmp_error_set(err, QMP_COMMAND_NOT_FOUND,
				     "the first command must be qmp_capabilities");
	}
	command = find(builtin_commands, nr_builtin_commands, name);
	if (command)
		opaque = (void *)config;
	else
		command = find(config->commands, config->nr_commands, name);
	if (!command) {
		command = find(config->base, config->nr_base, name);
		opaque = config->base_opaque;
	}
	if (!command)
		return qmp_error_set(err, QMP_COMMAND_NOT_FOUND, "there is no command '%s'", name);
	return command->handler(opaque, args, reply, err);
}

/* The name of the command in message and its arguments (may be NULL), both borrowed. Returns NULL
 * with err set when message is no command. */
static const char *take_apart(json_t *message, json_t **args, struct qmp_error *err)
{
	json_t *execute = json_object_get(message, "execute");

	*args = json_object_get(message, "arguments");
	if (!json_is_object(message))
		qmp_error_set(err, QMP_GENERIC_ERROR, "a QMP message must be an object");
	else if (!execute)
		qmp_error_set(err, QMP_GENERIC_ERROR, "the message has no member 'execute'");
	else if (!json_is_string(execute))
		qmp_error_set(err, QMP_GENERIC_ERROR, "member 'execute' must be a string");
	else if (*args && !json_is_object(*args))
		qmp_error_set(err, QMP_GENERIC_ERROR, "member 'arguments' must be an object");
	else
		return json_string_value(execute);
	return NULL;
}

static int execute_message(const struct qmp_server_config *config, bool *negotiated,
			   json_t *message, json_t **reply, struct qmp_error *err)
{
	json_t *args;
	const char *name = take_apart(message, &args, err);
	int ret;

	if (!name)
		return -EINVAL;
	args = args ? json_incref(args) : json_object();
	if (!args)
		return qmp_error_set(err, QMP_GENERIC_ERROR, "out of memory");
	ret = run_command(config, negotiated, name, args, reply, err);
	json_decref(args);
	return ret;
}

json_t *qmp_dispatch(const struct qmp_server_config *config, bool *negotiated, const char *text,
		     size_t len)
{
	struct qmp_error err = { .class = QMP_GENERIC_ERROR, .desc = "the command failed" };
	json_t *message, *id = NULL, *value = NULL, *reply;
	json_error_t parse_error;

	message = json_loadb(text, len, JSON_REJECT_DUPLICATES, &parse_error);
	if (!message) {
		qmp_error_set(&err, QMP_GENERIC_ERROR, "not JSON: %s", parse_error.text);
		return qmp_error_reply(&err, NULL);
	}
	if (json_is_object(message))
		id = json_object_get(message, "id");
	if (execute_message(config, negotiated, message, &value, &err) < 0) {
		json_decref(value);
		reply = qmp_error_reply(&err, id);
	} else {
		if (!value)
			value = json_object();
		reply = with_id(json_pack("{s:o}", "return", value), id);
	}
	json_decref(message);
	return reply;
}

int qmp_arg_u64(json_t *args, const char *name, uint64_t *value, struct qmp_error *err)
{
	json_t *arg = json_object_get(args, name);

	if (!arg)
		return qmp_error_set(err, QMP_GENERIC_ERROR, "parameter '%s' is missing", name);
	if (!json_is_integer(arg) || json_integer_value(arg) < 0)
		return qmp_error_set(err, QMP_GENERIC_ERROR,
				     "parameter '%s' must be an integer, 0 or greater", name);
	*value = (uint64_t)json_integer_value(arg);
	return 0;
}

int qmp_arg_string(json_t *args, const char *name, const char **value, struct qmp_error *err)
{
	json_t *arg = json_object_get(args, name);

	if (!arg)
		return qmp_error_set(err, QMP_GENERIC_ERROR, "parameter '%s' is missing", name);
	if (!json_is_string(arg))
		return qmp_error_set(err, QMP_GENERIC_ERROR, "parameter '%s' must be a string",
				     name);
	*value = json_string_value(arg);
	return 0;
}

int qmp_arg_bool_optional(json_t *args, const char *name, bool *value, struct qmp_error *err)
{
	json_t *arg = json_object_get(args, name);

	if (!arg)
		return 0;
	if (!json_is_boolean(arg))
		return qmp_error_set(err, QMP_GENERIC_ERROR, "parameter '%s' must be a boolean",
				     name);
	*value = json_is_true(arg);
	return 0;
}
