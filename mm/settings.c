/* SPDX-License-Identifier: MIT */
/* The instance's settings, readable and writable while it works, by their names in /proc/sys/vm. */
#include <errno.h>
#include <string.h>

#include "mm/internal.h"

struct setting {
	const char *name;
	unsigned int nr; /* values: 1, or one per zone */
	uint64_t min, max;
	/* Where value i is kept. */
	uint64_t (*get)(const struct mm *mm, unsigned int i);
	void (*set)(struct mm *mm, unsigned int i, uint64_t value);
};

static uint64_t get_min_free(const struct mm *mm, unsigned int i)
{
	(void)i;
	return mm->settings.min_free_kbytes;
}

static void set_min_free(struct mm *mm, unsigned int i, uint64_t value)
{
	(void)i;
	mm->settings.user_min_free_kbytes = value;
}

static uint64_t get_scale(const struct mm *mm, unsigned int i)
{
	(void)i;
	return mm->settings.watermark_scale_factor;
}

static void set_scale(struct mm *mm, unsigned int i, uint64_t value)
{
	(void)i;
	mm->settings.watermark_scale_factor = (uint32_t)value;
}

static uint64_t get_boost(const struct mm *mm, unsigned int i)
{
	(void)i;
	return __atomic_load_n(&mm->settings.watermark_boost_factor, __ATOMIC_RELAXED);
}

static void set_boost(struct mm *mm, unsigned int i, uint64_t value)
{
	(void)i;
	__atomic_store_n(&mm->settings.watermark_boost_factor, (uint32_t)value, __ATOMIC_RELAXED);
}

static uint64_t get_ratio(const struct mm *mm, unsigned int i)
{
	return mm->settings.lowmem_reserve_ratio[i];
}

static void set_ratio(struct mm *mm, unsigned int i, uint64_t value)
{
	mm->settings.lowmem_reserve_ratio[i] = (uint32_t)value;
}

/* Ranges are the kernel's. min_free_kbytes 0 goes back to the rule. */
static const struct setting settings[] = {
	{ "min_free_kbytes", 1, 0, UINT32_MAX, get_min_free, set_min_free },
	{ "watermark_scale_factor", 1, 1, 3000, get_scale, set_scale },
	{ "watermark_boost_factor", 1, 0, UINT32_MAX, get_boost, set_boost },
	{ "lowmem_reserve_ratio", MAX_NR_ZONES, 0, UINT32_MAX, get_ratio, set_ratio },
};

static const struct setting *find_setting(const char *name, unsigned int index)
{
	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
		if (strcmp(settings[i].name, name) == 0)
			return index < settings[i].nr ? &settings[i] : NULL;
	return NULL;
}

int mm_setting_get(struct mm *mm, const char *name, unsigned int index, uint64_t *value)
{
	const struct setting *setting = find_setting(name, index);

	if (!setting)
		return -ENOENT;
	spin_lock(&mm->hotplug_lock);
	*value = setting->get(mm, index);
	spin_unlock(&mm->hotplug_lock);
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
	setting->set(mm, index, value);
	setup_per_zone_wmarks(mm);
	spin_unlock(&mm->hotplug_lock);
	return 0;
}
