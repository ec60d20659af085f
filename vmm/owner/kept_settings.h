/* SPDX-License-Identifier: MIT */
/*
 * What was set with "pool --set", kept in a file of the run directory for the owner that adopts the
 * pool when this one is killed or replaced: a JSON object, {"overcommit_memory": "0", ...}, in the
 * order in which it was said. Loop's thread only.
 */
#ifndef VMM_OWNER_KEPT_SETTINGS_H
#define VMM_OWNER_KEPT_SETTINGS_H

#include "framevisor/error.h"

/* In the run directory. */
#define KEPT_SETTINGS_FILE "pool.settings"

struct kept_settings;

/* path is copied. A file that is there stays as it is. Returns NULL when there is no memory. */
struct kept_settings *kept_settings_create(const char *path);
/* NULL is ignored. The file stays. */
void kept_settings_destroy(struct kept_settings *kept);

/* Remembers that name has this value now, in the file as well. Where that fails, err says so, and
 * there is no file until a later note succeeds. */
int kept_settings_note(struct kept_settings *kept, const char *name, const char *value,
		       struct error *err);

/* Calls set() for what the file has, which may be nothing; what it refuses is said in the log.
 * Returns 0, or a negative errno with err set when the file cannot be used. */
int kept_settings_restore(struct kept_settings *kept,
			  int (*set)(void *opaque, const char *name, const char *value,
				     struct error *err),
			  void *opaque, struct error *err);

/* Removes the file: nobody adopts the pool that it was of. */
void kept_settings_forget(const char *path);

#endif
