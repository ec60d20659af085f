/* SPDX-License-Identifier: MIT */
/* What the files that read libvirt's command line share. */
#ifndef VMM_LIBVIRT_ARGS_INTERNAL_H
#define VMM_LIBVIRT_ARGS_INTERNAL_H

#include <jansson.h>

#include "vmm/libvirt/args.h"

/* args_devices.c: values of -device, -chardev, -mon, -add-fd; -object rng-*, whose qom-type has
 * been taken out */
int libvirt_arg_device(struct libvirt_request *request, const char *value, struct error *err);
int libvirt_arg_chardev(struct libvirt_request *request, const char *value, struct error *err);
int libvirt_arg_mon(struct libvirt_request *request, const char *value, struct error *err);
int libvirt_arg_entropy(struct libvirt_request *request, json_t *object, const char *type,
			struct error *err);
int libvirt_arg_add_fd(struct libvirt_request *request, const char *value, struct error *err);

/* args_numa.c: values of -numa, and the distances that they leave open. The nodes are in
 * config.numa before the latter. */
int libvirt_arg_numa(struct libvirt_request *request, const char *value, struct error *err);
int libvirt_numa_distances(struct libvirt_request *request, struct error *err);

/* args_memory.c: values of -m, -object, and what all about memory means together */
int libvirt_arg_m(struct libvirt_request *request, const char *value, struct error *err);
int libvirt_arg_object(struct libvirt_request *request, const char *value, struct error *err);
int libvirt_memory_complete(struct libvirt_request *request, struct error *err);

/* A backend's properties, from the command line or object-add; qom-type has been taken out. */
int libvirt_parse_backend(json_t *object, const char *type, struct libvirt_backend *backend,
			  struct error *err);
/* Which frames are taken for it. */
int libvirt_backend_policy(const struct libvirt_backend *backend, enum vm_memory_policy *policy,
			   struct error *err);
/* The properties of a virtio-mem device, from the command line or device_add. */
int libvirt_parse_mem_device(json_t *object, struct libvirt_mem_device *device, struct error *err);
/* What to say about a device that is not here. Returns -ENOTSUP. */
int libvirt_refuse_device(const char *driver, const char *id, struct error *err);

#endif
