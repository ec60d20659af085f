/* SPDX-License-Identifier: MIT */
/*
 * A spin lock of one word. Taken with one atomic exchange and released with a plain store: the
 * uncontended case is what the allocator's paths are made of, and critical sections are short. A
 * waiter spins briefly, then yields, because the holder may have been preempted.
 */
#ifndef MM_LOCK_H
#define MM_LOCK_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#define SPIN_ROUNDS 64

static inline bool spin_trylock(uint32_t *lock)
{
	return __atomic_load_n(lock, __ATOMIC_RELAXED) == 0 &&
	       __atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE) == 0;
}

static inline void spin_lock(uint32_t *lock)
{
	unsigned int spins = 0;

	while (__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE) != 0) {
		while (__atomic_load_n(lock, __ATOMIC_RELAXED) != 0) {
			if (++spins % SPIN_ROUNDS == 0)
				sched_yield();
			else
				__builtin_ia32_pause();
		}
	}
}

/* Pairs with the exchange in spin_lock(): what was written inside is seen by the next holder. */
static inline void spin_unlock(uint32_t *lock)
{
	__atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}

#endif
