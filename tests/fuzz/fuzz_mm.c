/* SPDX-License-Identifier: MIT */
/*
 * The frame allocator, driven by bytes: the first ones describe a pool, the rest are calls with
 * their arguments, wrong ones too. A record of who has which frame must agree with what comes back,
 * and mm_validate() with itself, every few calls. One thread: the same input does the same.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "framevisor/compaction.h"
#include "framevisor/fault_inject.h"
#include "framevisor/vmscan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NODES_MAX  3
#define FRAMES_MAX 80
#define HELD_MAX   256
#define STEPS_MAX  300
#define NO_SLOT    UINT64_MAX

struct held {
	struct page *page; /* NULL: the slot is free */
	unsigned int order;
	bool lru;
	bool isolated; /* between isolate() and migrate() or putback() */
};

struct fuzz {
	const uint8_t *data;
	size_t left;
	struct mm *mm;
	struct mm_config config;
	uint64_t phys[FRAMES_MAX];
	struct held held[HELD_MAX];
	bool used[NODES_MAX][FRAMES_MAX];
	bool online[NODES_MAX][FRAMES_MAX];
	uint64_t nr_used, nr_online;
	bool wrong; /* frames were quarantined for wrong calls: the counts are not ours any more */
	bool refuse;
	struct shrinker shrinker;
	bool registered;
};

static void bug(const char *what)
{
	fprintf(stderr, "BUG: %s\n", what);
	abort();
}

static uint64_t take(struct fuzz *fuzz, unsigned int bytes)
{
	uint64_t value = 0;

	for (unsigned int i = 0; i < bytes && fuzz->left; i++, fuzz->left--)
		value |= (uint64_t)*fuzz->data++ << (8 * i);
	return value;
}

static unsigned int below(struct fuzz *fuzz, unsigned int n)
{
	return (unsigned int)take(fuzz, 1) % n;
}

static void quiet(void *opaque, const char *line)
{
	(void)opaque, (void)line;
}

static void check(struct fuzz *fuzz)
{
	struct mm_counts counts;
	char why[256];

	if (mm_validate(fuzz->mm, why, sizeof(why)))
		bug(why);
	mm_counts(fuzz->mm, -1, &counts);
	if (counts.present != fuzz->nr_online)
		bug("frames came or went");
	if (!fuzz->wrong && (counts.allocated != fuzz->nr_used || counts.quarantined))
		bug("not as many frames allocated as are held");
}

static void mark(struct fuzz *fuzz, struct page *page, unsigned int order, bool used)
{
	unsigned int nid = mm_page_nid(fuzz->mm, page);
	uint64_t idx = mm_page_idx(fuzz->mm, page);

	if (idx & ((1u << order) - 1) || idx + (1u << order) > fuzz->config.node[nid].spanned)
		bug("block out of place");
	for (uint64_t i = idx; i < idx + (1u << order); i++) {
		if (!fuzz->online[nid][i] || fuzz->used[nid][i] == used)
			bug("frame handed out twice, or absent");
		fuzz->used[nid][i] = used;
	}
	fuzz->nr_used += used ? 1u << order : 0;
	fuzz->nr_used -= used ? 0 : 1u << order;
}

static uint64_t free_slot(const struct fuzz *fuzz)
{
	for (uint64_t slot = 0; slot < HELD_MAX; slot++)
		if (!fuzz->held[slot].page)
			return slot;
	return NO_SLOT;
}

/* Frames that find no slot are given back at once. */
static void hold(struct fuzz *fuzz, struct page *page, unsigned int order)
{
	uint64_t slot = free_slot(fuzz);

	mark(fuzz, page, order, true);
	if (slot == NO_SLOT) {
		mark(fuzz, page, order, false);
		mm_free_pages(fuzz->mm, page, order);
		return;
	}
	page_set_owner(page, 1, slot);
	fuzz->held[slot] = (struct held){ .page = page, .order = order };
}

/* A slot that holds something, the next one from a byte on; NULL: none does. */
static struct held *any_held(struct fuzz *fuzz)
{
	unsigned int at = (unsigned int)take(fuzz, 1);

	for (unsigned int i = 0; i < HELD_MAX; i++) {
		struct held *held = &fuzz->held[(at + i) % HELD_MAX];

		if (held->page && !held->isolated)
			return held;
	}
	return NULL;
}

/* Off the record; the frames are the caller's to free. */
static struct page *let_go(struct fuzz *fuzz, struct held *held)
{
	struct page *page = held->page;

	if (held->lru && !mm_lru_del(fuzz->mm, page))
		bug("not on the LRU list");
	mark(fuzz, page, held->order, false);
	held->page = NULL;
	return page;
}

/* Callbacks. */

static int reclaim(void *opaque, struct page *page, gfp_t gfp)
{
	struct fuzz *fuzz = opaque;
	struct held *held = &fuzz->held[page->index];

	(void)gfp;
	if (page->index >= HELD_MAX || held->page != page || !held->lru)
		bug("reclaim of a frame that is not on the list");
	if (fuzz->refuse)
		return -EBUSY;
	mark(fuzz, page, held->order, false);
	held->page = NULL;
	return 0;
}

static bool isolate(void *opaque, struct page *page)
{
	struct fuzz *fuzz = opaque;
	struct held *held = page->index < HELD_MAX ? &fuzz->held[page->index] : NULL;

	if (!held || held->page != page || held->lru || held->isolated)
		return false;
	held->isolated = true;
	return true;
}

static void putback(void *opaque, struct page *page)
{
	struct fuzz *fuzz = opaque;

	if (!fuzz->held[page->index].isolated)
		bug("put back, but not isolated");
	fuzz->held[page->index].isolated = false;
}

static int migrate(void *opaque, struct page *from, struct page *to, enum migrate_mode mode)
{
	struct fuzz *fuzz = opaque;
	struct held *held = &fuzz->held[from->index];

	(void)mode;
	if (from->index >= HELD_MAX || held->page != from || page_order(to) != held->order)
		bug("migration of a frame that nobody holds");
	if (fuzz->refuse)
		return -EAGAIN;
	mark(fuzz, from, held->order, false);
	mark(fuzz, to, held->order, true);
	mm_migrate_page_state(from, to);
	held->page = to;
	held->isolated = false;
	return 0;
}

static const struct mm_reclaim_ops reclaim_ops = { .reclaim = reclaim };
static const struct mm_migrate_ops migrate_ops = { .migrate = migrate,
						   .isolate = isolate,
						   .putback = putback };
static const struct mm_migrate_ops lru_migrate_ops = { .migrate = migrate };

static uint64_t count_objects(struct shrinker *shrinker, struct shrink_control *sc)
{
	const struct fuzz *fuzz = shrinker->opaque;
	uint64_t nr = 0;

	(void)sc;
	for (unsigned int i = 0; i < HELD_MAX; i++)
		nr += fuzz->held[i].page && fuzz->held[i].order == 0;
	return nr;
}

/* Frees single frames, and allocates on the way. */
static uint64_t scan_objects(struct shrinker *shrinker, struct shrink_control *sc)
{
	struct fuzz *fuzz = shrinker->opaque;
	struct page *page = mm_alloc_pages(sc->mm, GFP_NOWAIT | __GFP_MEMALLOC, 0);
	uint64_t done = 0;

	if (page)
		mm_free_pages(sc->mm, page, 0);
	if (fuzz->refuse)
		return SHRINK_STOP;
	for (unsigned int i = 0; i < HELD_MAX && done < sc->nr_to_scan; i++) {
		struct held *held = &fuzz->held[i];

		if (held->page && held->order == 0 && !held->lru && !held->isolated) {
			mm_free_pages(sc->mm, let_go(fuzz, held), 0);
			done++;
		}
	}
	return done;
}

static bool out_of_memory(void *opaque, struct mm *mm, gfp_t gfp, unsigned int order)
{
	struct fuzz *fuzz = opaque;

	(void)gfp, (void)order;
	for (unsigned int i = 0; i < HELD_MAX && !fuzz->refuse; i++) {
		struct held *held = &fuzz->held[i];

		if (held->page && !held->isolated) {
			unsigned int freed = held->order;

			mm_free_pages(mm, let_go(fuzz, held), freed);
			return true;
		}
	}
	return false;
}

/* Calls. */

static gfp_t any_gfp(struct fuzz *fuzz)
{
	gfp_t gfp = (gfp_t)take(fuzz, 3) & ((1u << __GFP_BITS_SHIFT) - 1);

	/* Nobody else frees what an endless wait would be for. */
	gfp &= ~__GFP_NOFAIL;
	/* Reclaim sleeps between its rounds: one of them is enough. */
	if (gfp & __GFP_DIRECT_RECLAIM)
		gfp = (gfp | __GFP_NORETRY) & ~__GFP_REPEAT;
	return gfp | __GFP_NOWARN;
}

static void call_alloc(struct fuzz *fuzz, bool anywhere)
{
	static const gfp_t usual[] = { GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_ATOMIC,
				       GFP_KERNEL | __GFP_RECLAIMABLE };
	unsigned int how = (unsigned int)take(fuzz, 1);
	unsigned int order = how & 0xf;
	gfp_t gfp = how & 0x40 ? any_gfp(fuzz)
			       : (usual[how >> 4 & 3] & ~__GFP_DIRECT_RECLAIM) | __GFP_NOWARN;
	nodemask_t mask = anywhere ? 0 : take(fuzz, 1);
	struct page *page;

	if (how & 0x80)
		order &= 1;
	if (anywhere && order == 0)
		page = mm_alloc_page(fuzz->mm, gfp);
	else if (anywhere)
		page = mm_alloc_pages(fuzz->mm, gfp, order);
	else
		page = mm_alloc_pages_nodemask(fuzz->mm, gfp, order, (int)below(fuzz, 5) - 1,
					       &mask);
	if (!page)
		return;
	if (order > MAX_ORDER || page_count(page) != 1 || page_zonenum(page) > gfp_zone(gfp) ||
	    (mask && !(mask >> page_to_nid(page) & 1)))
		bug("not what was asked for");
	hold(fuzz, page, order);
}

static void call_bulk(struct fuzz *fuzz)
{
	struct page *pages[32];
	gfp_t gfp = any_gfp(fuzz);
	uint64_t nr = below(fuzz, 32) + 1;
	uint64_t got = mm_alloc_pages_bulk(fuzz->mm, gfp, below(fuzz, 8), nr, pages);

	for (uint64_t i = 0; i < got; i++) {
		if (gfp & 1 || free_slot(fuzz) == NO_SLOT) {
			mark(fuzz, pages[i], 0, true);
			mark(fuzz, pages[i], 0, false);
		} else {
			hold(fuzz, pages[i], 0);
			pages[i] = NULL;
		}
	}
	mm_free_pages_bulk(fuzz->mm, pages, got, gfp & 2);
}

static void call_free(struct fuzz *fuzz)
{
	unsigned int how = below(fuzz, 4);
	struct held *held = any_held(fuzz);
	unsigned int order = held ? held->order : 0;
	struct page *page = held ? let_go(fuzz, held) : NULL;

	if (how == 0) {
		mm_free_pages_zeroed(fuzz->mm, page, order);
	} else if (how == 1 && page) {
		mm_get_page(fuzz->mm, page);
		mm_put_page(fuzz->mm, page);
		mm_put_page(fuzz->mm, page);
	} else if (order == 0) {
		mm_free_page(fuzz->mm, page);
	} else {
		mm_free_pages(fuzz->mm, page, order);
	}
}

/* Into single frames, of which the first half goes. */
static void call_split(struct fuzz *fuzz)
{
	struct held *held = any_held(fuzz);
	unsigned int order = held ? held->order : 0;
	struct page *page;

	if (order == 0)
		return;
	page = let_go(fuzz, held);
	mm_split_page(fuzz->mm, page, order);
	for (unsigned int i = 0; i < 1u << order; i++) {
		if (i < 1u << (order - 1))
			mm_free_page(fuzz->mm, page + i);
		else
			hold(fuzz, page + i, 0);
	}
}

static void call_hotplug(struct fuzz *fuzz, bool on)
{
	unsigned int nid = below(fuzz, fuzz->config.nr_nodes);
	uint64_t first = take(fuzz, 1), nr = take(fuzz, 1);
	uint64_t spanned = fuzz->config.node[nid].spanned;
	bool inside = nr > 0 && first < spanned && nr <= spanned - first;
	int ret = on ? mm_online_pages(fuzz->mm, nid, first, nr, nr & 1)
		     : mm_offline_pages(fuzz->mm, nid, first, nr);

	if (ret)
		return;
	if (!inside && nr > 0)
		bug("frames outside of the node");
	for (uint64_t i = first; i < first + nr; i++) {
		if (fuzz->online[nid][i] == on || fuzz->used[nid][i])
			bug("frame in use went, or came twice");
		fuzz->online[nid][i] = on;
	}
	fuzz->nr_online += on ? nr : -nr;
}

static void call_lru(struct fuzz *fuzz)
{
	struct held *held = any_held(fuzz);

	if (!held)
		return;
	if (held->lru && take(fuzz, 1) & 1) {
		mm_mark_page_accessed(fuzz->mm, held->page);
	} else if (held->lru) {
		if (!mm_lru_del(fuzz->mm, held->page))
			bug("not on the LRU list");
		held->lru = false;
	} else {
		mm_lru_add(fuzz->mm, held->page);
		held->lru = true;
	}
}

static void call_reclaim(struct fuzz *fuzz)
{
	gfp_t gfp = any_gfp(fuzz);

	mm_reclaim_pages(fuzz->mm, (int)below(fuzz, fuzz->config.nr_nodes + 1) - 1, below(fuzz, 40),
			 gfp);
}

static void call_shrinker(struct fuzz *fuzz)
{
	if (fuzz->registered) {
		mm_unregister_shrinker(fuzz->mm, &fuzz->shrinker);
	} else {
		fuzz->shrinker = (struct shrinker){ .count_objects = count_objects,
						    .scan_objects = scan_objects,
						    .seeks = below(fuzz, 4),
						    .flags = below(fuzz, 4),
						    .opaque = fuzz };
		if (mm_register_shrinker(fuzz->mm, &fuzz->shrinker))
			bug("shrinker refused");
	}
	fuzz->registered = !fuzz->registered;
}

static void call_setting(struct fuzz *fuzz)
{
	static const char *const names[] = {
		"min_free_kbytes",      "watermark_scale_factor", "watermark_boost_factor",
		"lowmem_reserve_ratio", "extfrag_threshold",      "compaction_proactiveness",
	};
	const char *name = names[below(fuzz, sizeof(names) / sizeof(names[0]))];
	unsigned int index = below(fuzz, MAX_NR_ZONES + 1);
	uint64_t value = take(fuzz, 4), now;

	if (mm_setting_set(fuzz->mm, name, index, value) == 0 &&
	    mm_setting_get(fuzz->mm, name, index, &now))
		bug("a setting that can be set and not be read");
}

static void call_fault(struct fuzz *fuzz)
{
	struct mm_fault fault = { .orders = (uint32_t)take(fuzz, 1),
				  .gfp = (gfp_t)take(fuzz, 1),
				  .nth = take(fuzz, 1),
				  .interval = take(fuzz, 1),
				  .times = take(fuzz, 1) };

	mm_set_fault(fuzz->mm, fault.orders & 1 ? &fault : NULL);
}

/* What no caller may do: it is reported, and the frames are never handed out again. */
static void call_wrong(struct fuzz *fuzz)
{
	unsigned int how = below(fuzz, 3), nid = below(fuzz, fuzz->config.nr_nodes);
	uint64_t idx = take(fuzz, 1) % fuzz->config.node[nid].spanned;
	struct page *page = mm_page(fuzz->mm, nid, idx);
	struct held *held;

	if (how == 0 && !fuzz->used[nid][idx]) {
		fuzz->wrong = true;
		mm_free_pages(fuzz->mm, page, below(fuzz, NR_PAGE_ORDERS));
	} else if (how == 1) {
		held = any_held(fuzz);
		if (held) {
			unsigned int order = held->order;

			fuzz->wrong = true;
			mm_free_pages(fuzz->mm, let_go(fuzz, held), order ^ 1);
		}
	} else {
		mm_free_pages(fuzz->mm, (struct page *)((uintptr_t)page + 8), 0);
		mm_free_page(fuzz->mm,
			     (struct page *)((uintptr_t)page + ((1 + take(fuzz, 4)) << 24)));
	}
}

/* Frames quarantined on purpose, and back. Counts are not looked at from here on. */
static void call_soft_offline(struct fuzz *fuzz)
{
	unsigned int nid = below(fuzz, fuzz->config.nr_nodes);
	uint64_t idx = take(fuzz, 1) % fuzz->config.node[nid].spanned;
	struct page *page = mm_page(fuzz->mm, nid, idx);
	bool used = fuzz->used[nid][idx];
	int ret;

	if (take(fuzz, 1) & 1) {
		mm_unpoison_page(fuzz->mm, page);
		return;
	}
	fuzz->wrong = true;
	ret = mm_soft_offline_page(fuzz->mm, page);
	if (ret == -EINVAL && fuzz->online[nid][idx])
		bug("a frame that is there cannot be taken out");
	if (ret == -EINPROGRESS && !used)
		bug("a free frame is said to be in use");
	if (ret == 0 && fuzz->used[nid][idx])
		bug("a frame in use was quarantined");
}

static void call_isolate(struct fuzz *fuzz)
{
	unsigned int nid = below(fuzz, fuzz->config.nr_nodes);
	uint64_t first = take(fuzz, 1), nr = take(fuzz, 1);

	if (mm_isolate_pages(fuzz->mm, nid, first, nr))
		return;
	call_free(fuzz);
	call_alloc(fuzz, true);
	call_bulk(fuzz);
	mm_unisolate_pages(fuzz->mm, nid, first, nr);
}

static void call_misc(struct fuzz *fuzz)
{
	static char text[1 << 14];
	unsigned int what = (unsigned int)take(fuzz, 1);

	switch (what % 11) {
	case 0:
		mm_drain_all_pages(fuzz->mm);
		break;
	case 7:
		mm_drain_node_pages(fuzz->mm, what >> 5);
		break;
	case 8:
		call_soft_offline(fuzz);
		break;
	case 9:
		call_isolate(fuzz);
		break;
	case 1:
		mm_set_cpu((int)(what >> 3) % 5 - 1);
		break;
	case 2:
		fuzz->refuse = !fuzz->refuse;
		break;
	case 3:
		mm_compact_node(fuzz->mm, (int)(what >> 3) % (int)fuzz->config.nr_nodes - 1);
		break;
	case 4:
		mm_set_migrate_ops(fuzz->mm, what & 8 ? &migrate_ops : &lru_migrate_ops, fuzz);
		break;
	case 5:
		mm_set_oom_handler(fuzz->mm, what & 8 ? out_of_memory : NULL, fuzz);
		break;
	case 6:
		mm_zero_free_pages(fuzz->mm, what >> 3);
		break;
	default:
		mm_report_buddyinfo(fuzz->mm, text, what & 8 ? sizeof(text) : what);
		mm_report_zoneinfo(fuzz->mm, text, what & 8 ? sizeof(text) : what);
	}
}

static void step(struct fuzz *fuzz)
{
	unsigned int call = below(fuzz, 16);

	if (call < 3)
		call_alloc(fuzz, true);
	else if (call < 5)
		call_alloc(fuzz, false);
	else if (call < 8)
		call_free(fuzz);
	else if (call == 8)
		call_bulk(fuzz);
	else if (call == 9)
		call_split(fuzz);
	else if (call == 10)
		call_hotplug(fuzz, take(fuzz, 1) & 1);
	else if (call == 11)
		call_lru(fuzz);
	else if (call == 12)
		call_reclaim(fuzz);
	else if (call == 13)
		call_setting(fuzz);
	else if (call == 14)
		call_misc(fuzz);
	else
		(take(fuzz, 1) & 1   ? call_shrinker
		 : take(fuzz, 1) & 1 ? call_fault
				     : call_wrong)(fuzz);
}

/* Nodes of up to FRAMES_MAX frames; the first has frames of low zones in between. */
static void *create(struct fuzz *fuzz)
{
	struct mm_config *config = &fuzz->config;
	unsigned int shape = (unsigned int)take(fuzz, 1);
	void *metadata;
	size_t size;

	config->nr_nodes = 1 + shape % NODES_MAX;
	config->nr_cpus = 1 + (shape >> 2) % 3;
	config->pageblock_order = shape >> 4 & 7;
	config->flags = shape & 0x80 ? MM_PAGE_OWNER : 0;
	for (unsigned int i = 0; i < FRAMES_MAX; i++)
		fuzz->phys[i] = i % 9 == 4 ? i % 8 : i % 5 == 0 ? 100 + i : 4096 + i;
	for (unsigned int nid = 0; nid < config->nr_nodes; nid++) {
		struct mm_node_config *node = &config->node[nid];

		node->spanned = 1 + below(fuzz, FRAMES_MAX);
		node->movable = take(fuzz, 1) % (node->spanned + 1);
		node->highmem = (node->spanned - node->movable) / 3;
		node->phys_base = 4096 + nid * FRAMES_MAX;
		if (nid == 0 && shape & 1)
			node->phys_pfn = fuzz->phys;
	}
	size = mm_metadata_size(config);
	metadata = size ? aligned_alloc(64, (size + 63) & ~(size_t)63) : NULL;
	if (!metadata)
		return NULL;
	memset(metadata, 0, size);
	fuzz->mm = mm_init(config, metadata, size);
	if (!fuzz->mm)
		bug("a pool that has a size cannot be made");
	return metadata;
}

static void finish(struct fuzz *fuzz)
{
	struct mm_counts counts;

	mm_set_fault(fuzz->mm, NULL);
	if (fuzz->registered)
		mm_unregister_shrinker(fuzz->mm, &fuzz->shrinker);
	for (unsigned int i = 0; i < HELD_MAX; i++) {
		unsigned int order = fuzz->held[i].order;

		if (fuzz->held[i].isolated)
			bug("isolated and forgotten");
		if (fuzz->held[i].page)
			mm_free_pages(fuzz->mm, let_go(fuzz, &fuzz->held[i]), order);
	}
	mm_set_cpu(-1);
	mm_drain_all_pages(fuzz->mm);
	check(fuzz);
	mm_counts(fuzz->mm, -1, &counts);
	if (!fuzz->wrong && counts.free + counts.cached != fuzz->nr_online)
		bug("frames got lost");
	mm_destroy(fuzz->mm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz *fuzz = calloc(1, sizeof(*fuzz));
	void *metadata;

	if (!fuzz)
		return 0;
	fuzz->data = data;
	fuzz->left = size;
	metadata = create(fuzz);
	if (metadata) {
		mm_set_message_handler(fuzz->mm, quiet, NULL);
		mm_set_reclaim_ops(fuzz->mm, &reclaim_ops, fuzz);
		mm_set_migrate_ops(fuzz->mm, &migrate_ops, fuzz);
		for (unsigned int nid = 0; nid < fuzz->config.nr_nodes; nid++) {
			uint64_t nr = fuzz->config.node[nid].spanned;

			if (mm_online_pages(fuzz->mm, nid, 0, nr, nid & 1))
				bug("frames cannot come");
			memset(fuzz->online[nid], true, nr);
			fuzz->nr_online += nr;
		}
		for (unsigned int i = 0; fuzz->left && i < STEPS_MAX; i++) {
			step(fuzz);
			if (i % 4 == 3)
				check(fuzz);
		}
		finish(fuzz);
	}
	free(metadata);
	free(fuzz);
	return 0;
}
