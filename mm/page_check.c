/* SPDX-License-Identifier: MIT */
/*
 * Frames in a state they must not be in: found when they are freed and when they come out of the
 * free lists, reported with their history, and taken out of circulation (a frame that somebody may
 * still use would destroy another guest's memory).
 */
#include <stdio.h>
#include <string.h>

#include "mm/internal.h"

/* Enough for the reason and four remembered owners. */
#define MESSAGE_MAX 640

void mm_set_message_handler(struct mm *mm, mm_message_fn fn, void *opaque)
{
	mm->message_opaque = opaque;
	mm->message_fn = fn;
}

void mm_message(struct mm *mm, const char *fmt, ...)
{
	char line[MESSAGE_MAX];
	va_list args;

	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	if (mm->message_fn)
		mm->message_fn(mm->message_opaque, line);
	else
		fprintf(stderr, "%s\n", line);
}

static const char *flag_reason(uint64_t flags)
{
	static const struct {
		uint64_t flag;
		const char *reason;
	} reasons[] = {
		{ PAGE_FLAG(hwpoison), "is quarantined" },
		{ PAGE_FLAG(buddy), "is on a free list" },
		{ PAGE_FLAG(pcp), "is in a per-CPU cache" },
		{ PAGE_FLAG(reserved), "is reserved" },
		{ PAGE_FLAG(slab), "is part of a slab" },
		{ PAGE_FLAG(vmalloc), "is part of a vmalloc area" },
		{ PAGE_FLAG(lru), "is on an LRU list" },
		{ PAGE_FLAG(isolated), "is isolated for migration" },
		{ PAGE_FLAG(locked), "is locked" },
		{ PAGE_FLAG(pinned), "is pinned by I/O" },
	};

	for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
		if (flags & reasons[i].flag)
			return reasons[i].reason;
	return NULL;
}

static const char *common_reason(const struct page *page)
{
	if (page_mapcount(page) != 0)
		return "is still mapped";
	return page->mapping ? "still belongs to an object" : "has changed meanwhile";
}

const char *why_not_freeable(const struct page *page, unsigned int order)
{
	const char *reason = flag_reason(page_flags(page) & PAGE_FLAGS_CHECK_AT_FREE);

	if (!page_test(page, PAGE_FLAG(present)))
		return "freed, but is not present";
	if (reason)
		return reason;
	return page_order(page) != order ? "freed with another order" : common_reason(page);
}

const char *why_not_allocatable(const struct page *page)
{
	const char *reason = flag_reason(page_flags(page) & PAGE_FLAGS_CHECK_AT_PREP);

	if (reason)
		return reason;
	return page_count(page) != 0 ? "free, but somebody holds a reference" : common_reason(page);
}

void bad_page(struct mm *mm, struct page *page, const char *reason)
{
	char history[MESSAGE_MAX / 2];

	__atomic_add_fetch(&mm->nr_bad_pages, 1, __ATOMIC_RELAXED);
	page_owner_print(mm, page, history, sizeof(history));
	mm_message(mm,
		   "bad page: node %u frame %llu %s; flags:%#llx order:%u count:%d mapcount:%d "
		   "owner:%u index:%llu%s",
		   mm_page_nid(mm, page), (unsigned long long)mm_page_idx(mm, page), reason,
		   (unsigned long long)page_flags(page), page_order(page), page_count(page),
		   page_mapcount(page), page->owner, (unsigned long long)page->index, history);
}

/* Marks a block that is on no list. The zone lock is held. */
void mark_quarantined(struct zone *zone, struct page *page, unsigned int order)
{
	int64_t frames = order_frames(order);

	set_page_count(page, 0);
	page_set_flags(page, (page_flags(page) & PAGE_IDENTITY) | PAGE_FLAG(hwpoison) |
				     PAGE_ORDER(order));
	zone_stat_add(zone, NR_QUARANTINED, frames);
	__atomic_store_n(&zone->managed_pages, zone->managed_pages - (uint64_t)frames,
			 __ATOMIC_RELAXED);
}

/* A block that nobody has: just freed, or just taken off a list. Its own order counts. */
void quarantine_held(struct mm *mm, struct page *page)
{
	struct zone *zone = page_zone(mm, page);

	if (!page_test(page, PAGE_FLAG(present)) || page_test(page, PAGE_FLAG(hwpoison)))
		return;
	spin_lock(&zone->lock);
	/* Still linked somewhere: leave it where it is, the holder of that list has it. */
	if (!page_test(page, PAGE_FLAG(buddy) | PAGE_FLAG(lru)))
		mark_quarantined(zone, page, page_order(page));
	spin_unlock(&zone->lock);
}

/*
 * A frame that was freed once too often: whoever freed it may still use it. If it is free it is
 * taken out; if somebody else has it by now, it is theirs and stays.
 */
void quarantine_free(struct mm *mm, struct page *page)
{
	struct page *head;
	struct zone *zone;

	if (!page_test(page, PAGE_FLAG(present)))
		return;
	mm_drain_all_pages(mm);
	zone = page_zone(mm, page);
	spin_lock(&zone->lock);
	head = find_free_head(mm, page);
	if (head) {
		uint64_t pfn = pfn_of(mm, page);

		take_free_range(mm, zone, head, pfn, pfn + 1);
		mark_quarantined(zone, page, 0);
	}
	spin_unlock(&zone->lock);
}
