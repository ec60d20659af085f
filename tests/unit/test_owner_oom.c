/* SPDX-License-Identifier: MIT */
/*
 * Guests in a pool with more promised than it has, and nothing left: the OOM policy stops or kills
 * one, which goes on when there is some again; and nobody as long as somebody is on the way.
 */
#include "owner_guests.h"

/* One guest has what another one needs, and is slow to give it. moves: it is seen on its way. */
static void be_slow(struct vm *vms, uint32_t late_ms, uint32_t moves)
{
	start_owner("2500");
	for (int i = 0; i < 3; i++)
		start_vm(&vms[i], (const char *[]){ "slow", "new", "other" }[i], 0);
	put(vms[0].guest, wants, 58);
	wait_uses(&vms[0], 58);
	put(vms[0].guest, late_ticks, late_ms / TICK_MS);
	put(vms[0].guest, moves, moves);
	put(vms[0].guest, wants, 10);
	put(vms[1].guest, wants, 58);
	wait_uses(&vms[1], 58);
	fixture_validate();
}

/* A guest whose balloon first takes what brings no frames is on its way all the same: nobody is
 * stopped. */
static void test_slow_guest(void **state)
{
	struct vm vms[3];

	(void)state;
	be_slow(vms, 8000, 1);
	assert_int_equal(counter("oom_pause"), 0);
	end_all(vms);
}

/* One that does not seem to move is stopped along with the one that waits; but it has what is
 * missing, so it goes on. */
static void test_paused_payer(void **state)
{
	struct vm vms[3];

	(void)state;
	be_slow(vms, 8000, 0);
	assert_true(counter("oom_pause") > 0);
	assert_true(counter("oom_resume") > 0);
	end_all(vms);
}

/* Three that use all they have: nothing can be taken, and the second one is the first that stops.
 */
static void wait_oom_pause(struct vm *vms)
{
	start_owner("2500");
	for (int i = 0; i < 3; i++) {
		start_vm(&vms[i], (const char *[]){ "a", "b", "c" }[i], i == 1 ? 900 : 0);
		put(vms[i].guest, wants, RAM);
	}
	wait_counter("oom_pause", 1);
}

/* All use all they have: nothing can be taken, one has to stop, and goes on when one has left. */
static void test_oom_pause(void **state)
{
	struct vm vms[3];
	json_t *pressure;

	(void)state;
	wait_oom_pause(vms);
	assert_int_equal(counter("oom_kill"), 0);
	for (uint64_t end = now_ms() + PATIENCE_MS; !get(vms[1].guest, paused);) {
		assert_true(now_ms() < end);
		usleep(5000);
	}
	assert_true(get(vms[1].guest, bound) >= MIN);
	pressure = fixture_qmp("query-pressure", NULL);
	assert_non_null(json_object_get(json_object_get(pressure, "some"), "avg10"));
	json_decref(pressure);
	end_vm(&vms[0]);
	wait_counter("oom_resume", 1);
	wait_uses(&vms[1], RAM);
	wait_uses(&vms[2], RAM);
	fixture_validate();
	end_vm(&vms[1]);
	end_vm(&vms[2]);
	assert_true(fixture_wait_held(0) >= 0);
}

/* One that is paused and let go on by its user counts again: it is stopped again when that was too
 * early. */
static void test_oom_resumed_by_user(void **state)
{
	struct vm vms[3];

	(void)state;
	wait_oom_pause(vms);
	assert_int_equal(get(vms[1].guest, paused), 1);
	put(vms[1].guest, paused, 0);
	wait_counter("oom_pause", 2);
	assert_int_equal(counter("oom_resume"), 0);
	assert_int_equal(get(vms[1].guest, paused), 1);
	end_vm(&vms[0]);
	wait_counter("oom_resume", 1);
	end_vm(&vms[1]);
	end_vm(&vms[2]);
	assert_true(fixture_wait_held(0) >= 0);
}

/* A taxed guest that has paid and works is not one that is still paying: others that wait are not
 * left standing for its ups and downs. */
static void test_oom_beside_work(void **state)
{
	struct vm vms[3];

	(void)state;
	start_owner("2500");
	for (int i = 0; i < 3; i++)
		start_vm(&vms[i], (const char *[]){ "works", "b", "c" }[i], i == 1 ? 900 : 0);
	put(vms[0].guest, wants, 50);
	wait_uses(&vms[0], 50);
	put(vms[0].guest, wants, 20);
	put(vms[0].guest, works, 1);
	sleep(17); /* then it does not count as growing */
	put(vms[1].guest, wants, RAM);
	put(vms[2].guest, wants, RAM);
	wait_counter("oom_pause", 1);
	assert_true(get(vms[0].guest, tax) > 0);
	end_all(vms);
}

/* One gives a frame and takes it back, and so on: that is not what the others wait for. */
static void test_oom_beside_churn(void **state)
{
	struct vm vms[3];

	(void)state;
	start_owner("2500");
	for (int i = 0; i < 3; i++)
		start_vm(&vms[i], (const char *[]){ "churns", "b", "c" }[i], i == 1 ? 900 : 0);
	put(vms[0].guest, wants, 50);
	wait_uses(&vms[0], 50);
	put(vms[0].guest, wants, 20);
	put(vms[0].guest, churns, 1);
	sleep(17); /* then it does not count as growing */
	put(vms[1].guest, wants, RAM);
	put(vms[2].guest, wants, RAM);
	wait_counter("oom_pause", 1);
	assert_true(get(vms[0].guest, bound) >= 49);
	assert_int_equal(get(vms[0].guest, paused), 0); /* it could give */
	fixture_validate();
	end_all(vms);
}

/* One that cannot be stopped just then does not count as stopped: it is asked again. */
static void test_oom_pause_refused(void **state)
{
	struct vm vms[3];

	(void)state;
	start_owner("2500");
	for (int i = 0; i < 3; i++) {
		start_vm(&vms[i], (const char *[]){ "a", "b", "c" }[i], i == 1 ? 900 : 0);
		put(vms[i].guest, refuses, 1);
		put(vms[i].guest, wants, RAM);
	}
	for (uint64_t end = now_ms() + PATIENCE_MS; get(vms[1].guest, refused) < 2;) {
		assert_true(now_ms() < end);
		usleep(5000);
	}
	assert_int_equal(counter("oom_pause"), 0);
	put(vms[1].guest, refuses, 0);
	wait_counter("oom_pause", 1);
	end_vm(&vms[0]);
	wait_counter("oom_resume", 1);
	end_vm(&vms[1]);
	end_vm(&vms[2]);
	assert_true(fixture_wait_held(0) >= 0);
}

static void test_oom_kill(void **state)
{
	struct vm vms[3];
	int status;

	(void)state;
	start_owner("2500");
	setting("oom_policy", "kill");
	for (int i = 0; i < 3; i++) {
		start_vm(&vms[i], (const char *[]){ "a", "b", "c" }[i], i == 2 ? 900 : 0);
		put(vms[i].guest, wants, RAM);
	}
	assert_int_equal(waitpid(vms[2].pid, &status, 0), vms[2].pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	munmap(vms[2].guest, sizeof(*vms[2].guest));
	wait_uses(&vms[0], RAM);
	wait_uses(&vms[1], RAM);
	assert_int_equal(counter("oom_kill"), 1);
	assert_int_equal(counter("oom_pause"), 0);
	fixture_validate();
	end_vm(&vms[0]);
	end_vm(&vms[1]);
	assert_true(fixture_wait_held(0) >= 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		OWNER_TEST(test_slow_guest),          OWNER_TEST(test_paused_payer),
		OWNER_TEST(test_oom_pause),           OWNER_TEST(test_oom_pause_refused),
		OWNER_TEST(test_oom_resumed_by_user), OWNER_TEST(test_oom_beside_work),
		OWNER_TEST(test_oom_beside_churn),    OWNER_TEST(test_oom_kill),
	};

	return cmocka_run_group_tests(tests, fixture_setup_group, NULL);
}
