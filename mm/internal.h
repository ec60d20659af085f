/* SPDX-License-Identifier: MIT */
/*
 * The instance and what the files of mm/ use of each other. Each group of prototypes names the
 * file that has them.
 */
#ifndef MM_INTERNAL_H
#define MM_INTERNAL_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/rseq.h>

#include "framevisor/clock.h"
#include "framevisor/mm.h"
#include "framevisor/mmzone.h"
#include "framevisor/page_alloc.h"
#include "framevisor/vmstat.h"
#include "mm/lock.h"

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define MM_CACHELINE 64

struct mm_settings {
	uint64_t min_free_kbytes; /* in force */
	uint64_t user_min_free_kbytes;
	uint64_t watermark_scale_factor; /* in 1/10000 of a zone */
	uint64_t watermark_boost_factor;
	uint64_t lowmem_reserve_ratio[MAX_NR_ZONES];
	uint64_t overcommit_memory;
	uint64_t overcommit_ratio; /* percent; used when overcommit_kbytes is 0 */
	uint64_t overcommit_kbytes;
	uint64_t admin_reserve_kbytes;
	uint64_t extfrag_threshold;        /* fragmentation index, in 1/1000 */
	uint64_t compaction_proactiveness; /* 0: never ahead of need, to 100 */
};

struct page_owner_record;
struct mm_reclaim_ops;
struct mm_migrate_ops;

struct mm_fault_state {
	bool active; /* read without the lock */
	uint32_t lock;
	uint32_t orders;
	gfp_t gfp;
	uint64_t nth, interval, times;
	uint64_t seen, injected;
};

/* A frame of ZONE_HIGHMEM in the window of highmem.c. */
#define KMAP_SLOTS       64
#define KMAP_LOCAL_SLOTS 16
struct kmap_slot {
	struct page *page;  /* mapped here; NULL: nothing is */
	unsigned int users; /* 0: may be replaced */
};

struct kmap_state {
	char *reserved;       /* address space; NULL: no node has a file */
	char *window;         /* aligned, in it */
	int fd[MAX_NUMNODES]; /* plus 1; 0: none */
	uint32_t lock;
	uint32_t clear_lock;
	struct kmap_slot slot[KMAP_SLOTS];
};

struct mm {
	struct mm_hot hot;               /* what the shortest paths need: first */
	struct per_cpu_pages **pagesets; /* [PAGE_PAGESET(flags)] */

	/* Bit n: the zone has a free block of order PCP_MAX_ORDER + 1 + n. A hint: written under
	 * the zone's lock, read without. */
	uint16_t large_orders[MAX_NUMNODES][MAX_NR_ZONES];

	uint32_t nr_nodes;
	uint32_t nr_cpus;
	uint32_t flags; /* MM_* */
	uint32_t pageblock_order;
	bool group_by_mobility; /* off when there are too few pageblocks to separate anything */
	pg_data_t *node[MAX_NUMNODES];
	uint16_t *cpu_node;

	uint8_t distance[MAX_NUMNODES][MAX_NUMNODES];
	uint64_t cpuless;     /* nodes without CPUs */
	uint64_t dma_limit;   /* in frames */
	uint64_t dma32_limit; /* in frames */
	struct mm_settings settings;
	uint64_t totalreserve_pages;
	uint32_t hot_paused;   /* how many want the stacks out of use for longer; under hot_lock */
	uint32_t hot_lock;     /* who stops the stacks; outside of pcp locks */
	uint32_t hotplug_lock; /* onlining, offlining and settings, one at a time */
	struct page_owner_record *page_owner;

	uint32_t shrinker_lock;
	struct list_head shrinkers;
	const struct mm_reclaim_ops *reclaim_ops;
	void *reclaim_opaque;
	const struct mm_migrate_ops *migrate_ops;
	void *migrate_opaque;

	struct mm_fault_state fault;
	mm_oom_fn oom_fn;
	void *oom_opaque;
	uint32_t oom_lock; /* one kill at a time; only ever tried */
	uint32_t oom_list_lock;
	struct list_head oom_holders;
	mm_message_fn message_fn;
	void *message_opaque;
	uint64_t nr_bad_pages; /* reports so far */
	uint64_t vm_events[NR_VM_EVENT_ITEMS];
	int64_t committed;         /* frames promised; overcommit.c */
	uint64_t total_swap_pages; /* frames that could be elsewhere */

	struct kmap_state kmap;

	struct slab_state *slab; /* slab_frame.c; NULL until first used */
	struct vmap_state *vmap; /* vmalloc.c; NULL until first used */

	struct hot_stack *hot_alloc[] __attribute__((aligned(MM_CACHELINE))); /* page_hot.h */
};
_Static_assert(offsetof(struct mm, hot) == 0 && offsetof(struct mm, hot_alloc) == MM_HOT_TABLE,
	       "page_hot.h counts on it");

/* Node and zone of a frame, as an index of mm->pagesets. */
#define PAGE_PAGESET(flags) ((flags) >> PAGE_ZONE_SHIFT)
#define PAGESETS_PER_NODE   (1u << (PAGE_NODE_SHIFT - PAGE_ZONE_SHIFT))
_Static_assert(MAX_NR_ZONES *MIGRATE_PCPTYPES <= HOT_LAST, "slots");

/* How hard an allocation may try: enum zone_watermarks in the low bits, as in the kernel. */
#define ALLOC_WMARK_MIN     WMARK_MIN
#define ALLOC_WMARK_LOW     WMARK_LOW
#define ALLOC_WMARK_HIGH    WMARK_HIGH
#define ALLOC_WMARK_MASK    0x03u
#define ALLOC_NO_WATERMARKS 0x04u
#define ALLOC_OOM           0x08u /* half of min */
#define ALLOC_NON_BLOCK     0x10u /* GFP_ATOMIC and alike: a quarter of the rest */
#define ALLOC_MIN_RESERVE   0x20u /* __GFP_HIGH: half of min */
#define ALLOC_HIGHATOMIC    0x40u /* may take from the highatomic reserve */
#define ALLOC_NOFRAGMENT    0x80u /* no mixing of mobility in pageblocks */
#define ALLOC_KSWAPD        0x100u
#define ALLOC_EXACT         0x200u /* no zone is passed over for what was read without its lock */
#define ALLOC_RESERVES      (ALLOC_NON_BLOCK | ALLOC_MIN_RESERVE | ALLOC_OOM)

/* Everything about one request that does not change while it is tried. */
struct alloc_context {
	struct zonelist *zonelist;
	nodemask_t nodemask; /* all ones when the caller gave none */
	enum zone_type highest_zoneidx;
	enum migratetype migratetype;
	bool want_zeroed;
};

/* A frame known by its page and, where counts are needed, its zone. */
static inline uint64_t pfn_of(const struct mm *mm, const struct page *page)
{
	return (uint64_t)(page - mm->hot.mem_map);
}

static inline struct zone *page_zone(const struct mm *mm, const struct page *page)
{
	return &mm->node[page_to_nid(page)]->node_zones[page_zonenum(page)];
}

/* Numbers of a zone: written with its lock held, read without. */
static inline void zone_stat_add(struct zone *zone, enum zone_stat_item item, int64_t delta)
{
	__atomic_store_n(&zone->vm_stat[item], zone->vm_stat[item] + (uint64_t)delta,
			 __ATOMIC_RELAXED);
}

/* Whether mobility is kept apart; changes only when the pool's size does. */
static inline bool grouping(const struct mm *mm)
{
	return __atomic_load_n(&mm->group_by_mobility, __ATOMIC_RELAXED);
}

/* Frames to or from somebody, not through a per-CPU cache. Zone lock held. */
static inline void zone_count_alloc(struct zone *zone, uint64_t frames)
{
	__atomic_store_n(&zone->pgalloc, zone->pgalloc + frames, __ATOMIC_RELAXED);
}

static inline void zone_count_free(struct zone *zone, uint64_t frames)
{
	__atomic_store_n(&zone->pgfree, zone->pgfree + frames, __ATOMIC_RELAXED);
}

/* The type of a zone's part of the pageblock that pfn is in, whatever frame is there. */
static inline uint8_t *pageblock_of(const struct mm *mm, const pg_data_t *pgdat, unsigned int type,
				    uint64_t pfn)
{
	uint64_t block = (pfn - pgdat->node_start_pfn) >> mm->pageblock_order;

	return &pgdat->pageblock_mt[type * pgdat->nr_pageblocks + block];
}

static inline uint8_t *zone_pageblock(const struct mm *mm, const struct zone *zone, uint64_t pfn)
{
	return pageblock_of(mm, zone->zone_pgdat, zone->idx, pfn);
}

static inline uint8_t *pageblock_entry(const struct mm *mm, const struct page *page)
{
	return pageblock_of(mm, mm->node[page_to_nid(page)], page_zonenum(page), pfn_of(mm, page));
}

/* Without the zone lock the answer may be old at once. */
static inline enum migratetype get_pageblock_migratetype(const struct mm *mm,
							 const struct page *page)
{
	return __atomic_load_n(pageblock_entry(mm, page), __ATOMIC_RELAXED);
}

/* Whether all pageblocks of a block, the first of which is *entry, have one type. Eight at a time:
 * with small pageblocks a block has hundreds. */
static inline bool pageblocks_uniform(const struct mm *mm, const uint8_t *entry, unsigned int order)
{
	unsigned int blocks = order > mm->pageblock_order ? 1u << (order - mm->pageblock_order) : 1;
	const uint64_t same = UINT64_C(0x0101010101010101) * entry[0];
	unsigned int i = 0;

	for (; i + 8 <= blocks; i += 8) {
		uint64_t eight;

		memcpy(&eight, entry + i, sizeof(eight));
		if (eight != same)
			return false;
	}
	for (; i < blocks; i++)
		if (entry[i] != entry[0])
			return false;
	return true;
}

static inline unsigned int order_frames(unsigned int order)
{
	return 1u << order;
}

#define for_each_node(mm, nid) for ((nid) = 0; (nid) < (mm)->nr_nodes; (nid)++)
/* zone is a struct zone *; nid and idx are loop variables of the caller. */
#define for_each_zone(mm, nid, idx, zone)                                                   \
	for ((nid) = 0; (nid) < (mm)->nr_nodes; (nid)++)                                    \
		for ((idx) = 0, (zone) = (mm)->node[nid]->node_zones; (idx) < MAX_NR_ZONES; \
		     (idx)++, (zone)++)                                                     \
			if (!(zone)->pageset) {                                             \
			} else

/* What is wrong with it says why_not_freeable(). */
static inline bool page_freeable(const struct page *page, unsigned int order)
{
	const uint64_t checked = PAGE_FLAGS_CHECK_AT_FREE | PAGE_ORDER_MASK | PAGE_FLAG(present);

	return (page_flags(page) & checked) == (PAGE_FLAG(present) | PAGE_ORDER(order)) &&
	       page_mapcount(page) == 0 && page->mapping == NULL;
}

/* buddy.c: all with the zone lock held. */
void free_one_page(struct mm *mm, struct zone *zone, struct page *page, unsigned int order,
		   unsigned int nr_zeroed);
struct page *rmqueue_smallest(struct mm *mm, struct zone *zone, unsigned int order,
			      enum migratetype mt, bool want_zeroed);
void split_halves(struct page *page, unsigned int order, unsigned int *low, unsigned int *high);
struct page *rmqueue_dirty(struct mm *mm, struct zone *zone);
struct page *find_free_head(struct mm *mm, struct page *page);
void take_free_range(struct mm *mm, struct zone *zone, struct page *head, uint64_t start,
		     uint64_t end);

/* pageblock.c */
void set_pageblock_migratetype(struct mm *mm, struct page *page, unsigned int order,
			       enum migratetype mt);
struct page *rmqueue_fallback(struct mm *mm, struct zone *zone, unsigned int order,
			      enum migratetype mt, unsigned int alloc_flags);
uint64_t move_freepages_block(struct mm *mm, struct zone *zone, struct page *page,
			      enum migratetype mt);
unsigned int choose_pageblock_order(uint64_t frames);

/* vmstat.c */
void count_vm_events(struct mm *mm, enum vm_event_item item, uint64_t nr);

/* highatomic.c */
void reserve_highatomic(struct mm *mm, struct zone *zone, struct page *page);
bool unreserve_highatomic(struct mm *mm, const struct alloc_context *ac, bool force);

/* fault_inject.c */
bool fault_hits(struct mm *mm, gfp_t gfp, unsigned int order);
/* One load when no faults are wanted. */
static inline bool should_fail_alloc(struct mm *mm, gfp_t gfp, unsigned int order)
{
	return unlikely(__atomic_load_n(&mm->fault.active, __ATOMIC_ACQUIRE)) &&
	       fault_hits(mm, gfp, order);
}

/* pcp.c */
extern _Thread_local int mm_thread_cpu __attribute__((tls_model("initial-exec")));
/* The cache this thread uses. It may be on another CPU the next moment: the lock makes it safe. */
static inline unsigned int mm_this_cpu(const struct mm *mm)
{
	unsigned int cpu = (unsigned int)mm_thread_cpu;

	if (mm_thread_cpu < 0) {
		/* glibc registers rseq; the kernel keeps cpu_id up to date in it. */
		const struct rseq *rseq =
			(const struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);

		cpu = __rseq_size ? *(const volatile uint32_t *)&rseq->cpu_id
				  : (unsigned int)sched_getcpu();
	}
	return likely(cpu < mm->nr_cpus) ? cpu : cpu % mm->nr_cpus;
}
void pcp_init(struct per_cpu_pages *pcp, struct zone *zone);
void pcp_update_limits(struct mm *mm, struct zone *zone);
struct page *pcp_alloc_hit(struct mm *mm, struct zone *zone, unsigned int order,
			   const struct alloc_context *ac, bool cold);
struct page *pcp_alloc(struct mm *mm, struct zone *zone, unsigned int order,
		       const struct alloc_context *ac, unsigned int alloc_flags);
void pcp_free(struct mm *mm, struct zone *zone, struct page *page, unsigned int order, bool cold);
void drain_idle_pages(pg_data_t *pgdat);
uint32_t hot_stack_frames(const struct hot_stack *stack);
uint32_t pcp_hot_frames(const struct per_cpu_pages *pcp);

/* pcp_hot.c */
void hot_init(struct mm *mm);
void hot_thread_init(void);
void hot_update_tables(struct mm *mm);
struct page *hot_alloc_zone(struct mm *mm, struct zone *zone, enum migratetype mt);
bool hot_free_zone(struct mm *mm, struct zone *zone, struct page *page, enum migratetype mt);
unsigned int hot_detach_some(struct mm *mm, struct zone *zone, enum migratetype mt,
			     struct page **pages, unsigned int nr);
void hot_enable(struct mm *mm, bool on);
void hot_pause(struct mm *mm, bool pause);
void hot_stop(struct mm *mm);
void hot_start(struct mm *mm);

/* page_alloc.c */
struct page *rmqueue_buddy(struct mm *mm, struct zone *zone, unsigned int order,
			   enum migratetype mt, unsigned int alloc_flags, bool want_zeroed);
struct page *get_page_from_freelist(struct mm *mm, gfp_t gfp, unsigned int order,
				    unsigned int alloc_flags, const struct alloc_context *ac);
bool prep_new_page(struct mm *mm, struct page *page, unsigned int order, gfp_t gfp);

static inline void prepare_alloc_context(struct mm *mm, gfp_t gfp, int nid, nodemask_t nodemask,
					 struct alloc_context *ac)
{
	unsigned int node = (unsigned int)nid;

	if (nid < 0 || node >= mm->nr_nodes)
		node = mm->cpu_node[mm_this_cpu(mm)];
	ac->zonelist = &mm->node[node]->node_zonelists[gfp & __GFP_THISNODE ? ZONELIST_NOFALLBACK
									    : ZONELIST_FALLBACK];
	ac->nodemask = nodemask ? nodemask : ~(nodemask_t)0;
	ac->highest_zoneidx = gfp_zone(gfp);
	ac->migratetype = grouping(mm) ? gfpflags_to_migratetype(gfp) : MIGRATE_MOVABLE;
	ac->want_zeroed = (gfp & __GFP_ZERO) != 0;
}

/* slowpath.c */
struct page *alloc_pages_slowpath(struct mm *mm, gfp_t gfp, unsigned int order,
				  const struct alloc_context *ac);
unsigned int gfp_to_alloc_flags(gfp_t gfp, unsigned int order);

/* page_free.c */
void free_run(struct mm *mm, struct zone *zone, uint64_t pfn, uint64_t nr, bool zeroed);
void free_to_buddy(struct mm *mm, struct page *page, unsigned int order);
void free_pages_any(struct mm *mm, struct page *page, unsigned int order);

/* page_check.c */
const char *why_not_freeable(const struct page *page, unsigned int order);
const char *why_not_allocatable(const struct page *page);
void bad_page(struct mm *mm, struct page *page, const char *reason);
void quarantine_held(struct mm *mm, struct page *page);
void quarantine_free(struct mm *mm, struct page *page);
void mark_quarantined(struct zone *zone, struct page *page, unsigned int order);
void quarantine_marked(struct mm *mm, struct page *page);
void mm_message(struct mm *mm, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* page_owner.c: no-ops without MM_PAGE_OWNER. */
enum page_owner_event { PAGE_OWNER_ALLOC, PAGE_OWNER_FREE };
size_t page_owner_size(uint32_t flags, uint64_t nr_pfns);
void page_owner_record(struct mm *mm, struct page *page, unsigned int order,
		       enum page_owner_event event);
int page_owner_print(struct mm *mm, const struct page *page, char *buf, size_t len);

/* zero.c */
enum page_clear_result { PAGE_CLEAR_NO_MEMORY, PAGE_CLEAR_DONE, PAGE_CLEAR_FAILED };
enum page_clear_result page_clear(struct mm *mm, struct page *page, unsigned int order);
void poison_pages(struct mm *mm, struct page *page, unsigned int order);
bool poison_intact(struct mm *mm, struct page *page, unsigned int order);

/* watermark.c */
bool zone_watermark_ok(const struct zone *zone, unsigned int order, uint64_t mark,
		       enum zone_type highest_zoneidx, unsigned int alloc_flags);

/* ZONE_FLAG_BELOW_HIGH, see try_zone(). Of requests that may have frames of any zone. */
static inline bool zone_above_high(const struct zone *zone)
{
	return zone_watermark_ok(zone, 0, wmark_pages(zone, WMARK_HIGH), ZONE_MOVABLE, 0);
}

static inline void note_above_high(struct zone *zone)
{
	if (unlikely(zone_read(zone, flags) & ZONE_FLAG_BELOW_HIGH) && zone_above_high(zone))
		__atomic_fetch_and(&zone->flags, ~ZONE_FLAG_BELOW_HIGH, __ATOMIC_RELAXED);
}

int64_t zone_allowance(const struct zone *zone, unsigned int order, uint64_t mark,
		       enum zone_type highest_zoneidx, unsigned int alloc_flags);
bool zone_watermark_fast(const struct zone *zone, unsigned int order, uint64_t mark,
			 enum zone_type highest_zoneidx, unsigned int alloc_flags, gfp_t gfp);
void setup_per_zone_wmarks(struct mm *mm);
void calculate_min_free_kbytes(struct mm *mm);

/* zonelist.c */
void build_zonelists(struct mm *mm);
void update_zonelist_starts(struct mm *mm);

/* overcommit.c */
uint64_t mm_totalram_pages(const struct mm *mm);

/* zone.c */
enum zone_type frame_zone(const struct mm *mm, const pg_data_t *pgdat, uint64_t idx);
bool zone_possible(const struct mm_node_config *node, const struct mm *limits, enum zone_type type);

#endif
