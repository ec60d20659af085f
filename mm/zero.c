/* SPDX-License-Identifier: MIT */
/*
 * Zeroing and debug patterns. Non-temporal stores: a frame is larger than the caches, and its
 * content will be used by somebody else, on another CPU.
 */
#include <immintrin.h>
#include <string.h>
#include <sys/mman.h>

#include "mm/highmem_internal.h"

#define POISON_FREE 0xaaaaaaaaaaaaaaaaull

/* Twice as wide, which a CPU that emulates them does at twice the speed. */
__attribute__((target("avx2"))) static void fill_frames_avx2(void *addr, uint64_t nr,
							     uint64_t pattern)
{
	__m256i value = _mm256_set1_epi64x((long long)pattern);
	__m256i *at = addr;
	__m256i *end = at + (nr << FRAME_SHIFT) / sizeof(*at);

	for (; at < end; at += 4) {
		_mm256_stream_si256(at, value);
		_mm256_stream_si256(at + 1, value);
		_mm256_stream_si256(at + 2, value);
		_mm256_stream_si256(at + 3, value);
	}
	_mm_sfence();
}

/* addr is frame aligned. */
static void fill_frames(void *addr, uint64_t nr, uint64_t pattern)
{
	__m128i value = _mm_set1_epi64x((long long)pattern);
	__m128i *at = addr;
	__m128i *end = at + (nr << FRAME_SHIFT) / sizeof(*at);

	if (__builtin_cpu_supports("avx2")) {
		fill_frames_avx2(addr, nr, pattern);
		return;
	}
	for (; at < end; at += 4) {
		_mm_stream_si128(at, value);
		_mm_stream_si128(at + 1, value);
		_mm_stream_si128(at + 2, value);
		_mm_stream_si128(at + 3, value);
	}
	/* Non-temporal stores are not ordered with the lock that publishes the frame. */
	_mm_sfence();
}

/* Frames outside the permanent mapping, one by one through the window. */
static enum page_clear_result clear_highmem(struct mm *mm, struct page *page, unsigned int order)
{
	for (unsigned int i = 0; i < order_frames(order); i++) {
		void *addr = kmap_clear(mm, page + i);

		if (!addr)
			return PAGE_CLEAR_NO_MEMORY;
		if (addr == MAP_FAILED)
			return PAGE_CLEAR_FAILED;
		fill_frames(addr, 1, 0);
		kunmap_clear(mm);
	}
	return PAGE_CLEAR_DONE;
}

/* Zeroes those frames of a block just taken off the lists that are dirty. */
enum page_clear_result page_clear(struct mm *mm, struct page *page, unsigned int order)
{
	void *addr = mm_page_address(mm, page);
	enum page_clear_result lower, upper;
	unsigned int low, high;

	if (page->nr_zeroed == order_frames(order))
		return addr || page_zonenum(page) == ZONE_HIGHMEM ? PAGE_CLEAR_DONE
								  : PAGE_CLEAR_NO_MEMORY;
	if (page->nr_zeroed == 0 || order == 0) {
		if (!addr)
			return clear_highmem(mm, page, order);
		fill_frames(addr, order_frames(order), 0);
		return PAGE_CLEAR_DONE;
	}
	split_halves(page, order, &low, &high);
	lower = page_clear(mm, page, order - 1);
	upper = page_clear(mm, page + order_frames(order - 1), order - 1);
	return lower > upper ? lower : upper;
}

void poison_pages(struct mm *mm, struct page *page, unsigned int order)
{
	void *addr = mm_page_address(mm, page);

	if (addr)
		fill_frames(addr, order_frames(order), POISON_FREE);
}

static bool filled_with(const void *addr, uint64_t nr, uint64_t pattern)
{
	const uint64_t *word = addr;

	/* Each word equals the one before it, and the first is right. */
	return word[0] == pattern &&
	       memcmp(word, word + 1, (nr << FRAME_SHIFT) - sizeof(*word)) == 0;
}

/* With MM_DEBUG_POISON a free frame is zero or has the pattern: whatever else was written late. */
bool poison_intact(struct mm *mm, struct page *page, unsigned int order)
{
	const void *addr = mm_page_address(mm, page);
	unsigned int total = page->nr_zeroed;
	unsigned int low, high;
	bool intact;

	if (!addr)
		return true;
	if (order == 0 || total == 0 || total == order_frames(order))
		return filled_with(addr, order_frames(order), total ? 0 : POISON_FREE);
	split_halves(page, order, &low, &high);
	intact = poison_intact(mm, page, order - 1) &&
		 poison_intact(mm, page + order_frames(order - 1), order - 1);
	page->nr_zeroed = (uint16_t)total;
	return intact;
}

/* One free frame of the zone, if it has a dirty one. */
static bool zero_one(struct mm *mm, struct zone *zone)
{
	struct page *page;

	spin_lock(&zone->lock);
	page = rmqueue_dirty(mm, zone);
	if (page) {
		zone_stat_add(zone, NR_ZEROING, 1);
		page_set_flags(page, page_flags(page) | PAGE_FLAG(isolated));
	}
	spin_unlock(&zone->lock);
	if (!page)
		return false;
	page_clear(mm, page, 0);
	spin_lock(&zone->lock);
	page_set_flags(page, page_flags(page) & ~PAGE_FLAG(isolated));
	free_one_page(mm, zone, page, 0, 1);
	zone_stat_add(zone, NR_ZEROING, -1);
	spin_unlock(&zone->lock);
	return true;
}

uint64_t mm_zero_free_pages(struct mm *mm, uint64_t max)
{
	unsigned int nid, idx;
	struct zone *zone;
	uint64_t done = 0;

	for_each_zone (mm, nid, idx, zone) {
		if (!zone->zone_pgdat->base || idx == ZONE_HIGHMEM)
			continue;
		while (done < max &&
		       zone_page_state(zone, NR_FREE_ZEROED) <
			       zone_page_state(zone, NR_FREE_PAGES) &&
		       zero_one(mm, zone))
			done++;
	}
	return done;
}
