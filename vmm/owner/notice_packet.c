/* SPDX-License-Identifier: MIT */
/* Is this packet a notice? See notice_packet.h. */
#include "vmm/owner/notice_packet.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

static int bad(const char **why, const char *text)
{
	*why = text;
	return -EPROTO;
}

static int check_length(size_t len, size_t expected, const char **why)
{
	return len == expected ? 0 : bad(why, "notice has a wrong length");
}

static int check_frames(uint64_t nr, const char **why)
{
	return nr <= PACKET_FRAMES_MAX ? 0 : bad(why, "notice has an impossible number of frames");
}

static int check_reclaim(const struct notice_reclaim *reclaim, size_t len, const char **why)
{
	int ret = check_length(len, sizeof(*reclaim), why);

	if (ret == 0 && reclaim->kind >= NOTICE_RECLAIM_KINDS)
		return bad(why, "RECLAIM of an unknown kind");
	if (ret == 0 && reclaim->reserved != 0)
		return bad(why, "reserved field is not zero");
	return ret < 0 ? ret : check_frames(reclaim->nr_frames, why);
}

static int check_move(const struct notice_move *move, size_t len,
		      const struct packet_limits *limits, const char **why)
{
	if (len < offsetof(struct notice_move, runs) || move->nr_runs == 0 ||
	    move->nr_runs > OWNER_RUNS_MAX || len != notice_move_length(move->nr_runs))
		return bad(why, "number of runs and length do not agree");
	if (move->reason >= NOTICE_MOVE_REASONS || move->reserved != 0)
		return bad(why, "MOVE for an unknown reason");
	if (limits->nr_nodes < OWNER_NODES_MAX && move->nodemask >> limits->nr_nodes)
		return bad(why, "MOVE names a node that does not exist");
	return packet_check_run_list(move->runs, move->nr_runs, move->nr_frames, limits, why);
}

static int check_limit(const struct notice_limit *limit, size_t len, const char **why)
{
	int ret = check_length(len, sizeof(*limit), why);

	if (ret < 0)
		return ret;
	if (limit->min > limit->max || limit->shares == 0 || limit->shares > OWNER_SHARES_MAX)
		return bad(why, "LIMIT has an impossible minimum or number of shares");
	if (limit->oom_score_adj < -1000 || limit->oom_score_adj > 1000)
		return bad(why, "LIMIT has an impossible OOM score adjustment");
	ret = check_frames(limit->limit, why);
	return ret < 0 ? ret : check_frames(limit->max, why);
}

static int check_ask(const struct notice_ask *ask, size_t len, const char **why)
{
	int ret = check_length(len, sizeof(*ask), why);

	if (ret < 0)
		return ret;
	if (ask->flags & ~NOTICE_ASK_FLAGS)
		return bad(why, "ASK with unknown flags");
	if (ask->interval_ms != 0 && (ask->interval_ms < NOTICE_INTERVAL_MIN_MS ||
				      ask->interval_ms > NOTICE_INTERVAL_MAX_MS))
		return bad(why, "ASK for an impossible pace");
	return 0;
}

static int check_pause(const struct notice_pause *pause, size_t len, const char **why)
{
	int ret = check_length(len, sizeof(*pause), why);

	return ret == 0 && pause->reserved != 0 ? bad(why, "reserved field is not zero") : ret;
}

static int check_target(const struct notice_target *target, size_t len, const char **why)
{
	int ret = check_length(len, sizeof(*target), why);

	return ret < 0 ? ret : check_frames(target->tax_frames, why);
}

/* All notices to a VMM have their id at the same place. */
_Static_assert(offsetof(struct notice_move, id) == offsetof(struct notice_reclaim, id) &&
		       offsetof(struct notice_ask, id) == offsetof(struct notice_reclaim, id),
	       "place of the id");

static int check_id(const union notice_packet *packet, size_t len, const char **why)
{
	if (len < sizeof(packet->resume.header) + sizeof(packet->resume.id))
		return bad(why, "notice has a wrong length");
	return packet->resume.id ? 0 : bad(why, "notice has no id");
}

int notice_check_request(const union notice_packet *packet, size_t len,
			 const struct packet_limits *limits, const char **why)
{
	int ret = packet_check_header(&packet->header, len, why);

	if (ret == 0)
		ret = check_id(packet, len, why);
	if (ret < 0)
		return ret;
	if (packet->header.status != 0)
		return bad(why, "notice with a status");
	switch (packet->header.type) {
	case NOTICE_RECLAIM:
		return check_reclaim(&packet->reclaim, len, why);
	case NOTICE_TARGET:
		return check_target(&packet->target, len, why);
	case NOTICE_MOVE:
		return check_move(&packet->move, len, limits, why);
	case NOTICE_PAUSE:
		return check_pause(&packet->pause, len, why);
	case NOTICE_RESUME:
		return check_length(len, sizeof(packet->resume), why);
	case NOTICE_GROWN:
		return check_length(len, sizeof(packet->grown), why);
	case NOTICE_LIMIT:
		return check_limit(&packet->limit, len, why);
	case NOTICE_ASK:
		return check_ask(&packet->ask, len, why);
	default:
		return bad(why, "not a notice to a VM");
	}
}

static int check_done(const struct notice_done *done, size_t len, const char **why)
{
	int ret = check_length(len, sizeof(*done), why);

	if (ret < 0)
		return ret;
	if (done->header.status > 0 || done->header.status < -4095)
		return bad(why, "DONE with an impossible status");
	if (done->id == 0)
		return bad(why, "notice has no id");
	return check_frames(done->nr_frames, why);
}

static int check_status(const struct notice_status *status, size_t len, const char **why)
{
	int ret = check_length(len, sizeof(*status), why);
	const uint64_t frames[] = { status->ram,      status->max,     status->plugged,
				    status->bound,    status->stock,   status->target,
				    status->tax,      status->swapped, status->guest_total,
				    status->available };

	if (ret < 0)
		return ret;
	if (status->header.status != 0 || (status->flags & ~(uint32_t)NOTICE_STATUS_FLAGS) ||
	    status->reserved != 0)
		return bad(why, "STATUS has unknown flags");
	if (status->idle_permille > 1000)
		return bad(why, "STATUS has an impossible share");
	if (status->stats_age_ms > NOTICE_AGE_MAX_MS)
		return bad(why, "STATUS has an impossible age");
	for (size_t i = 0; ret == 0 && i < sizeof(frames) / sizeof(frames[0]); i++)
		ret = check_frames(frames[i], why);
	return ret;
}

int notice_check_report(const union notice_packet *packet, size_t len, const char **why)
{
	int ret = packet_check_header(&packet->header, len, why);

	if (ret < 0)
		return ret;
	switch (packet->header.type) {
	case NOTICE_DONE:
		return check_done(&packet->done, len, why);
	case NOTICE_STATUS:
		return check_status(&packet->status, len, why);
	default:
		return bad(why, "not a report of a VM");
	}
}
