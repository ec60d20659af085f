/* SPDX-License-Identifier: MIT */
/*
 * How far the pool is filled, on stderr, for a person who waits for it: rewritten in place on a
 * terminal; elsewhere, if that is wanted, a line each second, the first after one.
 */
#ifndef VMM_OWNER_FILL_PROGRESS_H
#define VMM_OWNER_FILL_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct fill_progress {
	const char *what; /* "filling the pool" */
	bool terminal, lines;
	bool shown;       /* something is to be wiped out in the end */
	uint64_t next_ms; /* now_ms() of the next line */
};

void fill_progress_begin(struct fill_progress *progress, const char *what, bool lines);
/* Whether it would show anything at all. */
bool fill_progress_wanted(const struct fill_progress *progress);
void fill_progress_show(struct fill_progress *progress, unsigned int percent);
void fill_progress_end(struct fill_progress *progress);

#endif
