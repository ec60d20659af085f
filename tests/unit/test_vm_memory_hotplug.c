/* SPDX-License-Identifier: MIT */
/*
 * Memory that is plugged and unplugged while the guest runs: the owner's promise, KVM's slots, what
 * devices may reach, and a guest that touches what it does not have.
 */
#include "vm_memory_fixture.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#define HOTPLUG_GPA    UINT64_C(0x108000000)
#define SLOT_FRAMES    64
#define HOTPLUG_FRAMES (2 * SLOT_FRAMES)

static atomic_uint over_limit_events;
static _Atomic uint64_t over_limit_gpa;

static void on_event(void *opaque, enum vm_memory_event event, uint64_t gpa)
{
	(void)opaque;
	if (event != VM_MEMORY_EVENT_OVER_LIMIT)
		return;
	atomic_store(&over_limit_gpa, gpa);
	atomic_fetch_add(&over_limit_events, 1);
}

static void open_hotplug(struct fixture *f)
{
	const struct vm_memory_range hotplug[] = {
		{ .gpa = HOTPLUG_GPA, .size = 2 * VM_MEMORY_SLOT_SIZE },
	};

	atomic_store(&over_limit_events, 0);
	assert_true(try_open_config(f, client,
				    (struct vm_memory_config){ .hotplug = hotplug,
							       .nr_hotplug = 1,
							       .event = on_event }));
	assert_non_null(f->gm->frame_ops);
}

static uint64_t hot_gpa(unsigned int frame)
{
	return HOTPLUG_GPA + frame * FRAME_SIZE;
}

/* Through the window, plugged or not: as a vCPU reaches it. */
static uint64_t *hot_words(struct fixture *f, unsigned int frame)
{
	const struct guest_region *region = &f->gm->regions[f->gm->nr_regions - 1];

	assert_int_equal(region->gpa, HOTPLUG_GPA);
	return (uint64_t *)(region->hva + frame * FRAME_SIZE);
}

static int plug(struct fixture *f, unsigned int first, unsigned int nr)
{
	return f->gm->frame_ops->plug(f->gm->frame_opaque, hot_gpa(first), nr);
}

static int unplug(struct fixture *f, unsigned int first, unsigned int nr)
{
	return f->gm->frame_ops->unplug(f->gm->frame_opaque, hot_gpa(first), nr);
}

static void test_plug_and_unplug(void **state)
{
	struct vm_memory_stats stats;
	struct fixture f;

	(void)state;
	open_hotplug(&f);
	stats = stats_of(&f);
	assert_int_equal(stats.ram, RAM_FRAMES);
	assert_int_equal(stats.hotplug, HOTPLUG_FRAMES);
	assert_int_equal(stats.plugged, 0);
	assert_null(guest_ptr(f.gm, HOTPLUG_GPA, 8));
	assert_int_equal(guest_memory_size(f.gm), RAM_FRAMES * FRAME_SIZE);

	assert_int_equal(plug(&f, 3, 10), 0);
	assert_int_equal(stats_of(&f).plugged, 10);
	assert_true(owner_client_limit(client) >= RAM_FRAMES + 10);
	assert_null(guest_ptr(f.gm, hot_gpa(2), 8));
	assert_null(guest_ptr(f.gm, hot_gpa(13), 8));
	/* Unplugged neighbours are not bound along with them. */
	for (unsigned int i = 3; i < 13; i++) {
		uint64_t *words = guest_ptr(f.gm, hot_gpa(i), FRAME_SIZE);

		assert_ptr_equal(words, hot_words(&f, i));
		assert_int_equal(words[9], 0);
		words[9] = i;
	}
	assert_conserved(&f, NULL);
	assert_int_equal(stats_of(&f).bound, 10);

	/* A part of it; the rest keeps its content. */
	assert_int_equal(unplug(&f, 5, 4), 0);
	stats = stats_of(&f);
	assert_int_equal(stats.plugged, 6);
	assert_int_equal(stats.bound, 6);
	assert_int_equal(stats.released, 0);
	assert_null(guest_ptr(f.gm, hot_gpa(5), 8));
	assert_conserved(&f, NULL);
	assert_int_equal(plug(&f, 5, 2), 0);
	for (unsigned int i = 3; i < 7; i++)
		assert_int_equal(hot_words(&f, i)[9], i < 5 ? i : 0);

	assert_int_equal(unplug(&f, 0, HOTPLUG_FRAMES), 0);
	assert_int_equal(stats_of(&f).plugged, 0);
	assert_int_equal(stats_of(&f).bound, 0);
	assert_conserved(&f, NULL);
	assert_int_equal(guest_memory_size(f.gm), RAM_FRAMES * FRAME_SIZE);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

static void test_bad_ranges(void **state)
{
	const struct vm_memory_range bad[] = {
		{ .gpa = HOTPLUG_GPA, .size = FRAME_SIZE },
		{ .gpa = HOTPLUG_GPA + FRAME_SIZE, .size = VM_MEMORY_SLOT_SIZE },
		{ .gpa = HOTPLUG_GPA, .size = 0 },
	};
	struct fixture f;

	(void)state;
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct vm_memory_range ram = { .gpa = 0, .size = FRAME_SIZE };
		struct vm_memory_config config = { .ranges = &ram,
						   .nr_ranges = 1,
						   .client = client,
						   .hotplug = &bad[i],
						   .nr_hotplug = 1 };
		struct error err = { 0 };

		assert_null(vm_memory_create(&config, &err));
		assert_int_equal(err.code, EINVAL);
	}
	open_hotplug(&f);
	assert_int_equal(plug(&f, 0, 0), -EINVAL);
	assert_int_equal(plug(&f, 0, HOTPLUG_FRAMES + 1), -EINVAL);
	assert_int_equal(plug(&f, HOTPLUG_FRAMES, 1), -EINVAL);
	assert_int_equal(unplug(&f, HOTPLUG_FRAMES - 1, 2), -EINVAL);
	assert_int_equal(f.gm->frame_ops->plug(f.gm->frame_opaque, 0, 1), -EINVAL);
	assert_int_equal(f.gm->frame_ops->unplug(f.gm->frame_opaque, HIGH_GPA, 1), -EINVAL);
	assert_int_equal(f.gm->frame_ops->plug(f.gm->frame_opaque, HOTPLUG_GPA + 4096, 1), -EINVAL);
	assert_int_equal(stats_of(&f).plugged, 0);
	close_memory(&f);
}

/* The owner's promise goes up with what is plugged, and down again. */
static void test_admission(void **state)
{
	struct error err = { 0 };
	struct fixture f;
	uint64_t limit;

	(void)state;
	/* Said by the owner, and what this is about. */
	log_set_level(LOG_LEVEL_ERROR);
	open_hotplug(&f);
	limit = owner_client_limit(client);
	assert_int_equal(limit, RAM_FRAMES);
	/* Nothing changes by a refusal. */
	assert_int_equal(plug(&f, 0, HOTPLUG_FRAMES), -ENOMEM);
	assert_int_equal(stats_of(&f).plugged, 0);
	assert_int_equal(owner_client_limit(client), RAM_FRAMES);
	assert_null(guest_ptr(f.gm, HOTPLUG_GPA, 8));
	assert_int_equal(vm_memory_reserve(f.mem, HOTPLUG_FRAMES, &err), -ENOMEM);
	assert_non_null(strstr(err.message, "cannot grow"));
	error_clear(&err);

	assert_int_equal(vm_memory_reserve(f.mem, SLOT_FRAMES, &err), 0);
	limit = owner_client_limit(client);
	assert_true(limit >= RAM_FRAMES + SLOT_FRAMES);
	assert_int_equal(plug(&f, 0, SLOT_FRAMES), 0);
	assert_int_equal(owner_client_limit(client), limit);
	for (unsigned int i = 0; i < SLOT_FRAMES; i++)
		hot_words(&f, i)[0] = i;
	assert_conserved(&f, NULL);
	assert_int_equal(unplug(&f, 0, SLOT_FRAMES), 0);
	/* It may be plugged again, until somebody says that it will not. */
	assert_int_equal(owner_client_limit(client), limit);
	vm_memory_unreserve(f.mem, 0);
	assert_true(owner_client_limit(client) < limit);
	assert_conserved(&f, NULL);
	assert_true(held_frames("vm") <= (int64_t)RAM_FRAMES);
	/* Also what was never plugged; what is plugged stays promised. */
	assert_int_equal(vm_memory_reserve(f.mem, SLOT_FRAMES, &err), 0);
	assert_int_equal(plug(&f, 0, 1), 0);
	assert_true(owner_client_limit(client) >= RAM_FRAMES + SLOT_FRAMES);
	vm_memory_unreserve(f.mem, 0);
	assert_true(owner_client_limit(client) < RAM_FRAMES + SLOT_FRAMES);
	assert_true(owner_client_limit(client) > RAM_FRAMES);
	assert_int_equal(unplug(&f, 0, 1), 0);
	close_memory(&f);
	log_set_level(LOG_LEVEL_WARN);
}

/* Whether KVM has a slot at gpa: it lets nobody put another one over it. */
static bool slot_present(int vm_fd, uint64_t gpa)
{
	static uint8_t page[4096] __attribute__((aligned(4096)));
	struct kvm_userspace_memory_region region = { .slot = 30,
						      .guest_phys_addr = gpa,
						      .memory_size = sizeof(page),
						      .userspace_addr = (uintptr_t)page };

	if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region) != 0) {
		assert_int_equal(errno, EEXIST);
		return true;
	}
	region.memory_size = 0;
	assert_int_equal(ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region), 0);
	return false;
}

static void test_slots(void **state)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm_fd = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
	struct error err = { 0 };
	struct fixture f;

	(void)state;
	if (vm_fd < 0) {
		print_message("no KVM here\n");
		skip();
	}
	open_hotplug(&f);
	/* Plugged before there was a VM, and after. */
	assert_int_equal(plug(&f, SLOT_FRAMES, 2), 0);
	assert_int_equal(vm_memory_set_slots(f.mem, vm_fd, 4, &err), 0);
	assert_true(slot_present(vm_fd, 0));
	assert_false(slot_present(vm_fd, hot_gpa(0)));
	assert_true(slot_present(vm_fd, hot_gpa(SLOT_FRAMES)));
	assert_int_equal(stats_of(&f).slots, 1);
	hot_words(&f, SLOT_FRAMES)[0] = 1;

	assert_int_equal(plug(&f, 10, 1), 0);
	assert_true(slot_present(vm_fd, hot_gpa(0)));
	assert_int_equal(stats_of(&f).slots, 2);
	assert_int_equal(unplug(&f, SLOT_FRAMES, 1), 0);
	assert_true(slot_present(vm_fd, hot_gpa(SLOT_FRAMES)));
	assert_int_equal(unplug(&f, SLOT_FRAMES + 1, 1), 0);
	assert_false(slot_present(vm_fd, hot_gpa(SLOT_FRAMES)));
	assert_int_equal(unplug(&f, 0, HOTPLUG_FRAMES), 0);
	assert_int_equal(stats_of(&f).slots, 0);
	assert_false(slot_present(vm_fd, hot_gpa(10)));

	/* Over both at once. */
	assert_int_equal(plug(&f, SLOT_FRAMES - 1, 2), 0);
	assert_int_equal(stats_of(&f).slots, 2);
	assert_int_equal(unplug(&f, SLOT_FRAMES - 1, 2), 0);
	assert_int_equal(stats_of(&f).slots, 0);
	close_memory(&f);
	close(vm_fd);
	close(kvm);
}

static void *touch_hot(void *opaque)
{
	struct toucher *t = opaque;

	hot_words(t->f, t->frame)[3] = 77;
	atomic_store(&t->done, true);
	return NULL;
}

/* Touching what is not plugged costs the guest its own frames, and nobody else's. */
static void test_stray_touch(void **state)
{
	struct vm_memory_stats stats;
	struct toucher t = { .frame = 40 };
	pthread_t thread;
	struct fixture f;

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	open_hotplug(&f);
	t.f = &f;
	assert_int_equal(plug(&f, 0, 2), 0);
	assert_int_equal(hot_words(&f, 7)[0], 0);
	hot_words(&f, 7)[0] = 1;
	stats = stats_of(&f);
	assert_int_equal(stats.touched_unplugged, 1);
	assert_int_equal(stats.bound, 1);
	assert_int_equal(stats.plugged, 2);
	assert_null(guest_ptr(f.gm, hot_gpa(7), 8));

	/* All that it may have is taken: one more waits, and somebody is told. */
	back_ram(&f);
	hot_words(&f, 0)[0] = 1;
	assert_int_equal(stats_of(&f).bound, RAM_FRAMES + 2);
	assert_int_equal(pthread_create(&thread, NULL, touch_hot, &t), 0);
	sleep_ms(100);
	assert_false(atomic_load(&t.done));
	assert_int_equal(atomic_load(&over_limit_events), 1);
	assert_int_equal(atomic_load(&over_limit_gpa), hot_gpa(40));
	stats = stats_of(&f);
	assert_int_equal(stats.over_limit, 1);
	assert_int_equal(stats.waits, 0);
	assert_conserved(&f, NULL);

	/* What it gives up counts as free for it. */
	assert_int_equal(f.gm->frame_ops->release(f.gm->frame_opaque, 0, 1), 1);
	pthread_join(thread, NULL);
	assert_int_equal(hot_words(&f, 40)[3], 77);
	assert_conserved(&f, NULL);

	/* With the slot its frames go as well, whatever they are. */
	assert_int_equal(unplug(&f, 0, 2), 0);
	stats = stats_of(&f);
	assert_int_equal(stats.bound, RAM_FRAMES - 1);
	assert_int_equal(stats.touched_unplugged, 2);
	assert_conserved(&f, NULL);
	assert_int_equal(plug(&f, 7, 1), 0);
	assert_int_equal(hot_words(&f, 7)[0], 0);
	close_memory(&f);
	log_set_level(LOG_LEVEL_WARN);
	assert_int_equal(held_frames("vm"), 0);
}

struct churn {
	struct fixture *f;
	atomic_bool stop;
	uint64_t rounds;
	uint64_t wrong;
};

/* Frames 0..7 stay plugged: no count of theirs may be lost. 8..15 come and go: touched all the
 * same, as a guest would that does not keep to the rules. */
static void *churn_thread(void *opaque)
{
	struct churn *c = opaque;
	uint64_t count[8] = { 0 };

	while (!atomic_load(&c->stop)) {
		for (unsigned int i = 0; i < 8; i++) {
			volatile uint64_t *words = hot_words(c->f, i);

			c->wrong += words[0] != count[i];
			words[0] = ++count[i];
			if (c->rounds % 8 == 0)
				hot_words(c->f, 8 + i)[0] = 1;
		}
		c->rounds++;
	}
	return NULL;
}

static void test_unplug_under_load(void **state)
{
	struct vm_memory_stats stats;
	struct churn c = { 0 };
	uint64_t until = now_ms() + 500;
	unsigned int n = 0;
	pthread_t thread;
	struct fixture f;

	(void)state;
	open_hotplug(&f);
	c.f = &f;
	assert_int_equal(plug(&f, 0, 16), 0);
	assert_int_equal(pthread_create(&thread, NULL, churn_thread, &c), 0);
	for (; now_ms() < until; n++) {
		unsigned int first = 8 + n % 5;

		assert_int_equal(unplug(&f, first, 4), 0);
		assert_int_equal(plug(&f, first, 4), 0);
	}
	atomic_store(&c.stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(c.wrong, 0);
	assert_true(c.rounds > 0);
	stats = stats_of(&f);
	print_message(
		"%u times unplugged and plugged, %llu rounds, %llu faults, %llu not plugged\n", n,
		(unsigned long long)c.rounds, (unsigned long long)stats.faults,
		(unsigned long long)stats.touched_unplugged);
	assert_true(stats.touched_unplugged > 0);
	assert_conserved(&f, NULL);
	close_memory(&f);
	assert_int_equal(held_frames("vm"), 0);
}

static int run_group(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plug_and_unplug), cmocka_unit_test(test_bad_ranges),
		cmocka_unit_test(test_admission),       cmocka_unit_test(test_slots),
		cmocka_unit_test(test_stray_touch),     cmocka_unit_test(test_unplug_under_load),
	};

	return cmocka_run_group_tests_name(name, tests, setup, teardown);
}

int main(void)
{
	/* Room for one slot beside the RAM and the allocator's reserves, not for two. */
	pool_bytes = 128 * FRAME_SIZE;
	return fork_groups(run_group);
}
