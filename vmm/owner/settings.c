/* SPDX-License-Identifier: MIT */
/*
 * The pool's settings: the allocator's, with defaults that fit a pool for VMs, kept so that a new
 * allocator (an empty pool that changes to ordinary memory) has them too.
 */
#include "vmm/owner/pool_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "framevisor/overcommit.h"

/*
 * With overcommit, reclaim has to begin well before memory ends: what is asked of a guest takes it
 * a tenth of a second, in which another touches some dozen frames. Low is at 3 % then, high at 6 %.
 */
#define SCALE_OVERCOMMIT 300
#define SCALE_PLAIN      10

static const struct {
	const char *name;
	unsigned int nr; /* values */
} known[] = {
	{ "min_free_kbytes", 1 },        { "watermark_scale_factor", 1 },
	{ "watermark_boost_factor", 1 }, { "lowmem_reserve_ratio", MAX_NR_ZONES },
	{ "overcommit_memory", 1 },      { "overcommit_ratio", 1 },
	{ "overcommit_kbytes", 1 },      { "admin_reserve_kbytes", 1 },
	{ "extfrag_threshold", 1 },      { "compaction_proactiveness", 1 },
};

const char *pool_setting_name(unsigned int n, unsigned int *nr_values)
{
	if (n >= sizeof(known) / sizeof(known[0]))
		return NULL;
	*nr_values = known[n].nr;
	return known[n].name;
}

static bool set_by_user(const struct pool *pool, const char *name)
{
	for (unsigned int i = 0; i < pool->nr_set; i++) {
		if (strcmp(pool->set[i].name, name) == 0)
			return true;
	}
	return false;
}

static void remember(struct pool *pool, const char *name, unsigned int index, uint64_t value)
{
	struct pool_setting *setting = pool->set;
	unsigned int i;

	for (i = 0; i < pool->nr_set; i++) {
		if (strcmp(pool->set[i].name, name) == 0 && pool->set[i].index == index)
			break;
	}
	if (i == POOL_SETTINGS_MAX)
		return;
	/* The last one said counts, so it goes to the end. */
	if (i < pool->nr_set)
		memmove(&setting[i], &setting[i + 1], (pool->nr_set - i - 1) * sizeof(setting[0]));
	else
		pool->nr_set++;
	setting = &pool->set[pool->nr_set - 1];
	snprintf(setting->name, sizeof(setting->name), "%s", name);
	setting->index = index;
	setting->value = value;
}

static void fit_scale(struct pool *pool)
{
	uint64_t mode = OVERCOMMIT_NEVER;

	mm_setting_get(pool->mm, "overcommit_memory", 0, &mode);
	if (!set_by_user(pool, "watermark_scale_factor"))
		mm_setting_set(pool->mm, "watermark_scale_factor", 0,
			       mode == OVERCOMMIT_NEVER ? SCALE_PLAIN : SCALE_OVERCOMMIT);
}

void pool_settings_apply(struct pool *pool)
{
	mm_setting_set(pool->mm, "overcommit_memory", 0, OVERCOMMIT_NEVER);
	mm_setting_set(pool->mm, "overcommit_ratio", 0, 100);
	for (unsigned int i = 0; i < pool->nr_set; i++)
		mm_setting_set(pool->mm, pool->set[i].name, pool->set[i].index, pool->set[i].value);
	fit_scale(pool);
}

int pool_setting_set(struct pool *pool, const char *name, unsigned int index, uint64_t value,
		     struct error *err)
{
	int ret = mm_setting_set(pool->mm, name, index, value);

	if (ret == -EINVAL)
		return error_set(err, EINVAL, "%s cannot be %" PRIu64 ": out of range", name,
				 value);
	if (ret < 0)
		return error_set(err, ENOENT, "there is no setting '%s'", name);
	remember(pool, name, index, value);
	fit_scale(pool);
	pool->changes++;
	return 0;
}

int pool_setting_get(struct pool *pool, const char *name, unsigned int index, uint64_t *value)
{
	return mm_setting_get(pool->mm, name, index, value);
}
