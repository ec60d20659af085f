/* SPDX-License-Identifier: MIT */
/*
 * The capability probe, played from what libvirt was recorded to ask (tests/data/libvirt): each
 * question gets an answer of the kind that it got then, and the answers name only what is there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/control/qmp_dispatch.h"
#include "vmm/libvirt/probe.h"

#define RECORDED       "tests/data/libvirt/9.0.0-probe.jsonl"
#define LINE_MAX_BYTES (64u << 10)

static struct libvirt_request request = { .action = LIBVIRT_PROBE, .kvm = true };

static json_t *ask(const char *text)
{
	struct qmp_server_config config = { .opaque = &request };
	bool negotiated = strstr(text, "qmp_capabilities") == NULL;

	config.commands = libvirt_probe_commands(&config.nr_commands);
	return qmp_dispatch(&config, &negotiated, text, strlen(text));
}

/* "array", "object" or an error's class. */
static const char *kind(const json_t *reply)
{
	const json_t *error = json_object_get(reply, "error");

	if (error)
		return json_string_value(json_object_get(error, "class"));
	return json_is_array(json_object_get(reply, "return")) ? "array" : "object";
}

static void play(json_t *question, json_t *answer)
{
	char *text = json_dumps(question, 0);
	json_t *reply = ask(text);

	if (strcmp(kind(reply), kind(answer)) != 0)
		fail_msg("%s was answered with %s, now with %s", text, kind(answer), kind(reply));
	assert_true(json_equal(json_object_get(reply, "id"), json_object_get(question, "id")));
	free(text);
	json_decref(reply);
}

static void test_recorded_probe(void **state)
{
	FILE *file = fopen(RECORDED, "re");
	static char line[LINE_MAX_BYTES];
	json_t *question = NULL;
	unsigned int played = 0;

	(void)state;
	assert_non_null(file);
	while (fgets(line, sizeof(line), file)) {
		json_t *entry = json_loads(line, 0, NULL);
		json_t *message = json_object_get(entry, "message");

		assert_non_null(message);
		if (json_object_get(message, "execute")) {
			question = json_incref(message);
		} else if (question) {
			play(question, message);
			json_decref(question);
			question = NULL;
			played++;
		}
		json_decref(entry);
	}
	(void)fclose(file);
	assert_true(played >= 20);
}

static bool lists(const char *text, const char *name)
{
	json_t *reply = ask(text), *item;
	bool found = false;
	size_t i;

	json_array_foreach(json_object_get(reply, "return"), i, item)
	{
		const char *this = json_string_value(json_object_get(item, "name"));

		found |= this && strcmp(this, name) == 0;
	}
	json_decref(reply);
	return found;
}

static void test_what_is_there(void **state)
{
	static const char types[] = "{\"execute\":\"qom-list-types\"}";

	(void)state;
	assert_true(lists(types, "isa-serial"));
	assert_true(lists(types, "virtio-mem-pci"));
	assert_true(lists(types, "virtio-rng-pci"));
	assert_true(lists(types, "rng-random"));
	assert_false(lists(types, "virtio-blk-pci"));
	assert_false(lists(types, "virtio-net-pci"));
	assert_false(lists(types, "iothread"));
	/* Each command that is named makes libvirt use it at every start. */
	assert_false(lists("{\"execute\":\"query-commands\"}", "query-hotpluggable-cpus"));
	assert_true(lists("{\"execute\":\"query-machines\"}", LIBVIRT_MACHINE));
	/* A libvirtd whose list of CPU models is empty crashes over a host model. */
	assert_true(lists("{\"execute\":\"query-commands\"}", "query-cpu-definitions"));
	assert_true(lists("{\"execute\":\"query-cpu-definitions\"}", "host"));
}

/* libvirtd crashes when these are refused. */
static void test_never_refused(void **state)
{
	json_t *reply =
		ask("{\"execute\":\"qom-list-properties\",\"arguments\":{\"typename\":\"no\"}}");

	(void)state;
	assert_string_equal(kind(reply), "array");
	json_decref(reply);
	reply = ask("{\"execute\":\"device-list-properties\",\"arguments\":{\"typename\":\"no\"}}");
	assert_string_equal(kind(reply), "DeviceNotFound");
	json_decref(reply);
	reply = ask("{\"execute\":\"device-list-properties\"}");
	assert_string_equal(kind(reply), "GenericError");
	json_decref(reply);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_recorded_probe),
		cmocka_unit_test(test_what_is_there),
		cmocka_unit_test(test_never_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
