/* SPDX-License-Identifier: MIT */
/* Is this packet a request? Pure functions over untrusted bytes; see framevisor/owner_protocol.h.
 */
#ifndef VMM_OWNER_PACKET_H
#define VMM_OWNER_PACKET_H

#include <stddef.h>
#include <stdint.h>

#include "framevisor/owner_protocol.h"

/* Room for any message, aligned. One byte longer than the longest: what fills it is too long. */
union owner_packet {
	struct owner_header header;
	struct owner_hello hello;
	struct owner_welcome welcome;
	struct owner_filling filling;
	struct owner_grant grant;
	struct owner_runs runs;
	struct owner_returned returned;
	struct owner_resize resize;
	struct owner_resized resized;
	struct owner_bind bind;
	struct owner_bound bound;
	uint8_t bytes[sizeof(struct owner_runs) + 1];
};

/* What a frame number may be. */
struct packet_limits {
	unsigned int nr_nodes;
	uint64_t spanned[OWNER_NODES_MAX];
};

/*
 * Checks everything that can be known from len bytes of packet alone: sizes, type, version,
 * counts, names, node and frame numbers. Returns 0, or -EPROTO with *why saying what is wrong.
 */
int packet_check_request(const union owner_packet *packet, size_t len,
			 const struct packet_limits *limits, const char **why);

/* The same for the reply of the given type; used by the client, who trusts no owner either. */
int packet_check_reply(const union owner_packet *packet, size_t len, enum owner_message_type type,
		       const struct packet_limits *limits, const char **why);

/* More frames than any machine has: keeps sums over all clients far from overflow. */
#define PACKET_FRAMES_MAX (UINT64_C(1) << 40)

/* The part that all packets have; len is the packet's. */
int packet_check_header(const struct owner_header *header, size_t len, const char **why);
/* nr_runs (at least 0, at most OWNER_RUNS_MAX) runs within their nodes, of nr_frames in all. */
int packet_check_run_list(const struct frame_run *runs, unsigned int nr_runs, uint32_t nr_frames,
			  const struct packet_limits *limits, const char **why);

/* Length of a GRANTED or RETURN packet with that many runs. */
static inline uint32_t packet_runs_length(unsigned int nr_runs)
{
	return (uint32_t)(offsetof(struct owner_runs, runs) + nr_runs * sizeof(struct frame_run));
}

#endif
