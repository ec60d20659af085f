/* SPDX-License-Identifier: MIT */
/*
 * One number per VM: its target, what the guest shall have. Here is how it is split between
 * virtio-mem and virtio-balloon.
 *
 * Shrinking: virtio-mem first. The guest migrates for it, so that whole blocks come back even when
 * its memory is fragmented. The balloon takes the rest, and stands in for blocks that the guest
 * cannot give up: when virtio-mem has not moved for a while (struct target_pace), or has no driver,
 * the balloon takes what is still too much. Its pages come from just those blocks, and Linux moves
 * the pages of a balloon one by one: so it gives way, all of it, when blocks begin to go again, and
 * once before the guest is asked again (struct target_ask).
 *
 * A guest with several nodes has a virtio-mem device for each: what is to be plugged in all is
 * shared out in proportion to what each of them can have.
 *
 * Growing: the balloon first, because what it gives back is the guest's at once; then virtio-mem.
 *
 * The balloon is never told to take more than the guest says is available (MemAvailable, less a
 * margin), as far as the guest says so. Until the target is reached the parts are looked at again
 * when they move, and every second: the guest may have freed memory meanwhile.
 *
 * Why a guest stops short (target_judge.c) follows from what it does, once it has not moved for a
 * while: whether it answers with its statistics, what it has available by them, whether its drivers
 * look at what they were told, and whether a driver that was told again has moved since.
 *
 * Threads: the loop's.
 */
#ifndef VMM_TARGET_H
#define VMM_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "framevisor/error.h"
#include "framevisor/event_loop.h"
#include "framevisor/virtio_balloon.h"
#include "framevisor/virtio_mem.h"
#include "framevisor/vm_numa.h"

#define TARGET_STALL_MS 3000
/* A guest that is asked for its statistics and says nothing for so long does not respond; */
#define TARGET_SILENT_MS 5000
/* one that has no statistics and does not look at its devices: it may be at work on its memory. */
#define TARGET_SILENT_MAX_MS 30000

/* How far it is. From TARGET_PAUSED on: and why no further. The target stays set in all of them,
 * and the guest is asked again. */
enum target_state {
	TARGET_REACHED,
	TARGET_MOVING,
	TARGET_PAUSED,         /* the VM does not run */
	TARGET_NO_BALLOON,     /* no driver for the balloon */
	TARGET_NO_MEM,         /* no driver for virtio-mem */
	TARGET_BALLOON_BROKEN, /* DEVICE_NEEDS_RESET */
	TARGET_MEM_BROKEN,
	TARGET_POOL,       /* the pool does not admit more, or has no frame for a touch */
	TARGET_AVAILABLE,  /* out of memory in the guest: it has nothing more available */
	TARGET_UNMOVABLE,  /* it was told again, looked, and keeps its blocks: it cannot empty them
			    */
	TARGET_SILENT,     /* the guest does not respond */
	TARGET_BUSY,       /* it responds and could, but does not get further now */
	TARGET_TAXED,      /* there, less what the pool asked it to do without */
	TARGET_GROWING,    /* the pool grows for it */
	TARGET_COMPACTING, /* there with few whole frames: see target_compact.h */
	TARGET_STATES,
};
/* Their names in QMP ("reached", "no-balloon-driver", ...), and a half sentence for people: why,
 * and what helps. */
extern const char *const target_state_names[TARGET_STATES];
extern const char *const target_state_texts[TARGET_STATES];
/* Whether the guest has stopped on its way, and its statistics say why. */
bool target_is_stopped(enum target_state state);

/* What the guest says of its memory. */
struct target_guest {
	bool tells;             /* available is of now */
	uint64_t available;     /* bytes */
	uint64_t unanswered_ms; /* since it was asked; 0: it has answered, or is not asked */
};

/* What there is to decide by. In bytes where nothing else is said. */
struct target_parts {
	bool running;
	bool compacting; /* a round of target_compact.h runs, or is about to */
	uint64_t boot;   /* RAM that is always there */
	uint64_t size;   /* the target */
	uint64_t tax;    /* what the user's is more than that */

	struct virtio_balloon_stats balloon;
	uint64_t balloon_idle_ms; /* since the balloon moved or was told something else */
	/* Beyond this the balloon would take what the guest needs; UINT64_MAX: it does not say. */
	uint64_t balloon_limit;

	bool has_mem;
	struct virtio_mem_stats mem;
	uint64_t mem_stall_ms; /* from target_pace() */
	/* What the pool promises beside the boot memory: no more is asked of the guest. */
	uint64_t promised;
	bool pool_grows; /* it is on the way to more */
	bool give_way;   /* from target_ask: the balloon stands in for no block now */
	bool in_vain;    /* from target_ask: told again, the guest has not moved */
	bool starves;    /* it waits for a frame that the pool has not got */
	struct target_guest guest;
};

/* Memory devices: one per guest node. */
#define TARGET_MEM_MAX VM_NODES_MAX

/* What to tell the devices. */
struct target_plan {
	uint64_t balloon;   /* to be in the balloon */
	uint64_t requested; /* to be plugged */
};

/* Pure functions: policy without devices. */
void target_decide(const struct target_parts *parts, struct target_plan *plan);
enum target_state target_judge(const struct target_parts *parts);
/* The same for a guest that has stalled on the way to fewer blocks, by them alone. */
enum target_state target_judge_blocks(const struct target_parts *parts);
/* Bytes in blocks that are to go and that the guest keeps although it was told again. The balloon
 * may stand in for them, so that the target is reached. */
uint64_t target_stuck(const struct target_parts *parts);
/* What the balloon leaves to the guest of what that has available, and in which steps it takes the
 * rest, in bytes. */
#define TARGET_STEP_MIN (UINT64_C(4) << 20)
uint64_t target_margin(const struct target_parts *parts);
/* Blocks are to go that are still there; they go, or are about to: the balloon does not stand in
 * for them. */
bool target_mem_excess(const struct target_parts *parts);
bool target_mem_shrinks(const struct target_parts *parts);
/*
 * After how long without a move a guest is taken for one that does not get further:
 * TARGET_STALL_MS, and TARGET_PACE_FACTOR times the longest that this one paused and then went on,
 * up to TARGET_STALL_MAX_MS. To be called at each look; all 0 is the state to begin with.
 */
#define TARGET_STALL_MAX_MS 15000
#define TARGET_PACE_FACTOR  2
struct target_pace {
	uint64_t idle_ms; /* at the last look, while there was something to do */
	uint64_t longest_ms;
};
uint64_t target_pace(struct target_pace *pace, const struct target_parts *parts);
/*
 * Whether to tell a guest once more what is to be plugged: it has stalled and would wait for a
 * minute and more. Again after TARGET_ASK_MIN_MS, then at intervals that double up to
 * TARGET_ASK_MAX_MS, until it moves. A balloon that stands in for blocks gives way before, but not
 * again until that has helped. All 0 is the state to begin with.
 */
#define TARGET_ASK_MIN_MS 5000
#define TARGET_ASK_MAX_MS 60000
struct target_ask {
	uint64_t at_ms, interval_ms;
	bool gives_way;    /* the balloon stands in for nothing, from before the guest is asked */
	bool asked;        /* since it gives way */
	bool gave_in_vain; /* it gave way, and no block went */
	bool in_vain;      /* told again, the guest had its time, and has not moved since */
};
bool target_ask_again(struct target_ask *ask, const struct target_parts *parts, uint64_t now_ms);
/* Blocks are still to be plugged or unplugged by a driver that works. */
bool target_mem_wanting(const struct target_parts *parts);
/* Shares bytes (in frames) out to nr devices in proportion to what each can have. */
void target_share(uint64_t bytes, unsigned int nr, const uint64_t *max, uint64_t *share);
/* The devices as one: what they have together, how the one that moved last stands still, and the
 * first one's trouble. nr is not 0. */
void target_sum_mem(const struct virtio_mem_stats *stats, unsigned int nr,
		    struct virtio_mem_stats *sum);
/* Boot memory and what is plugged, without what is in the balloon. */
uint64_t target_actual(const struct target_parts *parts);

struct vm_memory;
struct target;

struct target_config {
	struct event_loop *loop;
	uint64_t boot, max, size; /* bytes: boot memory, ceiling, the first target */
	struct vm_memory *memory;
	struct virtio_balloon *balloon;
	struct virtio_mem *const *mem; /* nr_mem of them, and what each may have, in bytes */
	const uint64_t *mem_max;
	unsigned int nr_mem; /* 0: max is boot */
	bool (*running)(void *opaque);
	void *opaque;
};

/* Tells the devices the first target. Returns NULL with err set. */
struct target *target_create(const struct target_config *config, struct error *err);
void target_destroy(struct target *target); /* NULL is ignored */

/*
 * Sets the target. More than the ceiling means the ceiling (as in QEMU). Rounded up to guest pages,
 * beyond the boot memory to frames. When it grows, the pool is asked to promise the memory first;
 * if it has to grow for that, the guest gets what there is and the rest as it comes. Returns 0 or a
 * negative errno with err set: nothing has changed.
 */
int target_set(struct target *target, uint64_t bytes, struct error *err);

/* What the VM does without of its target while the pool is short of memory: the devices are told
 * the target less the tax, whoever asks for the target is told the user's. 0 ends it. */
void target_set_tax(struct target *target, uint64_t bytes);

/* The pool has more for this VM than it had, or does not get it: NOTICE_GROWN. */
void target_pool_moved(struct target *target);

/* Something about the devices or the VM changed: look soon. */
void target_changed(struct target *target);

struct target_info {
	uint64_t size, actual, max; /* bytes; size as the user set it */
	uint64_t tax;               /* of size, done without: target_set_tax() */
	uint64_t promised;          /* of the pool beside the boot memory */
	uint64_t stuck;             /* target_stuck() */
	enum target_state state;
	const char *text; /* the state for people; until the next call of anything here */
	/* Rounds in which the guest moved its memory together; how many frames of the balloon were
	 * complete before the last one, and frames that were in large free blocks after it. */
	uint64_t compact_rounds, compact_before, compact_after;
};
void target_info(struct target *target, struct target_info *info);

/*
 * The guest's statistics: polled every so many seconds (0: not), and now, once. The target polls by
 * itself while it needs to know, which is why nobody else talks to the balloon about it.
 */
void target_poll_stats(struct target *target, unsigned int seconds);
void target_poll_for_owner(struct target *target,
			   unsigned int seconds); /* the same, its own wish */
void target_refresh_stats(struct target *target);
/* Who asks the pool for a promise asks again after this while it grows, and after a refusal after
 * what this returns, which it keeps in *pause_ms: 5 s, then twice as long each time, up to a
 * minute; 0 to begin with. */
#define TARGET_ASK_POOL_MS 1000
uint64_t target_refused_pause(uint64_t *pause_ms);
/* A device that is not the target's has stopped, or no longer: polls to know why. */
void target_ask_why(struct target *target, bool stopped);

/* What a guest has said by its balloon. */
void target_hear_guest(struct virtio_balloon *balloon, struct target_guest *guest);

#endif
