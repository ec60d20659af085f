/* SPDX-License-Identifier: MIT */
/*
 * Whether a VM's process has really let go of the frames that it returns. The process is not
 * believed: what it maps of the pool goes through its keeper (vmm/sandbox/map_guard.h), which lets
 * it map frames that the ledger says are its own, and only in two parts of its address space that
 * nothing can be moved out of: its window, each frame in one place that the ledger has, and a part
 * for short views. So few questions to the kernel tell whether a frame is mapped.
 *
 * A mapping that was allowed may be under way while its frame comes back. The keeper allows one at
 * a time, says which one before it looks whether it may (ledger_maps.busy), and waits until it is
 * done; here it is the other way round: first the frame is nobody's, then busy is looked at.
 */
#ifndef VMM_OWNER_MAP_CHECK_H
#define VMM_OWNER_MAP_CHECK_H

#include "vmm/owner/ledger.h"

struct map_check {
	struct ledger *ledger;
	struct ledger_client *client;
	int maps_fd; /* procmap_open(); MAP_CHECK_CLOSED at first */
};
#define MAP_CHECK_CLOSED (-1)

/*
 * Frames that the client gives back, and that are nobody's in the ledger by now. Returns 0 when
 * none of them is mapped (or the client is not one that is checked), -EPERM when one is, or -EBUSY
 * when a mapping of one does not get done.
 */
int map_check_returned(struct map_check *check, const struct frame_run *runs, unsigned int nr_runs);
void map_check_close(struct map_check *check);

#endif
