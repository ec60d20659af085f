/* SPDX-License-Identifier: MIT */
/*
 * The notice channel: which packets are notices, both ends in one loop, and what framevisord does
 * with VMMs that do not keep to it.
 */
#include "owner_fixture.h"

#include <cmocka.h>

#include "framevisor/event_loop.h"
#include "vmm/owner/notice.h"
#include "vmm/owner_channel.h"

#define PATIENCE_MS 30000

static const struct packet_limits limits = { .nr_nodes = 2, .spanned = { 100, 50 } };

/* --- packets --- */

static union notice_packet packet;
static const char *why;

static void make(enum notice_type type, size_t len)
{
	memset(&packet, 0, sizeof(packet));
	packet.header.type = type;
	packet.header.length = (uint32_t)len;
	if (type < NOTICE_DONE)
		packet.resume.id = 5;
}

static int request(void)
{
	return notice_check_request(&packet, packet.header.length, &limits, &why);
}

static int report(void)
{
	return notice_check_report(&packet, packet.header.length, &why);
}

static void make_move(void)
{
	make(NOTICE_MOVE, notice_move_length(2));
	packet.move.nr_runs = 2;
	packet.move.nr_frames = 7;
	packet.move.runs[0] = (struct frame_run){ .first = 96, .nr = 4, .node = 0 };
	packet.move.runs[1] = (struct frame_run){ .first = 0, .nr = 3, .node = 1 };
}

static void make_limit(void)
{
	make(NOTICE_LIMIT, sizeof(packet.limit));
	packet.limit.min = 10;
	packet.limit.limit = 20;
	packet.limit.max = 30;
	packet.limit.shares = 1000;
}

static void test_requests(void **state)
{
	static const struct {
		enum notice_type type;
		size_t len;
	} plain[] = {
		{ NOTICE_RECLAIM, sizeof(struct notice_reclaim) },
		{ NOTICE_TARGET, sizeof(struct notice_target) },
		{ NOTICE_PAUSE, sizeof(struct notice_pause) },
		{ NOTICE_RESUME, sizeof(struct notice_resume) },
		{ NOTICE_ASK, sizeof(struct notice_ask) },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
		make(plain[i].type, plain[i].len);
		assert_int_equal(request(), 0);
		assert_int_equal(report(), -EPROTO);
		packet.header.length--;
		assert_int_equal(request(), -EPROTO);
		packet.header.length += 2;
		assert_int_equal(request(), -EPROTO);
		make(plain[i].type, plain[i].len);
		packet.resume.id = 0;
		assert_int_equal(request(), -EPROTO);
		make(plain[i].type, plain[i].len);
		packet.header.status = -1;
		assert_int_equal(request(), -EPROTO);
		for (size_t len = 0; len < 24; len++) {
			make(plain[i].type, len);
			assert_int_equal(request(), -EPROTO);
		}
	}
}

static void test_request_fields(void **state)
{
	(void)state;
	make(NOTICE_RECLAIM, sizeof(packet.reclaim));
	packet.reclaim.kind = NOTICE_RECLAIM_KINDS;
	assert_int_equal(request(), -EPROTO);
	make(NOTICE_RECLAIM, sizeof(packet.reclaim));
	packet.reclaim.nr_frames = UINT64_MAX;
	assert_int_equal(request(), -EPROTO);
	make(NOTICE_TARGET, sizeof(packet.target));
	packet.target.tax_frames = UINT64_MAX;
	assert_int_equal(request(), -EPROTO);
	make(NOTICE_ASK, sizeof(packet.ask));
	packet.ask.interval_ms = NOTICE_INTERVAL_MIN_MS;
	assert_int_equal(request(), 0);
	packet.ask.interval_ms = NOTICE_INTERVAL_MIN_MS - 1;
	assert_int_equal(request(), -EPROTO);
	packet.ask.interval_ms = NOTICE_INTERVAL_MAX_MS + 1;
	assert_int_equal(request(), -EPROTO);
	packet.ask.interval_ms = 0;
	packet.ask.flags = NOTICE_ASK_IDLE;
	assert_int_equal(request(), 0);
	packet.ask.flags = NOTICE_ASK_FLAGS + 1;
	assert_int_equal(request(), -EPROTO);
	make_limit();
	assert_int_equal(request(), 0);
	packet.limit.min = 31;
	assert_int_equal(request(), -EPROTO);
	make_limit();
	packet.limit.shares = 0;
	assert_int_equal(request(), -EPROTO);
	make_limit();
	packet.limit.oom_score_adj = 1001;
	assert_int_equal(request(), -EPROTO);
}

static void test_move(void **state)
{
	(void)state;
	make_move();
	assert_int_equal(request(), 0);
	packet.move.nr_frames++;
	assert_int_equal(request(), -EPROTO);
	make_move();
	packet.move.runs[1].first = 48;
	assert_int_equal(request(), -EPROTO);
	make_move();
	packet.move.nr_runs = 1;
	assert_int_equal(request(), -EPROTO);
	make_move();
	packet.move.nr_runs = UINT32_MAX;
	assert_int_equal(request(), -EPROTO);
	make_move();
	packet.move.nr_runs = 0;
	packet.move.nr_frames = 0;
	packet.header.length = notice_move_length(0);
	assert_int_equal(request(), -EPROTO);
	make_move();
	packet.move.nodemask = 4;
	assert_int_equal(request(), -EPROTO);
	make_move();
	packet.move.reason = NOTICE_MOVE_REASONS;
	assert_int_equal(request(), -EPROTO);
}

static void test_reports(void **state)
{
	(void)state;
	make(NOTICE_DONE, sizeof(packet.done));
	assert_int_equal(report(), -EPROTO); /* no id */
	packet.done.id = 1;
	assert_int_equal(report(), 0);
	assert_int_equal(request(), -EPROTO);
	packet.header.status = -EBUSY;
	assert_int_equal(report(), 0);
	packet.header.status = 1;
	assert_int_equal(report(), -EPROTO);
	packet.header.status = 0;
	packet.done.nr_frames = UINT64_MAX;
	assert_int_equal(report(), -EPROTO);
	make(NOTICE_STATUS, sizeof(packet.status));
	assert_int_equal(report(), 0);
	packet.status.flags = NOTICE_STATUS_FLAGS + 1;
	assert_int_equal(report(), -EPROTO);
	make(NOTICE_STATUS, sizeof(packet.status));
	packet.status.idle_permille = 1001;
	assert_int_equal(report(), -EPROTO);
	make(NOTICE_STATUS, sizeof(packet.status));
	packet.status.available = UINT64_MAX;
	assert_int_equal(report(), -EPROTO);
	make(NOTICE_STATUS, sizeof(packet.status));
	packet.status.stats_age_ms = NOTICE_AGE_MAX_MS + 1;
	assert_int_equal(report(), -EPROTO);
	make(NOTICE_STATUS, sizeof(packet.status));
	packet.status.reserved = 1;
	assert_int_equal(report(), -EPROTO);
}

/* --- both ends in one loop --- */

static struct event_loop *loop;
static struct event_timer *patience;
static struct notice *notice;
static struct owner_channel *channel;
static int peer_fd;

static unsigned int calls, nr_statuses, nr_done, nr_broken;
static uint64_t late_id, last_number;
static int last_status;
static const char *broken_why;

static void on_impatience(void *opaque)
{
	(void)opaque;
	fail_msg("nothing happened for %d ms", PATIENCE_MS);
}

static void on_quit(void *opaque)
{
	(void)opaque;
	event_loop_quit(loop);
}

static int op_reclaim(void *opaque, const struct notice_reclaim *reclaim, uint64_t *frames)
{
	(void)opaque;
	calls++;
	if (reclaim->kind == NOTICE_RECLAIM_HINT) {
		late_id = reclaim->id;
		return -EINPROGRESS;
	}
	*frames = reclaim->nr_frames;
	return reclaim->kind == NOTICE_RECLAIM_STOCK ? 0 : -EOPNOTSUPP;
}

static int op_target(void *opaque, const struct notice_target *target, uint64_t *frames)
{
	(void)opaque;
	calls++;
	*frames = target->tax_frames;
	return 0;
}

static int op_move(void *opaque, const struct notice_move *move, uint64_t *frames)
{
	(void)opaque;
	calls++;
	*frames = move->runs[1].nr;
	return -EBUSY;
}

static int op_pause(void *opaque, const struct notice_pause *pause, uint64_t *frames)
{
	(void)opaque;
	(void)frames;
	calls++;
	assert_int_equal(pause->badness, -3);
	return 0;
}

static int op_resume(void *opaque, const struct notice_resume *resume, uint64_t *frames)
{
	(void)opaque;
	(void)resume;
	(void)frames;
	calls++;
	return 0;
}

static int op_limit(void *opaque, const struct notice_limit *limit, uint64_t *frames)
{
	(void)opaque;
	calls++;
	*frames = limit->max;
	return 0;
}

static void op_status(void *opaque, struct notice_status *status)
{
	(void)opaque;
	status->bound = 77;
}

static const struct owner_channel_ops ops = {
	.reclaim = op_reclaim,
	.target = op_target,
	.move = op_move,
	.pause = op_pause,
	.resume = op_resume,
	.limit = op_limit,
	.status = op_status,
};

static void on_status(void *opaque, const struct notice_status *status)
{
	(void)opaque;
	assert_int_equal(status->bound, 77);
	if (++nr_statuses >= 3 || status->id)
		event_loop_quit(loop);
}

static void on_broken(void *opaque, const char *text)
{
	(void)opaque;
	nr_broken++;
	broken_why = text;
	notice_destroy(notice);
	notice = NULL;
	event_loop_quit(loop);
}

static void on_done(void *opaque, int status, uint64_t frames)
{
	(void)opaque;
	nr_done++;
	last_status = status;
	last_number = frames;
	event_loop_quit(loop);
}

static const struct notice_ops notice_ops = { .status = on_status, .broken = on_broken };

static int setup_pair(void **state)
{
	struct error err = { 0 };

	(void)state;
	calls = nr_statuses = nr_done = nr_broken = 0;
	if (objects_init(&err) < 0)
		return -1;
	loop = event_loop_create();
	patience = event_timer_create(loop, on_impatience, NULL);
	event_timer_arm(patience, PATIENCE_MS, 0);
	notice = notice_create(loop, &notice_ops, NULL, &peer_fd, &err);
	channel = owner_channel_create(loop, &limits, &ops, NULL, &err);
	return notice && channel ? owner_channel_attach(channel, peer_fd) : -1;
}

static int teardown_pair(void **state)
{
	(void)state;
	notice_destroy(notice);
	owner_channel_destroy(channel);
	close(peer_fd);
	event_timer_destroy(patience);
	event_loop_destroy(loop);
	assert_int_equal(objects_exit(), 0);
	return 0;
}

static void ask(enum notice_type type, size_t len, int status, uint64_t number)
{
	unsigned int before = nr_done;

	assert_int_equal(notice_send(notice, &packet, type, len, on_done, NULL), 0);
	event_loop_run(loop);
	assert_int_equal(nr_done, before + 1);
	assert_int_equal(last_status, status);
	assert_int_equal(last_number, number);
	assert_int_equal(notice_pending(notice), 0);
}

static void test_every_request(void **state)
{
	(void)state;
	make(NOTICE_RECLAIM, sizeof(packet.reclaim));
	packet.reclaim.nr_frames = 9;
	ask(NOTICE_RECLAIM, sizeof(packet.reclaim), 0, 9);
	packet.reclaim.kind = NOTICE_RECLAIM_SWAP_OUT;
	ask(NOTICE_RECLAIM, sizeof(packet.reclaim), -EOPNOTSUPP, 9);
	make(NOTICE_TARGET, sizeof(packet.target));
	packet.target.tax_frames = 4;
	ask(NOTICE_TARGET, sizeof(packet.target), 0, 4);
	make_move();
	ask(NOTICE_MOVE, notice_move_length(2), -EBUSY, 3);
	make(NOTICE_PAUSE, sizeof(packet.pause));
	packet.pause.badness = -3;
	ask(NOTICE_PAUSE, sizeof(packet.pause), 0, 0);
	make(NOTICE_RESUME, sizeof(packet.resume));
	ask(NOTICE_RESUME, sizeof(packet.resume), 0, 0);
	make_limit();
	ask(NOTICE_LIMIT, sizeof(packet.limit), 0, 30);
	assert_int_equal(calls, 7);
}

/* A RESUME while so many answers are due. */
static void ask_beside(unsigned int due)
{
	unsigned int before = nr_done;

	assert_int_equal(
		notice_send(notice, &packet, NOTICE_RESUME, sizeof(packet.resume), on_done, NULL),
		0);
	event_loop_run(loop);
	assert_int_equal(nr_done, before + 1);
	assert_int_equal(notice_pending(notice), due);
}

/* One that takes its time, beside others. */
static void test_late_answer(void **state)
{
	(void)state;
	make(NOTICE_RECLAIM, sizeof(packet.reclaim));
	packet.reclaim.kind = NOTICE_RECLAIM_HINT;
	assert_int_equal(
		notice_send(notice, &packet, NOTICE_RECLAIM, sizeof(packet.reclaim), on_done, NULL),
		0);
	make(NOTICE_RESUME, sizeof(packet.resume));
	ask_beside(1);
	owner_channel_done(channel, late_id, 0, 12);
	event_loop_run(loop);
	assert_int_equal(last_number, 12);
	assert_int_equal(notice_pending(notice), 0);
}

/* Answers to what nobody asked: the channel does not send them, and the owner does not take them.
 */
static void test_answer_twice(void **state)
{
	struct notice_done done = { .header = { .type = NOTICE_DONE, .length = sizeof(done) },
				    .id = 99 };

	(void)state;
	make(NOTICE_RECLAIM, sizeof(packet.reclaim));
	packet.reclaim.kind = NOTICE_RECLAIM_HINT;
	assert_int_equal(
		notice_send(notice, &packet, NOTICE_RECLAIM, sizeof(packet.reclaim), on_done, NULL),
		0);
	make(NOTICE_RESUME, sizeof(packet.resume));
	ask_beside(1);
	owner_channel_done(channel, late_id, 0, 12);
	owner_channel_done(channel, late_id, 0, 12);
	event_loop_run(loop);
	make(NOTICE_RESUME, sizeof(packet.resume));
	ask(NOTICE_RESUME, sizeof(packet.resume), 0, 0);
	assert_int_equal(nr_broken, 0);
	assert_int_equal(send(peer_fd, &done, sizeof(done), 0), sizeof(done));
	event_loop_run(loop);
	assert_int_equal(nr_broken, 1);
	assert_non_null(broken_why);
}

static void test_statuses(void **state)
{
	(void)state;
	make(NOTICE_ASK, sizeof(packet.ask));
	packet.ask.interval_ms = NOTICE_INTERVAL_MIN_MS;
	assert_int_equal(notice_send(notice, &packet, NOTICE_ASK, sizeof(packet.ask), NULL, NULL),
			 0);
	event_loop_run(loop);
	assert_int_equal(nr_statuses, 1);
	event_loop_run(loop); /* two more by the clock */
	assert_int_equal(nr_statuses, 3);
	make(NOTICE_ASK, sizeof(packet.ask));
	assert_int_equal(notice_send(notice, &packet, NOTICE_ASK, sizeof(packet.ask), NULL, NULL),
			 0);
	event_loop_run(loop);
	assert_true(nr_statuses >= 4);
}

/* A VMM that does not read: sending ends, and nothing waits. */
static void test_deaf_vmm(void **state)
{
	int ret = 0, sent = 0;

	(void)state;
	owner_channel_attach(channel, -1);
	make_move();
	while (ret == 0 && sent < 100000) {
		ret = notice_send(notice, &packet, NOTICE_MOVE, notice_move_length(2), on_done,
				  NULL);
		sent += ret == 0;
	}
	assert_true(ret == -EBUSY || ret == -EAGAIN);
	assert_true(sent <= NOTICE_PENDING_MAX);
	assert_int_equal(notice_pending(notice), sent);
	for (ret = 0; ret == 0;)
		ret = notice_send(notice, &packet, NOTICE_ASK, sizeof(packet.ask), NULL, NULL);
	assert_int_equal(ret, -EAGAIN);
	/* It goes: everybody who waits is told. */
	nr_done = 0;
	notice_destroy(notice);
	notice = NULL;
	assert_int_equal(nr_done, sent);
	assert_int_equal(last_status, -EPIPE);
}

static void test_hostile_vmm(void **state)
{
	(void)state;
	owner_channel_attach(channel, -1);
	assert_int_equal(send(peer_fd, "rubbish", 7, MSG_NOSIGNAL), 7);
	event_loop_run(loop);
	assert_int_equal(nr_broken, 1);
	assert_non_null(broken_why);
}

/* An owner that sends rubbish is not listened to any more; the VM lives on. */
static void test_hostile_owner(void **state)
{
	char byte;

	(void)state;
	make(NOTICE_MOVE, 24); /* runs that are not there */
	assert_int_equal(notice_send(notice, &packet, NOTICE_MOVE, 24, on_done, NULL), 0);
	event_timer_destroy(patience);
	patience = event_timer_create(loop, on_quit, NULL);
	event_timer_arm(patience, 200, 0);
	event_loop_run(loop);
	assert_int_equal(calls, 0);
	assert_int_equal(recv(peer_fd, &byte, 1, MSG_DONTWAIT), -1);
}

/* --- framevisord --- */

static void start_owner(void)
{
	static const char *const args[] = { "--pool=64M", "--hugepages=never", NULL };

	fixture_start(args);
}

/* Whoever closes its channel, or sends rubbish on it, has to leave; the others do not notice. */
static void test_cut_by_owner(void **state)
{
	struct peer good, closes, babbles;

	(void)state;
	start_owner();
	assert_true(peer_start(&good, "good", 4));
	assert_true(peer_start(&closes, "closes", 4));
	assert_true(peer_start(&babbles, "babbles", 4));
	assert_int_equal(peer_do(&good, PEER_GRANT, 4), 4);
	assert_int_equal(peer_do(&closes, PEER_GRANT, 4), 4);
	assert_int_equal(peer_do(&babbles, PEER_GRANT, 4), 4);
	assert_int_equal(peer_do(&closes, PEER_NOTICE_CLOSE, 0), 0);
	assert_int_equal(peer_do(&babbles, PEER_NOTICE_SEND, 100), 0);
	/* They live on with frames, so they are killed. */
	assert_int_equal(peer_wait(&closes, PATIENCE_MS), SIGKILL);
	assert_int_equal(peer_wait(&babbles, PATIENCE_MS), SIGKILL);
	assert_true(fixture_wait_held(4) >= 0);
	fixture_validate();
	assert_int_equal(peer_do(&good, PEER_RETURN, 0), 0);
	peer_end(&good);
}

#define PAIR_TEST(name) cmocka_unit_test_setup_teardown(name, setup_pair, teardown_pair)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests), cmocka_unit_test(test_request_fields),
		cmocka_unit_test(test_move),     cmocka_unit_test(test_reports),
		PAIR_TEST(test_every_request),   PAIR_TEST(test_late_answer),
		PAIR_TEST(test_answer_twice),    PAIR_TEST(test_statuses),
		PAIR_TEST(test_deaf_vmm),        PAIR_TEST(test_hostile_vmm),
		PAIR_TEST(test_hostile_owner),   OWNER_TEST(test_cut_by_owner),
	};

	return cmocka_run_group_tests(tests, fixture_setup_group, NULL);
}
