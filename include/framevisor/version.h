/* SPDX-License-Identifier: MIT */
/* The program's version; every C file sees it (the Makefile includes this file by option). */
#ifndef FRAMEVISOR_VERSION_H
#define FRAMEVISOR_VERSION_H

#define FRAMEVISOR_VERSION "0.1.0"

#endif
