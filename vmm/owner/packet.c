/* SPDX-License-Identifier: MIT */
/* Is this packet a request? See packet.h. */
#include "vmm/owner/packet.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "framevisor/rundir.h"

static int bad(const char **why, const char *text)
{
	*why = text;
	return -EPROTO;
}

int packet_check_header(const struct owner_header *header, size_t len, const char **why)
{
	if (len < sizeof(*header))
		return bad(why, "packet shorter than its header");
	if (header->length != len)
		return bad(why, "length in the header is not the packet's");
	if (header->reserved != 0)
		return bad(why, "reserved field is not zero");
	return 0;
}

#define OWNER_HELLO_FLAGS                                                    \
	(OWNER_HELLO_WANT_UFFD | OWNER_HELLO_ADOPT | OWNER_HELLO_FRAMES_1G | \
	 OWNER_HELLO_TELL_FILLING)

static int check_hello(const struct owner_hello *hello, size_t len, const char **why)
{
	if (len != sizeof(*hello))
		return bad(why, "HELLO has a wrong length");
	if (hello->version != OWNER_PROTOCOL_VERSION)
		return bad(why, "HELLO speaks another version of the protocol");
	if (hello->flags & ~(uint32_t)OWNER_HELLO_FLAGS)
		return bad(why, "HELLO has unknown flags");
	if (hello->ram_frames == 0 || hello->ram_frames > PACKET_FRAMES_MAX)
		return bad(why, "HELLO has an impossible size");
	if ((hello->max_frames && hello->max_frames < hello->ram_frames) ||
	    hello->max_frames > PACKET_FRAMES_MAX || hello->min_frames > PACKET_FRAMES_MAX)
		return bad(why, "HELLO has an impossible minimum or maximum");
	if (hello->shares > OWNER_SHARES_MAX)
		return bad(why, "HELLO has an impossible number of shares");
	if (hello->oom_score_adj < -1000 || hello->oom_score_adj > 1000)
		return bad(why, "HELLO has an impossible OOM score adjustment");
	if (!memchr(hello->name, '\0', sizeof(hello->name)) ||
	    rundir_check_name(hello->name, NULL) < 0)
		return bad(why, "HELLO has no valid name");
	return 0;
}

static int check_grant(const struct owner_grant *grant, size_t len,
		       const struct packet_limits *limits, const char **why)
{
	if (len != sizeof(*grant))
		return bad(why, "GRANT has a wrong length");
	if (grant->flags & ~(uint32_t)OWNER_GRANT_TO_MOVE)
		return bad(why, "GRANT has unknown flags");
	if (grant->nr_frames == 0 || grant->nr_frames > OWNER_GRANT_MAX)
		return bad(why, "GRANT asks for an impossible number of frames");
	if (limits->nr_nodes < OWNER_NODES_MAX && grant->nodemask >> limits->nr_nodes)
		return bad(why, "GRANT names a node that does not exist");
	return 0;
}

static bool run_fits(const struct frame_run *run, const struct packet_limits *limits)
{
	uint64_t end;

	return run->nr > 0 && run->reserved == 0 && run->node < limits->nr_nodes &&
	       !__builtin_add_overflow(run->first, run->nr, &end) &&
	       end <= limits->spanned[run->node];
}

int packet_check_run_list(const struct frame_run *runs, unsigned int nr_runs, uint32_t nr_frames,
			  const struct packet_limits *limits, const char **why)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < nr_runs; i++) {
		if (!run_fits(&runs[i], limits))
			return bad(why, "run of frames outside of its node");
		sum += runs[i].nr;
	}
	if (sum != nr_frames)
		return bad(why, "number of frames is not the sum of the runs");
	return 0;
}

static int check_runs(const struct owner_runs *runs, size_t len, const struct packet_limits *limits,
		      const char **why)
{
	if (len < offsetof(struct owner_runs, runs) || runs->nr_runs > OWNER_RUNS_MAX ||
	    len != packet_runs_length(runs->nr_runs))
		return bad(why, "number of runs and length do not agree");
	return packet_check_run_list(runs->runs, runs->nr_runs, runs->nr_frames, limits, why);
}

static int check_resize(const struct owner_resize *resize, size_t len, const char **why)
{
	if (len != sizeof(*resize))
		return bad(why, "RESIZE has a wrong length");
	if (resize->flags & ~(uint32_t)OWNER_RESIZE_LATER || resize->reserved != 0)
		return bad(why, "RESIZE has unknown flags");
	if (resize->ram_frames == 0 || resize->ram_frames > PACKET_FRAMES_MAX)
		return bad(why, "RESIZE to an impossible size");
	return 0;
}

static int check_bind(const struct owner_bind *bind, size_t len, const struct packet_limits *limits,
		      const char **why)
{
	if (len != sizeof(*bind) || bind->reserved != 0)
		return bad(why, "BIND has a wrong length");
	if (bind->node >= limits->nr_nodes)
		return bad(why, "BIND names a node that does not exist");
	if (bind->frames > PACKET_FRAMES_MAX)
		return bad(why, "BIND of an impossible size");
	return 0;
}

int packet_check_request(const union owner_packet *packet, size_t len,
			 const struct packet_limits *limits, const char **why)
{
	int ret = packet_check_header(&packet->header, len, why);

	if (ret < 0)
		return ret;
	if (packet->header.status != 0)
		return bad(why, "request with a status");
	switch (packet->header.type) {
	case OWNER_HELLO:
		return check_hello(&packet->hello, len, why);
	case OWNER_GRANT:
		return check_grant(&packet->grant, len, limits, why);
	case OWNER_RETURN:
		ret = check_runs(&packet->runs, len, limits, why);
		if (ret == 0 && packet->runs.nr_runs == 0)
			return bad(why, "RETURN of nothing");
		return ret;
	case OWNER_DECLARE:
		return check_runs(&packet->runs, len, limits, why);
	case OWNER_RESIZE:
		return check_resize(&packet->resize, len, why);
	case OWNER_BIND:
		return check_bind(&packet->bind, len, limits, why);
	default:
		return bad(why, "not a request");
	}
}

static int check_welcome(const struct owner_welcome *welcome, size_t len, const char **why)
{
	if (len != sizeof(*welcome))
		return bad(why, "WELCOME has a wrong length");
	if (!memchr(welcome->message, '\0', sizeof(welcome->message)))
		return bad(why, "WELCOME has an endless message");
	if (welcome->header.status == 0 &&
	    (welcome->nr_nodes == 0 || welcome->nr_nodes > OWNER_NODES_MAX))
		return bad(why, "WELCOME has an impossible number of nodes");
	return 0;
}

static int check_filling(const struct owner_filling *filling, size_t len, const char **why)
{
	if (len != sizeof(*filling))
		return bad(why, "FILLING has a wrong length");
	if (filling->total == 0 || filling->done > filling->total ||
	    filling->total > PACKET_FRAMES_MAX)
		return bad(why, "FILLING has impossible numbers");
	return 0;
}

static int check_resized(const struct owner_resized *resized, size_t len, const char **why)
{
	if (len != sizeof(*resized))
		return bad(why, "RESIZED has a wrong length");
	if (!memchr(resized->message, '\0', sizeof(resized->message)))
		return bad(why, "RESIZED has an endless message");
	return 0;
}

static int check_bound(const struct owner_bound *bound, size_t len, const char **why)
{
	if (len != sizeof(*bound))
		return bad(why, "BOUND has a wrong length");
	if (!memchr(bound->message, '\0', sizeof(bound->message)))
		return bad(why, "BOUND has an endless message");
	return 0;
}

int packet_check_reply(const union owner_packet *packet, size_t len, enum owner_message_type type,
		       const struct packet_limits *limits, const char **why)
{
	int ret = packet_check_header(&packet->header, len, why);

	if (ret < 0)
		return ret;
	if (packet->header.type != (uint32_t)type)
		return bad(why, "reply to something else");
	if (packet->header.status > 0 || packet->header.status < -4095)
		return bad(why, "reply with an impossible status");
	switch (type) {
	case OWNER_WELCOME:
		return check_welcome(&packet->welcome, len, why);
	case OWNER_FILLING:
		return check_filling(&packet->filling, len, why);
	case OWNER_GRANTED:
		return check_runs(&packet->runs, len, limits, why);
	case OWNER_DECLARED:
	case OWNER_RETURNED:
		return len == sizeof(packet->returned) ? 0
						       : bad(why, "RETURNED has a wrong length");
	case OWNER_RESIZED:
		return check_resized(&packet->resized, len, why);
	case OWNER_BOUND:
		return check_bound(&packet->bound, len, why);
	default:
		return bad(why, "not a reply");
	}
}
