/* SPDX-License-Identifier: MIT */
/* Settings for the next owner: see kept_settings.h. */
#include "vmm/owner/kept_settings.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "framevisor/log.h"
#include "framevisor/rundir.h"

struct kept_settings {
	char path[RUNDIR_PATH_MAX];
	json_t *values;
};

struct kept_settings *kept_settings_create(const char *path)
{
	struct kept_settings *kept = calloc(1, sizeof(*kept));

	if (!kept)
		return NULL;
	snprintf(kept->path, sizeof(kept->path), "%s", path);
	kept->values = json_object();
	if (!kept->values) {
		free(kept);
		return NULL;
	}
	return kept;
}

void kept_settings_destroy(struct kept_settings *kept)
{
	if (!kept)
		return;
	json_decref(kept->values);
	free(kept);
}

/* As a whole or not at all: whoever is killed here leaves the file as it was. */
static int write_file(const struct kept_settings *kept)
{
	char temp[RUNDIR_PATH_MAX + 8];
	int fd, ret = 0;

	snprintf(temp, sizeof(temp), "%s.new", kept->path);
	fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	if (json_dumpfd(kept->values, fd, JSON_COMPACT) < 0)
		ret = -EIO;
	if (close(fd) < 0 && ret == 0)
		ret = -errno;
	if (ret == 0 && rename(temp, kept->path) < 0)
		ret = -errno;
	if (ret < 0)
		unlink(temp);
	return ret;
}

int kept_settings_note(struct kept_settings *kept, const char *name, const char *value,
		       struct error *err)
{
	int ret;

	/* Anew at the end: what was said last counts. */
	json_object_del(kept->values, name);
	ret = json_object_set_new(kept->values, name, json_string(value)) < 0 ? -ENOMEM
									      : write_file(kept);
	if (ret < 0)
		return error_set_errno(err, -ret, "cannot keep settings in '%s'", kept->path);
	return 0;
}

int kept_settings_restore(struct kept_settings *kept,
			  int (*set)(void *opaque, const char *name, const char *value,
				     struct error *err),
			  void *opaque, struct error *err)
{
	json_error_t why;
	json_t *values, *value;
	const char *name;
	int refused = 0;

	if (access(kept->path, F_OK) < 0)
		return 0;
	values = json_load_file(kept->path, JSON_REJECT_DUPLICATES, &why);
	if (!json_is_object(values)) {
		json_decref(values);
		return error_set(err, EINVAL, "'%s' is no list of settings: %s", kept->path,
				 why.text);
	}
	json_object_foreach(values, name, value)
	{
		struct error one = { 0 };

		if (json_is_string(value) &&
		    set(opaque, name, json_string_value(value), &one) == 0) {
			json_object_set(kept->values, name, value);
			continue;
		}
		log_warn("the setting %s of the owner before cannot be kept: %s", name,
			 one.code ? one.message : "its value is no string");
		refused++;
	}
	json_decref(values);
	return refused;
}

void kept_settings_forget(struct kept_settings *kept)
{
	unlink(kept->path);
}
