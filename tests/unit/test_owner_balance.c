/* SPDX-License-Identifier: MIT */
/*
 * Guests whose load moves, in a pool with more promised than it has: memory goes to who needs it,
 * nobody falls below its minimum, and the next owner goes on with it.
 */
#include "owner_guests.h"

static void test_load_moves(void **state)
{
	struct vm vms[3];

	(void)state;
	start_owner("20000"); /* on a busy machine a child may not run for seconds */
	for (int i = 0; i < 3; i++)
		start_vm(&vms[i], (const char *[]){ "a", "b", "c" }[i], 0);
	for (int phase = 0; phase < 6; phase++) {
		int busy = phase % 3;

		for (int i = 0; i < 3; i++)
			put(vms[i].guest, wants, i == busy ? 56 : 20);
		wait_uses(&vms[busy], 56);
		for (int i = 0; i < 3; i++) {
			wait_uses(&vms[i], 20);
			assert_true(get(vms[i].guest, tax) + MIN <= RAM);
		}
		fixture_validate();
	}
	assert_true(counter("tax_steps") > 0);
	assert_true(counter("pgsteal_kswapd") + counter("pgsteal_direct") > 0);
	wait_counter("reclaim_episodes", 1);
	assert_int_equal(counter("oom_pause"), 0);
	/* The pressure is over: what was taken is given back. */
	for (int i = 0; i < 2; i++)
		end_vm(&vms[i]);
	put(vms[2].guest, wants, 20);
	for (uint64_t end = now_ms() + PATIENCE_MS; get(vms[2].guest, tax);) {
		assert_true(now_ms() < end);
		usleep(20000);
	}
	end_vm(&vms[2]);
	assert_true(fixture_wait_held(0) >= 0);
}

static void wait_samples(struct vm *vm, uint32_t on)
{
	uint64_t end = now_ms() + PATIENCE_MS;

	while (get(vm->guest, samples) != on) {
		assert_true(now_ms() < end);
		usleep(5000);
	}
}

/* Two guests alike in all they say; but one uses its memory, and the other's lies idle. They are
 * asked about that when memory gets short, and the idle one pays alone. */
static void test_idle_pays(void **state)
{
	struct vm vms[3];

	(void)state;
	start_owner("20000");
	setting("reclaim_step", "50"); /* what is needed comes from one */
	for (int i = 0; i < 3; i++)
		start_vm(&vms[i], (const char *[]){ "busy", "idle", "new" }[i], 0);
	put(vms[0].guest, idle_permille, 50);
	put(vms[1].guest, idle_permille, 900);
	assert_int_equal(get(vms[0].guest, samples), 0);
	for (int i = 0; i < 2; i++) {
		put(vms[i].guest, wants, 48); /* nobody is short yet */
		wait_uses(&vms[i], 48);
		put(vms[i].guest, wants, 20);
	}
	for (int i = 0; i < 2; i++)
		wait_samples(&vms[i], 1);
	usleep(1500000); /* they have told, each by its own clock */
	put(vms[2].guest, wants, 30);
	wait_uses(&vms[2], 30);
	wait_counter("reclaim_episodes", 1);
	assert_true(get(vms[1].guest, tax) > 0);
	assert_int_equal(get(vms[0].guest, tax), 0);
	assert_int_equal(get(vms[0].guest, bound), 48);
	/* With enough memory it is not worth its price. */
	end_vm(&vms[1]);
	end_vm(&vms[0]);
	wait_samples(&vms[2], 0);
	end_vm(&vms[2]);
	assert_true(fixture_wait_held(0) >= 0);
}

/* Paying takes a frame at first, which the one who grows has not taken. */
static void test_paying_takes_frames(void **state)
{
	struct vm vms[3];

	(void)state;
	start_owner("20000");
	for (int i = 0; i < 3; i++)
		start_vm(&vms[i], (const char *[]){ "clears", "new", "other" }[i], 0);
	put(vms[0].guest, wants, 58);
	wait_uses(&vms[0], 58);
	put(vms[0].guest, clears, 1);
	put(vms[0].guest, wants, 10);
	sleep(17); /* then it does not count as growing */
	put(vms[1].guest, wants, 58);
	wait_uses(&vms[1], 58);
	assert_int_equal(counter("oom_pause"), 0);
	end_all(vms);
}

/* Who was taxed while it was idle and goes to work is no payer: the last frames are not for it,
 * however much less it has than before. */
static void test_taxed_goes_to_work(void **state)
{
	struct vm vms[3];

	(void)state;
	start_owner("20000");
	for (int i = 0; i < 3; i++)
		start_vm(&vms[i], (const char *[]){ "back", "clears", "other" }[i], 0);
	put(vms[0].guest, wants, 58);
	wait_uses(&vms[0], 58);
	put(vms[0].guest, wants, 10);
	put(vms[1].guest, wants, 58);
	put(vms[2].guest, wants, 20);
	wait_uses(&vms[1], 58);
	wait_uses(&vms[2], 20);
	assert_true(get(vms[0].guest, tax) > 0);
	put(vms[1].guest, clears, 1);
	put(vms[1].guest, wants, 10);
	sleep(17); /* nobody counts as growing any more */
	put(vms[0].guest, wants, 58);
	wait_uses(&vms[0], 58);
	assert_int_equal(get(vms[1].guest, clears), 0);
	assert_int_equal(counter("oom_pause"), 0);
	fixture_validate();
	end_all(vms);
}

/* The owner is killed, and the next one finds the VMs as they are. */
static void change_owner(struct vm *vms, const char *oom_delay_ms)
{
	kill(fixture_owner, SIGKILL);
	assert_int_equal(fixture_wait_owner(), -2);
	start_owner(oom_delay_ms);
	for (int i = 0; i < 3; i++) {
		for (uint64_t end = now_ms() + PATIENCE_MS; !get(vms[i].guest, rejoined);) {
			assert_true(now_ms() < end);
			usleep(5000);
		}
	}
}

static void end_rejoined(struct vm *vms, int nr)
{
	for (int i = 0; i < nr; i++)
		end_vm(&vms[i]);
	assert_true(fixture_wait_held(0) >= 0);
	/* The VMs' directories are still there. */
	kill(fixture_owner, SIGTERM);
	assert_int_equal(fixture_wait_owner(), 0);
	rejoins = false;
}

/* What one owner took the next one gives back. */
static void test_tax_after_another_owner(void **state)
{
	struct vm vms[3];
	uint64_t tax;

	(void)state;
	rejoins = true;
	start_owner("20000");
	for (int i = 0; i < 3; i++)
		start_vm(&vms[i], (const char *[]){ "pays", "stays", "ends" }[i], 0);
	put(vms[0].guest, wants, 58);
	wait_uses(&vms[0], 58);
	put(vms[0].guest, wants, 10);
	put(vms[2].guest, wants, 58);
	put(vms[1].guest, wants, 20);
	wait_uses(&vms[2], 58);
	wait_uses(&vms[1], 20);
	sleep(1); /* nothing is under way */
	tax = get(vms[0].guest, tax);
	assert_true(tax > 0);
	change_owner(vms, "20000");
	assert_int_equal(counter("tax_steps"), 0);
	end_vm(&vms[2]);
	for (uint64_t end = now_ms() + PATIENCE_MS; get(vms[0].guest, tax);) {
		if (now_ms() > end)
			fail_msg("tax %llu, was %llu", (unsigned long long)get(vms[0].guest, tax),
				 (unsigned long long)tax);
		usleep(20000);
	}
	fixture_validate();
	end_rejoined(vms, 2);
}

/* And whom it stopped the next one lets go on. */
static void test_pause_after_another_owner(void **state)
{
	struct vm vms[3];

	(void)state;
	rejoins = true;
	start_owner("2500");
	for (int i = 0; i < 3; i++) {
		start_vm(&vms[i], (const char *[]){ "a", "b", "c" }[i], i == 1 ? 900 : 0);
		put(vms[i].guest, wants, RAM);
	}
	for (uint64_t end = now_ms() + PATIENCE_MS; !get(vms[1].guest, paused);) {
		assert_true(now_ms() < end);
		usleep(5000);
	}
	change_owner(vms, "20000");
	end_vm(&vms[0]);
	wait_counter("oom_resume", 1);
	wait_uses(&vms[1], RAM);
	fixture_validate();
	end_rejoined(vms + 1, 2);
}

static void test_bad_settings(void **state)
{
	static const char *const bad[][2] = {
		{ "oom_policy", "maybe" },   { "idle_tax", "100" },    { "idle_tax", "-1" },
		{ "reclaim_step", "0" },     { "no_such_thing", "1" }, { "overcommit_memory", "x" },
		{ "overcommit_memory", "3" }
	};
	json_t *settings;

	(void)state;
	start_owner("2500");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_null(fixture_qmp("pool-set", json_pack("{s:s, s:s}", "name", bad[i][0],
							      "value", bad[i][1])));
	setting("idle_tax", "50");
	settings = fixture_qmp("query-settings", NULL);
	assert_int_equal(json_integer_value(json_object_get(settings, "idle_tax")), 50);
	assert_string_equal(json_string_value(json_object_get(settings, "oom_policy")), "pause");
	assert_int_equal(json_integer_value(json_object_get(settings, "overcommit_memory")), 0);
	json_decref(settings);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		OWNER_TEST(test_load_moves),
		OWNER_TEST(test_idle_pays),
		OWNER_TEST(test_paying_takes_frames),
		OWNER_TEST(test_taxed_goes_to_work),
		OWNER_TEST(test_tax_after_another_owner),
		OWNER_TEST(test_pause_after_another_owner),
		OWNER_TEST(test_bad_settings),
	};

	return cmocka_run_group_tests(tests, fixture_setup_group, NULL);
}
