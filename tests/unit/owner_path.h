/* SPDX-License-Identifier: MIT */
/* Where programs of tests and benchmarks find the pool owner that was built with them. */
#ifndef TESTS_UNIT_OWNER_PATH_H
#define TESTS_UNIT_OWNER_PATH_H

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* framevisord lies in the build folder, two above this program: PATH becomes that folder. */
static inline void set_path(void)
{
	char path[PATH_MAX + 1];
	ssize_t len = readlink("/proc/self/exe", path, PATH_MAX);

	if (len <= 0)
		return;
	path[len] = '\0';
	for (unsigned int i = 0; i < 3; i++) {
		char *slash = strrchr(path, '/');

		if (slash)
			*slash = '\0';
	}
	setenv("PATH", path, 1);
}

#endif
