/* SPDX-License-Identifier: MIT */
#include "vmm/owner/fill_progress.h"

#include <stdio.h>
#include <unistd.h>

#include "framevisor/clock.h"

#define LINE_MS 1000

void fill_progress_begin(struct fill_progress *progress, const char *what, bool lines)
{
	*progress = (struct fill_progress){ .what = what,
					    .terminal = isatty(STDERR_FILENO),
					    .lines = lines,
					    .next_ms = now_ms() + LINE_MS };
}

bool fill_progress_wanted(const struct fill_progress *progress)
{
	return progress->terminal || progress->lines;
}

void fill_progress_show(struct fill_progress *progress, unsigned int percent)
{
	if (progress->terminal) {
		dprintf(STDERR_FILENO, "\rframevisor: %s: %u %%\033[K", progress->what, percent);
		progress->shown = true;
	} else if (progress->lines && now_ms() >= progress->next_ms) {
		dprintf(STDERR_FILENO, "framevisor: %s: %u %%\n", progress->what, percent);
		progress->next_ms = now_ms() + LINE_MS;
	}
}

void fill_progress_end(struct fill_progress *progress)
{
	if (progress->shown)
		dprintf(STDERR_FILENO, "\r\033[K");
	progress->shown = false;
}
