/* SPDX-License-Identifier: MIT */
/*
 * Who had a frame: with MM_PAGE_OWNER the last four allocations and frees of each frame are
 * remembered, for the report of a bad one. A block's history is kept with its first frame.
 */
#include <stdio.h>
#include <string.h>

#include "mm/internal.h"

#define HISTORY 4

struct page_owner_entry {
	uint64_t time_ns; /* CLOCK_MONOTONIC; 0: empty */
	uint32_t owner;
	uint16_t cpu;
	uint8_t order;
	uint8_t event; /* enum page_owner_event */
};

struct page_owner_record {
	struct page_owner_entry entry[HISTORY]; /* the newest first */
};

size_t page_owner_size(uint32_t flags, uint64_t nr_pfns)
{
	return flags & MM_PAGE_OWNER ? nr_pfns * sizeof(struct page_owner_record) : 0;
}

/* By whoever owns the frame at that moment, so no lock. */
void page_owner_record(struct mm *mm, struct page *page, unsigned int order,
		       enum page_owner_event event)
{
	struct page_owner_record *record = &mm->page_owner[pfn_of(mm, page)];

	memmove(&record->entry[1], &record->entry[0], sizeof(record->entry[0]) * (HISTORY - 1));
	record->entry[0] = (struct page_owner_entry){
		.time_ns = now_ns(),
		.owner = page->owner,
		.cpu = (uint16_t)mm_this_cpu(mm),
		.order = (uint8_t)order,
		.event = (uint8_t)event,
	};
}

/* Writes "; <event> ... ms ago ..." for each entry known, newest first. Like snprintf. */
int page_owner_print(struct mm *mm, const struct page *page, char *buf, size_t len)
{
	const struct page_owner_record *record;
	uint64_t now = now_ns();
	int used = 0;

	if (len)
		buf[0] = 0;
	if (!mm->page_owner)
		return 0;
	record = &mm->page_owner[pfn_of(mm, page)];
	for (unsigned int i = 0; i < HISTORY && record->entry[i].time_ns; i++) {
		const struct page_owner_entry *entry = &record->entry[i];
		size_t left = (size_t)used < len ? len - (size_t)used : 0;

		used += snprintf(left ? buf + used : NULL, left,
				 "; %s order:%u owner:%u cpu:%u %llu ms ago",
				 entry->event == PAGE_OWNER_ALLOC ? "allocated" : "freed",
				 entry->order, entry->owner, entry->cpu,
				 (unsigned long long)(now - entry->time_ns) / 1000000);
	}
	return used;
}
