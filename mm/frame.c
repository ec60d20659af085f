/* SPDX-License-Identifier: MIT */
/* The frame size of this process: see frame.h. */
#include "framevisor/frame.h"

#include <errno.h>

unsigned int frame_shift = FRAME_SHIFT_2M;

int frame_use_shift(unsigned int shift)
{
	if (shift != FRAME_SHIFT_2M && shift != FRAME_SHIFT_1G)
		return -EINVAL;
	frame_shift = shift;
	return 0;
}
