/* SPDX-License-Identifier: MIT */
/*
 * An instance and its nodes: the layout of the metadata, start and end, frame numbers.
 *
 * Frame numbers (pfn) run through all nodes; each node starts at a multiple of the largest block,
 * so that a buddy is never in another node and one array of struct page serves all. What lies
 * between the end of a node and the start of the next stays untouched zero memory.
 */
#include <errno.h>
#include <string.h>

#include "framevisor/vmscan.h"
#include "mm/highmem_internal.h"

#define MM_MAX_CPUS   4096
#define MM_MAX_FRAMES (UINT64_C(1) << 40)

struct mm *mm_current;

void mm_use(struct mm *mm)
{
	mm_current = mm;
}

/* Hands out pieces of the metadata; with base NULL it only adds up. */
struct carver {
	char *base;
	size_t used;
};

static void *carve(struct carver *carver, size_t size)
{
	void *piece = carver->base ? carver->base + carver->used : NULL;

	carver->used += (size + MM_CACHELINE - 1) & ~(size_t)(MM_CACHELINE - 1);
	return piece;
}

static uint64_t block_align(uint64_t frames)
{
	return (frames + MAX_ORDER_NR_PAGES - 1) & ~(uint64_t)(MAX_ORDER_NR_PAGES - 1);
}

static bool config_valid(const struct mm_config *config)
{
	uint64_t total = 0;

	if (config->nr_nodes < 1 || config->nr_nodes > MAX_NUMNODES || config->nr_cpus < 1 ||
	    config->nr_cpus > MM_MAX_CPUS || config->pageblock_order > MAX_ORDER)
		return false;
	for (unsigned int nid = 0; nid < config->nr_nodes; nid++) {
		const struct mm_node_config *node = &config->node[nid];

		if (node->spanned > MM_MAX_FRAMES || node->movable > node->spanned ||
		    node->highmem > node->spanned - node->movable)
			return false;
		total += node->spanned;
	}
	return total > 0 && total <= MM_MAX_FRAMES;
}

static uint64_t limit_frames(uint64_t bytes, uint64_t by_default)
{
	return (bytes ? bytes : by_default) >> FRAME_SHIFT;
}

/* The parts of an instance that decide about its layout. */
static void init_shape(struct mm *mm, const struct mm_config *config)
{
	uint64_t total = 0;

	mm->nr_nodes = config->nr_nodes;
	mm->nr_cpus = config->nr_cpus;
	mm->flags = config->flags;
	mm->dma_limit = limit_frames(config->dma_limit, UINT64_C(16) << 20);
	mm->dma32_limit = limit_frames(config->dma32_limit, UINT64_C(4) << 30);
	for (unsigned int nid = 0; nid < config->nr_nodes; nid++) {
		mm->hot.nr_pfns += block_align(config->node[nid].spanned);
		total += config->node[nid].spanned;
	}
	mm->pageblock_order =
		config->pageblock_order ? config->pageblock_order : choose_pageblock_order(total);
}

static void init_zone(struct mm *mm, pg_data_t *pgdat, enum zone_type type,
		      struct per_cpu_pages *pageset)
{
	static const char *const names[MAX_NR_ZONES] = { "DMA", "DMA32", "Normal", "HighMem",
							 "Movable" };
	struct zone *zone = &pgdat->node_zones[type];

	zone->mm = mm;
	zone->zone_pgdat = pgdat;
	zone->name = names[type];
	zone->nid = (uint16_t)pgdat->node_id;
	zone->idx = (uint16_t)type;
	zone->pageset = pageset;
	for (unsigned int order = 0; order < NR_PAGE_ORDERS; order++) {
		for (unsigned int mt = 0; mt < MIGRATE_TYPES; mt++) {
			list_init(&zone->free_area[order].free_list[mt][FREE_DIRTY]);
			list_init(&zone->free_area[order].free_list[mt][FREE_ZEROED]);
		}
	}
	for (unsigned int cpu = 0; pageset && cpu < mm->nr_cpus; cpu++)
		pcp_init(&pageset[cpu], zone);
	if (pageset)
		mm->pagesets[pgdat->node_id * PAGESETS_PER_NODE + type] = pageset;
}

static void init_node(struct mm *mm, pg_data_t *pgdat, unsigned int nid, uint64_t start_pfn,
		      const struct mm_node_config *config)
{
	mm->node[nid] = pgdat;
	pgdat->mm = mm;
	pgdat->node_id = nid;
	pgdat->node_start_pfn = start_pfn;
	pgdat->node_spanned_pages = config->spanned;
	pgdat->movable = config->movable;
	pgdat->highmem = config->highmem;
	pgdat->base = config->base;
	pgdat->phys_base = config->phys_base;
	pgdat->phys_pfn = config->phys_pfn;
	for (unsigned int i = 0; i < NR_LRU_LISTS; i++)
		list_init(&pgdat->lru[i]);
}

/* Carves everything of one node. Returns the node's pfns. */
static uint64_t layout_node(struct mm *shape, struct mm *mm, struct carver *carver,
			    const struct mm_node_config *config, unsigned int nid,
			    uint64_t start_pfn)
{
	pg_data_t *pgdat = carve(carver, sizeof(*pgdat));
	uint64_t pfns = block_align(config->spanned);
	uint8_t *blocks = carve(carver, (pfns >> shape->pageblock_order) * MAX_NR_ZONES);
	size_t refs_size = sizeof(struct zoneref) * (shape->nr_nodes * MAX_NR_ZONES + 1);
	struct zoneref *fallback = carve(carver, refs_size);
	struct zoneref *nofallback = carve(carver, sizeof(struct zoneref) * (MAX_NR_ZONES + 1));

	if (mm) {
		init_node(mm, pgdat, nid, start_pfn, config);
		pgdat->node_zonelists[ZONELIST_FALLBACK].refs = fallback;
		pgdat->node_zonelists[ZONELIST_NOFALLBACK].refs = nofallback;
		pgdat->pageblock_mt = blocks;
		pgdat->nr_pageblocks = pfns >> shape->pageblock_order;
		memset(blocks, MIGRATE_MOVABLE, (pfns >> shape->pageblock_order) * MAX_NR_ZONES);
	}
	for (unsigned int type = 0; type < MAX_NR_ZONES; type++) {
		struct per_cpu_pages *pageset = NULL;

		if (zone_possible(config, shape, type))
			pageset = carve(carver, sizeof(*pageset) * shape->nr_cpus);
		if (mm)
			init_zone(mm, pgdat, type, pageset);
	}
	return pfns;
}

/* Lays out, and with base != NULL builds, an instance. Returns the bytes used. */
static size_t layout(const struct mm_config *config, void *base, struct mm **out)
{
	struct carver carver = { .base = base };
	struct mm shape = { 0 };
	uint64_t pfn = 0;
	struct mm *mm;

	init_shape(&shape, config);
	mm = carve(&carver, sizeof(*mm) + sizeof(void *) * HOT_PER_CPU * shape.nr_cpus);
	uint16_t *cpu_node = carve(&carver, sizeof(*cpu_node) * shape.nr_cpus);
	struct per_cpu_pages **pagesets =
		carve(&carver, sizeof(void *) * PAGESETS_PER_NODE * shape.nr_nodes);
	struct page *mem_map = carve(&carver, sizeof(*mem_map) * shape.hot.nr_pfns);
	void *page_owner = carve(&carver, page_owner_size(shape.flags, shape.hot.nr_pfns));

	if (base) {
		init_shape(mm, config);
		mm->cpu_node = cpu_node;
		mm->pagesets = pagesets;
		mm->hot.mem_map = mem_map;
		mm->page_owner = shape.flags & MM_PAGE_OWNER ? page_owner : NULL;
	}
	for (unsigned int nid = 0; nid < config->nr_nodes; nid++)
		pfn += layout_node(&shape, base ? mm : NULL, &carver, &config->node[nid], nid, pfn);
	if (out)
		*out = mm;
	return carver.used;
}

size_t mm_metadata_size(const struct mm_config *config)
{
	return config_valid(config) ? layout(config, NULL, NULL) : 0;
}

static void init_distances(struct mm *mm, const struct mm_config *config)
{
	bool given = false;

	for (unsigned int i = 0; i < mm->nr_nodes; i++)
		for (unsigned int j = 0; j < mm->nr_nodes; j++)
			given = given || config->distance[i][j] != 0;
	for (unsigned int i = 0; i < mm->nr_nodes; i++)
		for (unsigned int j = 0; j < mm->nr_nodes; j++)
			mm->distance[i][j] = given ? config->distance[i][j] : (i == j ? 10 : 20);
}

struct mm *mm_init(const struct mm_config *config, void *metadata, size_t size)
{
	size_t need = mm_metadata_size(config);
	struct mm *mm;

	if (need == 0 || size < need || !metadata || (uintptr_t)metadata % MM_CACHELINE) {
		errno = EINVAL;
		return NULL;
	}
	layout(config, metadata, &mm);
	init_distances(mm, config);
	mm->cpuless = config->cpuless;
	mm->settings = (struct mm_settings){
		.user_min_free_kbytes = config->min_free_kbytes,
		.watermark_scale_factor = 10,
		.watermark_boost_factor = 15000,
		.lowmem_reserve_ratio = { 256, 256, 32, 0, 0 },
		.overcommit_ratio = 50,
		.admin_reserve_kbytes = 8192,
		.extfrag_threshold = 500,
		.compaction_proactiveness = 20,
	};
	list_init(&mm->shrinkers);
	list_init(&mm->oom_holders);
	hot_init(mm);
	build_zonelists(mm);
	setup_per_zone_wmarks(mm);
	return mm;
}

void mm_destroy(struct mm *mm)
{
	if (!mm)
		return;
	mm_stop_kswapd(mm);
	kmap_destroy(mm);
	if (mm_current == mm)
		mm_current = NULL;
}

pg_data_t *mm_node_data(struct mm *mm, unsigned int nid)
{
	return nid < mm->nr_nodes ? mm->node[nid] : NULL;
}

struct page *mm_page(struct mm *mm, unsigned int nid, uint64_t idx)
{
	if (nid >= mm->nr_nodes || idx >= mm->node[nid]->node_spanned_pages)
		return NULL;
	return &mm->hot.mem_map[mm->node[nid]->node_start_pfn + idx];
}

unsigned int mm_page_nid(struct mm *mm, const struct page *page)
{
	uint64_t pfn = pfn_of(mm, page);
	unsigned int nid = mm->nr_nodes - 1;

	/* Absent frames do not carry their node. */
	if (page_test(page, PAGE_FLAG(present)))
		return page_to_nid(page);
	while (nid > 0 && mm->node[nid]->node_start_pfn > pfn)
		nid--;
	return nid;
}

uint64_t mm_page_idx(struct mm *mm, const struct page *page)
{
	return pfn_of(mm, page) - mm->node[mm_page_nid(mm, page)]->node_start_pfn;
}

struct page *mm_pfn_to_page(struct mm *mm, uint64_t pfn)
{
	return pfn < mm->hot.nr_pfns ? &mm->hot.mem_map[pfn] : NULL;
}

uint64_t mm_page_to_pfn(struct mm *mm, const struct page *page)
{
	return pfn_of(mm, page);
}

void *mm_page_address(struct mm *mm, const struct page *page)
{
	const pg_data_t *pgdat = mm->node[page_to_nid(page)];
	uint64_t idx = pfn_of(mm, page) - pgdat->node_start_pfn;

	if (!pgdat->base || page_zonenum(page) == ZONE_HIGHMEM)
		return NULL;
	return (char *)pgdat->base + (idx << FRAME_SHIFT);
}

struct page *mm_virt_to_page(struct mm *mm, const void *addr)
{
	for (unsigned int nid = 0; nid < mm->nr_nodes; nid++) {
		const pg_data_t *pgdat = mm->node[nid];
		uint64_t idx = ((uintptr_t)addr - (uintptr_t)pgdat->base) >> FRAME_SHIFT;

		if (pgdat->base && (uintptr_t)addr >= (uintptr_t)pgdat->base &&
		    idx < pgdat->node_spanned_pages)
			return &mm->hot.mem_map[pgdat->node_start_pfn + idx];
	}
	return NULL;
}

void mm_set_cpu_node(struct mm *mm, unsigned int cpu, unsigned int nid)
{
	if (cpu < mm->nr_cpus && nid < mm->nr_nodes) {
		mm->cpu_node[cpu] = (uint16_t)nid;
		hot_update_tables(mm);
	}
}
