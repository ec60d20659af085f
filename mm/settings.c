/* SPDX-License-Identifier: MIT */
/* The instance's settings, readable and writable while it works, by their names in /proc/sys/vm. */
#include <errno.h>
#include <string.h>

#include "mm/internal.h"

struct setting {
	const char *name;
	unsigned int nr; /* values: 1, or one per zone */
	uint64_t min, max;
	size_t get, set; /* in struct mm_settings: what is in force, what the user said */
};

#define FIELD(field) offsetof(struct mm_settings, field)

/* Ranges are the kernel's. min_free_kbytes 0 goes back to the rule. */
static const struct setting settings[] = {
	{ "min_free_kbytes", 1, 0, UINT32_MAX, FIELD(min_free_kbytes),
	  FIELD(user_min_free_kbytes) },
	{ "watermark_scale_factor", 1, 1, 3000, FIELD(watermark_scale_factor),
	  FIELD(watermark_scale_factor) },
	{ "watermark_boost_factor", 1, 0, UINT32_MAX, FIELD(watermark_boost_factor),
	  FIELD(watermark_boost_factor) },
	{ "lowmem_reserve_ratio", MAX_NR_ZONES, 0, UINT32_MAX, FIELD(lowmem_reserve_ratio),
	  FIELD(lowmem_reserve_ratio) },
	{ "overcommit_memory", 1, 0, 2, FIELD(overcommit_memory), FIELD(overcommit_memory) },
	{ "overcommit_ratio", 1, 0, INT32_MAX, FIELD(overcommit_ratio), FIELD(overcommit_ratio) },
	{ "overcommit_kbytes", 1, 0, UINT64_MAX, FIELD(overcommit_kbytes),
	  FIELD(overcommit_kbytes) },
	{ "admin_reserve_kbytes", 1, 0, UINT64_MAX, FIELD(admin_reserve_kbytes),
	  FIELD(admin_reserve_kbytes) },
	{ "extfrag_threshold", 1, 0, 1000, FIELD(extfrag_threshold), FIELD(extfrag_threshold) },
	{ "compaction_proactiveness", 1, 0, 100, FIELD(compaction_proactiveness),
	  FIELD(compaction_proactiveness) },
};

static const struct setting *find_setting(const char *name, unsigned int index)
{
	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
		if (strcmp(settings[i].name, name) == 0)
			return index < settings[i].nr ? &settings[i] : NULL;
	return NULL;
}

static uint64_t *field_at(struct mm *mm, size_t offset, unsigned int index)
{
	return (uint64_t *)(void *)((char *)&mm->settings + offset) + index;
}

int mm_setting_get(struct mm *mm, const char *name, unsigned int index, uint64_t *value)
{
	const struct setting *setting = find_setting(name, index);

	if (!setting)
		return -ENOENT;
	*value = __atomic_load_n(field_at(mm, setting->get, index), __ATOMIC_RELAXED);
	return 0;
}

int mm_setting_set(struct mm *mm, const char *name, unsigned int index, uint64_t value)
{
	const struct setting *setting = find_setting(name, index);

	if (!setting)
		return -ENOENT;
	if (value < setting->min || value > setting->max)
		return -EINVAL;
	spin_lock(&mm->hotplug_lock);
	__atomic_store_n(field_at(mm, setting->set, index), value, __ATOMIC_RELAXED);
	/* Of two ways to say the same, the last one said counts (as in the kernel). */
	if (setting->set == FIELD(overcommit_ratio))
		__atomic_store_n(&mm->settings.overcommit_kbytes, 0, __ATOMIC_RELAXED);
	else if (setting->set == FIELD(overcommit_kbytes))
		__atomic_store_n(&mm->settings.overcommit_ratio, 0, __ATOMIC_RELAXED);
	setup_per_zone_wmarks(mm);
	spin_unlock(&mm->hotplug_lock);
	return 0;
}
