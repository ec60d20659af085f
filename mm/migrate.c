/* SPDX-License-Identifier: MIT */
/*
 * Moving one block: taking it from its holder, the holder's callback, giving back the old frames.
 * For compaction and for offlining.
 */
#include <errno.h>

#include "mm/compaction_internal.h"
#include "mm/vmscan_internal.h"

/* Nobody moves frames that are busy or not a holder's. */
#define PAGE_FLAGS_UNMOVABLE                                                                \
	(PAGE_FLAG(buddy) | PAGE_FLAG(pcp) | PAGE_FLAG(reserved) | PAGE_FLAG(slab) |        \
	 PAGE_FLAG(vmalloc) | PAGE_FLAG(isolated) | PAGE_FLAG(locked) | PAGE_FLAG(pinned) | \
	 PAGE_FLAG(hwpoison))

static const struct mm_migrate_ops *migrate_ops(const struct mm *mm)
{
	return __atomic_load_n(&mm->migrate_ops, __ATOMIC_ACQUIRE);
}

int mm_set_migrate_ops(struct mm *mm, const struct mm_migrate_ops *ops, void *opaque)
{
	if (ops && (!ops->migrate || !ops->isolate != !ops->putback))
		return -EINVAL;
	mm->migrate_opaque = opaque;
	__atomic_store_n(&mm->migrate_ops, ops, __ATOMIC_RELEASE);
	return 0;
}

bool migration_possible(const struct mm *mm)
{
	return migrate_ops(mm) != NULL;
}

void mm_migrate_page_state(struct page *from, struct page *to)
{
	page_set_owner(to, from->owner, from->index);
	to->private = from->private;
	to->mapping = from->mapping;
	__atomic_store_n(&to->_mapcount, page_mapcount(from), __ATOMIC_RELAXED);
	from->private = 0;
	from->mapping = NULL;
	__atomic_store_n(&from->_mapcount, 0, __ATOMIC_RELAXED);
}

static bool movable(const struct page *page)
{
	return !page_test(page, PAGE_FLAGS_UNMOVABLE) && page_count(page) == 1;
}

/* Without asking its holder. */
bool page_may_move(const struct mm *mm, const struct page *page)
{
	const struct mm_migrate_ops *ops = migrate_ops(mm);

	return ops && movable(page) &&
	       (page_test(page, PAGE_FLAG(lru)) ||
		(ops->isolate && page_list_migratetype(page) == MIGRATE_MOVABLE));
}

/* A block on an LRU list cannot be freed without the list's lock, so its state holds here. */
static bool isolate_lru_page(struct mm *mm, struct page *page)
{
	pg_data_t *pgdat = mm->node[page_to_nid(page)];
	bool taken;

	spin_lock(&pgdat->lru_lock);
	taken = page_test(page, PAGE_FLAG(lru)) && movable(page);
	if (taken) {
		lru_unlink(mm, page);
		page_test_and_set(page, PAGE_FLAG(isolated));
	}
	spin_unlock(&pgdat->lru_lock);
	return taken;
}

/* Takes the block from its holder, if it can be moved, and adds it to the batch. */
bool isolate_movable_page(struct mm *mm, struct page *page, struct migrate_batch *batch)
{
	const struct mm_migrate_ops *ops = migrate_ops(mm);
	bool lru = page_test(page, PAGE_FLAG(lru));

	if (!ops || !movable(page))
		return false;
	if (lru) {
		if (!isolate_lru_page(mm, page))
			return false;
	} else {
		if (!ops->isolate || page_list_migratetype(page) != MIGRATE_MOVABLE ||
		    !ops->isolate(mm->migrate_opaque, page))
			return false;
		/* The holder's word: it is allocated and stays so. Others may still use it. */
		if (!movable(page)) {
			ops->putback(mm->migrate_opaque, page);
			return false;
		}
		page_test_and_set(page, PAGE_FLAG(isolated));
	}
	if (lru)
		batch->from_lru |= 1u << batch->nr;
	else
		batch->from_lru &= ~(1u << batch->nr);
	batch->pages[batch->nr++] = page;
	batch->frames += order_frames(page_order(page));
	return true;
}

static void putback_page(struct mm *mm, struct page *page, bool from_lru)
{
	const struct mm_migrate_ops *ops = migrate_ops(mm);

	if (from_lru) {
		lru_putback(mm, page,
			    page_test(page, PAGE_FLAG(active)) ? LRU_ACTIVE : LRU_INACTIVE);
		return;
	}
	page_test_and_clear(page, PAGE_FLAG(isolated));
	if (ops && ops->putback)
		ops->putback(mm->migrate_opaque, page);
}

/* Those from first on stay where they are. */
void putback_batch(struct mm *mm, struct migrate_batch *batch, unsigned int first)
{
	for (unsigned int i = first; i < batch->nr; i++)
		putback_page(mm, batch->pages[i], batch->from_lru >> i & 1);
	batch->nr = 0;
	batch->frames = 0;
}

/*
 * Moves one isolated block to another that was just allocated. On success from is free and to is
 * the holder's. Otherwise from is where it was, and to still the caller's, its content dirty.
 */
int migrate_page(struct mm *mm, struct page *from, bool from_lru, struct page *to,
		 enum migrate_mode mode)
{
	const struct mm_migrate_ops *ops = migrate_ops(mm);
	const uint64_t keep = PAGE_FLAG(head) | PAGE_FLAG(movable) | PAGE_FLAG(active) |
			      PAGE_FLAG(referenced) | PAGE_MT_MASK;
	unsigned int order = page_order(from);
	uint64_t flags = page_flags(to);
	bool outer;
	int ret;

	/* Complete before the callback: the holder may use it, and free it, at once. */
	to->nr_zeroed = 0; /* goes with PG_zeroed */
	page_set_flags(to, (flags & (PAGE_IDENTITY | PAGE_ORDER_MASK)) | (page_flags(from) & keep) |
				   (from_lru ? PAGE_FLAG(isolated) : 0));
	outer = reclaim_enter();
	ret = ops ? ops->migrate(mm->migrate_opaque, from, to, mode) : -EBUSY;
	reclaim_leave(outer);
	if (ret != 0) {
		page_set_flags(to, (flags & (PAGE_IDENTITY | PAGE_ORDER_MASK)));
		putback_page(mm, from, from_lru);
		count_vm_events(mm, PGMIGRATE_FAIL, order_frames(order));
		return ret;
	}
	if (from_lru)
		lru_putback(mm, to, page_test(to, PAGE_FLAG(active)) ? LRU_ACTIVE : LRU_INACTIVE);
	page_test_and_clear(from, PAGE_FLAG(isolated) | PAGE_FLAG(active) | PAGE_FLAG(referenced));
	free_to_buddy(mm, from, order);
	count_vm_events(mm, PGMIGRATE_SUCCESS, order_frames(order));
	return 0;
}
