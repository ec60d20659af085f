/* SPDX-License-Identifier: MIT */
/*
 * The value of one of libvirt's options as a JSON object. libvirt writes either JSON
 * ({"driver":"isa-serial","id":"serial0"}) or words (isa-serial,id=serial0), in which "," inside
 * of a value is doubled. All values of words are strings.
 */
#ifndef VMM_LIBVIRT_KEYVAL_H
#define VMM_LIBVIRT_KEYVAL_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "framevisor/error.h"

/* first: the key of a first word without "=" (NULL: none is allowed). Returns a new reference to an
 * object, or NULL with err set; a key that is given twice is an error. */
json_t *keyval_parse(const char *text, const char *first, struct error *err);

/*
 * Takes a member out of the object, so that what is left at the end was not understood. The
 * caller's value stays as it is when the member is absent. Numbers and booleans are accepted in
 * both notations ("on", "off"). what names the option in messages. Returns 1 if it was there, 0 if
 * not, or a negative errno with err set.
 */
int keyval_take_string(json_t *object, const char *key, char *buf, size_t size, const char *what,
		       struct error *err);
int keyval_take_u64(json_t *object, const char *key, uint64_t *value, const char *what,
		    struct error *err);
int keyval_take_bool(json_t *object, const char *key, bool *value, const char *what,
		     struct error *err);
/* Drops a member that has no meaning here. */
void keyval_drop(json_t *object, const char *key);

/* -ENOTSUP with the name of a member that nobody took; 0 if there is none. */
int keyval_nothing_left(json_t *object, const char *what, struct error *err);

#endif
