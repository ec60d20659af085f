/* SPDX-License-Identifier: MIT */
/* Settings for the next owner: see kept_settings.h. */
#include "vmm/owner/kept_settings.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
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
	if (ret == 0)
		return 0;
	/* Rather the defaults than what does not hold any more. */
	unlink(kept->path);
	return error_set_errno(err, -ret, "cannot keep settings in '%s'", kept->path);
}

/* NULL with err set, or without if there is none. Only a file of ours, whoever may write here. */
static json_t *read_file(const struct kept_settings *kept, struct error *err)
{
	int fd = open(kept->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	json_error_t why = { .text = "it is no file of its owner" };
	json_t *values = NULL;
	struct stat st;

	if (fd < 0 && errno == ENOENT)
		return NULL;
	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid())
		values = json_loadfd(fd, JSON_REJECT_DUPLICATES, &why);
	if (fd >= 0)
		close(fd);
	if (!json_is_object(values)) {
		json_decref(values);
		error_set(err, EINVAL, "'%s' is no list of settings: %s", kept->path, why.text);
		return NULL;
	}
	return values;
}

int kept_settings_restore(struct kept_settings *kept,
			  int (*set)(void *opaque, const char *name, const char *value,
				     struct error *err),
			  void *opaque, struct error *err)
{
	json_t *values = read_file(kept, err), *value;
	const char *name;

	if (!values)
		return -err->code;
	json_object_foreach(values, name, value)
	{
		struct error one = { 0 };

		/* What is refused now may be another owner's again. */
		json_object_set(kept->values, name, value);
		if (json_is_string(value) && set(opaque, name, json_string_value(value), &one) == 0)
			continue;
		log_warn("the setting %s of the owner before cannot be kept: %s", name,
			 one.code ? one.message : "its value is no string");
	}
	json_decref(values);
	return 0;
}

void kept_settings_forget(const char *path)
{
	char temp[RUNDIR_PATH_MAX + 8];

	snprintf(temp, sizeof(temp), "%s.new", path);
	unlink(temp);
	unlink(path);
}
