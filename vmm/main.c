/* SPDX-License-Identifier: MIT */
/* framevisor: the program. What it does is in vmm/cli, one verb per file, and in vmm/libvirt. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/cli/cli.h"
#include "vmm/libvirt/args.h"
#include "vmm/libvirt/emulator.h"

/* A closed standard descriptor would be the number of the next file that is opened: what is meant
 * for the terminal would go into a socket or a guest. */
static void fill_standard_fds(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (fd < 0)
			abort();
	} while (fd <= 2 && fcntl(fd, F_SETFD, 0) == 0);
	close(fd);
}

int main(int argc, char **argv)
{
	fill_standard_fds();
	signal(SIGPIPE, SIG_IGN);
	return libvirt_args_are_ours(argc, argv) ? libvirt_emulator_main(argc, argv)
						 : cli_main(argc, argv);
}
