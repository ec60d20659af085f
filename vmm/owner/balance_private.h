/* SPDX-License-Identifier: MIT */
/* What the files of the balancer share; see balance.h. */
#ifndef VMM_OWNER_BALANCE_PRIVATE_H
#define VMM_OWNER_BALANCE_PRIVATE_H

#include "vmm/owner/balance.h"
#include "vmm/owner/balance_policy.h"
#include "vmm/owner/objects.h"

#define BALANCE_VMS_MAX 1000
#define EPISODES_MAX    1024
#define BOUND_SAMPLES   4
#define STEPS_PER_VM    4
#define LEAST_SAMPLES   6

enum { OOM_POLICY_PAUSE, OOM_POLICY_KILL };

/* What is remembered of a VM from one round to the next. */
struct balance_entry {
	struct balance_entry *next;
	uint32_t id;
	bool seen;
	char name[OWNER_NAME_MAX];
	uint32_t asked_ms; /* pace of its STATUS; 0: not asked yet */
	uint32_t asked_flags;
	uint64_t tax;                                          /* as it was told */
	uint64_t taxed_at, relieved_at, hinted_at, swapped_at; /* ms; 0: never */
	uint64_t moved_at; /* the guest had less, of frames or available: it follows its tax */
	uint64_t swap_asked;
	bool stock_asked, no_hint, no_swap;
	uint64_t short_for_ms; /* it waits for a frame, and has been given none for so long */
	uint64_t free_at;      /* ms, when it was last seen not to run, or not to wait; 0: never */
	bool paused;           /* by the OOM policy */
	uint64_t paused_at;    /* ms, when it said so; 0: it has not */

	uint64_t bound[BOUND_SAMPLES];   /* the newest first, GROWTH_MS / BOUND_SAMPLES apart */
	uint64_t bound_at;               /* when that was */
	uint64_t stalled_us, stalled_at; /* its stall time, and when that last grew */
	bool growing;
	uint64_t pieces;   /* balance_pieces() */
	uint64_t floor;    /* the least that its guest had since it was taxed */
	uint64_t stats_at; /* when its guest's numbers came */
	uint64_t available;
	int64_t available_change;

	struct notice_status last; /* counters as of the round before */
	bool has_last;
	uint64_t some_us, full_us; /* stalled since the last look of pressure */
};

/* A request to a VM that is under way. The VM may go, and its place be another's: so answers go by
 * id. */
struct answer {
	struct balance *balance;
	uint32_t id;
	enum balance_kind kind; /* of a step */
	uint64_t free;          /* of a pause: frames when it was decided */
};

/* The pool as it was seen last; unused is kept up with what was granted and given back since. */
struct pool_view {
	uint64_t changes; /* pool_changes() at that time */
	uint64_t unused, present;
	struct pool_marks marks;
};

struct pressure {
	uint64_t total_us;
	double avg10, avg60, avg300; /* percent */
};

struct balance {
	struct balance_config config;
	struct event_timer *timer;
	uint64_t due_at; /* when the timer fires; 0: not armed */

	unsigned int oom_policy, idle_tax, step;
	uint64_t stats_age_max, oom_delay;

	struct balance_entry *entries;
	struct balance_vm *vms;       /* this round's table, and ... */
	struct balance_entry **of_vm; /* ... the entry of each */
	unsigned int nr_vms, room;    /* in both; never more than BALANCE_VMS_MAX */
	struct balance_step *steps;   /* STEPS_PER_VM for each */

	struct pool_view view;
	bool active;
	bool watching; /* VMs are asked which of their frames are idle */
	uint64_t active_since, last_return, last_short, last_oom;
	uint64_t least[LEAST_SAMPLES]; /* free frames, LEAST_MS each; the newest first */
	uint64_t least_at;             /* when that began */
	uint64_t last_progress;        /* a taxed guest was seen on its way */

	uint64_t wakes, rounds, asked_kswapd, asked_direct, stolen_kswapd, stolen_direct, stalls;
	uint64_t taxes, reliefs, hints, stock_asks, swap_asks, oom_pauses, oom_kills, oom_resumes;
	struct notice_status gone; /* counters of VMs that have left */
	uint32_t episode_ms[EPISODES_MAX];
	unsigned int nr_episodes;
	uint64_t wait_max_us;

	struct pressure some, full;
	uint64_t pressure_at;
};

extern struct object_cache balance_entry_cache, answer_cache;

/* Looks at all VMs anew. */
void balance_refresh(struct balance *balance);

/* balance_reserve.c */
/* The pool's marks as they were seen last, with what guests need to pay added to low and high. */
void balance_marks(const struct balance *balance, struct pool_marks *marks);
/* Says whose the last frames are. twice: memory is promised twice. */
void balance_keep_for_payers(struct balance *balance, bool twice, const struct pool_marks *marks);

/* balance_oom.c */
void balance_oom(struct balance *balance, uint64_t free, const struct pool_marks *marks);
/* enough: one that is paused may go on. */
void balance_resume(struct balance *balance, uint64_t free, bool enough);

/* balance_report.c */
void balance_update_pressure(struct balance *balance);

#endif
