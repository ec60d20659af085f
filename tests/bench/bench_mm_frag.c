/* SPDX-License-Identifier: MIT */
/*
 * Fragmentation: frames of all kinds are allocated and freed at random until a pool is 90 % full,
 * that goes on for a while, then half of the blocks are freed at random. How much of the free
 * memory can still be had as blocks of order 9? The same calls go to this allocator and to a plain
 * buddy system without migrate types; medians of several seeds.
 *
 *   unusable_order9     share of the free memory that is in smaller blocks (the kernel's unusable
 *                       free index)
 *   movable_only        share of the pool in aligned 1 GiB areas without a frame that cannot be
 *                       moved: what compaction can win at best
 *   ..._at_best         unusable_order9 if all movable frames were moved to where they spoil
 *                       nothing: no compaction can do better
 *   ..._compacted       after one mm_compact_node(); _fully: until it moves no more. The plain
 *                       buddy has no compaction, its figure is unusable_order9_at_best
 */
#include <stdbool.h>

#include "framevisor/compaction.h"
#include "tests/bench/bench_mm.h"

#define FRAMES  (256 * GIB_FRAMES)
#define AREAS   (FRAMES / MAX_ORDER_NR_PAGES)
#define SEEDS   5
#define NO_PFN  UINT32_MAX
#define CHURN   4 /* times the frames of the pool, at 90 % */
#define ORDER_9 9

/* A block as its holder knows it. pfn of the plain buddy, page of ours. */
struct block {
	struct page *page;
	uint32_t pfn;
	uint8_t order;
	bool movable;
};

/* The plain buddy: a list per order, last in first out, as page_alloc.c began. */
struct plain {
	uint32_t next[FRAMES], prev[FRAMES]; /* of free blocks */
	uint8_t order[FRAMES];               /* + 1, of heads of free blocks; 0: none */
	uint32_t head[NR_PAGE_ORDERS];
	uint64_t nr_free;
};

struct world {
	struct mm *mm; /* or */
	struct plain *plain;
	struct block blocks[FRAMES];
	uint32_t nr_blocks;
	uint64_t used;
	uint64_t seed;
};

static void plain_add(struct plain *plain, uint32_t pfn, unsigned int order)
{
	uint32_t head = plain->head[order];

	plain->next[pfn] = head;
	plain->prev[pfn] = NO_PFN;
	if (head != NO_PFN)
		plain->prev[head] = pfn;
	plain->head[order] = pfn;
	plain->order[pfn] = (uint8_t)(order + 1);
}

static void plain_del(struct plain *plain, uint32_t pfn)
{
	unsigned int order = plain->order[pfn] - 1u;

	if (plain->prev[pfn] == NO_PFN)
		plain->head[order] = plain->next[pfn];
	else
		plain->next[plain->prev[pfn]] = plain->next[pfn];
	if (plain->next[pfn] != NO_PFN)
		plain->prev[plain->next[pfn]] = plain->prev[pfn];
	plain->order[pfn] = 0;
}

static void plain_free(struct plain *plain, uint32_t pfn, unsigned int order)
{
	plain->nr_free += 1u << order;
	while (order < MAX_ORDER && plain->order[pfn ^ (1u << order)] == order + 1) {
		plain_del(plain, pfn ^ (1u << order));
		pfn &= ~(1u << order);
		order++;
	}
	plain_add(plain, pfn, order);
}

static uint32_t plain_alloc(struct plain *plain, unsigned int order)
{
	unsigned int found = order;
	uint32_t pfn;

	while (found <= MAX_ORDER && plain->head[found] == NO_PFN)
		found++;
	if (found > MAX_ORDER)
		return NO_PFN;
	pfn = plain->head[found];
	plain_del(plain, pfn);
	while (found > order) {
		found--;
		plain_add(plain, pfn + (1u << found), found);
	}
	plain->nr_free -= 1u << order;
	return pfn;
}

static struct plain *plain_create(void)
{
	struct plain *plain = calloc(1, sizeof(*plain));

	for (unsigned int order = 0; order < NR_PAGE_ORDERS; order++)
		plain->head[order] = NO_PFN;
	for (uint32_t pfn = 0; pfn < FRAMES; pfn += MAX_ORDER_NR_PAGES)
		plain_free(plain, pfn, MAX_ORDER);
	return plain;
}

static uint64_t next_random(struct world *world)
{
	world->seed ^= world->seed >> 12;
	world->seed ^= world->seed << 25;
	world->seed ^= world->seed >> 27;
	return world->seed * UINT64_C(2685821657736338717) >> 16;
}

/* Seven of ten for guests, which can be moved; the rest of the pool owner's own. */
static void allocate(struct world *world)
{
	static const gfp_t gfps[] = { GFP_NOWAIT | __GFP_MOVABLE, GFP_NOWAIT,
				      GFP_NOWAIT | __GFP_RECLAIMABLE };
	uint64_t kind = next_random(world) % 10, size = next_random(world) % 10;
	struct block *block = &world->blocks[world->nr_blocks];
	gfp_t gfp = gfps[kind < 7 ? 0 : kind < 9 ? 1 : 2];

	*block = (struct block){ .order = (uint8_t)(size < 7 ? 0 : size - 6), .movable = kind < 7 };
	if (world->plain) {
		block->pfn = plain_alloc(world->plain, block->order);
		if (block->pfn == NO_PFN)
			return;
	} else {
		block->page = mm_alloc_pages(world->mm, gfp, block->order);
		if (!block->page)
			return;
		page_set_owner(block->page, 1, world->nr_blocks);
	}
	world->used += 1u << block->order;
	world->nr_blocks++;
}

static void release(struct world *world)
{
	uint32_t i = (uint32_t)(next_random(world) % world->nr_blocks);
	struct block block = world->blocks[i];

	world->blocks[i] = world->blocks[--world->nr_blocks];
	if (world->plain) {
		plain_free(world->plain, block.pfn, block.order);
	} else {
		if (i < world->nr_blocks)
			page_set_owner(world->blocks[i].page, 1, i);
		mm_free_pages(world->mm, block.page, block.order);
	}
	world->used -= 1u << block.order;
}

static void live(struct world *world)
{
	const uint64_t full = FRAMES / 10 * 9;
	uint32_t half;

	while (world->used < full) {
		allocate(world);
		if (next_random(world) % 3 == 0)
			release(world);
	}
	for (uint64_t i = 0; i < (uint64_t)CHURN * FRAMES; i++) {
		if (world->used < full)
			allocate(world);
		else
			release(world);
	}
	half = world->nr_blocks / 2;
	while (world->nr_blocks > half)
		release(world);
	if (world->mm)
		mm_drain_all_pages(world->mm);
}

static double free_frames(struct world *world)
{
	return (double)(FRAMES - world->used);
}

static double unusable(struct world *world)
{
	uint64_t usable = 0;

	if (world->plain) {
		for (uint32_t pfn = 0; pfn < FRAMES; pfn += MAX_ORDER_NR_PAGES)
			usable += world->plain->order[pfn] == ORDER_9 + 1 ? MAX_ORDER_NR_PAGES : 0;
	} else {
		for (uint64_t pfn = 0; pfn < FRAMES; pfn += MAX_ORDER_NR_PAGES) {
			const struct page *page = mm_pfn_to_page(world->mm, pfn);

			if (page_test(page, PAGE_FLAG(buddy)) && page_order(page) == ORDER_9)
				usable += MAX_ORDER_NR_PAGES;
		}
	}
	return 100 * (1 - (double)usable / free_frames(world));
}

static uint64_t first_frame(const struct world *world, const struct block *block)
{
	return world->plain ? block->pfn : mm_page_to_pfn(world->mm, block->page);
}

/* Areas in which everything can be moved, and how much room the others have for that. */
static uint64_t movable_only(const struct world *world, uint64_t *room)
{
	static uint32_t spoilt[AREAS];
	uint64_t nr = 0, fixed = 0;

	memset(spoilt, 0, sizeof(spoilt));
	for (uint32_t i = 0; i < world->nr_blocks; i++) {
		const struct block *block = &world->blocks[i];

		if (!block->movable) {
			spoilt[first_frame(world, block) / MAX_ORDER_NR_PAGES] = 1;
			fixed += 1u << block->order;
		}
	}
	for (uint32_t i = 0; i < AREAS; i++)
		nr += !spoilt[i];
	*room = (AREAS - nr) * MAX_ORDER_NR_PAGES - fixed;
	return nr;
}

/* What is left unusable if all movable frames go where they spoil nothing. */
static double unusable_at_best(struct world *world)
{
	uint64_t room, areas = movable_only(world, &room), movable = 0, needed;

	for (uint32_t i = 0; i < world->nr_blocks; i++)
		movable += world->blocks[i].movable ? 1u << world->blocks[i].order : 0;
	needed =
		movable > room ? (movable - room + MAX_ORDER_NR_PAGES - 1) / MAX_ORDER_NR_PAGES : 0;
	return 100 * (1 - (double)((areas - needed) * MAX_ORDER_NR_PAGES) / free_frames(world));
}

static int migrate(void *opaque, struct page *from, struct page *to, enum migrate_mode mode)
{
	struct world *world = opaque;

	(void)mode;
	mm_migrate_page_state(from, to);
	world->blocks[to->index].page = to;
	return 0;
}

static bool isolate(void *opaque, struct page *page)
{
	const struct world *world = opaque;

	return page->index < world->nr_blocks && world->blocks[page->index].page == page &&
	       world->blocks[page->index].movable;
}

static void putback(void *opaque, struct page *page)
{
	(void)opaque, (void)page;
}

struct results {
	double unusable[SEEDS], movable_only[SEEDS], compacted[SEEDS], best[SEEDS];
	double compacted_fully[SEEDS];
};

static void measure(struct world *world, struct results *results, unsigned int run)
{
	static const struct mm_migrate_ops ops = { migrate, isolate, putback };
	uint64_t room;

	world->seed = UINT64_C(0x9e3779b97f4a7c15) * (run + 1);
	live(world);
	results->unusable[run] = unusable(world);
	results->movable_only[run] = 100 * (double)movable_only(world, &room) / AREAS;
	results->best[run] = unusable_at_best(world);
	if (world->plain)
		return;
	mm_set_migrate_ops(world->mm, &ops, world);
	mm_compact_node(world->mm, -1);
	mm_drain_all_pages(world->mm);
	results->compacted[run] = unusable(world);
	while (mm_compact_node(world->mm, -1))
		;
	mm_drain_all_pages(world->mm);
	results->compacted_fully[run] = unusable(world);
}

static void print(const char *who, struct results *results)
{
	const struct {
		const char *what;
		double *values;
	} lines[] = {
		{ "unusable_order9", results->unusable },
		{ "movable_only", results->movable_only },
		{ "unusable_order9_at_best", results->best },
	};

	for (unsigned int i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		char name[80];

		snprintf(name, sizeof(name), "frag_%s_%s", who, lines[i].what);
		bench_print(name, bench_median(lines[i].values, SEEDS), "%");
	}
}

int main(void)
{
	static struct results ours, plain;
	struct world *world = calloc(1, sizeof(*world));

	for (unsigned int run = 0; run < SEEDS; run++) {
		size_t size;

		memset(world, 0, sizeof(*world));
		world->mm = bench_pool(1, FRAMES, 2, &size);
		measure(world, &ours, run);
		bench_pool_end(world->mm, world->mm, size);
		memset(world, 0, sizeof(*world));
		world->plain = plain_create();
		measure(world, &plain, run);
		free(world->plain);
	}
	free(world);
	print("framevisor", &ours);
	bench_print("frag_framevisor_unusable_order9_compacted",
		    bench_median(ours.compacted, SEEDS), "%");
	bench_print("frag_framevisor_unusable_order9_compacted_fully",
		    bench_median(ours.compacted_fully, SEEDS), "%");
	print("plain_buddy", &plain);
	return 0;
}
