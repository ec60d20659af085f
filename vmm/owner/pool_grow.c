/* SPDX-License-Identifier: MIT */
/*
 * More memory for the pool: which node gives how much, reserving the hugepages that are missing,
 * filling them. Everything that can be known is checked before the host is touched, and whatever
 * was done is undone when a later step fails.
 */
#include "vmm/owner/pool_private.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "framevisor/size.h"

/* A pool of a demanded size leaves that much to the system; a growing one host_own_share(). */
#define FIXED_POOL_LEAVES (UINT64_C(64) << 20)

/* Hugepages that are asked of the kernel at a time: a tenth of a second, or seconds where it has to
 * move memory for them. */
#define RAISE_STEP 64

/* One growth in the making. */
struct fill {
	struct pool *pool;
	uint64_t nodemask; /* nodes that may grow */
	struct pool_growth *growth;
	struct error *err;
	uint64_t total;                   /* frames wanted */
	uint64_t done;                    /* frames filled in earlier runs */
	uint64_t to_raise, nr_raised;     /* hugepages to be added to the host first; that were */
	bool stopped;                     /* meanwhile */
	uint64_t nr[OWNER_NODES_MAX];     /* frames per node */
	uint64_t raised[OWNER_NODES_MAX]; /* of these, hugepages added to the host for it */
	uint64_t usable[OWNER_NODES_MAX]; /* frames: free hugepages */
	uint64_t spare[OWNER_NODES_MAX];  /* frames: ordinary memory to be had */
	uint64_t host_total, host_spare;  /* bytes */
};

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t room_left(const struct pool_node *node)
{
	return node->capacity - pool_node_present(node);
}

/* What the host could give now. */
static int measure(struct fill *fill, struct error *err)
{
	struct pool *pool = fill->pool;
	struct host host;
	uint64_t keep, room[OWNER_NODES_MAX];
	int ret = host_read(&host, "", err);

	if (ret < 0)
		return ret;
	keep = pool->config.size ? FIXED_POOL_LEAVES : host_own_share(host.total);
	fill->host_total = host.total;
	fill->host_spare = host.available > keep ? host.available - keep : 0;
	for (unsigned int i = 0; i < pool->nr_nodes; i++) {
		fill->usable[i] = 0;
		room[i] = 0;
		if (!(fill->nodemask >> i & 1))
			continue;
		/* Nodes may have come or gone since the start: ours keep their places. */
		for (unsigned int j = 0; j < host.nr_nodes; j++) {
			if ((int)host.node[j].nid == pool->node[i].host_nid)
				room[i] = bytes_to_frames(host.node[j].available);
		}
		if (pool->hugetlb)
			fill->usable[i] = min_u64(hugepages_usable(&pool->hugepages, i),
						  room_left(&pool->node[i]));
		room[i] = min_u64(room[i], room_left(&pool->node[i]) - fill->usable[i]);
	}
	host_spread(bytes_to_frames(fill->host_spare), pool->nr_nodes, room, fill->spare);
	return 0;
}

static int refuse_memory(const struct fill *fill, uint64_t wanted, struct error *err)
{
	char a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX], c[SIZE_TEXT_MAX];

	fill->pool->memory_short = true;
	return error_set(err, ENOMEM,
			 "the pool needs %s of memory more, but this machine can spare %s of its "
			 "%s now",
			 size_format(frames_to_bytes(wanted), a, sizeof(a)),
			 size_format(fill->host_spare, b, sizeof(b)),
			 size_format(fill->host_total, c, sizeof(c)));
}

static int refuse_hugepages(const struct fill *fill, uint64_t got, const char *why,
			    struct error *err)
{
	return error_set(err, ENOMEM,
			 "%" PRIu64 " hugepages of %s are missing (%" PRIu64 " needed, %" PRIu64
			 " to be had%s); add them as root with '%s', free "
			 "memory, or use --hugepages=%s",
			 fill->total - got, frame_size_name(), fill->total, got, why,
			 FRAME_SHIFT == FRAME_SHIFT_1G
				 ? "hugepagesz=1G hugepages=N' on the kernel's command line, 'echo "
				   "N >/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"
				 : "sysctl vm.nr_hugepages=N",
			 fill->pool->config.hugepages == HUGEPAGES_AUTO ? "never" : "auto");
}

static void lower_raised(struct fill *fill)
{
	for (unsigned int i = 0; i < fill->pool->nr_nodes; i++)
		hugepages_lower(&fill->pool->hugepages, i, fill->raised[i]);
	memset(fill->raised, 0, sizeof(fill->raised));
}

/* A hugepage that has to be reserved first is as much work as one to be filled. Returns whether to
 * go on. */
static bool report(struct fill *fill, uint64_t filled)
{
	struct pool *pool = fill->pool;
	uint64_t done = fill->total * (fill->nr_raised + filled) / (fill->total + fill->to_raise);

	if (atomic_load(&pool->cancel))
		return false;
	atomic_store(&pool->work_done, done);
	return !pool->config.progress ||
	       pool->config.progress(pool->config.progress_opaque, done, fill->total);
}

/* Returns how many came. */
static uint64_t raise_node(struct fill *fill, unsigned int i, uint64_t nr)
{
	uint64_t gained = 0, step, got;

	do {
		step = min_u64(nr - gained, RAISE_STEP);
		got = hugepages_raise(&fill->pool->hugepages, i, step);
		gained += got;
		fill->nr_raised += got;
		fill->stopped = !report(fill, 0);
	} while (got == step && gained < nr && !fill->stopped);
	return gained;
}

/*
 * Raises by what is missing, spread over the nodes; what a node cannot give (fragmented memory) is
 * asked of the others. Returns the frames still missing.
 */
static uint64_t raise_missing(struct fill *fill, uint64_t missing)
{
	struct pool *pool = fill->pool;
	uint64_t part[OWNER_NODES_MAX];

	fill->to_raise = missing;
	while (missing && !fill->stopped &&
	       host_spread(missing, pool->nr_nodes, fill->spare, part)) {
		for (unsigned int i = 0; i < pool->nr_nodes; i++) {
			uint64_t gained = 0;

			if (part[i] && !fill->stopped)
				gained = raise_node(fill, i, part[i]);
			fill->raised[i] += gained;
			fill->nr[i] += gained;
			missing -= gained;
			/* Gave less than asked: it has no more. */
			fill->spare[i] = gained < part[i] ? 0 : fill->spare[i] - gained;
		}
	}
	return missing;
}

static int plan_hugepages(struct fill *fill, struct error *err)
{
	struct pool *pool = fill->pool;
	uint64_t usable, missing, spare[OWNER_NODES_MAX];

	usable = host_spread(fill->total, pool->nr_nodes, fill->usable, fill->nr);
	missing = fill->total - usable;
	if (missing == 0)
		return 0;
	if (!hugepages_may_raise(&pool->hugepages))
		return refuse_hugepages(fill, usable, ", and this user may not reserve more", err);
	if (host_spread(missing, pool->nr_nodes, fill->spare, spare) < missing)
		return refuse_memory(fill, missing, err);
	missing = raise_missing(fill, missing);
	if (missing || fill->stopped)
		lower_raised(fill);
	if (fill->stopped)
		return error_set(err, ECANCELED, "filling the pool was interrupted");
	if (missing)
		return refuse_hugepages(fill, fill->total - missing,
					", the rest of the memory is too fragmented", err);
	return 0;
}

static int plan_ordinary(struct fill *fill, struct error *err)
{
	if (host_spread(fill->total, fill->pool->nr_nodes, fill->spare, fill->nr) < fill->total)
		return refuse_memory(fill, fill->total, err);
	return 0;
}

static bool on_progress(void *opaque, uint64_t done, uint64_t nr)
{
	struct fill *fill = opaque;

	(void)nr;
	return report(fill, fill->done + done);
}

/* How many of each node's frames are to be MOVABLE: the same share everywhere. */
static void split_parts(struct fill *fill)
{
	uint64_t before = 0, given = 0;

	for (unsigned int i = 0; i < fill->pool->nr_nodes; i++) {
		struct pool_node *node = &fill->pool->node[i];
		uint64_t room = pool_part_left(node, PART_NORMAL), part;

		before += fill->nr[i];
		part = fill->growth->movable * before / fill->total - given;
		/* Never so many that the rest has no place; and never more than have one. */
		if (fill->nr[i] > room && part < fill->nr[i] - room)
			part = fill->nr[i] - room;
		part = min_u64(part, min_u64(fill->nr[i], pool_part_left(node, PART_MOVABLE)));
		given += part;
		fill->growth->nr[i][PART_MOVABLE] = part;
		fill->growth->nr[i][PART_NORMAL] = fill->nr[i] - part;
	}
}

static int populate_run(void *opaque, const struct frame_run *run)
{
	struct fill *fill = opaque;
	int ret = backing_populate(fill->pool->node[run->node].backing, run->first, run->nr,
				   on_progress, fill, fill->err);

	if (ret == 0)
		fill->done += run->nr;
	return ret;
}

/* The same runs in the same order, so the first ones are those that were filled. */
static int undo_run(void *opaque, const struct frame_run *run)
{
	struct fill *fill = opaque;

	if (fill->done == 0)
		return -ECANCELED;
	backing_depopulate(fill->pool->node[run->node].backing, run->first, run->nr);
	fill->done -= run->nr;
	return 0;
}

/* On nodes of the mask only. The hugepages' lock is held. */
static int fill_nodes(struct pool *pool, struct pool_growth *growth, uint64_t nodemask)
{
	struct fill fill = { .pool = pool,
			     .nodemask = nodemask,
			     .growth = growth,
			     .err = &pool->fill_error,
			     .total = growth->frames };
	int ret;

	error_clear(&pool->fill_error);
	pool->memory_short = false;
	ret = measure(&fill, fill.err);
	if (ret == 0)
		ret = pool->hugetlb ? plan_hugepages(&fill, fill.err)
				    : plan_ordinary(&fill, fill.err);
	if (ret < 0)
		return ret;
	split_parts(&fill);
	ret = pool_each_absent(pool, growth, populate_run, &fill);
	if (ret < 0) {
		pool_each_absent(pool, growth, undo_run, &fill);
		lower_raised(&fill);
	}
	return ret;
}

uint64_t pool_movable_share(const struct pool *pool, uint64_t frames)
{
	const struct pool_movable *movable = &pool->config.movable;
	uint64_t has = pool_present(pool, PART_MOVABLE);
	uint64_t all = has + pool_present(pool, PART_NORMAL) + frames;
	uint64_t want = movable->percent ? all * movable->percent / 100
					 : bytes_to_frames_up(movable->bytes);

	return want > has ? min_u64(want - has, frames) : 0;
}

int pool_grow_begin(struct pool *pool, uint64_t frames, uint64_t movable,
		    struct pool_growth *growth, struct error *err)
{
	uint64_t present = pool_present(pool, PART_NORMAL) + pool_present(pool, PART_MOVABLE);
	uint64_t room = pool->max_frames > present ? pool->max_frames - present : 0;
	char a[SIZE_TEXT_MAX], b[SIZE_TEXT_MAX], c[SIZE_TEXT_MAX], d[SIZE_TEXT_MAX];

	memset(growth->nr, 0, sizeof(growth->nr));
	if (pool->config.sim_nodes)
		return error_set(err, ENOMEM, "a simulated pool does not grow");
	if (frames > room)
		return error_set(err, ENOMEM,
				 "the pool has %s and may have %s at most (--max); it can grow by "
				 "%s, not by %s",
				 size_format(frames_to_bytes(present), a, sizeof(a)),
				 size_format(frames_to_bytes(pool->max_frames), b, sizeof(b)),
				 size_format(frames_to_bytes(room), c, sizeof(c)),
				 size_format(frames_to_bytes(frames), d, sizeof(d)));
	if (movable == POOL_MOVABLE_AS_SET)
		movable = pool_movable_share(pool, frames);
	else if (movable && !pool_has_movable(pool))
		return error_set(err, EINVAL,
				 "this pool has no MOVABLE zone; 'pool start --movable' makes one");
	growth->frames = frames;
	growth->movable = min_u64(movable, frames);
	error_clear(&pool->fill_error);
	pool->memory_short = false;
	atomic_store(&pool->work_done, 0);
	atomic_store(&pool->work_total, frames);
	pool->changing = true;
	return 0;
}

int pool_grow_fill(struct pool *pool, struct pool_growth *growth, struct error *err)
{
	int ret;

	hugepages_lock(&pool->hugepages);
	ret = fill_nodes(pool, growth, growth->nodemask ? growth->nodemask : UINT64_MAX);
	if (ret == -ENOMEM && growth->nodemask && !growth->strict)
		ret = fill_nodes(pool, growth, UINT64_MAX);
	hugepages_unlock(&pool->hugepages);
	if (ret < 0)
		return error_set(err, -ret, "%s", pool->fill_error.message);
	return 0;
}

void pool_work_cancel(struct pool *pool)
{
	atomic_store(&pool->cancel, true);
}

void pool_work_progress(struct pool *pool, uint64_t *done, uint64_t *total)
{
	*done = atomic_load(&pool->work_done);
	*total = atomic_load(&pool->work_total);
}
