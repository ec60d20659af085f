/* SPDX-License-Identifier: MIT */
/*
 * The serial console: what a late reader sees, what a slow one loses, how input is paced, the
 * escape key, and the console on standard input and output. The loop has a thread of its own; the
 * "guest" is a function that takes as much as the test lets it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/control/console.h"
#include "vmm/control/console_stdio.h"
#include "vmm/control/terminal.h"

#define GUEST_MAX (256u << 10)

struct fixture {
	struct event_loop *loop;
	struct console *console;
	pthread_t thread;
	struct sockaddr_un addr;

	pthread_mutex_t lock;
	size_t appetite; /* bytes that the guest takes at once */
	uint8_t guest[GUEST_MAX];
	size_t guest_len;
	enum terminal_action action;
};

static size_t take(void *opaque, const uint8_t *data, size_t len)
{
	struct fixture *f = opaque;
	size_t n;

	pthread_mutex_lock(&f->lock);
	n = len < f->appetite ? len : f->appetite;
	assert_true(f->guest_len + n <= GUEST_MAX);
	memcpy(f->guest + f->guest_len, data, n);
	f->guest_len += n;
	pthread_mutex_unlock(&f->lock);
	return n;
}

static void set_appetite(struct fixture *f, size_t appetite)
{
	pthread_mutex_lock(&f->lock);
	f->appetite = appetite;
	pthread_mutex_unlock(&f->lock);
	event_loop_post(f->loop, console_room, f->console);
}

static size_t guest_has(struct fixture *f)
{
	size_t len;

	pthread_mutex_lock(&f->lock);
	len = f->guest_len;
	pthread_mutex_unlock(&f->lock);
	return len;
}

static void wait_guest_has(struct fixture *f, size_t len)
{
	for (int i = 0; i < 2000 && guest_has(f) != len; i++)
		usleep(5000);
	assert_int_equal(guest_has(f), len);
}

static void *run_loop(void *opaque)
{
	struct fixture *f = opaque;

	event_loop_run(f->loop);
	return NULL;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	pthread_mutex_init(&f->lock, NULL);
	f->appetite = SIZE_MAX;
	f->loop = event_loop_create();
	f->console = console_create(f->loop, NULL);
	console_set_guest(f->console, take, f);
	f->addr.sun_family = AF_UNIX;
	snprintf(f->addr.sun_path + 1, sizeof(f->addr.sun_path) - 1, "framevisor-console-%d",
		 getpid());
	if (bind(fd, (struct sockaddr *)&f->addr, sizeof(f->addr)) < 0 || listen(fd, 20) < 0 ||
	    console_listen(f->console, fd, NULL) < 0)
		return -1;
	*state = f;
	return 0;
}

/* The test may have something to set up before the loop runs. */
static void start(struct fixture *f)
{
	assert_int_equal(pthread_create(&f->thread, NULL, run_loop, f), 0);
}

static void stop(struct fixture *f)
{
	event_loop_quit(f->loop);
	pthread_join(f->thread, NULL);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	console_destroy(f->console);
	event_loop_destroy(f->loop);
	pthread_mutex_destroy(&f->lock);
	free(f);
	return 0;
}

/* --- clients --- */

static int attach(struct fixture *f)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&f->addr, sizeof(f->addr)), 0);
	return fd;
}

/* Reads exactly len bytes, waiting at most 10 s for each piece. */
static void read_exactly(int fd, uint8_t *buf, size_t len)
{
	while (len) {
		struct pollfd pollfd = { .fd = fd, .events = POLLIN };
		ssize_t n;

		assert_int_equal(poll(&pollfd, 1, 10000), 1);
		n = read(fd, buf, len);
		assert_true(n > 0);
		buf += n;
		len -= (size_t)n;
	}
}

static void expect_text(int fd, const char *text)
{
	uint8_t buf[256];
	size_t len = strlen(text);

	read_exactly(fd, buf, len);
	assert_memory_equal(buf, text, len);
}

static void expect_silence(int fd)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };

	assert_int_equal(poll(&pollfd, 1, 50), 0);
}

static void put(struct fixture *f, const char *text)
{
	console_output(f->console, (const uint8_t *)text, strlen(text));
}

static void late_reader_sees_what_was(void **state)
{
	struct fixture *f = *state;
	int early, late;

	put(f, "before ");
	start(f);
	early = attach(f);
	expect_text(early, "before ");
	put(f, "between ");
	expect_text(early, "between ");
	late = attach(f);
	expect_text(late, "before between ");
	put(f, "after");
	expect_text(early, "after");
	expect_text(late, "after");
	expect_silence(late);
	close(early);
	put(f, "more");
	expect_text(late, "more");
	close(late);
	stop(f);
}

/* The stream of numbers 0, 1, 2 ... as 8 digits and a newline each. */
#define LINE 9

static void put_lines(struct fixture *f, unsigned int from, unsigned int to)
{
	char line[LINE + 1];

	for (unsigned int i = from; i < to; i++) {
		snprintf(line, sizeof(line), "%08u\n", i);
		put(f, line);
	}
}

static void late_reader_gets_the_last_64_kib(void **state)
{
	const unsigned int lines = 20000;
	struct fixture *f = *state;
	uint8_t *buf = malloc(CONSOLE_RING);
	char last[LINE + 1];
	int fd;

	put_lines(f, 0, lines);
	start(f);
	fd = attach(f);
	read_exactly(fd, buf, CONSOLE_RING);
	expect_silence(fd);
	snprintf(last, sizeof(last), "%08u\n", lines - 1);
	assert_memory_equal(buf + CONSOLE_RING - LINE, last, LINE);
	snprintf(last, sizeof(last), "%08u\n", lines - 100);
	assert_memory_equal(buf + CONSOLE_RING - 100 * LINE, last, LINE);
	free(buf);
	close(fd);
	stop(f);
}

/* It skips ahead, but what it gets is in order, and the end is the end. */
static void slow_reader_loses_the_oldest(void **state)
{
	const unsigned int lines = 200000; /* 1.8 MB: more than ring and socket buffer */
	struct fixture *f = *state;
	unsigned int got = 0, in_order = 0, last = 0, number = 0;
	char line[64];
	size_t fill = 0;
	int fd;

	start(f);
	fd = attach(f);
	put_lines(f, 0, lines);
	/* A skip cuts a line, and may join its halves to a number that never was. */
	while (number != lines - 1) {
		read_exactly(fd, (uint8_t *)&line[fill], 1);
		if (line[fill++] != '\n') {
			assert_true(fill < sizeof(line) - 1);
			continue;
		}
		line[fill] = '\0';
		fill = 0;
		number = (unsigned int)strtoul(line, NULL, 10);
		in_order += number == last + 1;
		last = number;
		got++;
	}
	assert_true(got < lines);
	assert_true(in_order > CONSOLE_RING / LINE / 2);
	expect_silence(fd);
	close(fd);
	stop(f);
}

static void clients_are_limited(void **state)
{
	struct fixture *f = *state;
	int fds[CONSOLE_CLIENTS_MAX + 1];
	uint8_t c;

	put(f, "x");
	start(f);
	for (int i = 0; i < CONSOLE_CLIENTS_MAX; i++) {
		fds[i] = attach(f);
		expect_text(fds[i], "x");
	}
	fds[CONSOLE_CLIENTS_MAX] = attach(f);
	assert_int_equal(read(fds[CONSOLE_CLIENTS_MAX], &c, 1), 0);
	for (int i = 0; i <= CONSOLE_CLIENTS_MAX; i++)
		close(fds[i]);
	stop(f);
}

/* --- input --- */

static void write_pattern(int fd, unsigned int from, unsigned int to)
{
	for (unsigned int i = from; i < to; i++) {
		uint8_t c = (uint8_t)(i % 251);

		while (write(fd, &c, 1) != 1)
			assert_int_equal(errno, EINTR);
	}
}

static void expect_pattern(const struct fixture *f, size_t len)
{
	for (size_t i = 0; i < len; i++)
		assert_int_equal(f->guest[i], i % 251);
}

/* A guest that takes nothing, then a byte at a time, then everything: nothing lost, all in order,
 * and the source is held back meanwhile. */
static void input_waits_for_the_guest(void **state)
{
	const unsigned int total = 20000;
	struct fixture *f = *state;
	int fd, size = 4096;

	set_appetite(f, 0);
	start(f);
	fd = attach(f);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	write_pattern(fd, 0, CONSOLE_INPUT_QUEUE);
	usleep(30000);
	assert_int_equal(guest_has(f), 0);
	set_appetite(f, 1);
	usleep(30000);
	assert_true(guest_has(f) > 0);
	set_appetite(f, 16); /* a 16550's FIFO; nobody announces room: the console polls */
	wait_guest_has(f, CONSOLE_INPUT_QUEUE);
	set_appetite(f, SIZE_MAX);
	write_pattern(fd, CONSOLE_INPUT_QUEUE, total);
	wait_guest_has(f, total);
	expect_pattern(f, total);
	close(fd);
	stop(f);
}

/* End of input is not the end of interest in output. */
static void half_closed_client_still_reads(void **state)
{
	struct fixture *f = *state;
	int fd;

	start(f);
	fd = attach(f);
	assert_int_equal(write(fd, "ls\n", 3), 3);
	shutdown(fd, SHUT_WR);
	wait_guest_has(f, 3);
	put(f, "file\n");
	expect_text(fd, "file\n");
	close(fd);
	stop(f);
}

/* --- the escape key --- */

static void escape_key_is_taken_out(void **state)
{
	static const struct {
		const char *in, *out, *rest;
		enum terminal_action action;
	} cases[] = {
		{ "plain", "plain", "", TERMINAL_ACTION_NONE },
		{ "a\x1dqb", "a", "b", TERMINAL_ACTION_QUIT },
		{ "\x1d\x1d", "\x1d", "", TERMINAL_ACTION_NONE },
		{ "x\x1d\x1dy\x1dpz", "x\x1dy", "z", TERMINAL_ACTION_POWERDOWN },
		{ "\x1d?", "", "", TERMINAL_ACTION_HELP },
		{ "ends with it\x1d", "ends with it", "", TERMINAL_ACTION_NONE },
		{ "", "", "", TERMINAL_ACTION_NONE },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct terminal_escape escape = { 0 };
		uint8_t data[64];
		size_t len = strlen(cases[i].in), kept = 99, used = 99;

		memcpy(data, cases[i].in, len);
		assert_int_equal(terminal_escape_filter(&escape, data, len, &kept, &used),
				 cases[i].action);
		assert_int_equal(kept, strlen(cases[i].out));
		assert_memory_equal(data, cases[i].out, kept);
		assert_int_equal(len - used, strlen(cases[i].rest));
		assert_memory_equal(data + used, cases[i].rest, len - used);
	}
}

static void escape_key_may_be_split(void **state)
{
	struct terminal_escape escape = { 0 };
	uint8_t first[] = { 'a', 0x1d }, second[] = { 'q' };
	size_t kept, used;

	(void)state;
	assert_int_equal(terminal_escape_filter(&escape, first, 2, &kept, &used),
			 TERMINAL_ACTION_NONE);
	assert_int_equal(kept, 1);
	assert_int_equal(terminal_escape_filter(&escape, second, 1, &kept, &used),
			 TERMINAL_ACTION_QUIT);
	assert_int_equal(kept, 0);
}

/* --- standard input and output --- */

static void on_action(void *opaque, enum terminal_action action)
{
	struct fixture *f = opaque;

	pthread_mutex_lock(&f->lock);
	f->action = action;
	pthread_mutex_unlock(&f->lock);
}

static enum terminal_action last_action(struct fixture *f)
{
	enum terminal_action action;

	pthread_mutex_lock(&f->lock);
	action = f->action;
	pthread_mutex_unlock(&f->lock);
	return action;
}

struct stdio_test {
	int in[2], out[2]; /* pipes */
	struct console_stdio *stdio;
};

static void stdio_start(struct stdio_test *test, struct fixture *f, bool escape)
{
	struct console_stdio_config config = { .console = f->console,
					       .loop = f->loop,
					       .escape = escape,
					       .action = on_action,
					       .opaque = f };

	assert_int_equal(pipe(test->in), 0);
	assert_int_equal(pipe(test->out), 0);
	config.in_fd = test->in[0];
	config.out_fd = test->out[1];
	test->stdio = console_stdio_create(&config, NULL);
	assert_non_null(test->stdio);
	start(f);
}

static void stdio_end(struct stdio_test *test, struct fixture *f)
{
	close(test->in[1]); /* lets the reading thread end */
	stop(f);
	console_stdio_finish(test->stdio);
	close(test->out[1]);
	close(test->out[0]);
}

static void stdio_carries_both_ways(void **state)
{
	struct fixture *f = *state;
	struct stdio_test test;

	stdio_start(&test, f, false);
	put(f, "hello");
	expect_text(test.out[0], "hello");
	assert_int_equal(write(test.in[1], "a\x1dqb", 4), 4);
	wait_guest_has(f, 4);
	assert_memory_equal(f->guest, "a\x1dqb", 4);
	close(test.in[1]); /* the end of the input is not the end of the console */
	test.in[1] = -1;
	put(f, "still here");
	expect_text(test.out[0], "still here");
	stdio_end(&test, f);
}

static void stdio_knows_the_escape_key(void **state)
{
	struct fixture *f = *state;
	struct stdio_test test;

	stdio_start(&test, f, true);
	assert_int_equal(write(test.in[1], "a\x1dpb", 4), 4);
	wait_guest_has(f, 2);
	assert_memory_equal(f->guest, "ab", 2);
	for (int i = 0; i < 2000 && last_action(f) != TERMINAL_ACTION_POWERDOWN; i++)
		usleep(5000);
	assert_int_equal(last_action(f), TERMINAL_ACTION_POWERDOWN);
	stdio_end(&test, f);
}

static void stdio_input_waits_for_the_guest(void **state)
{
	const unsigned int total = 60000;
	struct fixture *f = *state;
	struct stdio_test test;

	set_appetite(f, 0);
	stdio_start(&test, f, false);
	write_pattern(test.in[1], 0, total); /* a pipe holds 64 KiB */
	usleep(50000);
	assert_int_equal(guest_has(f), 0);
	set_appetite(f, 100);
	usleep(50000);
	assert_true(guest_has(f) < total);
	set_appetite(f, SIZE_MAX);
	wait_guest_has(f, total);
	expect_pattern(f, total);
	stdio_end(&test, f);
}

/* Reads what is there, up to size bytes. */
static size_t read_available(int fd, uint8_t *buf, size_t size)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	size_t len = 0;

	while (len < size && poll(&pollfd, 1, 1) == 1) {
		ssize_t n = read(fd, buf + len, size - len);

		assert_true(n > 0);
		len += (size_t)n;
	}
	return len;
}

/* A reader that has stopped holds nobody up; when it goes on it gets the backlog and is told of the
 * gap. */
static void stdio_marks_what_was_lost(void **state)
{
	struct fixture *f = *state;
	size_t size = 3 * CONSOLE_BACKLOG, len = 0;
	uint8_t *buf = test_malloc(size);
	char chunk[4097];
	struct stdio_test test;

	memset(chunk, '.', sizeof(chunk) - 1);
	chunk[sizeof(chunk) - 1] = '\0';
	stdio_start(&test, f, false);
	/* One backlog in the writer's hand and one behind it, at most. */
	for (size_t sent = 0; sent < 2 * CONSOLE_BACKLOG + (1u << 20); sent += sizeof(chunk) - 1)
		put(f, chunk);
	for (int i = 0; i < 10000 && !memmem(buf, len, "bytes were not read]\r\nword", 26); i++) {
		put(f, "word");
		len += read_available(test.out[0], buf + len, size - len);
	}
	assert_non_null(memmem(buf, len, "bytes were not read]\r\nword", 26));
	assert_true(len > CONSOLE_BACKLOG);
	test_free(buf);
	stdio_end(&test, f);
}

static void stdio_survives_a_closed_output(void **state)
{
	struct fixture *f = *state;
	struct stdio_test test;

	stdio_start(&test, f, false);
	close(test.out[0]);
	for (int i = 0; i < 100; i++)
		put(f, "nobody reads this\n");
	assert_int_equal(write(test.in[1], "x", 1), 1);
	wait_guest_has(f, 1);
	close(test.in[1]);
	stop(f);
	console_stdio_finish(test.stdio);
	close(test.out[1]);
}

/* What was written before the end arrives, although the reader starts only afterwards. */
static void stdio_finishes_its_output(void **state)
{
	struct fixture *f = *state;
	struct stdio_test test;

	stdio_start(&test, f, false);
	put(f, "last words");
	close(test.in[1]);
	stop(f);
	console_stdio_finish(test.stdio);
	close(test.out[1]);
	expect_text(test.out[0], "last words");
	close(test.out[0]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(late_reader_sees_what_was),
		TEST(late_reader_gets_the_last_64_kib),
		TEST(slow_reader_loses_the_oldest),
		TEST(clients_are_limited),
		TEST(input_waits_for_the_guest),
		TEST(half_closed_client_still_reads),
		cmocka_unit_test(escape_key_is_taken_out),
		cmocka_unit_test(escape_key_may_be_split),
		TEST(stdio_carries_both_ways),
		TEST(stdio_knows_the_escape_key),
		TEST(stdio_input_waits_for_the_guest),
		TEST(stdio_marks_what_was_lost),
		TEST(stdio_survives_a_closed_output),
		TEST(stdio_finishes_its_output),
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(120); /* a hang is a failure */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
