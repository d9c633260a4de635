// SPDX-License-Identifier: GPL-2.0
/*
 * Ages the allocator: random mappings of mixed sizes, undone in random order.
 */

#include <linux/kernel.h>
#include <linux/prandom.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "bench.h"

/* Mappings that exist at a time. */
#define DB_HELD		256
#define DB_MIN_SHIFT	6
#define DB_MAX_SHIFT	17

struct db_held {
	dma_addr_t dma;
	size_t size;
};

/**
 * db_age() - map and unmap at random
 * @t: thread whose buffers are mapped, over and over
 * @mappings: how many mappings to make; all are undone in the end
 *
 * Context: may sleep.
 * Return: 0, or -ENOMEM when more than a hundredth of them failed.
 */
int db_age(struct db_thread *t, unsigned long mappings)
{
	unsigned long i, refused = 0;
	struct db_held *held;
	struct rnd_state rnd;

	held = kcalloc(DB_HELD, sizeof(*held), GFP_KERNEL);
	if (!held)
		return -ENOMEM;

	prandom_seed_state(&rnd, 1);
	for (i = 0; i < mappings + DB_HELD; i++) {
		struct db_held *h = &held[i % DB_HELD];
		u32 r = prandom_u32_state(&rnd);

		if (i < mappings)
			h = &held[r % DB_HELD];
		if (h->size)
			dma_unmap_single(t->dev, h->dma, h->size,
					 DMA_TO_DEVICE);
		h->size = 0;
		if (i < mappings) {
			unsigned int shift = DB_MIN_SHIFT +
				prandom_u32_state(&rnd) %
				(DB_MAX_SHIFT - DB_MIN_SHIFT + 1);
			size_t size = 1 + prandom_u32_state(&rnd) % BIT(shift);
			size_t start = (r >> 8) % (DB_MAX_SIZE - size);

			h->dma = dma_map_single(t->dev, t->near + start, size,
						DMA_TO_DEVICE);
			if (dma_mapping_error(t->dev, h->dma))
				refused++;
			else
				h->size = size;
		}
		cond_resched();
	}

	kfree(held);
	return refused > mappings / 100 ? -ENOMEM : 0;
}
