/* SPDX-License-Identifier: MIT */
/*
 * The pool owner's own objects: that they cost little, that a leak is seen, and that what was
 * promised is there when there is no memory, down to VMs that come and go then.
 */
#include "tests/unit/owner_fixture.h"

#include <pthread.h>
#include <semaphore.h>

#include "framevisor/event_loop.h"
#include "framevisor/fault_inject.h"
#include "framevisor/mm.h"
#include "tests/unit/skip.h"
#include "vmm/owner/balance_private.h"
#include "vmm/owner/notice.h"
#include "vmm/owner/server_private.h"
#include "vmm/owner/vacate.h"
#include "vmm/owner/work.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

static struct object_cache *const caches[] = {
	&client_cache, &notice_cache, &balance_entry_cache, &answer_cache,
	&piece_cache,  &vacate_cache, &asked_cache,
};
#define NR_CACHES (sizeof(caches) / sizeof(caches[0]))
/* More than any cache finds room for without a new frame. */
#define HOARD_MAX 8192

static int setup(void **state)
{
	struct error err = { 0 };

	(void)state;
	return objects_init(&err);
}

static void validate(void)
{
	char text[256] = "";

	if (mm_slab_validate(objects_mm(), text, sizeof(text)) != 0)
		fail_msg("mm_slab_validate: %s", text);
	if (mm_validate(objects_mm(), text, sizeof(text)) != 0)
		fail_msg("mm_validate: %s", text);
}

static int teardown(void **state)
{
	(void)state;
	validate();
	assert_int_equal(mm_slab_errors(objects_mm()), 0);
	assert_int_equal(objects_exit(), 0);
	return 0;
}

/*
 * From now on (on) the instance gets no frame more, and what is left of its frames is used up: no
 * cache can have a new slab.
 */
static void no_memory(bool on)
{
	const struct mm_fault fault = { .nth = 1, .interval = 1, .times = UINT64_MAX };
	static const size_t sizes[] = { 32768, 4096 };
	static void *eaten[1024];
	static unsigned int nr;

	mm_set_fault(objects_mm(), on ? &fault : NULL);
	for (size_t i = 0; on && i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		kmem_cache_shrink_all(objects_mm());
		while ((eaten[nr] = kmalloc(sizes[i], GFP_NOWAIT)))
			assert_true(++nr < 1024);
	}
	while (!on && nr)
		kfree(eaten[--nr]);
}

/* All that the slabs of a cache still hold; the promised ones stay. */
struct hoard {
	struct object_cache *cache;
	void *objects[HOARD_MAX];
	unsigned int nr;
};

static void hoard_begin(struct hoard *hoard, struct object_cache *cache)
{
	unsigned int before;
	void *object;

	hoard->cache = cache;
	hoard->nr = 0;
	do {
		before = hoard->nr;
		while ((object = kmem_cache_alloc(cache->cache, GFP_NOWAIT))) {
			assert_true(hoard->nr < HOARD_MAX);
			hoard->objects[hoard->nr++] = object;
		}
		/* What lies in the sheaf of a CPU that this thread has left. */
		kmem_cache_shrink(cache->cache);
	} while (hoard->nr > before);
}

static void hoard_end(struct hoard *hoard)
{
	while (hoard->nr)
		kmem_cache_free(hoard->cache->cache, hoard->objects[--hoard->nr]);
}

/* --- what they are --- */

static bool all_zero(const void *object, size_t size)
{
	const unsigned char *bytes = object;

	for (size_t i = 0; i < size; i++)
		if (bytes[i])
			return false;
	return true;
}

static void test_zeroed(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < NR_CACHES; i++) {
		for (unsigned int round = 0; round < 3; round++) {
			void *object = object_zalloc(caches[i]);

			assert_non_null(object);
			assert_true(all_zero(object, caches[i]->size));
			memset(object, 0xa5, caches[i]->size);
			object_free(caches[i], object);
		}
		object_free(caches[i], NULL);
	}
}

static void test_begins_anew(void **state)
{
	struct error err = { 0 };

	(void)state;
	for (unsigned int round = 0; round < 3; round++) {
		assert_int_equal(objects_exit(), 0);
		assert_null(objects_mm());
		assert_int_equal(objects_exit(), 0);
		assert_int_equal(objects_init(&err), 0);
		assert_ptr_equal(objects_mm(), mm_current);
	}
}

/* With frames of 1 GiB only their first 2 MiB are used; all of it is address space. */
static void test_gigantic_frames(void **state)
{
	static void *clients[1000];
	struct error err = { 0 };

	(void)state;
	assert_int_equal(objects_exit(), 0);
	assert_int_equal(frame_use_shift(FRAME_SHIFT_1G), 0);
	assert_int_equal(objects_init(&err), 0);
	for (int i = 0; i < 1000; i++) {
		clients[i] = object_zalloc(&client_cache);
		assert_non_null(clients[i]);
		memset(clients[i], i, client_cache.size);
	}
	/* More than one frame's 2 MiB, and none beyond them. */
	assert_true((uintptr_t)clients[0] / FRAME_SIZE != (uintptr_t)clients[999] / FRAME_SIZE);
	for (int i = 0; i < 1000; i++) {
		assert_true((uintptr_t)clients[i] % FRAME_SIZE + client_cache.size <=
			    FRAME_SIZE_2M);
		assert_int_equal(((unsigned char *)clients[i])[client_cache.size - 1], i & 0xff);
		object_free(&client_cache, clients[i]);
	}
	validate();
	assert_int_equal(objects_exit(), 0);
	assert_int_equal(frame_use_shift(FRAME_SHIFT_2M), 0);
	assert_int_equal(objects_init(&err), 0);
}

static int64_t private_kib(void)
{
	FILE *file = fopen("/proc/self/smaps_rollup", "re");
	long long value = -1;
	char line[256];

	assert_non_null(file);
	while (value < 0 && fgets(line, sizeof(line), file))
		if (sscanf(line, "Private_Dirty: %lld kB", &value) != 1)
			value = -1;
	(void)fclose(file);
	return value;
}

/* Some KiB of records are some KiB of memory, neither a frame nor a transparent hugepage. */
static void test_cost(void **state)
{
	static void *clients[100];
	struct error err = { 0 };
	int64_t before, idle, busy;

	(void)state;
	if (SANITIZED)
		skip_because("a sanitizer's own memory is in the numbers");
	assert_int_equal(objects_exit(), 0);
	before = private_kib();
	assert_int_equal(objects_init(&err), 0);
	idle = private_kib() - before;
	for (int i = 0; i < 100; i++)
		clients[i] = object_zalloc(&client_cache);
	busy = private_kib() - before - idle;
	for (int i = 0; i < 100; i++)
		object_free(&client_cache, clients[i]);
	print_message("idle %lld KiB, 100 clients %lld KiB\n", (long long)idle, (long long)busy);
	assert_true(idle <= 256);
	assert_true(busy <= (int64_t)(100 * client_cache.size / 1024 * 3 / 2));
}

/* --- leaks --- */

static void test_leaks_are_told(void **state)
{
	struct error err = { 0 };
	char text[4096] = "";
	int fd = memfd_create("stderr", MFD_CLOEXEC), saved = dup(STDERR_FILENO);
	ssize_t len;

	(void)state;
	assert_non_null(object_zalloc(&client_cache));
	assert_non_null(object_zalloc(&answer_cache));
	assert_non_null(object_zalloc(&answer_cache));
	assert_non_null(kmalloc(100, GFP_OBJECTS));
	assert_non_null(kmalloc(3 << 20, GFP_OBJECTS));
	dup2(fd, STDERR_FILENO);
	assert_int_equal(objects_exit(), 5);
	dup2(saved, STDERR_FILENO);
	close(saved);
	len = pread(fd, text, sizeof(text) - 1, 0);
	close(fd);
	assert_true(len > 0);
	assert_non_null(strstr(text, "cache client: 1 objects still allocated"));
	assert_non_null(strstr(text, "cache answer: 2 objects still allocated"));
	assert_non_null(strstr(text, "cache kmalloc-128: 1 objects still allocated"));
	assert_non_null(strstr(text, "5 objects of the pool owner were never freed"));
	assert_int_equal(objects_init(&err), 0);
}

/* --- without memory --- */

static void test_promise(void **state)
{
	static struct hoard hoard;
	void *promised[32];

	(void)state;
	no_memory(true);
	for (unsigned int i = 0; i < NR_CACHES; i++) {
		unsigned int reserve = caches[i]->reserve;

		hoard_begin(&hoard, caches[i]);
		assert_true(reserve >= 1 && reserve <= 32);
		assert_int_equal(mempool_reserved(caches[i]->promised), reserve);
		for (unsigned int round = 0; round < 2; round++) {
			for (unsigned int n = 0; n < reserve; n++) {
				promised[n] = object_zalloc(caches[i]);
				assert_non_null(promised[n]);
				assert_true(all_zero(promised[n], caches[i]->size));
				memset(promised[n], 0xa5, caches[i]->size);
			}
			assert_null(object_zalloc(caches[i]));
			for (unsigned int n = 0; n < reserve; n++)
				object_free(caches[i], promised[n]);
			assert_int_equal(mempool_reserved(caches[i]->promised), reserve);
		}
		hoard_end(&hoard);
	}
	no_memory(false);
}

/* Tables fail, and say so, at once. */
static void test_tables_fail(void **state)
{
	void *table = kcalloc(10, 100, GFP_OBJECTS), *more;

	(void)state;
	assert_non_null(table);
	memset(table, 0x5a, 1000);
	no_memory(true);
	more = krealloc(table, 4 << 20, GFP_OBJECTS);
	assert_null(more);
	assert_int_equal(((unsigned char *)table)[999], 0x5a);
	assert_null(kcalloc(4 << 20, 1, GFP_OBJECTS));
	no_memory(false);
	more = krealloc(table, 4 << 20, GFP_OBJECTS);
	assert_non_null(more);
	assert_int_equal(((unsigned char *)more)[999], 0x5a);
	kfree(more);
}

struct turn {
	struct event_loop *loop;
	unsigned int ended, of;
};

static void end_turn(void *opaque, int result)
{
	struct turn *turn = opaque;

	assert_int_equal(result, 0);
	if (++turn->ended == turn->of)
		event_loop_quit(turn->loop);
}

static void test_work_goes_on(void **state)
{
	static struct hoard hoard;
	struct event_loop *loop = event_loop_create();
	struct work_queue *queue = work_queue_create(loop);
	struct turn turn = { .loop = loop, .of = piece_cache.reserve };
	const struct work work = { .end = end_turn, .opaque = &turn };

	(void)state;
	assert_non_null(queue);
	no_memory(true);
	hoard_begin(&hoard, &piece_cache);
	for (unsigned int round = 0; round < 3; round++) {
		turn.ended = 0;
		for (unsigned int i = 0; i < piece_cache.reserve; i++)
			assert_int_equal(work_submit(queue, &work), 0);
		assert_int_equal(work_submit(queue, &work), -ENOMEM);
		assert_int_equal(event_loop_run(loop), 0);
		assert_int_equal(turn.ended, turn.of);
	}
	hoard_end(&hoard);
	no_memory(false);
	work_queue_destroy(queue);
	event_loop_destroy(loop);
}

/* --- VMs that come and go without memory --- */

#define POOL_FRAMES 24

static struct {
	struct event_loop *loop;
	struct pool *pool;
	struct work_queue *work;
	struct server *server;
	struct balance *balance;
	int listen_fd;
	pthread_t thread;
} owner;

static void *owner_thread(void *opaque)
{
	(void)opaque;
	assert_int_equal(event_loop_run(owner.loop), 0);
	return NULL;
}

static void on_event(void *opaque, const char *name, json_t *data)
{
	(void)opaque;
	(void)name;
	json_decref(data);
}

static void owner_begin(void)
{
	char path[RUNDIR_PATH_MAX], record[RUNDIR_PATH_MAX];
	struct pool_config pool = { .hugepages = HUGEPAGES_NEVER,
				    .size = POOL_FRAMES * FRAME_SIZE_2M,
				    .record = record };
	struct server_config server = { 0 };
	struct balance_config balance = { .event = on_event };
	struct error err = { 0 };

	assert_int_equal(rundir_join(path, "pool.sock", NULL), 0);
	assert_int_equal(rundir_join(record, "pool.hugepages", NULL), 0);
	owner.loop = event_loop_create();
	owner.listen_fd = rundir_listen(path, SOCK_SEQPACKET, &err);
	assert_true(owner.listen_fd >= 0);
	owner.pool = pool_create(&pool, &err);
	if (!owner.pool)
		fail_msg("%s", err.message);
	owner.work = work_queue_create(owner.loop);
	server = (struct server_config){ .loop = owner.loop,
					 .pool = owner.pool,
					 .work = owner.work,
					 .listen_fd = owner.listen_fd };
	owner.server = server_create(&server, &err);
	assert_non_null(owner.server);
	balance.loop = owner.loop;
	balance.pool = owner.pool;
	balance.server = owner.server;
	owner.balance = balance_create(&balance, &err);
	assert_non_null(owner.balance);
	server_set_traffic(owner.server, balance_traffic, owner.balance);
	assert_int_equal(pthread_create(&owner.thread, NULL, owner_thread, NULL), 0);
}

static void owner_end(void)
{
	char text[256] = "";

	event_loop_quit(owner.loop);
	pthread_join(owner.thread, NULL);
	assert_int_equal(server_validate(owner.server, text, sizeof(text)), 0);
	assert_int_equal(pool_validate(owner.pool, text, sizeof(text)), 0);
	work_queue_destroy(owner.work);
	server_destroy(owner.server);
	balance_destroy(owner.balance);
	event_loop_destroy(owner.loop);
	pool_destroy(owner.pool);
	close(owner.listen_fd);
}

/* Asked in the loop's thread. */
struct question {
	sem_t answered;
	unsigned int clients, held;
};

static void answer_question(void *opaque)
{
	struct question *question = opaque;

	question->clients = owner.server->nr_clients;
	question->held = (unsigned int)pool_held(owner.pool, 0);
	balance_refresh(owner.balance);
	sem_post(&question->answered);
}

static struct question ask(void)
{
	struct question question = { .clients = 0 };

	sem_init(&question.answered, 0, 0);
	assert_int_equal(event_loop_post(owner.loop, answer_question, &question), 0);
	while (sem_wait(&question.answered) < 0)
		;
	sem_destroy(&question.answered);
	return question;
}

static void wait_for_clients(unsigned int nr)
{
	uint64_t deadline = now_ms() + 10000;

	while (ask().clients != nr) {
		assert_true(now_ms() < deadline);
		usleep(2000);
	}
}

/* The promised number of VMs come, get frames and die, again and again; one more is turned away. */
static void test_vms_without_memory(void **state)
{
	static struct hoard clients, notices, entries;
	struct peer peers[CLIENTS_PROMISED], more;
	char name[] = "vm0";

	(void)state;
	owner_begin();
	no_memory(true);
	hoard_begin(&clients, &client_cache);
	hoard_begin(&notices, &notice_cache);
	hoard_begin(&entries, &balance_entry_cache);
	for (unsigned int round = 0; round < 3; round++) {
		for (unsigned int i = 0; i < CLIENTS_PROMISED; i++) {
			name[2] = (char)('0' + i);
			if (!peer_start(&peers[i], name, 4))
				fail_msg("%s", peers[i].err.message);
			assert_int_equal(peer_do(&peers[i], PEER_GRANT, 4), 4);
		}
		assert_int_equal(ask().held, 4 * CLIENTS_PROMISED);
		assert_false(peer_start(&more, "more", 4));
		assert_int_equal(ask().clients, CLIENTS_PROMISED);
		for (unsigned int i = 0; i < CLIENTS_PROMISED; i++) {
			kill(peers[i].pid, SIGKILL);
			assert_int_equal(peer_wait(&peers[i], 5000), SIGKILL);
		}
		wait_for_clients(0);
		assert_int_equal(ask().held, 0);
	}
	hoard_end(&entries);
	hoard_end(&notices);
	hoard_end(&clients);
	no_memory(false);
	assert_true(peer_start(&more, "more", 4));
	peer_end(&more);
	wait_for_clients(0);
	owner_end();
}

static int setup_owner(void **state)
{
	return fixture_setup(state) || setup(state);
}

static int teardown_owner(void **state)
{
	return teardown(state) || fixture_teardown(state);
}

/* --- the report --- */

static void test_slabinfo(void **state)
{
	struct peer peer;
	const char *text, *line;
	unsigned long active = 0;
	json_t *reply;

	(void)state;
	fixture_start((const char *const[]){ "--pool=32M", "--hugepages=never", NULL });
	assert_true(peer_start(&peer, "a", 4));
	reply = fixture_qmp("query-slabinfo", NULL);
	text = json_string_value(json_object_get(reply, "human-readable-text"));
	assert_non_null(text);
	assert_ptr_equal(strstr(text, "slabinfo - version: 2.1\n"), text);
	for (unsigned int i = 0; i < NR_CACHES; i++) {
		char name[64];

		snprintf(name, sizeof(name), "\n%s ", caches[i]->name);
		assert_non_null(strstr(text, name));
	}
	/* The reserve, and the one that came. */
	line = strstr(text, "\nnotice ");
	assert_int_equal(sscanf(line, " notice %lu", &active), 1);
	assert_int_equal(active, CLIENTS_PROMISED + 1);
	json_decref(reply);
	peer_end(&peer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_zeroed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_begins_anew, setup, teardown),
		cmocka_unit_test_setup_teardown(test_gigantic_frames, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cost, setup, teardown),
		cmocka_unit_test_setup_teardown(test_leaks_are_told, setup, teardown),
		cmocka_unit_test_setup_teardown(test_promise, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tables_fail, setup, teardown),
		cmocka_unit_test_setup_teardown(test_work_goes_on, setup, teardown),
		cmocka_unit_test_setup_teardown(test_vms_without_memory, setup_owner,
						teardown_owner),
		OWNER_TEST(test_slabinfo),
	};

	return cmocka_run_group_tests(tests, fixture_setup_group, NULL);
}
