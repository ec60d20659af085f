/* SPDX-License-Identifier: MIT */
/*
 * Is this packet a notice? Pure functions over untrusted bytes; see framevisor/owner_notice.h. Both
 * sides check with them what the other sends.
 */
#ifndef VMM_OWNER_NOTICE_PACKET_H
#define VMM_OWNER_NOTICE_PACKET_H

#include <stddef.h>
#include <stdint.h>

#include "framevisor/owner_notice.h"
#include "vmm/owner/packet.h"

/* Room for any notice, aligned. One byte longer than the longest: what fills it is too long. */
union notice_packet {
	struct owner_header header;
	struct notice_reclaim reclaim;
	struct notice_target target;
	struct notice_move move;
	struct notice_pause pause;
	struct notice_resume resume;
	struct notice_limit limit;
	struct notice_ask ask;
	struct notice_grown grown;
	struct notice_done done;
	struct notice_status status;
	uint8_t bytes[sizeof(struct notice_move) + 1];
};

/* What the owner sends to a VMM. Returns 0, or -EPROTO with *why saying what is wrong. */
int notice_check_request(const union notice_packet *packet, size_t len,
			 const struct packet_limits *limits, const char **why);

/* What a VMM sends to the owner. */
int notice_check_report(const union notice_packet *packet, size_t len, const char **why);

/* Length of a MOVE with that many runs. */
static inline uint32_t notice_move_length(unsigned int nr_runs)
{
	return (uint32_t)(offsetof(struct notice_move, runs) + nr_runs * sizeof(struct frame_run));
}

#endif
