/* SPDX-License-Identifier: MIT */
/*
 * Errors that a person will read.
 *
 * A function that can fail for a reason outside the program takes a struct error * as its last
 * argument, fills it once where the failure is understood, and returns a negative errno. The
 * message says what failed, on which object, and what to do; it has no prefix and no newline:
 * whoever prints it adds "framevisor: ". Functions whose errno says everything just return it.
 */
#ifndef FRAMEVISOR_ERROR_H
#define FRAMEVISOR_ERROR_H

struct error {
	int code; /* errno value, positive; 0 while no error was set */
	char message[512];
};

/*
 * Sets the error and returns -errnum, so that "return error_set(err, ENOENT, ...)" is one line.
 * The first error wins: a later call on the same object changes nothing (the cause is worth more
 * than what followed from it). err may be NULL: then only the code is returned.
 */
int error_set(struct error *err, int errnum, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* As error_set(), and appends ": strerror(errnum)". */
int error_set_errno(struct error *err, int errnum, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Empties the object so that it can be used again. */
void error_clear(struct error *err);

#endif
