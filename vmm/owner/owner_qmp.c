/* SPDX-License-Identifier: MIT */
/*
 * The pool owner's QMP commands. Numbers of memory are in frames; "frame-size" says how large one
 * is.
 *
 *   query-pool       counts in all and per node, settings, VMs, and whether the counts add up
 *   query-vms        the VMs alone
 *   query-buddyinfo  free blocks per order, as /proc/buddyinfo
 *   query-zoneinfo   marks and counts per zone, as /proc/zoneinfo
 *   query-slabinfo   the owner's own objects, as /proc/slabinfo
 *   query-vmstat     counters of the allocator and of reclaim, by the kernel's names
 *   query-pressure   how long VMs waited for memory, as /proc/pressure/memory
 *   query-settings   the pool's settings, by name
 *   pool-set         changes one: "name", "value" (a string: a number, or several with commas)
 *   vm-set           changes what VM "name" is promised: "min", "max", "shares", "oom-score-adj"
 *   x-validate       checks everything against everything
 *   pool-grow        {"size": bytes, "movable": bytes, "node": number, the last two optional}:
 *                    adds memory
 *   pool-shrink      {"size": bytes, "node": number, optional}: gives free memory to the host
 *   pool-compact     {"order": number}: VMs move together, for large free blocks
 *   pool-offline-movable  {"node": number, optional}: VMs move out of ZONE_MOVABLE, and its memory
 *                    goes to the host
 *   pool-offline-frame, pool-online-frame  {"node": number, "index": number}: takes a frame out of
 *                    use, and back
 *   query-pool-job   how the last of these goes on; see jobs.h. The event POOL_JOB_CONCLUDED
 *                    says the same at its end
 *   quit             ends the owner; with VMs only if "force" is true
 */
#include "vmm/owner/owner_qmp.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>

#include "vmm/owner/objects.h"
#include "vmm/owner/owner_qmp_policy.h"

static json_t *frames(uint64_t nr)
{
	return json_integer((json_int_t)nr);
}

static void add_counts(json_t *object, struct pool *pool, int nid)
{
	struct mm_counts counts;
	uint64_t held;

	pool_counts(pool, nid, &counts, &held);
	json_object_set_new(object, "total", frames(counts.present));
	json_object_set_new(object, "free", frames(counts.free));
	json_object_set_new(object, "cached", frames(counts.cached));
	json_object_set_new(object, "held", frames(held));
	json_object_set_new(object, "quarantined", frames(counts.quarantined));
	json_object_set_new(object, "zeroed", frames(counts.zeroed));
}

static json_t *nodes(struct pool *pool)
{
	json_t *array = json_array();

	for (unsigned int nid = 0; nid < pool_nr_nodes(pool); nid++) {
		json_t *node = json_pack("{s:i, s:i}", "node", (int)nid, "host-node",
					 pool_host_node(pool, nid));

		add_counts(node, pool, (int)nid);
		json_object_set_new(node, "movable", frames(pool_movable(pool, nid)));
		json_object_set_new(node, "spanned", frames(pool_spanned(pool, nid)));
		json_array_append_new(array, node);
	}
	return array;
}

static const char *state_name(const struct server_client_info *info)
{
	if (!info->connected)
		return "ending";
	switch (info->session->state) {
	case SESSION_NEW:
		return "connecting";
	case SESSION_WAITING:
		return "waiting";
	default:
		return "running";
	}
}

/* What its VMM said last of itself and its guest, as kswapd goes by it. */
static void add_status(json_t *vm, const struct notice_status *status)
{
	json_object_set_new(vm, "bound", frames(status->bound));
	json_object_set_new(vm, "stock", frames(status->stock));
	json_object_set_new(vm, "target", frames(status->target));
	json_object_set_new(vm, "tax", frames(status->tax));
	json_object_set_new(vm, "swapped", frames(status->swapped));
	if (status->flags & NOTICE_STATUS_AVAILABLE)
		json_object_set_new(vm, "available", frames(status->available));
	if (status->flags & NOTICE_STATUS_IDLE)
		json_object_set_new(vm, "idle-permille", frames(status->idle_permille));
}

static void append_vm(void *opaque, const struct server_client_info *info)
{
	const struct session *session = info->session;
	json_t *vm;

	if (session->state == SESSION_NEW)
		return;
	vm = json_pack("{s:s, s:i, s:i, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:i, s:i}", "name",
		       session->name, "pid", (int)info->pid, "id", (int)session->id, "state",
		       state_name(info), "ram", frames(session->ram_frames), "held",
		       frames(session->held), "granted", frames(session->nr_granted), "returned",
		       frames(session->nr_returned), "min", frames(session->guaranteed), "max",
		       frames(session->max_frames), "shares", (int)session->shares, "oom-score-adj",
		       (int)session->oom_score_adj);
	if (info->status)
		add_status(vm, info->status);
	json_array_append_new(opaque, vm);
}

static json_t *vms(struct server *server)
{
	json_t *array = json_array();

	server_each(server, append_vm, array);
	return array;
}

static json_t *verdict(int ret, const char *message)
{
	if (ret == 0)
		return json_pack("{s:b}", "ok", 1);
	return json_pack("{s:b, s:s}", "ok", 0, "message", message);
}

static json_t *settings(struct pool *pool)
{
	static const char *const modes[] = {
		[HUGEPAGES_AUTO] = "auto",
		[HUGEPAGES_REQUIRE] = "require",
		[HUGEPAGES_NEVER] = "never",
		[HUGEPAGES_GIGANTIC] = "1G",
	};
	struct pool_info info;

	pool_info(pool, &info);
	return json_pack("{s:s, s:b, s:o, s:o, s:o, s:o, s:o, s:o}", "hugepages",
			 modes[info.hugepages], "fixed", info.fixed, "max", frames(info.max_frames),
			 "committed", frames(info.committed), "guaranteed", frames(info.guaranteed),
			 "reserve", frames(info.reserve), "movable", frames(info.movable),
			 "hugepages-reserved", frames(info.raised));
}

static int query_pool(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct owner_qmp *owner = opaque;
	char message[256] = "";
	int ret;

	(void)args;
	(void)err;
	*reply = json_pack("{s:I, s:s, s:o, s:o, s:o}", "frame-size", (json_int_t)FRAME_SIZE,
			   "memory", pool_hugetlb(owner->pool) ? "hugepages" : "ordinary",
			   "settings", settings(owner->pool), "nodes", nodes(owner->pool), "vms",
			   vms(owner->server));
	add_counts(*reply, owner->pool, -1);
	ret = pool_check_conservation(owner->pool, message, sizeof(message));
	json_object_set_new(*reply, "conservation", verdict(ret, message));
	return 0;
}

static int query_vms(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct owner_qmp *owner = opaque;

	(void)args;
	(void)err;
	*reply = vms(owner->server);
	return 0;
}

static int text_report(struct mm *mm, int (*report)(struct mm *, char *, size_t), json_t **reply,
		       struct qmp_error *err)
{
	int len = report(mm, NULL, 0);
	/* Counts may grow a digit between the two calls: the zeroing thread is at work. */
	size_t size = (size_t)len + 4096;
	char *text = kmalloc(size, GFP_OBJECTS);

	if (!text)
		return qmp_error_set(err, QMP_GENERIC_ERROR, "no memory for the report");
	report(mm, text, size);
	*reply = json_pack("{s:s}", "human-readable-text", text);
	kfree(text);
	return 0;
}

static int query_buddyinfo(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct owner_qmp *owner = opaque;

	(void)args;
	return text_report(pool_mm(owner->pool), mm_report_buddyinfo, reply, err);
}

static int query_zoneinfo(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct owner_qmp *owner = opaque;

	(void)args;
	return text_report(pool_mm(owner->pool), mm_report_zoneinfo, reply, err);
}

static int query_slabinfo(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	(void)opaque;
	(void)args;
	return text_report(objects_mm(), mm_report_slabinfo, reply, err);
}

static int x_validate(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct owner_qmp *owner = opaque;
	char message[256] = "";
	int ret;

	(void)args;
	(void)err;
	ret = pool_validate(owner->pool, message, sizeof(message));
	if (ret == 0)
		ret = server_validate(owner->server, message, sizeof(message));
	*reply = verdict(ret, message);
	return 0;
}

static int quit(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct owner_qmp *owner = opaque;
	unsigned int nr = server_nr_vms(owner->server);
	bool force = false;

	(void)reply;
	if (qmp_arg_bool_optional(args, "force", &force, err) < 0)
		return -EINVAL;
	if (nr && !force)
		return qmp_error_set(err, QMP_GENERIC_ERROR,
				     "%u VMs use the pool; stop them first, or use force: they "
				     "keep their frames, and have the next owner started",
				     nr);
	event_loop_quit(owner->loop);
	return 0;
}

/* "node" if it is there: -1 if not. */
static int node_arg(const struct owner_qmp *owner, json_t *args, int *node, struct qmp_error *err)
{
	uint64_t nid = 0;

	*node = -1;
	if (!json_object_get(args, "node"))
		return 0;
	if (qmp_arg_u64(args, "node", &nid, err) < 0)
		return -EINVAL;
	if (nid >= pool_nr_nodes(owner->pool))
		return qmp_error_set(err, QMP_GENERIC_ERROR, "the pool has no node %" PRIu64, nid);
	*node = (int)nid;
	return 0;
}

static int job_args(const struct owner_qmp *owner, json_t *args, uint64_t *frames_wanted, int *node,
		    struct qmp_error *err)
{
	uint64_t size = 0;

	if (qmp_arg_u64(args, "size", &size, err) < 0)
		return -EINVAL;
	*frames_wanted = bytes_to_frames_up(size);
	return node_arg(owner, args, node, err);
}

static int job_reply(struct owner_qmp *owner, int ret, const struct error *error, json_t **reply,
		     struct qmp_error *err)
{
	if (ret < 0)
		return qmp_error_from(err, error);
	*reply = jobs_report(owner->jobs);
	return 0;
}

static int pool_grow(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct owner_qmp *owner = opaque;
	struct error error = { 0 };
	uint64_t nr = 0, movable = 0;
	bool given = json_object_get(args, "movable") != NULL;
	int node = -1, ret;

	if (job_args(owner, args, &nr, &node, err) < 0 ||
	    (given && qmp_arg_u64(args, "movable", &movable, err) < 0))
		return -EINVAL;
	ret = jobs_grow(owner->jobs, nr, given ? bytes_to_frames_up(movable) : POOL_MOVABLE_AS_SET,
			node, &error);
	return job_reply(owner, ret, &error, reply, err);
}

static int pool_shrink(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct owner_qmp *owner = opaque;
	struct error error = { 0 };
	uint64_t nr = 0;
	int node = -1, ret;

	if (job_args(owner, args, &nr, &node, err) < 0)
		return -EINVAL;
	ret = jobs_shrink(owner->jobs, nr, node, &error);
	return job_reply(owner, ret, &error, reply, err);
}

static int pool_compact(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct owner_qmp *owner = opaque;
	struct error error = { 0 };
	uint64_t order = 0;
	int ret;

	if (qmp_arg_u64(args, "order", &order, err) < 0)
		return -EINVAL;
	ret = jobs_compact(owner->jobs, order > INT_MAX ? INT_MAX : (unsigned int)order, &error);
	return job_reply(owner, ret, &error, reply, err);
}

static int pool_offline_movable(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct owner_qmp *owner = opaque;
	struct error error = { 0 };
	int node = -1, ret;

	if (node_arg(owner, args, &node, err) < 0)
		return -EINVAL;
	ret = jobs_offline_movable(owner->jobs, node, &error);
	return job_reply(owner, ret, &error, reply, err);
}

static int frame_args(json_t *args, unsigned int *node, uint64_t *index, struct qmp_error *err)
{
	uint64_t nid = 0;

	if (qmp_arg_u64(args, "node", &nid, err) < 0 || qmp_arg_u64(args, "index", index, err) < 0)
		return -EINVAL;
	*node = nid > INT_MAX ? INT_MAX : (unsigned int)nid;
	return 0;
}

static int pool_offline_frame(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct owner_qmp *owner = opaque;
	struct error error = { 0 };
	unsigned int node = 0;
	uint64_t index = 0;
	int ret;

	if (frame_args(args, &node, &index, err) < 0)
		return -EINVAL;
	ret = jobs_offline(owner->jobs, node, index, &error);
	return job_reply(owner, ret, &error, reply, err);
}

static int pool_online_frame(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct owner_qmp *owner = opaque;
	struct page *page;
	unsigned int node = 0;
	uint64_t index = 0;
	int ret;

	(void)reply;
	if (frame_args(args, &node, &index, err) < 0)
		return -EINVAL;
	page = mm_page(pool_mm(owner->pool), node, index);
	pool_quiesce(owner->pool);
	ret = page ? mm_unpoison_page(pool_mm(owner->pool), page) : -EINVAL;
	pool_resume(owner->pool);
	if (ret == 0)
		pool_note_bad(owner->pool, node, index, false);
	if (ret < 0)
		return qmp_error_set(err, QMP_GENERIC_ERROR,
				     "frame %u:%" PRIu64 " is not in quarantine", node, index);
	return 0;
}

static int query_pool_job(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	struct owner_qmp *owner = opaque;

	(void)args;
	(void)err;
	*reply = jobs_report(owner->jobs);
	return 0;
}

static void on_job_concluded(void *opaque, json_t *report)
{
	struct owner_qmp *owner = opaque;

	qmp_server_event(owner->qmp, "POOL_JOB_CONCLUDED", report);
}

static const struct qmp_command commands[] = {
	{ .name = "query-pool", .handler = query_pool },
	{ .name = "query-vms", .handler = query_vms },
	{ .name = "query-buddyinfo", .handler = query_buddyinfo },
	{ .name = "query-zoneinfo", .handler = query_zoneinfo },
	{ .name = "query-slabinfo", .handler = query_slabinfo },
	{ .name = "query-vmstat", .handler = owner_qmp_query_vmstat },
	{ .name = "query-pressure", .handler = owner_qmp_query_pressure },
	{ .name = "query-settings", .handler = owner_qmp_query_settings },
	{ .name = "pool-set", .handler = owner_qmp_pool_set },
	{ .name = "vm-set", .handler = owner_qmp_vm_set },
	{ .name = "x-validate", .handler = x_validate },
	{ .name = "pool-grow", .handler = pool_grow },
	{ .name = "pool-shrink", .handler = pool_shrink },
	{ .name = "pool-compact", .handler = pool_compact },
	{ .name = "pool-offline-movable", .handler = pool_offline_movable },
	{ .name = "pool-offline-frame", .handler = pool_offline_frame },
	{ .name = "pool-online-frame", .handler = pool_online_frame },
	{ .name = "query-pool-job", .handler = query_pool_job },
	{ .name = "quit", .handler = quit },
};

int owner_qmp_create(struct owner_qmp *owner, struct error *err)
{
	const struct jobs_config jobs = { .loop = owner->loop,
					  .pool = owner->pool,
					  .server = owner->server,
					  .work = owner->work,
					  .concluded = on_job_concluded,
					  .opaque = owner };
	struct qmp_server_config config = { .commands = commands,
					    .nr_commands = sizeof(commands) / sizeof(commands[0]),
					    .opaque = owner };

	owner->jobs = jobs_create(&jobs);
	if (!owner->jobs)
		return error_set(err, ENOMEM, "no memory for the pool's commands");
	owner->qmp = qmp_server_create(owner->loop, &config, err);
	return owner->qmp ? 0 : -err->code;
}

void owner_qmp_destroy(struct owner_qmp *owner)
{
	if (owner->qmp)
		qmp_server_destroy(owner->qmp);
	jobs_destroy(owner->jobs);
}
