/* SPDX-License-Identifier: MIT */
/*
 * The pool owner's QMP commands. Numbers of memory are in frames; "frame-size" says how large one
 * is.
 *
 *   query-pool       counts in all and per node, settings, VMs, and whether the counts add up
 *   query-vms        the VMs alone
 *   query-buddyinfo  free blocks per order, as /proc/buddyinfo
 *   query-zoneinfo   marks and counts per zone, as /proc/zoneinfo
 *   x-validate       checks everything against everything
 *   quit             ends the owner; with VMs only if "force" is true
 */
#include "vmm/owner/owner_qmp.h"

#include <errno.h>
#include <stdlib.h>

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

static void append_vm(void *opaque, const struct server_client_info *info)
{
	const struct session *session = info->session;

	if (session->state == SESSION_NEW)
		return;
	json_array_append_new(
		opaque,
		json_pack("{s:s, s:i, s:i, s:s, s:o, s:o, s:o, s:o}", "name", session->name, "pid",
			  (int)info->pid, "id", (int)session->id, "state", state_name(info), "ram",
			  frames(session->ram_frames), "held", frames(session->held), "granted",
			  frames(session->nr_granted), "returned", frames(session->nr_returned)));
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
	};
	struct pool_info info;

	pool_info(pool, &info);
	return json_pack("{s:s, s:b, s:o, s:o, s:o, s:o}", "hugepages", modes[info.hugepages],
			 "fixed", info.fixed, "max", frames(info.max_frames), "committed",
			 frames(info.committed), "reserve", frames(info.reserve),
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

static int text_report(struct owner_qmp *owner, int (*report)(struct mm *, char *, size_t),
		       json_t **reply, struct qmp_error *err)
{
	struct mm *mm = pool_mm(owner->pool);
	int len = report(mm, NULL, 0);
	/* Counts may grow a digit between the two calls: the zeroing thread is at work. */
	size_t size = (size_t)len + 4096;
	char *text = malloc(size);

	if (!text)
		return qmp_error_set(err, QMP_GENERIC_ERROR, "no memory for the report");
	report(mm, text, size);
	*reply = json_pack("{s:s}", "human-readable-text", text);
	free(text);
	return 0;
}

static int query_buddyinfo(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	(void)args;
	return text_report(opaque, mm_report_buddyinfo, reply, err);
}

static int query_zoneinfo(void *opaque, json_t *args, json_t **reply, struct qmp_error *err)
{
	(void)args;
	return text_report(opaque, mm_report_zoneinfo, reply, err);
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
				     "keep their frames but get no more",
				     nr);
	event_loop_quit(owner->loop);
	return 0;
}

static const struct qmp_command commands[] = {
	{ .name = "query-pool", .handler = query_pool },
	{ .name = "query-vms", .handler = query_vms },
	{ .name = "query-buddyinfo", .handler = query_buddyinfo },
	{ .name = "query-zoneinfo", .handler = query_zoneinfo },
	{ .name = "x-validate", .handler = x_validate },
	{ .name = "quit", .handler = quit },
};

struct qmp_server *owner_qmp_create(struct owner_qmp *owner, struct error *err)
{
	struct qmp_server_config config = { .commands = commands,
					    .nr_commands = sizeof(commands) / sizeof(commands[0]),
					    .opaque = owner };

	return qmp_server_create(owner->loop, &config, err);
}
