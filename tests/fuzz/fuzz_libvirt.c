/* SPDX-License-Identifier: MIT */
/*
 * libvirt's command line, its arguments separated by zeros, through the translator; and each
 * argument as a message to the capability probe. Whatever comes is taken or refused with a
 * sentence; the memory that is asked for is what its devices add up to.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/control/qmp_dispatch.h"
#include "vmm/libvirt/args.h"
#include "vmm/libvirt/probe.h"

#define ARGS_MAX 256

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask_probe(const struct libvirt_request *request, const char *text)
{
	struct qmp_server_config config = { .opaque = (void *)request };
	bool negotiated = true;
	json_t *reply;

	config.commands = libvirt_probe_commands(&config.nr_commands);
	reply = qmp_dispatch(&config, &negotiated, text, strlen(text));
	if (!json_is_object(reply))
		abort();
	json_decref(reply);
}

static void check(const struct libvirt_request *request)
{
	const struct vm_config *config = &request->config;

	if (request->action != LIBVIRT_VM)
		return;
	if (!config->name[0] || !config->kernel || config->nr_mem_devices > VM_MEM_DEVICES_MAX)
		abort();
	for (unsigned int i = 0; i < config->nr_mem_devices; i++)
		if (!memchr(config->mem_devices[i].id, 0, sizeof(config->mem_devices[i].id)))
			abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct libvirt_request *request = calloc(1, sizeof(*request));
	char *text = malloc(size + 1), *argv[ARGS_MAX + 1];
	struct error err = { 0 };
	int argc = 1;

	memcpy(text, data, size);
	text[size] = '\0';
	argv[0] = (char[]){ "framevisor" };
	for (size_t at = 0; at < size && argc < ARGS_MAX; at += strlen(text + at) + 1)
		argv[argc++] = text + at;
	argv[argc] = NULL;
	if (libvirt_args_parse(argc, argv, request, &err) == 0)
		check(request);
	else if (!err.message[0])
		abort();
	for (int i = 1; i < argc; i++)
		ask_probe(request, argv[i]);
	free(text);
	free(request);
	return 0;
}
