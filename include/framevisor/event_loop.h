/* SPDX-License-Identifier: MIT */
/*
 * An epoll loop. One thread runs it; every callback runs in that thread, without locks held.
 *
 * In a VMM process the main thread runs one loop: signals, QMP, the console and the device back
 * ends. vCPU threads and the fault thread are not part of it. event_loop_post(), event_loop_quit(),
 * event_timer_arm() and event_timer_disarm() may be called from any thread and from signal-free
 * contexts; everything else only from the loop's own thread, or before the loop runs.
 */
#ifndef FRAMEVISOR_EVENT_LOOP_H
#define FRAMEVISOR_EVENT_LOOP_H

#include <stdint.h>

struct event_loop;
struct event_source;
struct event_timer;

/* events: EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR of <sys/epoll.h>. */
typedef void (*event_fn)(void *opaque, uint32_t events);
typedef void (*event_post_fn)(void *opaque);

/* Returns NULL with errno set. */
struct event_loop *event_loop_create(void);
/* Frees the loop and every source and timer still in it; does not close the sources' fds. */
void event_loop_destroy(struct event_loop *loop);

/* Watches fd. The fd stays the caller's. Returns NULL with errno set. */
struct event_source *event_loop_add(struct event_loop *loop, int fd, uint32_t events, event_fn fn,
				    void *opaque);
int event_source_modify(struct event_source *source, uint32_t events);
/* Stops watching and frees the source. May be called from any callback, its own included; fn is not
 * called afterwards. NULL is ignored. Call it before closing the fd. */
void event_source_remove(struct event_source *source);

/* A timer that is not armed yet. Returns NULL with errno set. */
struct event_timer *event_timer_create(struct event_loop *loop, event_post_fn fn, void *opaque);
/* Fires once after delay_ms (at least 1), then every period_ms if that is not 0. Arms anew each
 * time. */
void event_timer_arm(struct event_timer *timer, uint64_t delay_ms, uint64_t period_ms);
void event_timer_disarm(struct event_timer *timer);
void event_timer_destroy(struct event_timer *timer);

/* Runs fn(opaque) once in the loop's thread, in the order posted. Any thread. Returns 0 or -ENOMEM.
 */
int event_loop_post(struct event_loop *loop, event_post_fn fn, void *opaque);

/* Runs until event_loop_quit(); may be run again afterwards. Returns 0, or a negative errno if
 * epoll itself failed. */
int event_loop_run(struct event_loop *loop);
void event_loop_quit(struct event_loop *loop);

#endif
