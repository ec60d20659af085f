/* SPDX-License-Identifier: MIT */
/*
 * Circular doubly linked lists, linked through a member of the element (kernel: struct list_head).
 * An element is in at most one list per member. No locking.
 */
#ifndef FRAMEVISOR_LIST_H
#define FRAMEVISOR_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list_head {
	struct list_head *next, *prev;
};

static inline void list_init(struct list_head *list)
{
	list->next = list;
	list->prev = list;
}

static inline bool list_empty(const struct list_head *list)
{
	return list->next == list;
}

static inline void list_insert_between(struct list_head *entry, struct list_head *prev,
				       struct list_head *next)
{
	next->prev = entry;
	entry->next = next;
	entry->prev = prev;
	prev->next = entry;
}

/* To the front (the hot end where lists have temperatures). */
static inline void list_add(struct list_head *entry, struct list_head *list)
{
	list_insert_between(entry, list, list->next);
}

static inline void list_add_tail(struct list_head *entry, struct list_head *list)
{
	list_insert_between(entry, list->prev, list);
}

/* The entry's own links are left as they are: it is in no list now. */
static inline void list_del(struct list_head *entry)
{
	entry->next->prev = entry->prev;
	entry->prev->next = entry->next;
}

static inline void list_move(struct list_head *entry, struct list_head *list)
{
	list_del(entry);
	list_add(entry, list);
}

static inline void list_move_tail(struct list_head *entry, struct list_head *list)
{
	list_del(entry);
	list_add_tail(entry, list);
}

/* Appends all of from to the tail of list and leaves from empty. */
static inline void list_splice_tail_init(struct list_head *from, struct list_head *list)
{
	if (list_empty(from))
		return;
	from->next->prev = list->prev;
	list->prev->next = from->next;
	from->prev->next = list;
	list->prev = from->prev;
	list_init(from);
}

#define list_entry(ptr, type, member)        ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#define list_first_entry(list, type, member) list_entry((list)->next, type, member)
#define list_last_entry(list, type, member)  list_entry((list)->prev, type, member)

/* pos is a struct list_head *. The second form survives the removal of pos. */
#define list_for_each(pos, list) for ((pos) = (list)->next; (pos) != (list); (pos) = (pos)->next)
#define list_for_each_safe(pos, n, list)                               \
	for ((pos) = (list)->next, (n) = (pos)->next; (pos) != (list); \
	     (pos) = (n), (n) = (pos)->next)

#endif
