/* SPDX-License-Identifier: MIT */
/* The program as libvirt's emulator: started with the arguments of QEMU (see args.h). */
#ifndef VMM_LIBVIRT_EMULATOR_H
#define VMM_LIBVIRT_EMULATOR_H

/* Returns the exit status of the process. */
int libvirt_emulator_main(int argc, char **argv);

#endif
