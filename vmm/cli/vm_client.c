/* SPDX-License-Identifier: MIT */
/* How verbs reach running VMs and the pool owner. See cli.h. */
#include <errno.h>
#include <stdio.h>

#include "framevisor/frame.h"
#include "framevisor/rundir.h"
#include "vmm/cli/cli.h"

/* A verb speaks to one pool and its VMs: it counts as they do. */
static struct qmp_client *use_frames(struct qmp_client *client)
{
	if (qmp_client_frame_size(client) == UINT64_C(1) << FRAME_SHIFT_1G)
		(void)frame_use_shift(FRAME_SHIFT_1G);
	return client;
}

struct qmp_client *cli_vm_connect(const char *name, int timeout_ms, struct error *err)
{
	char path[RUNDIR_PATH_MAX];
	struct error cause = { 0 };
	struct qmp_client *client;

	if (rundir_vm_join(path, name, "qmp.sock", err) < 0)
		return NULL;
	if (!rundir_vm_pid(name)) {
		error_set(err, ENOENT, "no VM named '%s' is running; 'framevisor ps' lists them",
			  name);
		return NULL;
	}
	client = qmp_client_connect(path, timeout_ms, &cause);
	if (client)
		return use_frames(client);
	if (cause.code == ENOENT || cause.code == ECONNREFUSED)
		error_set(err, cause.code, "VM '%s' is starting or ending; try again", name);
	else
		error_set(err, cause.code, "VM '%s': %s", name, cause.message);
	return NULL;
}

struct qmp_client *cli_pool_connect(struct error *err)
{
	char path[RUNDIR_PATH_MAX];
	struct error cause = { 0 };
	struct qmp_client *client;

	if (rundir_join(path, "pool-qmp.sock", err) < 0)
		return NULL;
	client = qmp_client_connect(path, CLI_ANSWER_TIMEOUT_MS, &cause);
	if (client)
		return use_frames(client);
	if (cause.code == ENOENT || cause.code == ECONNREFUSED)
		error_set(err, cause.code,
			  "no pool is running; the first 'framevisor run' starts one, and so does "
			  "'framevisor pool start'");
	else
		error_set(err, cause.code, "pool: %s", cause.message);
	return NULL;
}

/* Ends the client. */
static json_t *ask(struct qmp_client *client, const char *command, struct error *err)
{
	json_t *reply = NULL;

	if (client)
		qmp_client_call(client, command, NULL, &reply, err);
	qmp_client_close(client);
	return reply;
}

json_t *cli_vm_query(const char *name, const char *command, int timeout_ms, struct error *err)
{
	return ask(cli_vm_connect(name, timeout_ms, err), command, err);
}

json_t *cli_pool_query(const char *command, struct error *err)
{
	return ask(cli_pool_connect(err), command, err);
}

int cli_pool_report(const char *command, bool json, struct error *err)
{
	json_t *reply = cli_pool_query(command, err);

	if (!reply)
		return CLI_ERROR;
	if (json)
		return cli_print_json(reply, err);
	fputs(cli_json_string(reply, "human-readable-text"), stdout);
	json_decref(reply);
	return CLI_OK;
}
