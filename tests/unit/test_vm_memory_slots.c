/* SPDX-License-Identifier: MIT */
/*
 * KVM's slots while the guest waits for a frame. KVM lets no change of a slot through until that
 * vCPU has its frame; here ioctl() is the test's own, and says when somebody asks for one all the
 * same: with the real one the loop would stand still, and this test with it.
 */
#include "vm_memory_fixture.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#define HOTPLUG_GPA UINT64_C(0x108000000)
#define SLOT_FRAMES 64
#define NR_SLOTS    3

static int vm_fd = -1;
static atomic_bool vcpu_waits;
static atomic_uint made, removed, too_early;

int ioctl(int fd, unsigned long request, ...)
{
	const struct kvm_userspace_memory_region *region;
	va_list args;
	void *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if (fd != vm_fd || fd < 0)
		return (int)syscall(SYS_ioctl, fd, request, arg);
	if (request == KVM_CHECK_EXTENSION)
		return 32;
	assert_int_equal(request, KVM_SET_USER_MEMORY_REGION);
	region = arg;
	atomic_fetch_add(&too_early, atomic_load(&vcpu_waits));
	atomic_fetch_add(region->memory_size ? &made : &removed, 1);
	return 0;
}

static void open_hotplug(struct fixture *f)
{
	const struct vm_memory_range hotplug[] = {
		{ .gpa = HOTPLUG_GPA, .size = NR_SLOTS * VM_MEMORY_SLOT_SIZE },
	};
	struct error err = { 0 };

	assert_true(try_open_config(
		f, client, (struct vm_memory_config){ .hotplug = hotplug, .nr_hotplug = 1 }));
	assert_int_equal(vm_memory_set_slots(f->mem, vm_fd, 0, &err), 0);
}

static uint64_t *hot_words(struct fixture *f, unsigned int frame)
{
	const struct guest_region *region = &f->gm->regions[f->gm->nr_regions - 1];

	return (uint64_t *)(region->hva + frame * FRAME_SIZE);
}

static int plug(struct fixture *f, unsigned int first, unsigned int nr)
{
	return f->gm->frame_ops->plug(f->gm->frame_opaque, HOTPLUG_GPA + first * FRAME_SIZE, nr);
}

static int unplug(struct fixture *f, unsigned int first, unsigned int nr)
{
	return f->gm->frame_ops->unplug(f->gm->frame_opaque, HOTPLUG_GPA + first * FRAME_SIZE, nr);
}

static void *touch_stray(void *opaque)
{
	struct toucher *t = opaque;

	hot_words(t->f, t->frame)[0] = 1;
	atomic_store(&vcpu_waits, false);
	return NULL;
}

static void wait_slots(struct fixture *f, uint64_t nr)
{
	uint64_t since = now_ms();

	while (stats_of(f).slots != nr) {
		assert_true(now_ms() - since < 10000);
		sleep_ms(1);
	}
}

/* A frame is plugged in each of two slots, the guest has all that it may have, and touches one
 * more.
 */
static void starve(struct fixture *f, struct toucher *t, pthread_t *thread)
{
	log_set_level(LOG_LEVEL_ERROR);
	open_hotplug(f);
	t->f = f;
	atomic_store(&removed, 0);
	atomic_store(&too_early, 0);
	assert_int_equal(plug(f, 0, 1), 0);
	assert_int_equal(plug(f, SLOT_FRAMES, 1), 0);
	assert_int_equal(stats_of(f).slots, 2);
	back_ram(f);
	hot_words(f, 0)[0] = hot_words(f, SLOT_FRAMES)[0] = 1;
	atomic_store(&vcpu_waits, true);
	assert_int_equal(pthread_create(thread, NULL, touch_stray, t), 0);
	wait_starves(f);
}

static void test_starving(void **state)
{
	struct toucher t = { .frame = 40 };
	pthread_t thread;
	struct fixture f;

	(void)state;
	starve(&f, &t, &thread);

	/* Nothing is plugged in the second one, which stays; a third one there cannot be now. */
	assert_int_equal(unplug(&f, SLOT_FRAMES, 1), 0);
	assert_int_equal(stats_of(&f).slots, 2);
	assert_int_equal(plug(&f, 2 * SLOT_FRAMES, 1), -EBUSY);
	assert_int_equal(stats_of(&f).slots, 2);
	assert_true(atomic_load(&vcpu_waits));
	assert_int_equal(atomic_load(&too_early), 0);
	assert_conserved(&f, NULL);

	/* It goes when the guest has its frame, without anybody's asking. */
	assert_int_equal(f.gm->frame_ops->release(f.gm->frame_opaque, 0, 1), 1);
	pthread_join(thread, NULL);
	wait_slots(&f, 1);
	assert_int_equal(atomic_load(&removed), 1);
	assert_int_equal(plug(&f, 2 * SLOT_FRAMES, 1), 0);
	assert_int_equal(stats_of(&f).slots, 2);
	assert_conserved(&f, NULL);
	close_memory(&f);
	log_set_level(LOG_LEVEL_WARN);
	assert_int_equal(held_frames("vm"), 0);
}

/* What is plugged again in the meantime stays. */
static void test_plugged_again(void **state)
{
	struct toucher t = { .frame = 40 };
	pthread_t thread;
	struct fixture f;

	(void)state;
	starve(&f, &t, &thread);
	assert_int_equal(unplug(&f, SLOT_FRAMES, 1), 0);
	/* With it the guest may have one more. */
	assert_int_equal(plug(&f, SLOT_FRAMES + 1, 1), 0);
	pthread_join(thread, NULL);
	settle();
	assert_int_equal(stats_of(&f).slots, 2);
	assert_int_equal(atomic_load(&removed), 0);
	assert_int_equal(atomic_load(&too_early), 0);
	close_memory(&f);
	log_set_level(LOG_LEVEL_WARN);
}

static int run_group(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_starving),
		cmocka_unit_test(test_plugged_again),
	};

	return cmocka_run_group_tests_name(name, tests, setup, teardown);
}

int main(void)
{
	pool_bytes = 256 * FRAME_SIZE;
	vm_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	return vm_fd < 0 ? 1 : fork_groups(run_group);
}
