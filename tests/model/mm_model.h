/* SPDX-License-Identifier: MIT */
/*
 * Random operations against a simple model: an array that says who has each frame. Everything is
 * validated and the counts are compared after each operation on small pools, after each thousand on
 * the largest. FRAMEVISOR_SEED repeats a run, FRAMEVISOR_MODEL_OPS sets its length: operations of
 * all tests of a program together.
 */
#ifndef TESTS_MM_MODEL_H
#define TESTS_MM_MODEL_H

#include <errno.h>
#include <time.h>

#include "framevisor/compaction.h"
#include "framevisor/fault_inject.h"
#include "framevisor/mempolicy.h"
#include "framevisor/vmscan.h"
#include "tests/unit/mm_pool.h"

#define MAX_BLOCKS 4096

/* Ten million in the programs that include this together; sanitizers make each of them slow. */
#if defined(__SANITIZE_THREAD__)
#define MODEL_OPS (MODEL_OPS_PLAIN / 100)
#elif defined(__SANITIZE_ADDRESS__)
#define MODEL_OPS (MODEL_OPS_PLAIN / 30)
#else
#define MODEL_OPS MODEL_OPS_PLAIN
#endif

/* There is one thread: whatever the allocator waits for will not come. */
int nanosleep(const struct timespec *time, struct timespec *rest)
{
	(void)time, (void)rest;
	return 0;
}

/* page->index is its place among the model's blocks. */
struct block {
	struct page *page;
	unsigned int order;
	enum zone_type highest; /* zone that the request allowed */
	bool lru;
	bool isolated;
	bool marked; /* quarantined when it is freed */
};

struct model {
	struct pool pool;
	struct mm_config config;
	struct block blocks[MAX_BLOCKS];
	unsigned int nr_blocks;
	uint8_t *used[MAX_NUMNODES];   /* per frame: allocated */
	uint8_t *online[MAX_NUMNODES]; /* per frame: present */
	uint8_t *bad[MAX_NUMNODES];    /* per frame: quarantined */
	uint64_t nr_used, nr_online, nr_bad;
	uint64_t seed, calls;
	bool offlining;
	unsigned int validate_every;
};

static uint64_t random_next(struct model *model)
{
	uint64_t x = model->seed += 0x9e3779b97f4a7c15u;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static uint64_t random_below(struct model *model, uint64_t n)
{
	return random_next(model) % n;
}

static const gfp_t gfps[] = {
	GFP_KERNEL,
	GFP_ATOMIC | __GFP_NOWARN,
	GFP_NOWAIT,
	GFP_HIGHUSER_MOVABLE,
	GFP_HIGHUSER_MOVABLE | __GFP_ZERO,
	GFP_KERNEL | __GFP_RECLAIMABLE,
	GFP_KERNEL | __GFP_ZERO | __GFP_HIGH,
	GFP_KERNEL | __GFP_COMP,
	GFP_DMA,
	GFP_DMA32,
	GFP_USER | __GFP_COLD,
	GFP_KERNEL | __GFP_MEMALLOC,
	GFP_HIGHUSER_MOVABLE | __GFP_THISNODE | __GFP_NORETRY,
};

static void model_mark(struct model *model, struct page *page, unsigned int order, bool used)
{
	struct mm *mm = model->pool.mm;
	unsigned int nid = mm_page_nid(mm, page);
	uint64_t idx = mm_page_idx(mm, page);

	assert_int_equal(idx & ((1u << order) - 1), 0);
	for (uint64_t i = idx; i < idx + (1u << order); i++) {
		assert_true(i < model->config.node[nid].spanned);
		assert_int_equal(model->online[nid][i], 1);
		assert_int_equal(model->used[nid][i], !used);
		assert_int_equal(model->bad[nid][i], 0);
		model->used[nid][i] = used;
	}
	model->nr_used += used ? 1u << order : 0;
	model->nr_used -= used ? 0 : 1u << order;
}

static void model_add(struct model *model, struct page *page, unsigned int order,
		      enum zone_type highest)
{
	model_mark(model, page, order, true);
	page_set_owner(page, 1, model->nr_blocks);
	model->blocks[model->nr_blocks++] =
		(struct block){ .page = page, .order = order, .highest = highest };
}

static void model_set_bad(struct model *model, const struct page *page, bool bad)
{
	unsigned int nid = mm_page_nid(model->pool.mm, page);
	uint64_t idx = mm_page_idx(model->pool.mm, page);

	assert_int_equal(model->used[nid][idx], 0);
	assert_int_equal(model->bad[nid][idx], !bad);
	model->bad[nid][idx] = bad;
	model->nr_bad += bad ? 1 : -UINT64_C(1);
}

/* The block is given back after this. */
static void model_forget(struct model *model, uint64_t i)
{
	model_mark(model, model->blocks[i].page, model->blocks[i].order, false);
	if (model->blocks[i].marked)
		model_set_bad(model, model->blocks[i].page, true);
	model->blocks[i] = model->blocks[--model->nr_blocks];
	if (i < model->nr_blocks)
		page_set_owner(model->blocks[i].page, 1, i);
}

static struct block model_take_at(struct model *model, uint64_t i)
{
	struct block block = model->blocks[i];

	if (block.lru)
		assert_true(mm_lru_del(model->pool.mm, block.page));
	model_forget(model, i);
	return block;
}

static struct block model_take(struct model *model)
{
	return model_take_at(model, random_below(model, model->nr_blocks));
}

/* The zone must be one that the flags allow, the node one of the mask. */
static void check_placement(const struct page *page, gfp_t gfp, nodemask_t mask)
{
	assert_true(page_zonenum(page) <= gfp_zone(gfp));
	if (mask)
		assert_true(mask >> page_to_nid(page) & 1);
	assert_int_equal(page_count(page), 1);
}

static void op_alloc(struct model *model)
{
	gfp_t gfp = gfps[random_below(model, sizeof(gfps) / sizeof(gfps[0]))] | __GFP_NOWARN;
	unsigned int order = random_below(model, 4)
				     ? (unsigned int)random_below(model, 4)
				     : (unsigned int)random_below(model, NR_PAGE_ORDERS + 1);
	int nid = (int)random_below(model, model->config.nr_nodes + 1) - 1;
	nodemask_t mask = random_below(model, 3) ? 0 : 1 + random_below(model, 3);
	struct page *page;

	if (model->nr_blocks >= MAX_BLOCKS - 64)
		return;
	gfp &= ~__GFP_DIRECT_RECLAIM; /* no waiting: nobody else frees */
	if (random_below(model, 8) == 0) {
		struct mempolicy policy = { .mode = (enum mempolicy_mode)random_below(model, 4),
					    .nodes = 1 + random_below(model, 3) };

		mask = policy.mode == POLICY_BIND ? policy.nodes : 0;
		nid = NUMA_NO_NODE;
		page = mm_alloc_pages_policy(model->pool.mm, &policy, gfp, order);
	} else {
		page = mm_alloc_pages_nodemask(model->pool.mm, gfp, order, nid,
					       mask ? &mask : NULL);
	}
	if (!page)
		return;
	check_placement(page, gfp, mask);
	if ((gfp & __GFP_THISNODE) && nid >= 0)
		assert_int_equal(page_to_nid(page), nid);
	model_add(model, page, order, gfp_zone(gfp));
}

static void op_bulk(struct model *model)
{
	gfp_t gfp = gfps[random_below(model, sizeof(gfps) / sizeof(gfps[0]))] | __GFP_NOWARN;
	struct page *pages[64];
	uint64_t nr = random_below(model, 64) + 1;
	uint64_t got;

	if (model->nr_blocks >= MAX_BLOCKS - 64)
		return;
	got = mm_alloc_pages_bulk(model->pool.mm, gfp & ~__GFP_DIRECT_RECLAIM, 0, nr, pages);
	assert_true(got <= nr);
	for (uint64_t i = 0; i < got; i++) {
		check_placement(pages[i], gfp, 0);
		model_add(model, pages[i], 0, gfp_zone(gfp));
	}
}

static void op_free(struct model *model)
{
	struct mm *mm = model->pool.mm;
	struct block block;

	if (!model->nr_blocks)
		return;
	block = model_take(model);
	switch (random_below(model, 4)) {
	case 0:
		mm_free_pages_zeroed(mm, block.page, block.order);
		break;
	case 1:
		mm_get_page(mm, block.page);
		mm_put_page(mm, block.page);
		mm_put_page(mm, block.page);
		break;
	default:
		mm_free_pages(mm, block.page, block.order);
	}
}

static void op_free_bulk(struct model *model)
{
	struct page *pages[64];
	uint64_t nr = 0;

	for (unsigned int i = 0; i < 64 && model->nr_blocks; i++) {
		struct block block = model->blocks[model->nr_blocks - 1];

		if (block.order || block.lru)
			break;
		model_forget(model, model->nr_blocks - 1);
		pages[nr++] = block.page;
	}
	if (nr)
		mm_free_pages_bulk(model->pool.mm, pages, nr, random_below(model, 2));
}

static void op_split(struct model *model)
{
	struct block block;

	if (!model->nr_blocks || model->nr_blocks > MAX_BLOCKS - 600)
		return;
	if (model->blocks[model->nr_blocks - 1].order == 0)
		return;
	block = model_take_at(model, model->nr_blocks - 1);
	mm_split_page(model->pool.mm, block.page, block.order);
	for (unsigned int i = 0; i < 1u << block.order; i++)
		model_add(model, block.page + i, 0, block.highest);
}

static void op_hotplug(struct model *model)
{
	unsigned int nid = (unsigned int)random_below(model, model->config.nr_nodes);
	uint64_t spanned = model->config.node[nid].spanned;
	uint64_t first = random_below(model, spanned);
	uint64_t nr = 1 + random_below(model, 32);
	bool all_on = true, all_off = true, idle = true;
	int ret;

	if (nr > spanned - first)
		nr = spanned - first;
	for (uint64_t i = first; i < first + nr; i++) {
		all_on = all_on && model->online[nid][i];
		all_off = all_off && !model->online[nid][i];
		idle = idle && !model->used[nid][i];
	}
	if (random_below(model, 2)) {
		model->offlining = true;
		ret = mm_offline_pages(model->pool.mm, nid, first, nr);
		model->offlining = false;
		/* What is in use may have been moved out of the way. */
		if (!all_on)
			assert_int_equal(ret, -EBUSY);
		else if (idle)
			assert_int_equal(ret, 0);
		if (ret == 0) {
			for (uint64_t i = first; i < first + nr; i++) {
				assert_int_equal(model->used[nid][i], 0);
				model->nr_bad -= model->bad[nid][i];
			}
			memset(model->bad[nid] + first, 0, nr);
			memset(model->online[nid] + first, 0, nr);
			model->nr_online -= nr;
		}
	} else {
		ret = mm_online_pages(model->pool.mm, nid, first, nr, random_below(model, 2));
		assert_int_equal(ret, all_off ? 0 : -EBUSY);
		if (ret == 0) {
			memset(model->online[nid] + first, 1, nr);
			model->nr_online += nr;
		}
	}
}

/* What keeps new frames away from a range changes nothing else. */
static void op_isolate(struct model *model)
{
	unsigned int nid = (unsigned int)random_below(model, model->config.nr_nodes);
	uint64_t spanned = model->config.node[nid].spanned;
	uint64_t first = random_below(model, spanned);
	uint64_t nr = 1 + random_below(model, spanned - first);

	assert_int_equal(mm_isolate_pages(model->pool.mm, nid, first, nr), 0);
	for (unsigned int i = 0; i < 4; i++)
		op_free(model);
	for (unsigned int i = 0; i < 4; i++)
		op_alloc(model);
	mm_unisolate_pages(model->pool.mm, nid, first, nr);
}

static void op_soft_offline(struct model *model)
{
	struct mm *mm = model->pool.mm;
	unsigned int nid = (unsigned int)random_below(model, model->config.nr_nodes);
	uint64_t idx = random_below(model, model->config.node[nid].spanned);
	struct page *page = mm_page(mm, nid, idx);
	bool used = model->used[nid][idx], bad = model->bad[nid][idx];
	int ret;

	if (bad && random_below(model, 4)) {
		model_set_bad(model, page, false);
		assert_int_equal(mm_unpoison_page(mm, page), 0);
		return;
	}
	model->offlining = true;
	ret = mm_soft_offline_page(mm, page);
	model->offlining = false;
	if (!model->online[nid][idx])
		assert_int_equal(ret, -EINVAL);
	else if (bad)
		assert_int_equal(ret, -EALREADY);
	else if (!used)
		assert_int_equal(ret, 0);
	if (ret == 0)
		model_set_bad(model, page, true);
	if (ret == -EINPROGRESS) {
		assert_ptr_equal(model->blocks[page->index].page, page);
		model->blocks[page->index].marked = true;
	}
}

/* Callbacks: whoever holds a frame may refuse to move it or to give it up. */

static struct block *model_block(struct model *model, const struct page *page)
{
	assert_true(page->index < model->nr_blocks);
	assert_ptr_equal(model->blocks[page->index].page, page);
	return &model->blocks[page->index];
}

static int model_reclaim(void *opaque, struct page *page, gfp_t gfp)
{
	struct model *model = opaque;

	(void)gfp;
	assert_true(model_block(model, page)->lru);
	if (random_below(model, 4) == 0)
		return -EBUSY;
	model_forget(model, page->index);
	return 0;
}

static bool model_isolate(void *opaque, struct page *page)
{
	struct model *model = opaque;

	if (page->index >= model->nr_blocks || model->blocks[page->index].page != page ||
	    model->blocks[page->index].lru || random_below(model, 8) == 0)
		return false;
	assert_false(model->blocks[page->index].isolated);
	model->blocks[page->index].isolated = true;
	return true;
}

static void model_putback(void *opaque, struct page *page)
{
	struct block *block = model_block(opaque, page);

	assert_true(block->isolated);
	block->isolated = false;
}

static int model_migrate(void *opaque, struct page *from, struct page *to, enum migrate_mode mode)
{
	struct model *model = opaque;
	struct block *block = model_block(model, from);

	(void)mode;
	assert_true(block->isolated != block->lru);
	assert_int_equal(page_order(to), block->order);
	assert_true(page_zonenum(to) <= block->highest);
	if (!model->offlining) { /* compaction stays in the zone */
		assert_int_equal(page_zonenum(to), page_zonenum(from));
		assert_int_equal(page_to_nid(to), page_to_nid(from));
	}
	assert_false(block->marked);
	if (random_below(model, 4) == 0)
		return -EAGAIN;
	model_mark(model, from, block->order, false);
	model_mark(model, to, block->order, true);
	mm_migrate_page_state(from, to);
	block->page = to;
	block->isolated = false;
	return 0;
}

static const struct mm_reclaim_ops reclaim_ops = { .reclaim = model_reclaim };
static const struct mm_migrate_ops migrate_ops = { .migrate = model_migrate,
						   .isolate = model_isolate,
						   .putback = model_putback };

static void op_lru(struct model *model)
{
	struct block *block;

	if (!model->nr_blocks)
		return;
	block = &model->blocks[random_below(model, model->nr_blocks)];
	if (block->highest != ZONE_MOVABLE)
		return; /* what is on the lists can be moved anywhere */
	if (!block->lru)
		mm_lru_add(model->pool.mm, block->page);
	else if (random_below(model, 2))
		mm_mark_page_accessed(model->pool.mm, block->page);
	else
		assert_true(mm_lru_del(model->pool.mm, block->page));
	block->lru = !block->lru || page_test(block->page, PAGE_FLAG(lru));
}

/* Within what leaves a small pool something to allocate. */
static void op_settings(struct model *model)
{
	static const struct {
		const char *name;
		uint64_t below;
	} settings[] = {
		{ "min_free_kbytes", 1 << 15 },    { "watermark_scale_factor", 300 },
		{ "watermark_boost_factor", 400 }, { "lowmem_reserve_ratio", 300 },
		{ "extfrag_threshold", 1001 },
	};
	unsigned int i = (unsigned int)random_below(model, sizeof(settings) / sizeof(settings[0]));
	unsigned int index = i == 3 ? (unsigned int)random_below(model, MAX_NR_ZONES) : 0;
	uint64_t value = random_below(model, settings[i].below);
	int ret = mm_setting_set(model->pool.mm, settings[i].name, index, value);

	assert_int_equal(ret, i == 1 && value == 0 ? -EINVAL : 0);
}

/* The next few allocations fail, as if there were no memory. */
static void op_fault(struct model *model)
{
	struct mm_fault fault = { .nth = 1 + random_below(model, 3),
				  .interval = random_below(model, 3),
				  .times = random_below(model, 4),
				  .orders = (uint32_t)random_below(model, 1 << NR_PAGE_ORDERS) };

	mm_set_fault(model->pool.mm, &fault);
	for (unsigned int i = 0; i < 6; i++)
		op_alloc(model);
	mm_set_fault(model->pool.mm, NULL);
}

static void op_misc(struct model *model)
{
	struct mm *mm = model->pool.mm;
	int nid = (int)random_below(model, model->config.nr_nodes + 1) - 1;

	switch (random_below(model, 11)) {
	case 0:
		mm_drain_all_pages(mm);
		break;
	case 8:
		mm_drain_node_pages(mm, (unsigned int)random_below(model, 3));
		break;
	case 9:
		op_isolate(model);
		break;
	case 10:
		op_soft_offline(model);
		break;
	case 1:
		mm_set_cpu((int)random_below(model, model->config.nr_cpus + 1) - 1);
		break;
	case 2:
		mm_compact_node(mm, nid);
		break;
	case 3:
		mm_reclaim_pages(mm, nid, random_below(model, 20), GFP_KERNEL);
		break;
	case 4:
		op_settings(model);
		break;
	case 5:
		op_fault(model);
		break;
	case 6:
		mm_zero_free_pages(mm, random_below(model, 4));
		break;
	default:
		if (model->nr_blocks > 64)
			while (model->nr_blocks > 8)
				op_free(model);
	}
}

static void model_step(struct model *model)
{
	uint64_t dice = random_below(model, 100);
	struct mm_counts counts;

	if (dice < 40)
		op_alloc(model);
	else if (dice < 74)
		op_free(model);
	else if (dice < 80)
		op_bulk(model);
	else if (dice < 86)
		op_free_bulk(model);
	else if (dice < 90)
		op_split(model);
	else if (dice < 94)
		op_hotplug(model);
	else if (dice < 97)
		op_lru(model);
	else
		op_misc(model);
	if (++model->calls % model->validate_every)
		return;
	pool_validate(&model->pool);
	mm_counts(model->pool.mm, -1, &counts);
	assert_int_equal(counts.present, model->nr_online);
	assert_int_equal(counts.allocated, model->nr_used);
	assert_int_equal(counts.quarantined, model->nr_bad);
	assert_int_equal(model->pool.messages, 0);
}

static uint64_t env_u64(const char *name, uint64_t by_default)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : by_default;
}

static uint64_t model_clock(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* percent: of all operations of the program. */
static void model_run(const struct mm_config *config, unsigned int percent,
		      unsigned int validate_every)
{
	uint64_t ops = env_u64("FRAMEVISOR_MODEL_OPS", MODEL_OPS) * percent / 100;
	struct model *model = calloc(1, sizeof(*model));

	assert_non_null(model);
	model->config = *config;
	model->seed = env_u64("FRAMEVISOR_SEED", model_clock());
	print_message("seed %llu, %llu operations\n", (unsigned long long)model->seed,
		      (unsigned long long)ops);
	model->validate_every = validate_every;
	pool_create(&model->pool, config);
	mm_set_reclaim_ops(model->pool.mm, &reclaim_ops, model);
	mm_set_migrate_ops(model->pool.mm, &migrate_ops, model);
	for (unsigned int nid = 0; nid < config->nr_nodes; nid++) {
		uint64_t spanned = config->node[nid].spanned;

		model->used[nid] = calloc(spanned, 1);
		model->online[nid] = calloc(spanned, 1);
		model->bad[nid] = calloc(spanned, 1);
		memset(model->online[nid], 1, spanned / 2);
		assert_int_equal(mm_online_pages(model->pool.mm, nid, 0, spanned / 2, nid & 1), 0);
		model->nr_online += spanned / 2;
	}
	for (uint64_t i = 0; i < ops; i++)
		model_step(model);
	while (model->nr_blocks)
		op_free(model);
	assert_int_equal(pool_free_frames(&model->pool), model->nr_online - model->nr_bad);
	mm_set_cpu(-1);
	pool_destroy(&model->pool);
	for (unsigned int nid = 0; nid < config->nr_nodes; nid++) {
		free(model->used[nid]);
		free(model->online[nid]);
		free(model->bad[nid]);
	}
	free(model);
}

#endif
